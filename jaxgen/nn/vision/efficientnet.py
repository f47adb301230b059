"""EfficientNet, B0 to B7.

Tan and Le 2019, https://arxiv.org/abs/1905.11946: Table 1 is B0; the others are B0 made wider and deeper, for larger
pictures, by one coefficient (section 3.3). Its block is MobileNetV2's (Sandler et al. 2018,
https://arxiv.org/abs/1801.04381, Figure 3 b) with squeeze and excitation (Hu et al. 2018,
https://arxiv.org/abs/1709.01507, section 3).

    EfficientNet(**SIZES["B0"])                                5,288,548 parameters with 1000 classes
    EfficientNet(**SIZES["B0"], classes=10, small=True)        CIFAR-10's 32x32 pictures
    EfficientNet(stages=STAGES[:3], stem=16, out=64, classes=10, small=True)     8x8 digits
"""

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxgen.nn.blocks.attention import Index
from jaxgen.nn.blocks.layers import BatchNorm, Conv, Dense, Dropout, average
from jaxgen.nn.blocks.residual import DropPath

Dtype = Any
Pictures = Float[Array, "batch height width channels"]


class Stage(NamedTuple):
  """A row of Table 1.

  Attributes:
    expand: a block's inner width divided by its input's width.
    stride: the stride of the first block.
  """

  expand: int
  kernel: int
  stride: int
  channels: int
  blocks: int


STAGES = (
  Stage(1, 3, 1, 16, 1),
  Stage(6, 3, 2, 24, 2),
  Stage(6, 5, 2, 40, 2),
  Stage(6, 3, 2, 80, 3),
  Stage(6, 5, 1, 112, 3),
  Stage(6, 5, 2, 192, 4),
  Stage(6, 3, 1, 320, 1),
)
# As in the authors' code: parameters with 1000 classes, and the pictures' side.
SIZES = {
  "B0": dict(width=1.0, depth=1.0, dropout=0.2),  # 5,288,548, 224
  "B1": dict(width=1.0, depth=1.1, dropout=0.2),  # 7,794,184, 240
  "B2": dict(width=1.1, depth=1.2, dropout=0.3),  # 9,109,994, 260
  "B3": dict(width=1.2, depth=1.4, dropout=0.3),  # 12,233,232, 300
  "B4": dict(width=1.4, depth=1.8, dropout=0.4),  # 19,341,616, 380
  "B5": dict(width=1.6, depth=2.2, dropout=0.4),  # 30,389,784, 456
  "B6": dict(width=1.8, depth=2.6, dropout=0.5),  # 43,040,704, 528
  "B7": dict(width=2.0, depth=3.1, dropout=0.5),  # 66,347,960, 600
}


def rounded(channels: float) -> int:
  """The nearest multiple of 8 that is not below 90 % of it."""
  nearest = max(8, int(channels + 4) // 8 * 8)
  return nearest if nearest >= 0.9 * channels else nearest + 8


def fan_out(key: jax.Array, shape: Sequence[int], dtype: Dtype = jnp.float32) -> jax.Array:
  """Normal with variance 2 / fan-out, as in the authors' code. A depthwise kernel [h, w, 1, C] has fan-out h w."""
  reached = shape[0] * shape[1] * (1 if shape[2] == 1 else shape[3])
  return math.sqrt(2 / reached) * jax.random.normal(key, shape, dtype)


def head_init(key: jax.Array, shape: Sequence[int], dtype: Dtype = jnp.float32) -> jax.Array:
  """Uniform within 1 / sqrt(classes), as in the authors' code."""
  return jax.random.uniform(key, shape, dtype, -1, 1) / math.sqrt(shape[1])


class Block(nn.Module):
  """Expand (1x1), depthwise convolution, squeeze and excitation, project (1x1); + input where shapes agree."""

  stage: Stage
  stride: int
  features: int
  convolution: Any
  norm: Any
  drop_path: float

  @nn.compact
  def __call__(self, x: Pictures, index: Index) -> Float[Array, "batch h w {self.features}"]:
    channels, hidden = x.shape[-1], x.shape[-1] * self.stage.expand
    train = index is not None
    h = x
    if self.stage.expand != 1:
      h = self.convolution(hidden, 1, name="expand")(h)
      h = nn.silu(self.norm(name="expand_norm")(h, train))
    h = self.convolution(hidden, self.stage.kernel, self.stride, groups=hidden, name="depthwise")(h)
    h = nn.silu(self.norm(name="depthwise_norm")(h, train))
    # A quarter of the block's input, not of the inner width.
    squeezed = average(h)[:, None, None]
    squeezed = nn.silu(self.convolution(max(1, channels // 4), 1, use_bias=True, name="reduce")(squeezed))
    h = h * nn.sigmoid(self.convolution(hidden, 1, use_bias=True, name="excite")(squeezed))
    h = self.norm(name="project_norm")(self.convolution(self.features, 1, name="project")(h), train)
    if self.stride == 1 and channels == self.features:
      h = x + DropPath()(h, self.drop_path, index)
    return h


class EfficientNet(nn.Module):
  """A stem, stages of blocks, a 1x1 convolution, the mean over positions and a dense layer.

  Attributes:
    width, depth: factors of every stage's channels and number of blocks.
    stages: the stages before these factors are applied.
    stem, out: widths of the first and of the last convolution before these factors are applied.
    dropout: dropout rate before the dense layer.
    drop_path: stochastic depth's rate; block i of n has the rate drop_path * i / n.
    padding: "same" is TensorFlow's padding, as published, which with stride 2 adds more on the right and below.
      "symmetric" is that of torchvision and of timm's networks whose name does not begin with "tf_".
    eps, momentum: of batch normalisation, as published. The ports with symmetric padding have eps 1e-5 (torchvision's
      from B5 on 1e-3) and momentum 0.9.
    small: for small pictures, use a stem without stride.
  """

  width: float = 1.0
  depth: float = 1.0
  classes: int = 1000
  stages: Sequence[Stage] = STAGES
  stem: int = 32
  out: int = 1280
  dropout: float = 0.2
  drop_path: float = 0.2
  padding: Literal["same", "symmetric"] = "same"
  eps: float = 1e-3
  momentum: float = 0.99
  small: bool = False
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  def setup(self):
    self.head = Dense(self.classes, kernel_init=head_init, dtype=self.dtype, param_dtype=self.param_dtype)
    self.drop = Dropout(self.dropout)

  def blocks(self) -> list[tuple[int, int, Stage]]:
    """(number of the stage, number of the block within it, the stage) for every block."""
    return [(s, i, stage) for s, stage in enumerate(self.stages) for i in range(math.ceil(self.depth * stage.blocks))]

  def __call__(self, x: Pictures, index: Index = None) -> Float[Array, "batch {self.classes}"]:
    """Logits. With `index`, in training: the batch's statistics, new "batch_stats", and rng "dropout" for dropout."""
    return self.head(self.drop(self.features(x, index), index))

  @nn.compact
  def features(self, x: Pictures, index: Index = None) -> Float[Array, "batch features"]:
    """The last convolution's mean over the positions."""
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)

    def convolution(features: int, kernel: int, stride: int = 1, use_bias: bool = False, **options: Any) -> Conv:
      pads = "SAME" if self.padding == "same" else ((kernel // 2, kernel // 2),) * 2
      return Conv(features, kernel, stride, pads, use_bias=use_bias, kernel_init=fan_out, **options, **dtypes)

    def norm(name: str) -> BatchNorm:
      return BatchNorm(self.momentum, self.eps, name=name, **dtypes)

    train, blocks = index is not None, self.blocks()
    h = convolution(rounded(self.width * self.stem), 3, 1 if self.small else 2, name="stem_conv")(x)
    h = nn.silu(norm("stem_norm")(h, train))
    for n, (_, i, stage) in enumerate(blocks):
      stride, channels = stage.stride if i == 0 else 1, rounded(self.width * stage.channels)
      rate = self.drop_path * n / len(blocks)
      h = Block(stage, stride, channels, convolution, norm, rate, name=f"block_{n + 1}")(h, index)
    h = convolution(rounded(self.width * self.out), 1, name="out_conv")(h)
    return average(nn.silu(norm("out_norm")(h, train)))
