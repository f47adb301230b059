"""CLIP's residual networks: Radford et al. 2021, https://arxiv.org/abs/2103.00020, section 2.4.

A ResNet whose stem has three convolutions and average pooling instead of maximum pooling (ResNet-D, He et al. 2018,
https://arxiv.org/abs/1812.01187), whose strides are averages before a convolution (Zhang 2019,
https://arxiv.org/abs/1904.11486), and whose readout is attention of the mean to all positions.
"""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxgen.nn.blocks.attention import Index, attend, head_width
from jaxgen.nn.blocks.layers import BatchNorm, Conv, Dense
from jaxgen.nn.vision.convnet import halve
from jaxgen.nn.vision.vit import positions

Dtype = Any
Maps = Float[Array, "batch height width channels"]
PAD = ((1, 1), (1, 1))


class Bottleneck(nn.Module):
  """1x1, 3x3 and 1x1 convolutions; where it halves the map, by an average before the last and before the shortcut's."""

  features: int
  halves: bool
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
    y = nn.relu(layer("2", y, self.features, 3))
    y = layer("3", halve(y) if self.halves else y, 4 * self.features, 1)
    if self.halves or x.shape[-1] != 4 * self.features:
      x = layer("shortcut", halve(x) if self.halves else x, 4 * self.features, 1)
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
    x = x + positions(self, x.shape[1], channels, self.param_dtype, init).astype(x.dtype)
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
    x = halve(x)
    for stage, depth in enumerate(self.depths):
      for i in range(depth):
        halves = stage > 0 and i == 0
        x = Bottleneck(self.width * 2**stage, halves, name=f"block_{stage + 1}_{i + 1}", **dtypes)(x, train)
    return AttentionPool(self.heads, self.features_out, name="pool", **dtypes)(x)
