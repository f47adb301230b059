"""The U-Net of improved DDPM, which became ADM.

Nichol and Dhariwal 2021, https://arxiv.org/abs/2102.09672; Dhariwal and Nichol 2021, https://arxiv.org/abs/2105.05233,
section 3; both as in the authors' code. It differs from Ho et al.'s (`nn.unets.unet`): the time embedding scales and
shifts after the second norm of a block, attention has several heads at several resolutions, levels have one more block,
and in ADM residual blocks halve and double the image.

Published sizes, all with learned variances:

    ADM()                                                            CIFAR-10, improved DDPM         52,546,438
    ADM(multipliers=(1, 2, 3, 4))                                    ImageNet 64, improved DDPM     121,063,942
    ADM(192, (1, 2, 3, 4), 3, (32, 16, 8), 0.1, 1000,
        head_channels=64, residual_sample=True)                      ImageNet 64, ADM               295,904,454
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from jaxgen.core.errors import UserError
from jaxgen.nn.blocks.embeddings import cosines_first
from jaxgen.nn.blocks.layers import Conv, Dense, GroupNorm, groups_for
from jaxgen.nn.unets.unet import Attention, ResidualBlock, check, check_widths, u_shape
from jaxgen.nn.vision.convnet import halve

Dtype = Any


def initializer(scale: float = 1.0):
  """PyTorch's default, as in the authors' code: uniform, with variance 1 / (3 fan-in)."""
  return nn.initializers.variance_scaling(scale / 3, "fan_in", "uniform")


def doubled(x: Float[Array, "batch height width channels"]) -> Float[Array, "batch 2*height 2*width channels"]:
  """Every pixel repeated in both directions."""
  return x.repeat(2, axis=1).repeat(2, axis=2)


class ADM(nn.Module):
  """Improved DDPM's and ADM's U-Net.

  Attributes:
    channels, multipliers, blocks, dropout, classes, remat, dtype, param_dtype: as in `UNet`.
    attention: resolutions (heights of the feature map, in pixels) after whose residual blocks there is attention.
    out_channels: channels of the output; twice the image's for learned variances, whose first half predicts the mean.
    heads: number of attention's heads. If `head_channels` is given, the heads have that width instead.
    residual_sample: residual blocks halve and double the image, instead of convolutions.
  """

  channels: int = 128
  multipliers: Sequence[int] = (1, 2, 2, 2)
  blocks: int = 3
  attention: Sequence[int] = (16, 8)
  dropout: float = 0.0
  classes: int | None = None
  out_channels: int = 6
  heads: int = 4
  head_channels: int | None = None
  residual_sample: bool = False
  remat: bool = False
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "batch height width channels"],
    t: Float[Array, "batch"],
    label: Int[Array, "batch"] | None = None,
    index: Int[Array, "batch"] | None = None,
  ) -> Float[Array, "batch height width {self.out_channels}"]:
    """The network's output at x [B, H, W, C] and times t [B] (0 .. 1000 for any number of steps), in x's dtype.

    Dropout is on where `index`, the examples' positions in the global batch, is given; it needs rngs={"dropout": key}.

    Raises:
      UserError: H or W does not divide by 2^(levels - 1); a label without `classes`, or the reverse; attention at a
        height that no feature map has, or of heads that do not divide its channels.
    """
    levels = len(self.multipliers)
    check(x, levels, label, self.classes, self.attention)
    check_widths(self.channels, self.multipliers, self.blocks)
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    groups = groups_for(self.channels)
    common = dict(eps=1e-5, kernel_init=initializer, **dtypes)
    dense = partial(Dense, 4 * self.channels, kernel_init=initializer(), **dtypes)

    embedding = dense(name="time_1")(cosines_first(t, self.channels))
    embedding = dense(name="time_2")(nn.silu(embedding))
    if self.classes is not None:
      normal = nn.initializers.normal(1.0)
      embedding += nn.Embed(self.classes, 4 * self.channels, embedding_init=normal, name="class", **dtypes)(label)

    kind = nn.remat(ResidualBlock) if self.remat else ResidualBlock

    def block(width: int, name: str, **options) -> ResidualBlock:
      return kind(width, groups, self.dropout, scale_shift=True, name=name, **options, **common)

    def residual(h: Array, level: int, name: str) -> Array:
      return block(self.channels * self.multipliers[level], name)(h, embedding, index)

    def attend(h: Array, name: str) -> Array:
      heads = self.heads
      if self.head_channels:
        heads = h.shape[-1] // self.head_channels
        if h.shape[-1] % self.head_channels:
          raise UserError(
            f"{h.shape[-1]} features do not divide into heads of {self.head_channels}: change one of them"
          )
      return Attention(groups, heads, name=name, **common)(h)

    def sample(h: Array, level: int, way: str) -> Array:
      name = f"{way}_{level}_sample"
      if self.residual_sample:
        return block(h.shape[-1], name, resample={"down": halve, "up": doubled}[way])(h, embedding, index)
      change = {"down": dict(stride=2, padding=((1, 1), (1, 1))), "up": dict(double=True)}[way]
      return Conv(h.shape[-1], kernel_init=initializer(), name=name, **change, **dtypes)(h)

    h = Conv(self.channels * self.multipliers[0], kernel_init=initializer(), name="in", **dtypes)(x)
    h = u_shape(h, levels, self.blocks, residual, attend, sample, self.attention)
    h = nn.silu(GroupNorm(groups, 1e-5, name="out_norm", **dtypes)(h))
    return Conv(self.out_channels, kernel_init=initializer(1e-10), name="out", **dtypes)(h).astype(x.dtype)
