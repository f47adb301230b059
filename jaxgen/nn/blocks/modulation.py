"""How a diffusion Transformer is conditioned on time and class: adaLN, layer norms whose gain and bias depend on it.

Peebles and Xie 2022, https://arxiv.org/abs/2212.09748, section 3.2. Gains, biases and the gates of branches are a dense
layer of one vector of each example, which starts at zero (adaLN-zero): a block is then the identity.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxgen.nn.blocks.attention import normal
from jaxgen.nn.blocks.layers import Dense, layer_norm

Dtype = Any
Tokens = Float[Array, "batch tokens features"]
Vector = Float[Array, "batch features"]


def modulated(x: Tokens, shift: Vector, scale: Vector, eps: float = 1e-6) -> Tokens:
  """Normalised tokens times 1 + scale, plus shift."""
  return layer_norm(x, 1 + scale[:, None], shift[:, None], eps)


def gated(gate: Vector, x: Tokens) -> Tokens:
  return gate[:, None] * x


class Modulation(nn.Module):
  """(SiLU, dense) of the conditioning vector: `parts` vectors of each example, which start at zero."""

  parts: int
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, told: Vector) -> list[Vector]:
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    dense = Dense(self.parts * told.shape[-1], kernel_init=nn.initializers.zeros, name="dense", **dtypes)
    return jnp.split(dense(nn.silu(told)), self.parts, axis=-1)


class Embedding(nn.Module):
  """Dense, SiLU, dense: of a time's sinusoids, or of a text's vector."""

  features: int
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "batch c"]) -> Float[Array, "batch {self.features}"]:
    dense = partial(Dense, self.features, kernel_init=normal, dtype=self.dtype, param_dtype=self.param_dtype)
    return dense(name="out")(nn.silu(dense(name="in")(x)))


class Readout(nn.Module):
  """The last layer: modulation, a dense layer, and the assembly of patches to a picture. Its output starts at zero.

  Attributes:
    patch: side of a patch.
    channels: channels of the picture.
  """

  patch: int
  channels: int
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(
    self, x: Tokens, told: Vector, grid: tuple[int, int]
  ) -> Float[Array, "batch height width {self.channels}"]:
    """The picture.

    Args:
      grid: rows and columns of patches.
    """
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    shift, scale = Modulation(2, name="modulation", **dtypes)(told)
    dense = Dense(self.patch**2 * self.channels, kernel_init=nn.initializers.zeros, name="dense", **dtypes)
    return put_together(dense(modulated(x, shift, scale)), grid, self.patch)


def put_together(
  x: Float[Array, "batch tokens values"], grid: tuple[int, int], patch: int
) -> Float[Array, "batch height width channels"]:
  """Patches, row by row, each with its pixels row by row, as a picture."""
  rows, columns = grid
  x = x.reshape(len(x), rows, columns, patch, patch, -1).swapaxes(2, 3)
  return x.reshape(len(x), rows * patch, columns * patch, -1)


def as_dense(init: Callable[..., Array]) -> Callable[..., Array]:
  """Initialises a patches' kernel [p, p, channels, features] as that of the dense layer that it is."""
  flat = lambda shape: (shape[0] * shape[1] * shape[2], shape[3])
  return lambda key, shape, dtype=jnp.float32: init(key, flat(shape), dtype).reshape(shape)
