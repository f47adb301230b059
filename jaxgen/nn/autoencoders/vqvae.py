"""Encoder and decoder of the VQ-VAE: van den Oord et al. 2017, https://arxiv.org/abs/1711.00937, section 4.1.

Strided convolutions halve the resolution, and residual blocks (ReLU, 3x3, ReLU, 1x1) follow; the decoder has them in
reverse order. The paper's decoder has transposed 4x4 convolutions; this one repeats each pixel in both directions and
applies a 3x3 convolution.

Published size: 256 features, 2 halvings, 2 blocks, for CIFAR-10.
"""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxgen.core.errors import check_sizes
from jaxgen.nn.autoencoders.vae import Shared, of_network, smallest
from jaxgen.nn.blocks.layers import Conv

Dtype = Any
Map = Float[Array, "batch height width channels"]


class Residual(nn.Module):
  """x + (ReLU, 3x3, ReLU, 1x1)."""

  features: int
  dtype: Dtype
  param_dtype: Dtype

  @nn.compact
  def __call__(self, x: Map) -> Map:
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    h = Conv(self.features, name="conv_1", **dtypes)(nn.relu(x))
    return x + Conv(x.shape[-1], 1, name="conv_2", **dtypes)(nn.relu(h))


class Encoder(nn.Module):
  """x -> a vector of width `dim` at each position of the halved image.

  2 ** halvings must divide the image's sides.
  """

  dim: int
  features: int = 256
  halvings: int = 2
  blocks: int = 2
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Map) -> Float[Array, "batch h w {self.dim}"]:
    """Raises a UserError if a size is 0, or the image's sides cannot be halved so often."""
    check_sizes("an encoder", dim=self.dim, features=self.features)
    check_sizes("an encoder", 0, halvings=self.halvings, blocks=self.blocks)
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    smallest(x.shape[1:3], self.halvings + 1)
    h = x
    for i in range(self.halvings):
      h = Conv(self.features, 4, stride=2, name=f"down_{i}", **dtypes)(nn.relu(h) if i else h)
    for i in range(self.blocks):
      h = Residual(self.features, name=f"block_{i}", **dtypes)(h)
    return Conv(self.dim, 1, name="out", **dtypes)(nn.relu(h))


class Decoder(nn.Module):
  """Vectors at the positions of the halved image -> parameters of a likelihood; see `jaxgen.nn.autoencoders.vae`.

  Attributes:
    channels: the image's channels.
  """

  channels: int
  features: int = 256
  halvings: int = 2
  blocks: int = 2
  outputs: int = 1
  shared: int = 0
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, z: Float[Array, "batch h w dim"]) -> Float[Array, "batch height width outputs"]:
    """Raises a UserError if a size is 0 or no output depends on z."""
    check_sizes("a decoder", channels=self.channels, features=self.features)
    outputs = of_network(self.outputs, self.shared)
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    h = Conv(self.features, name="in", **dtypes)(z)
    for i in range(self.blocks):
      h = Residual(self.features, name=f"block_{i}", **dtypes)(h)
    for i in range(self.halvings):
      h = Conv(self.features, double=True, name=f"up_{i}", **dtypes)(nn.relu(h))
    h = Conv(outputs * self.channels, name="out", **dtypes)(nn.relu(h))
    return Shared(self.shared * self.channels, self.param_dtype, name="shared")(h)
