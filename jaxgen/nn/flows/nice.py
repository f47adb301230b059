"""NICE: Dinh et al. 2014, https://arxiv.org/abs/1410.8516. Additive coupling layers of perceptrons, then a scaling.

Published size: `nice((1000,) * 5)` for MNIST, four coupling layers of five hidden layers each.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxgen.core.errors import check_sizes
from jaxgen.nn.blocks.layers import Dense
from jaxgen.nn.flows.bijections import Chain, Coupling, Flattened, Permutation, Rescale, Scaling, evens_first

Dtype = Any


def uniform(key: Array, shape: tuple[int, ...], dtype: Dtype = jnp.float32) -> Array:
  """Uniform in [-0.01, 0.01], as in the authors' code."""
  return jax.random.uniform(key, shape, dtype, -0.01, 0.01)


class Shift(nn.Module):
  """The shift of additive coupling: a perceptron with ReLU and a linear output layer."""

  widths: Sequence[int]
  kernel_init: Callable[..., Array] = uniform
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(
    self, a: Float[Array, "batch c"], features: int, train: bool = False
  ) -> tuple[None, Float[Array, "batch {features}"]]:
    options = dict(kernel_init=self.kernel_init, dtype=self.dtype, param_dtype=self.param_dtype)
    for i, width in enumerate(self.widths):
      a = nn.relu(Dense(width, name=f"hidden_{i}", **options)(a))
    return None, Dense(features, name="out", **options)(a)


def nice(
  widths: Sequence[int],
  *,
  couplings: int = 4,
  kernel_init: Callable[..., Array] = uniform,
  dtype: Dtype = jnp.float32,
  param_dtype: Dtype = jnp.float32,
) -> Flattened:
  """The flow of images in [-1, 1]. They are scaled to [0, 1], and the pixels with even numbers are the first half.

  Args:
    widths: widths of the hidden layers of each coupling layer.
    couplings: number of coupling layers. They change the second half and the first in turn.

  Raises:
    UserError: a size is 0.
  """
  check_sizes("NICE", couplings=couplings, widths=widths)
  shift = lambda: Shift(widths, kernel_init, dtype, param_dtype)
  layers = [Coupling(shift(), swap=i % 2 == 1) for i in range(couplings)]
  return Flattened(Chain((Rescale(0.5, 0.5), Permutation(evens_first), *layers, Scaling(param_dtype))))
