"""CLIP's residual networks: Radford et al. 2021, https://arxiv.org/abs/2103.00020, section 2.4.

A ResNet whose stem has three convolutions and an average in place of the maximum (ResNet-D, He et al. 2018,
https://arxiv.org/abs/1812.01187), whose strides are averages before a convolution (Zhang 2019,
https://arxiv.org/abs/1904.11486), and whose readout is attention of the mean to all positions.
"""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxgen.core.errors import UserError
from jaxgen.nn.blocks.attention import Index, attend, head_width
from jaxgen.nn.blocks.layers import BatchNorm, Conv, Dense

Dtype = Any
Maps = Float[Array, "batch height width channels"]
PAD = ((1, 1), (1, 1))


def averaged_by(x: Maps, by: int) -> Float[Array, "batch h w channels"]:
  """Means over squares of by x by positions; rows and columns that do not fill one are left out, as in PyTorch."""
  if by == 1:
    return x
  batch, height, width, channels = x.shape
  rows, columns = height // by, width // by
  return x[:, : rows * by, : columns * by].reshape(batch, rows, by, columns, by, channels).mean((2, 4))


class Bottleneck(nn.Module):
  """1x1, 3x3 and 1x1 convolutions; with a stride, an average before the last and before the shortcut's."""

  features: int
  stride: int
  dtype: Dtype
  param_dtype: Dtype

  @nn.compact
  def __call__(self, x: Maps, train: bool) -> Float[Array, "batch h w out"]:
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)

    def layer(name: str, x: Maps, features: int, kernel: int) -> Array:
      padding = PAD if kernel == 3 else "VALID"
      x = Conv(features, kernel, padding=padding, use_bias=False, name=f"conv_{name}", **dtypes)(x)
      return BatchNorm(name=f"norm_{name}", **dtypes)(x, train)

    y = nn.relu(layer("1", x, self.features, 1))
    y = averaged_by(nn.relu(layer("2", y, self.features, 3)), self.stride)
    y = layer("3", y, 4 * self.features, 1)
    if self.stride > 1 or x.shape[-1] != 4 * self.features:
      x = layer("shortcut", averaged_by(x, self.stride), 4 * self.features, 1)
    return nn.relu(x + y)


class AttentionPool(nn.Module):
  """Attention of the mean over all positions to itself and to them, with learned positions, and a projection."""

  heads: int
  features: int
  dtype: Dtype
  param_dtype: Dtype

  @nn.compact
  def __call__(self, x: Maps) -> Float[Array, "batch {self.features}"]:
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    channels = x.shape[-1]
    x = x.reshape(len(x), -1, channels)
    x = jnp.concatenate([x.mean(1, keepdims=True), x], axis=1)
    init = nn.initializers.normal(channels**-0.5)
    if self.has_variable("params", "positions") and len(self.get_variable("params", "positions")) != x.shape[1]:
      raise UserError("the network's positions are of pictures of another size: give pictures of the size it is for")
    x = x + self.param("positions", init, (x.shape[1], channels), self.param_dtype).astype(x.dtype)
    width = head_width(channels, self.heads)
    part = lambda name, x: Dense(channels, kernel_init=init, name=name, **dtypes)(x).reshape(
      *x.shape[:2], self.heads, width
    )
    y = attend(part("query", x[:, :1]), part("key", x), part("value", x))
    return Dense(self.features, kernel_init=init, name="out", **dtypes)(y.reshape(len(x), channels))


class ModifiedResNet(nn.Module):
  """A tower for pictures.

  Attributes:
    depths: numbers of blocks of the four stages.
    width: channels of the first stage's 3x3 convolutions.
    heads: number of heads of the readout.
    features_out: number of the readout's features.
    side: height and width of the pictures that it is published for.
  """

  depths: tuple[int, ...]
  width: int
  heads: int
  features_out: int
  side: int = 224
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def features(self, x: Maps, index: Index = None) -> Float[Array, "batch {self.features_out}"]:
    """The readout's features; in training, with `index`, normalised by the batch's statistics."""
    dtypes, train = dict(dtype=self.dtype, param_dtype=self.param_dtype), index is not None
    for i, features in enumerate((self.width // 2, self.width // 2, self.width), 1):
      stride = 2 if i == 1 else 1
      x = Conv(features, 3, stride, padding=PAD, use_bias=False, name=f"stem_conv_{i}", **dtypes)(x)
      x = nn.relu(BatchNorm(name=f"stem_norm_{i}", **dtypes)(x, train))
    x = averaged_by(x, 2)
    for stage, depth in enumerate(self.depths):
      for i in range(depth):
        stride = 2 if stage > 0 and i == 0 else 1
        x = Bottleneck(self.width * 2**stage, stride, name=f"block_{stage + 1}_{i + 1}", **dtypes)(x, train)
    return AttentionPool(self.heads, self.features_out, name="pool", **dtypes)(x)
