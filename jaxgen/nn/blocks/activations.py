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


@jax.custom_jvp
def gelu_tanh(x: Float[Array, "*any"]) -> Float[Array, "*any"]:
  """x (1 + tanh u) / 2, u = sqrt(2 / pi) (x + 0.044715 x^3): Hendrycks and Gimpel's approximation of `gelu`."""
  return (wide(x) * (1 + jnp.tanh(_argument(wide(x)))) / 2).astype(x.dtype)


@gelu_tanh.defjvp
def _gelu_tanh_jvp(primals, tangents):
  (x,), (dx,) = primals, tangents
  z = wide(x)
  t = jnp.tanh(_argument(z))
  slope = (1 + t) / 2 + z * (1 - t * t) / 2 * math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * z * z)
  return gelu_tanh(x), slope.astype(x.dtype) * dx


def geglu(x: Float[Array, "*batch features"]) -> Float[Array, "*batch half"]:
  """Half of the features, times `gelu` of the others: Shazeer 2020, https://arxiv.org/abs/2002.05202, eq. 5."""
  x, gate = jnp.split(x, 2, axis=-1)
  return x * gelu(gate)


@jax.custom_jvp
def quick_gelu(x: Float[Array, "*any"]) -> Float[Array, "*any"]:
  """x sigmoid(1.702 x): Hendrycks and Gimpel's other approximation of `gelu`, section 2; OpenAI's CLIP has it."""
  return (wide(x) * jax.nn.sigmoid(1.702 * wide(x))).astype(x.dtype)


@quick_gelu.defjvp
def _quick_gelu_jvp(primals, tangents):
  (x,), (dx,) = primals, tangents
  z = wide(x)
  s = jax.nn.sigmoid(1.702 * z)
  return quick_gelu(x), (s + 1.702 * z * s * (1 - s)).astype(x.dtype) * dx


def _argument(x):
  return math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)


def _cumulative(x):
  return jax.lax.erfc(-x * math.sqrt(0.5)) / 2  # (1 + erf) / 2 loses its digits in the negative tail
