"""Energies U: networks with one output per example, in nats. exp(-U(x)) is an unnormalised density.

Activations are smooth, so that the gradients with respect to x, which chains follow, are continuous. There are no batch
statistics: an example's energy depends on that example only.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxgen.core.errors import UserError, check_sizes
from jaxgen.nn.blocks.layers import Conv, Dense, average

Activation = Callable[[Array], Array]
Layer = tuple[int, int, int]  # of a convolution: features, kernel, stride


def quadratic(x: Float[Array, "batch *shape"], reference: float | None) -> Float[Array, " batch"]:
  """|x|^2 / (2 reference^2), the energy of a Gaussian with that standard deviation; 0 for None."""
  square = jnp.square(x.reshape(len(x), -1)).sum(axis=1)
  return jnp.zeros_like(square) if reference is None else square / (2 * reference**2)


class EnergyMLP(nn.Module):
  """An energy of vectors, or of images flattened to vectors: hidden layers and one output.

  Attributes:
    widths: widths of the hidden layers.
    reference: standard deviation of a Gaussian; |x|^2 / (2 reference^2) is added to the energy, so that exp(-U) is
      integrable for any network. None: nothing is added.

  Raises:
    UserError: the reference is not larger than 0.
  """

  widths: Sequence[int] = (128, 128)
  reference: float | None = None
  activation: Activation = nn.silu
  dtype: Any = jnp.float32
  param_dtype: Any = jnp.float32

  def __post_init__(self):
    check_reference(self.reference)
    super().__post_init__()

  @nn.compact
  def __call__(self, x: Float[Array, "batch *shape"]) -> Float[Array, "batch"]:
    check_sizes("an energy", widths=self.widths)
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    h = x.reshape(len(x), -1)
    for width in self.widths:
      h = self.activation(Dense(width, kernel_init=nn.initializers.he_normal(), **dtypes)(h))
    return Dense(1, **dtypes)(h)[:, 0] + quadratic(x, self.reference)


class EnergyConvNet(nn.Module):
  """An energy of images: convolutions and one output.

  Attributes:
    layers: (features, kernel, stride) of each convolution, with "SAME" padding.
    pooled: average the last layer's features over positions before the output layer; otherwise flatten them.
    reference: as in `EnergyMLP`.

  Raises:
    UserError: the reference is not larger than 0.
  """

  layers: Sequence[Layer] = ((32, 3, 1), (64, 4, 2), (128, 4, 2))
  pooled: bool = False
  reference: float | None = None
  activation: Activation = nn.silu
  dtype: Any = jnp.float32
  param_dtype: Any = jnp.float32

  def __post_init__(self):
    check_reference(self.reference)
    super().__post_init__()

  @nn.compact
  def __call__(self, x: Float[Array, "batch height width channels"]) -> Float[Array, "batch"]:
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    h = x
    for features, kernel, stride in self.layers:
      check_sizes("an energy", features=features, kernel=kernel, stride=stride)
      conv = Conv(features, kernel, stride, kernel_init=nn.initializers.he_normal(), **dtypes)
      h = self.activation(conv(h))
    h = average(h) if self.pooled else h.reshape(len(h), -1)
    return Dense(1, **dtypes)(h)[:, 0] + quadratic(x, self.reference)


def leaky_relu(x: Array) -> Array:
  """Leaky ReLU with slope 0.2 below 0, as in the papers on energies."""
  return jax.nn.leaky_relu(x, 0.2)


def check_reference(reference: float | None) -> None:
  """Raises a UserError for a standard deviation that is not larger than 0."""
  if reference is not None and not reference > 0:
    raise UserError(f"the reference of an energy is a standard deviation larger than 0, not {reference:g}: change it")
