"""VideoGPT's encoder and decoder: Yan et al. 2021, https://arxiv.org/abs/2104.10157, section 3.1.

Strided 3D convolutions halve time and space, residual blocks with axial attention follow, and the decoder has them in
reverse order. Two things differ from the authors' code: norms are of groups, where theirs are of batches and keep
running statistics; and the decoder repeats frames and pixels before a 3x3x3 convolution, where theirs are transposed.

A 3D convolution is computed as one of images whose channels are those of the frames that it sees at once, in the form
that is fast on all devices.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxgen.core.errors import UserError, check_sizes
from jaxgen.nn.autoencoders.vae import Shared, of_network
from jaxgen.nn.blocks.attention import attend, head_width
from jaxgen.nn.blocks.conv import NHWC, conv
from jaxgen.nn.blocks.layers import Dense, GroupNorm, add_bias, groups_for

Dtype = Any
Clip = Float[Array, "batch time height width channels"]
Strides = tuple[int, int, int]  # of time, height, width


class Conv3d(nn.Module):
  """A 3D convolution of clips, padded so that each side is divided by its stride: k - s zeros, the odd one first.

  Attributes:
    kernel: its side in time, height and width.
    stride: those of time, height and width, which divide these.
  """

  features: int
  kernel: int = 3
  stride: Strides = (1, 1, 1)
  use_bias: bool = True
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Clip) -> Float[Array, "batch t h w {self.features}"]:
    size, channels = self.kernel, x.shape[-1]
    shape = (size, size, size, channels, self.features)
    kernel = self.param("kernel", nn.initializers.lecun_normal(), shape, self.param_dtype)
    bias = self.param("bias", nn.initializers.zeros, (self.features,), self.param_dtype) if self.use_bias else None
    x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
    (early, late), *pads = ((-(-(size - s) // 2), (size - s) // 2) for s in self.stride)
    steps, last = self.stride[0], x.shape[1] - self.stride[0] + 1
    x = jnp.pad(x, ((0, 0), (early, late), (0, 0), (0, 0), (0, 0)))
    seen = jnp.concatenate([x[:, k : k + last : steps] for k in range(size)], axis=-1)  # of each frame, size frames
    flat = kernel.transpose(1, 2, 0, 3, 4).reshape(size, size, size * channels, self.features)
    y = conv(seen.reshape(-1, *seen.shape[2:]), flat, self.stride[1:], tuple(pads), dimension_numbers=NHWC)
    return add_bias(y.reshape(*seen.shape[:2], *y.shape[1:]), bias)


class AxialAttention(nn.Module):
  """The sum of attention along width, height and time: Ho et al. 2019, https://arxiv.org/abs/1912.12180.

  As in VideoGPT's code: each has its own projections, without biases but for the last.
  """

  heads: int
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Clip) -> Clip:
    channels, dtypes = x.shape[-1], dict(dtype=self.dtype, param_dtype=self.param_dtype)

    def along(axis: int, name: str) -> Array:
      h = jnp.moveaxis(x, axis, -2)
      rows = h.reshape(-1, *h.shape[-2:])
      split = lambda z: z.reshape(*z.shape[:2], self.heads, head_width(channels, self.heads))
      q, k, v = (split(Dense(channels, False, name=f"{name}_{part}", **dtypes)(rows)) for part in ("q", "k", "v"))
      y = Dense(channels, name=f"{name}_out", **dtypes)(attend(q, k, v).reshape(rows.shape))
      return jnp.moveaxis(y.reshape(h.shape), -2, axis)

    return along(3, "width") + along(2, "height") + along(1, "time")


class AttentionResidual(nn.Module):
  """x + (norm, ReLU, 3x3x3, norm, ReLU, 1x1x1, norm, ReLU, axial attention); half as many features in between."""

  heads: int = 2
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Clip) -> Clip:
    features, dtypes = x.shape[-1], dict(dtype=self.dtype, param_dtype=self.param_dtype)
    norm = lambda h, name: nn.relu(GroupNorm(groups_for(h.shape[-1]), name=name, **dtypes)(h))
    h = Conv3d(features // 2, use_bias=False, name="conv_1", **dtypes)(norm(x, "norm_1"))
    h = Dense(features, use_bias=False, name="conv_2", **dtypes)(norm(h, "norm_2"))
    return x + AxialAttention(self.heads, name="attention", **dtypes)(norm(h, "norm_3"))


class Encoder3d(nn.Module):
  """Clips -> a vector of width `dim` at each place of the smaller clip.

  Attributes:
    strides: of the convolutions; the clip's sides divide by their products.
    blocks: residual blocks with axial attention.
  """

  dim: int
  features: int = 240
  strides: Sequence[Strides] = ((2, 2, 2), (2, 2, 2))
  blocks: int = 4
  heads: int = 2
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Clip) -> Float[Array, "batch t h w {self.dim}"]:
    """Raises a UserError if a size is 0, or the clip's sides do not divide by the strides."""
    check_sizes("an encoder", dim=self.dim, features=self.features)
    check_strides(x.shape[1:4], self.strides)
    dtypes, h = dict(dtype=self.dtype, param_dtype=self.param_dtype), x
    for i, stride in enumerate(self.strides):
      h = nn.relu(Conv3d(self.features, 4, stride, name=f"down_{i}", **dtypes)(h))
    h = Conv3d(self.features, name="in", **dtypes)(h)
    for i in range(self.blocks):
      h = AttentionResidual(self.heads, name=f"block_{i}", **dtypes)(h)
    h = nn.relu(GroupNorm(groups_for(self.features), name="norm", **dtypes)(h))
    return Dense(self.dim, name="out", **dtypes)(h)


class Decoder3d(nn.Module):
  """Vectors at the places of the smaller clip -> parameters of a likelihood; see `jaxgen.nn.autoencoders.vae`.

  Attributes:
    channels: the clip's channels.
    strides: those of the encoder.
  """

  channels: int
  features: int = 240
  strides: Sequence[Strides] = ((2, 2, 2), (2, 2, 2))
  blocks: int = 4
  heads: int = 2
  outputs: int = 1
  shared: int = 0
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, z: Float[Array, "batch t h w dim"]) -> Float[Array, "batch time height width outputs"]:
    """Raises a UserError if a size is 0 or no output depends on z."""
    check_sizes("a decoder", channels=self.channels, features=self.features)
    outputs, dtypes = of_network(self.outputs, self.shared), dict(dtype=self.dtype, param_dtype=self.param_dtype)
    h = Dense(self.features, name="in", **dtypes)(z)
    for i in range(self.blocks):
      h = AttentionResidual(self.heads, name=f"block_{i}", **dtypes)(h)
    h = nn.relu(GroupNorm(groups_for(self.features), name="norm", **dtypes)(h))
    for i, stride in enumerate(reversed(self.strides)):
      for axis, times in enumerate(stride, 1):
        h = jnp.repeat(h, times, axis=axis)
      h = nn.relu(Conv3d(self.features, name=f"up_{i}", **dtypes)(h))
    h = Conv3d(outputs * self.channels, name="out", **dtypes)(h)
    return Shared(self.shared * self.channels, self.param_dtype, name="shared")(h)


def check_strides(sides: tuple[int, ...], strides: Sequence[Strides]) -> None:
  """Raises a UserError where a clip's frames, height and width do not divide by the products of the strides."""
  by = [math.prod(stride[axis] for stride in strides) for axis in range(3)]
  if any(side % factor for side, factor in zip(sides, by, strict=True)):
    words = lambda numbers: "x".join(map(str, numbers))
    raise UserError(
      f"clips of {words(sides)} (frames, height, width) are divided by {words(by)}, which leaves a rest: change the "
      "strides or the clips"
    )
