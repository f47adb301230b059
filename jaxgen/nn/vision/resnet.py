"""Residual networks: v1, v1.5 and v2, of 18 to 152 layers.

v1: He et al. 2015, https://arxiv.org/abs/1512.03385, section 3 and Table 1.
v1.5, today's ResNet-50: in bottlenecks that halve the picture the 3x3 convolution has the stride, not the first 1x1 one
(Goyal et al. 2017, https://arxiv.org/abs/1706.02677, section 5.1). v2 also has it there.
v2: normalisation and ReLU come before each convolution, and the identity path has no operation: He et al. 2016,
https://arxiv.org/abs/1603.05027, Figure 4 e.

    ResNet(**SIZES[50])                             25,557,032 parameters with 1000 classes: v1.5
    ResNet(**SIZES[50], **VERSIONS["v2"])           25,549,352
    ResNet(**SIZES[18], classes=10, small=True)     CIFAR-10's 32x32 pictures
    ResNet((1, 1, 1), width=16, classes=10, small=True)     8x8 digits
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from jaxgen.nn.blocks.attention import Index
from jaxgen.nn.blocks.layers import BatchNorm, Conv, Dense, average, max_pool
from jaxgen.nn.blocks.residual import DropPath

Dtype = Any
Pictures = Float[Array, "batch height width channels"]

# Table 1 of v1, by the number of layers. Numbers of parameters of v1 and v1.5 (the same) and of v2, with 1000 classes.
SIZES = {
  18: dict(depths=(2, 2, 2, 2)),  # 11,689,512 and 11,687,720
  34: dict(depths=(3, 4, 6, 3)),  # 21,797,672 and 21,795,880
  50: dict(depths=(3, 4, 6, 3), bottleneck=True),  # 25,557,032 and 25,549,352
  101: dict(depths=(3, 4, 23, 3), bottleneck=True),  # 44,549,160 and 44,541,480
  152: dict(depths=(3, 8, 36, 3), bottleneck=True),  # 60,192,808 and 60,185,128
}
VERSIONS = {"v1": dict(stride_first=True), "v1.5": dict(), "v2": dict(preactivation=True)}

# He et al. 2015, https://arxiv.org/abs/1502.01852, eq. 14, as in the authors' code.
he = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class Block(nn.Module):
  """x + F(x), with F of two 3x3 convolutions, or 1x1, 3x3 and 1x1. If shapes differ, a 1x1 convolution is applied to x.

  Attributes:
    features: width of the 3x3 convolutions; a bottleneck's output is 4 times as wide.
  """

  features: int
  stride: int
  bottleneck: bool
  preactivation: bool
  stride_first: bool
  drop_path: float
  zero_gain: bool
  dtype: Dtype
  param_dtype: Dtype

  @nn.compact
  def __call__(self, x: Pictures, index: Index) -> Float[Array, "batch h w features"]:
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)

    def norm(h: Array, name: str, **options: Any) -> Array:
      return BatchNorm(name=name, **options, **dtypes)(h, index is not None)

    def conv(h: Array, features: int, kernel: int, stride: int, name: str) -> Array:
      pads = ((kernel // 2, kernel // 2),) * 2
      return Conv(features, kernel, stride, pads, use_bias=False, kernel_init=he, name=name, **dtypes)(h)

    kernels = (1, 3, 1) if self.bottleneck else (3, 3)
    widths = [self.features] * (len(kernels) - 1) + [self.features * (4 if self.bottleneck else 1)]
    strides = [1] * len(kernels)
    strides[0 if self.stride_first else kernels.index(3)] = self.stride
    convs = list(zip(widths, kernels, strides, [f"conv_{i + 1}" for i in range(len(kernels))], strict=True))
    other_shape = self.stride > 1 or x.shape[-1] != widths[-1]

    if self.preactivation:
      h = nn.relu(norm(x, "norm_1"))
      if other_shape:
        x = conv(h, widths[-1], 1, self.stride, "shortcut_conv")
      h = conv(h, *convs[0])
      for i, layer in enumerate(convs[1:], 2):
        h = conv(nn.relu(norm(h, f"norm_{i}")), *layer)
      return x + DropPath()(h, self.drop_path, index)

    h = x
    for i, layer in enumerate(convs[:-1], 1):
      h = nn.relu(norm(conv(h, *layer), f"norm_{i}"))
    gain = nn.initializers.zeros if self.zero_gain else nn.initializers.ones
    h = norm(conv(h, *convs[-1]), f"norm_{len(convs)}", scale_init=gain)
    if other_shape:
      x = norm(conv(x, widths[-1], 1, self.stride, "shortcut_conv"), "shortcut_norm")
    return nn.relu(x + DropPath()(h, self.drop_path, index))


class ResNet(nn.Module):
  """Stages of residual blocks. Each stage but the first halves the picture and doubles the width.

  Attributes:
    depths: number of blocks of each stage.
    width: features of the stem and of the first stage's 3x3 convolutions.
    bottleneck: blocks of three convolutions.
    preactivation: v2. As in timm, the stem's pooling comes before the first normalisation.
    stride_first: v1, see above; it changes only bottlenecks.
    small: for small pictures, use v1's stem of section 4.2, a 3x3 convolution without stride and pooling. (The paper's
      networks there have widths 16, 32 and 64, and short-cuts without parameters; here short-cuts have parameters.)
    drop_path: stochastic depth's rate at the last block; it grows in equal steps from 0 at the first.
    zero_gain: the last normalisation of each branch starts at 0, so that blocks start as the identity: Goyal et al.
      2017, section 5.1. For v1 and v1.5.
    remat: keep only each block's input for the backward pass, and compute the rest again.
  """

  depths: Sequence[int]
  width: int = 64
  classes: int = 1000
  bottleneck: bool = False
  preactivation: bool = False
  stride_first: bool = False
  small: bool = False
  drop_path: float = 0.0
  zero_gain: bool = False
  remat: bool = False
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  def setup(self):
    # Its standard deviation is that of Goyal et al.
    init = nn.initializers.normal(0.01)
    self.head = Dense(self.classes, kernel_init=init, dtype=self.dtype, param_dtype=self.param_dtype)

  def __call__(self, x: Pictures, index: Index = None) -> Float[Array, "batch {self.classes}"]:
    """Logits. With `index`, in training: the batch's statistics, new "batch_stats", and rng "dropout" for dropout."""
    return self.head(self.features(x, index))

  @nn.compact
  def features(self, x: Pictures, index: Index = None) -> Float[Array, "batch features"]:
    """The last stage's mean over the positions."""
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    norm = lambda h, name: nn.relu(BatchNorm(name=name, **dtypes)(h, index is not None))
    kernel, stride = (3, 1) if self.small else (7, 2)
    pads = ((kernel // 2, kernel // 2),) * 2
    h = Conv(self.width, kernel, stride, pads, use_bias=False, kernel_init=he, name="stem_conv", **dtypes)(x)
    if not self.preactivation:
      h = norm(h, "stem_norm")
    if not self.small:
      h = max_pool(h, 3, 2, ((1, 1), (1, 1)))
    rates = iter(np.linspace(0, self.drop_path, sum(self.depths)).tolist())
    block = nn.remat(Block) if self.remat else Block
    for stage, depth in enumerate(self.depths):
      for i in range(depth):
        h = block(
          self.width * 2**stage,
          2 if stage > 0 and i == 0 else 1,
          self.bottleneck,
          self.preactivation,
          self.stride_first,
          next(rates),
          self.zero_gain,
          name=f"block_{stage + 1}_{i + 1}",
          **dtypes,
        )(h, index)
    return average(norm(h, "norm") if self.preactivation else h)
