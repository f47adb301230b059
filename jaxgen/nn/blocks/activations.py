"""Activations whose gradients keep a single array, f'(x), computed in float32 or wider and rounded to x's dtype."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgen.core.arrays import wide


@jax.custom_jvp
def gelu(x: Float[Array, "*any"]) -> Float[Array, "*any"]:
  """x Phi(x), exactly: Hendrycks and Gimpel 2016, https://arxiv.org/abs/1606.08415, eq. 1.

  JAX's own gradient would keep three arrays of x's size, one for each factor.
  """
  return (wide(x) * _cumulative(wide(x))).astype(x.dtype)


@gelu.defjvp
def _gelu_jvp(primals, tangents):
  (x,), (dx,) = primals, tangents
  z = wide(x)
  slope = _cumulative(z) + z * jnp.exp(-z * z / 2) * math.sqrt(0.5 / math.pi)
  return gelu(x), slope.astype(x.dtype) * dx


def _cumulative(x):
  return jax.lax.erfc(-x * math.sqrt(0.5)) / 2  # (1 + erf) / 2 loses its digits in the negative tail
