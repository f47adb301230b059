"""GoogLeNet, the first Inception network.

Szegedy et al. 2014, https://arxiv.org/abs/1409.4842: Table 1, Figures 2 b and 3, and section 5 for the auxiliary heads.
The paper does not give response normalisation's constants and the padding of windows at the pictures' ends; they are
those of the Caffe model zoo's bvlc_googlenet. Initialisation is that of He et al. 2015,
https://arxiv.org/abs/1502.01852.

    GoogLeNet()                                         6,998,552 parameters with 1000 classes, without auxiliary heads,
                                                        and 13,378,280 with them on pictures of 224 x 224
    GoogLeNet(batch_norm=True)                          6,624,904 and 13,004,888: torchvision's
    GoogLeNet(width=0.25, classes=10, small=True)       CIFAR's 32x32 pictures, 8x8 digits
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from jaxgen.core.errors import UserError
from jaxgen.nn.blocks.attention import Index
from jaxgen.nn.blocks.layers import BatchNorm, Conv, Dense, Dropout, average, max_pool

Dtype = Any
Pictures = Float[Array, "batch height width channels"]

# Table 1: #1x1, #3x3 reduce, #3x3, #5x5 reduce, #5x5, pool proj.
INCEPTIONS = {
  "3a": (64, 96, 128, 16, 32, 32),
  "3b": (128, 128, 192, 32, 96, 64),
  "4a": (192, 96, 208, 16, 48, 64),
  "4b": (160, 112, 224, 24, 64, 64),
  "4c": (128, 128, 256, 24, 64, 64),
  "4d": (112, 144, 288, 32, 64, 64),
  "4e": (256, 160, 320, 32, 128, 128),
  "5a": (256, 160, 320, 32, 128, 128),
  "5b": (384, 192, 384, 48, 128, 128),
}
AUXILIARY = ("4a", "4d")  # the modules whose outputs the auxiliary heads see
he = nn.initializers.he_normal()


def response_norm(x: Pictures) -> Pictures:
  """Local response normalisation: Krizhevsky et al. 2012, section 3.3; over 5 channels, alpha / 5 = 2e-5, beta = 0.75.

  x_c / (1 + alpha / 5 * sum of x^2 over the channels c - 2 .. c + 2)^beta
  """
  square = jnp.pad(jnp.square(x), ((0, 0), (0, 0), (0, 0), (2, 2)))
  total = sum(square[..., i : i + x.shape[-1]] for i in range(5))
  return x / (1 + 2e-5 * total) ** 0.75


def reduce(x: Pictures, window: int = 3) -> Float[Array, "batch h w channels"]:
  """Max pooling of stride 2, including a last window that extends beyond the picture."""
  pads = tuple((0, (window - n) % 2) for n in x.shape[1:3])
  return max_pool(x, window, 2, pads)


def windows(n: int, adaptive: bool) -> np.ndarray:
  """A matrix [out, n] of mean pooling: over 5 positions every 3, 14 -> 4 in the paper; for n < 5 over all positions.

  Args:
    n: number of positions.
    adaptive: use PyTorch's adaptive windows, always 4; for n = 14 each has 4 positions.
  """
  if adaptive:
    ends = [(i * n // 4, -(-(i + 1) * n // 4)) for i in range(4)]
  else:
    ends = [(i, i + min(5, n)) for i in range(0, max(n - 4, 1), 3)]
  return np.stack([np.where((np.arange(n) >= a) & (np.arange(n) < b), 1 / (b - a), 0) for a, b in ends])


class GoogLeNet(nn.Module):
  """Nine inception modules.

  Attributes:
    width: factor of every width of Table 1 and of the heads.
    auxiliary: whether there are the two auxiliary heads, which are used only in training.
    dropout, auxiliary_dropout: dropout rates before the last dense layer of the head and of an auxiliary head.
    batch_norm: torchvision's variant, for which there are published weights: batch normalisation (eps 1e-3) instead of
      biases and of response normalisation, 3x3 kernels instead of 5x5, a last pooling of 2x2 windows, and other windows
      in the auxiliary heads.
    small: for small pictures, use a first 3x3 convolution without stride, and no pooling in the stem.
  """

  classes: int = 1000
  width: float = 1.0
  auxiliary: bool = True
  dropout: float = 0.4
  auxiliary_dropout: float = 0.7
  batch_norm: bool = False
  small: bool = False
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  def setup(self):
    self.head = self._dense(self.classes)
    self.drop = Dropout(self.dropout)

  def _dense(self, features: int, **options: Any) -> Dense:
    return Dense(features, kernel_init=he, dtype=self.dtype, param_dtype=self.param_dtype, **options)

  def widths(self, *features: int) -> tuple[int, ...]:
    return tuple(max(1, round(self.width * f)) for f in features)

  def __call__(self, x: Pictures, index: Index = None):
    """Logits [B, classes]; in training, with `index`, (logits, auxiliary logits of 4a, of 4d), and rng "dropout"."""
    h, auxiliary = self._all(x, index)
    logits = self.head(self.drop(h, index))
    return logits if index is None or not self.auxiliary else (logits, *auxiliary)

  def features(self, x: Pictures, index: Index = None) -> Float[Array, "batch features"]:
    """The last module's mean over the positions."""
    return self._all(x, index)[0]

  @nn.compact
  def _all(self, x: Pictures, index: Index):
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)

    def conv(h: Array, features: int, kernel: int, name: str, stride: int = 1) -> Array:
      pads = ((kernel // 2, kernel // 2),) * 2
      h = Conv(features, kernel, stride, pads, use_bias=not self.batch_norm, kernel_init=he, name=name, **dtypes)(h)
      if self.batch_norm:
        h = BatchNorm(eps=1e-3, name=f"{name}_norm", **dtypes)(h, index is not None)
      return nn.relu(h)

    def inception(h: Array, name: str) -> Array:
      """Figure 2 b."""
      one, three_reduce, three, five_reduce, five, projection = self.widths(*INCEPTIONS[name])
      parts = [
        conv(h, one, 1, f"{name}_1x1"),
        conv(conv(h, three_reduce, 1, f"{name}_3x3_reduce"), three, 3, f"{name}_3x3"),
        conv(conv(h, five_reduce, 1, f"{name}_5x5_reduce"), five, 3 if self.batch_norm else 5, f"{name}_5x5"),
        conv(max_pool(h, 3, 1, ((1, 1), (1, 1))), projection, 1, f"{name}_pool"),
      ]
      return jnp.concatenate(parts, axis=-1)

    def auxiliary(h: Array, name: str) -> Array:
      """Section 5."""
      rows, columns = (windows(n, self.batch_norm).astype(h.dtype) for n in h.shape[1:3])
      h = jnp.einsum("ph,qw,bhwc->bpqc", rows, columns, h)
      h = conv(h, *self.widths(128), 1, f"{name}_auxiliary_conv")
      h = nn.relu(self._dense(*self.widths(1024), name=f"{name}_auxiliary_hidden")(h.reshape(h.shape[0], -1)))
      h = Dropout(self.auxiliary_dropout)(h, index)
      return self._dense(self.classes, name=f"{name}_auxiliary_head")(h)

    normed = (lambda h: h) if self.batch_norm else response_norm
    pooled = (lambda h: h) if self.small else reduce
    (first,), (second, third) = self.widths(64), self.widths(64, 192)
    h = normed(pooled(conv(x, first, *((3, "stem_1") if self.small else (7, "stem_1", 2)))))
    h = pooled(normed(conv(conv(h, second, 1, "stem_2_reduce"), third, 3, "stem_2")))
    # The map is halved twice more, by windows of 3, or of 2 the second time in torchvision's variant.
    if min(h.shape[1:3]) < (2 if self.batch_norm else 4):
      raise UserError(
        f"pictures of {x.shape[1]} x {x.shape[2]} are too small for GoogLeNet: resize them, or set small=True"
      )
    others = []
    for name in INCEPTIONS:
      if name == "4a":
        h = reduce(h)
      if name == "5a":
        h = reduce(h, 2 if self.batch_norm else 3)
      h = inception(h, name)
      if self.auxiliary and name in AUXILIARY and (index is not None or self.is_initializing()):
        others.append(auxiliary(h, name))
    return average(h), others
