"""DenseNet: every layer sees the outputs of all layers before it.

Huang et al. 2016, https://arxiv.org/abs/1608.06993: the form with bottlenecks and compression, section 3 and Table 1.

    DenseNet(**SIZES[121])                                            7,978,856 parameters with 1000 classes
    DenseNet((16, 16, 16), 12, 24, classes=10, small=True)            the paper's DenseNet-BC of depth 100 for CIFAR
    DenseNet((4, 4), 12, 24, classes=10, small=True)                  8x8 digits
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxgen.nn.blocks.attention import Index
from jaxgen.nn.blocks.layers import BatchNorm, Conv, Dense, Dropout, average, max_pool
from jaxgen.nn.vision.convnet import halve

Dtype = Any
Pictures = Float[Array, "batch height width channels"]

# Table 1, and 161, of the authors' code; parameters with 1000 classes.
SIZES = {
  121: dict(depths=(6, 12, 24, 16)),  # 7,978,856
  169: dict(depths=(6, 12, 32, 32)),  # 14,149,480
  201: dict(depths=(6, 12, 48, 32)),  # 20,013,928
  264: dict(depths=(6, 12, 64, 48)),  # 33,337,704
  161: dict(depths=(6, 12, 36, 24), growth=48, stem=96),  # 28,681,000
}


class DenseNet(nn.Module):
  """Dense blocks, with a transition between two that halves the channels and the picture's sides.

  Attributes:
    depths: number of layers of each block.
    growth: k, the channels that each layer adds.
    stem: channels before the first block; 2 k in the paper.
    dropout: dropout rate of each layer's output; 0.2 in the paper, on data without augmentation.
    small: for small pictures, the paper's stem for CIFAR: a 3x3 convolution without stride and pooling.
  """

  depths: Sequence[int]
  growth: int = 32
  stem: int = 64
  classes: int = 1000
  dropout: float = 0.0
  small: bool = False
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  def setup(self):
    self.head = Dense(self.classes, dtype=self.dtype, param_dtype=self.param_dtype)

  def __call__(self, x: Pictures, index: Index = None) -> Float[Array, "batch {self.classes}"]:
    """Logits. With `index`, in training: the batch's statistics, new "batch_stats", and rng "dropout" for dropout."""
    return self.head(self.features(x, index))

  @nn.compact
  def features(self, x: Pictures, index: Index = None) -> Float[Array, "batch features"]:
    """The last block's mean over the positions, normalised."""
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)

    def active(h: Array, name: str) -> Array:
      return nn.relu(BatchNorm(name=f"{name}_norm", **dtypes)(h, index is not None))

    def conv(h: Array, features: int, kernel: int, name: str, stride: int = 1) -> Array:
      pads, he = ((kernel // 2, kernel // 2),) * 2, nn.initializers.he_normal()
      return Conv(features, kernel, stride, pads, use_bias=False, kernel_init=he, name=f"{name}_conv", **dtypes)(h)

    if self.small:
      h = conv(x, self.stem, 3, "stem")
    else:
      h = max_pool(active(conv(x, self.stem, 7, "stem", 2), "stem"), 3, 2, ((1, 1), (1, 1)))
    for block, depth in enumerate(self.depths, 1):
      if block > 1:
        name = f"transition_{block - 1}"
        h = halve(conv(active(h, name), h.shape[-1] // 2, 1, name))
      for i in range(1, depth + 1):
        name = f"layer_{block}_{i}"
        new = conv(active(h, f"{name}_in"), 4 * self.growth, 1, f"{name}_in")
        new = conv(active(new, f"{name}_out"), self.growth, 3, f"{name}_out")
        h = jnp.concatenate([h, Dropout(self.dropout)(new, index)], axis=-1)
    return average(active(h, "out"))
