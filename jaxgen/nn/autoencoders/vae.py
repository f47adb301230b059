"""Networks of variational autoencoders: encoders, x -> mean and log standard deviation of q(z | x), and decoders,
z -> the parameters of each value's likelihood.

    encoder, decoder = MLPEncoder(20), MLPDecoder((28, 28, 1))
    mean, log_std = encoder.apply({"params": p}, x)      # [B, H, W, C] -> [B, 20], twice
    output = decoder.apply({"params": q}, z)             # [B, 20] -> [B, H, W, outputs * C]

A decoder gives `outputs` numbers for each value, such as a Gaussian's mean and log standard deviation: first the means
of all channels, then the log standard deviations. The last `shared` of these numbers do not depend on z or the
position: they are parameters of the network, one for each channel.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxgen.core.errors import UserError, check_sizes
from jaxgen.nn.blocks.layers import Conv, Dense

Dtype = Any
Image = Float[Array, "batch height width channels"]
Latent = Float[Array, "batch latent"]
xavier = nn.initializers.xavier_uniform()


class Shared(nn.Module):
  """Appends `count` parameters to every position's features; they start at 0."""

  count: int
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "*rest channels"]) -> Float[Array, "*rest more"]:
    if self.count == 0:
      return x
    value = self.param("value", nn.initializers.zeros, (self.count,), self.param_dtype).astype(x.dtype)
    return jnp.concatenate([x, jnp.broadcast_to(value, (*x.shape[:-1], self.count))], axis=-1)


def of_network(outputs: int, shared: int) -> int:
  """The number of a decoder's outputs for a value that depend on z.

  Raises:
    UserError: no output depends on z.
  """
  if not 0 <= shared < outputs:
    raise UserError(
      f"a decoder with outputs={outputs} and shared={shared} leaves {outputs - shared} outputs that depend on z: it "
      "takes 1 or more"
    )
  return outputs - shared


class MLPEncoder(nn.Module):
  """Kingma and Welling 2013, https://arxiv.org/abs/1312.6114, Appendix C.2; without hidden layers it is linear.

  Its input is the intensity (x + 1) / 2, as in the paper. Most pixels of MNIST are then 0, and it learns faster.
  """

  latent: int
  hidden: Sequence[int] = (500,)
  activation: Callable[[Array], Array] = jnp.tanh
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Image) -> tuple[Latent, Latent]:
    check_sizes("an encoder", latent=self.latent, hidden=self.hidden)
    options = dict(kernel_init=xavier, dtype=self.dtype, param_dtype=self.param_dtype)
    h = (x.reshape(len(x), -1) + 1) / 2
    for i, width in enumerate(self.hidden):
      h = self.activation(Dense(width, name=f"hidden_{i}", **options)(h))
    return Dense(self.latent, name="mean", **options)(h), Dense(self.latent, name="log_std", **options)(h)


class MLPDecoder(nn.Module):
  """Kingma and Welling 2013, Appendix C.1 and C.2; without hidden layers it is linear.

  Attributes:
    shape: (H, W, C) of an image.
    outputs, shared: see the module's docstring.
  """

  shape: tuple[int, int, int]
  hidden: Sequence[int] = (500,)
  activation: Callable[[Array], Array] = jnp.tanh
  outputs: int = 1
  shared: int = 0
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, z: Latent) -> Float[Array, "batch height width outputs"]:
    """Raises a UserError if a hidden layer has no units, or no output depends on z."""
    check_sizes("a decoder", hidden=self.hidden)
    options = dict(kernel_init=xavier, dtype=self.dtype, param_dtype=self.param_dtype)
    height, width, channels = self.shape
    channels *= of_network(self.outputs, self.shared)
    h = z
    for i, features in enumerate(self.hidden):
      h = self.activation(Dense(features, name=f"hidden_{i}", **options)(h))
    h = Dense(height * width * channels, name="out", **options)(h).reshape(-1, height, width, channels)
    return Shared(self.shared * self.shape[2], self.param_dtype, name="shared")(h)


class ConvEncoder(nn.Module):
  """3x3 convolutions, each level at half the resolution of the previous one, and a dense layer.

  Attributes:
    channels: channels of each level. 2 ** (number of levels - 1) must divide the image's sides.
  """

  latent: int
  channels: Sequence[int] = (32, 64)
  hidden: int = 128
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Image) -> tuple[Latent, Latent]:
    """Raises a UserError if a size is 0, or the image's sides cannot be halved so often."""
    check_sizes("an encoder", latent=self.latent, levels=len(self.channels), channels=self.channels, hidden=self.hidden)
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    smallest(x.shape[1:3], len(self.channels))
    h = x
    for i, width in enumerate(self.channels):
      h = nn.silu(Conv(width, stride=1 if i == 0 else 2, name=f"conv_{i}", **dtypes)(h))
    h = nn.silu(Dense(self.hidden, name="hidden", **dtypes)(h.reshape(len(h), -1)))
    return Dense(self.latent, name="mean", **dtypes)(h), Dense(self.latent, name="log_std", **dtypes)(h)


class ConvDecoder(nn.Module):
  """A dense layer and 3x3 convolutions, each level at twice the resolution of the previous one.

  Attributes:
    channels: channels of each level, from the smallest map on. 2 ** (number of levels - 1) must divide the image's
      sides.
  """

  shape: tuple[int, int, int]
  channels: Sequence[int] = (64, 32)
  hidden: int = 128
  outputs: int = 1
  shared: int = 0
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, z: Latent) -> Float[Array, "batch height width outputs"]:
    """Raises a UserError if a size is 0, no output depends on z, or the image's sides cannot be halved so often."""
    check_sizes("a decoder", levels=len(self.channels), channels=self.channels, hidden=self.hidden)
    outputs = of_network(self.outputs, self.shared)
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    size = smallest(self.shape[:2], len(self.channels))
    h = nn.silu(Dense(self.hidden, name="hidden", **dtypes)(z))
    h = nn.silu(Dense(math.prod(size) * self.channels[0], name="smallest", **dtypes)(h))
    h = h.reshape(-1, *size, self.channels[0])
    for i, width in enumerate(self.channels):
      h = nn.silu(Conv(width, double=i > 0, name=f"conv_{i}", **dtypes)(h))
    h = Conv(outputs * self.shape[2], name="out", **dtypes)(h)
    return Shared(self.shared * self.shape[2], self.param_dtype, name="shared")(h)


def smallest(size: tuple[int, ...], levels: int) -> tuple[int, ...]:
  """Height and width at the last level.

  Raises:
    UserError: a side cannot be halved so often.
  """
  times = 2 ** (levels - 1)
  if any(side % times for side in size):
    raise UserError(
      f"{levels} levels halve an image's sides {levels - 1} times, and {size[0]}x{size[1]} does not divide"
    )
  return tuple(side // times for side in size)
