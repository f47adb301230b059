"""DDPM++ and NCSN++, the U-Nets of the score SDE, EDM and rectified flow.

Song et al. 2021, https://arxiv.org/abs/2011.13456, Appendix H, and Karras et al. 2022, https://arxiv.org/abs/2206.00364,
Appendix F.5, both as in the authors' code. They differ from Ho et al.'s (`nn.unets.unet`): residual blocks halve and
double the image, sums of two branches are divided by sqrt(2), attention is used once a level on the way up, and there
are more blocks. NCSN++ also smooths by a small filter when it halves or doubles, and adds the halved input image at
every level on the way down.

Published sizes, without EDM's conditioning on augmentation (9 x 128 and 9 x 256 more):

    SongUNet()                                                       score SDE's DDPM++ cont.        61,804,419
    SongUNet(blocks=8)                                               score SDE's DDPM++ cont. deep  106,632,579
    SongUNet(ncsnpp=True, fourier=16.0)                              score SDE's NCSN++ cont.        62,758,787
    SongUNet(blocks=8, ncsnpp=True, fourier=16.0)                    score SDE's NCSN++ cont. deep  107,586,947
    SongUNet(multipliers=(2, 2, 2))                                  EDM's DDPM++                    55,732,739
    SongUNet(multipliers=(2, 2, 2), ncsnpp=True, fourier=16.0)       EDM's NCSN++                    56,395,523

Random frequencies, which are not trained, are not counted.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int

from jaxgen.nn.blocks.embeddings import timestep_embedding
from jaxgen.nn.blocks.layers import Conv, Dense, GroupNorm, groups_for
from jaxgen.nn.unets.adm import doubled
from jaxgen.nn.unets.unet import Attention, Map, ResidualBlock, check, check_widths, initializer, u_shape
from jaxgen.nn.vision.convnet import halve

Dtype = Any
ROOT_HALF = float(np.sqrt(0.5))


def _neighbours(x: Map, axis: int) -> tuple[Map, Map]:
  """(x[i - 1], x[i + 1]) along an axis, zero outside."""
  padded = jnp.pad(x, [(1, 1) if a == axis else (0, 0) for a in range(x.ndim)])
  cut = lambda start: jax.lax.slice_in_dim(padded, start, start + x.shape[axis], axis=axis)
  return cut(0), cut(2)


def fir_halve(x: Map) -> Float[Array, "batch h w channels"]:
  """Every second pixel of x smoothed by (1, 3, 3, 1) / 8 in both directions, zero outside; H and W are even.

  y[i] = (x[2i - 1] + 3 x[2i] + 3 x[2i + 1] + x[2i + 2]) / 8
  """
  for axis in (1, 2):
    pairs = x.reshape(*x.shape[:axis], x.shape[axis] // 2, 2, *x.shape[axis + 1 :])
    even, odd = (jax.lax.index_in_dim(pairs, i, axis + 1, keepdims=False) for i in (0, 1))
    before, after = _neighbours(odd, axis)[0], _neighbours(even, axis)[1]
    x = (before + 3 * even + 3 * odd + after) / 8
  return x


def fir_double(x: Map) -> Float[Array, "batch 2*height 2*width channels"]:
  """x with zeros between its pixels, smoothed by (1, 3, 3, 1) / 4 in both directions, zero outside.

  y[2i] = (x[i - 1] + 3 x[i]) / 4,  y[2i + 1] = (3 x[i] + x[i + 1]) / 4
  """
  for axis in (1, 2):
    before, after = _neighbours(x, axis)
    y = jnp.stack([(before + 3 * x) / 4, (3 * x + after) / 4], axis=axis + 1)
    x = y.reshape(*x.shape[:axis], 2 * x.shape[axis], *x.shape[axis + 1 :])
  return x


def fir_smooth(x: Map) -> Float[Array, "batch height+1 width+1 channels"]:
  """x at half-pixel positions, H + 1 and W + 1 of them: y[i] = (x[i - 2] + 3 x[i - 1] + 3 x[i] + x[i + 1]) / 8."""
  for axis in (1, 2):
    padded = jnp.pad(x, [(2, 2) if a == axis else (0, 0) for a in range(x.ndim)])
    a, b, c, d = (jax.lax.slice_in_dim(padded, i, i + x.shape[axis] + 1, axis=axis) for i in range(4))
    x = (a + 3 * b + 3 * c + d) / 8
  return x


class SongUNet(nn.Module):
  """DDPM++, or with `ncsnpp` and `fourier` NCSN++.

  Attributes:
    channels, multipliers, blocks, dropout, out_channels, remat, dtype, param_dtype: as in `UNet`.
    attention: resolutions (heights of the feature map, in pixels) with attention: after each block on the way down,
      after the last one on the way up.
    classes: number of classes of a class-conditional network, as in EDM: a label outside 0 .. classes - 1 means no
      label.
    ncsnpp: smooth when halving and doubling, and add the halved image at every level on the way down.
    fourier: embed t by random frequencies, normal with this standard deviation. They are the parameters "frequencies"
      and are not trained. None: Ho et al.'s embedding.
  """

  channels: int = 128
  multipliers: Sequence[int] = (1, 2, 2, 2)
  blocks: int = 4
  attention: Sequence[int] = (16,)
  dropout: float = 0.0
  classes: int | None = None
  out_channels: int = 3
  ncsnpp: bool = False
  fourier: float | None = None
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
    """The network's output at x [B, H, W, C] and t [B], in x's dtype.

    t is the number that the paper embeds: 999 times the time in the score SDE's DDPM++, log sigma in its NCSN++,
    c_noise in EDM. Dropout is on where `index`, the examples' positions in the global batch, is given; it needs
    rngs={"dropout": key}.

    Raises:
      UserError: H or W does not divide by 2^(levels - 1); a label without `classes`, or the reverse; attention at a
        height that no feature map has.
    """
    levels = len(self.multipliers)
    check(x, levels, label, self.classes, self.attention)
    check_widths(self.channels, self.multipliers, self.blocks)
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    dense = partial(Dense, kernel_init=initializer(), **dtypes)
    common = dict(gain=ROOT_HALF, **dtypes)
    resample = {"down": fir_halve, "up": fir_double} if self.ncsnpp else {"down": halve, "up": doubled}

    if self.fourier is None:
      embedding = timestep_embedding(t, self.channels)
    else:
      normal = nn.initializers.normal(self.fourier)
      frequencies = self.param("frequencies", normal, (self.channels,), self.param_dtype)
      angle = 2 * np.pi * t[:, None] * jax.lax.stop_gradient(frequencies)
      embedding = jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)
    if self.classes is not None:
      one_hot = jax.nn.one_hot(label, self.classes, dtype=embedding.dtype) * self.classes**0.5
      embedding += dense(embedding.shape[-1], name="class")(one_hot)
    embedding = dense(4 * self.channels, name="time_1")(embedding)
    embedding = dense(4 * self.channels, name="time_2")(nn.silu(embedding))

    residual_block = nn.remat(ResidualBlock) if self.remat else ResidualBlock

    def residual(h: Array, level: int, name: str) -> Array:
      width = self.channels * self.multipliers[level]
      return residual_block(width, None, self.dropout, name=name, **common)(h, embedding, index)

    def attend(h: Array, name: str) -> Array:
      return Attention(None, 1, kernel_init=attention_initializer, name=name, **common)(h)

    image = x.astype(self.dtype)

    def sample(h: Array, level: int, way: str) -> Array:
      nonlocal image
      name = f"{way}_{level}_sample"
      options = dict(resample=resample[way], project=True, name=name, **common)
      h = residual_block(h.shape[-1], None, self.dropout, **options)(h, embedding, index)
      if self.ncsnpp and way == "down":
        halved = dict(stride=2, padding="VALID", kernel_init=initializer(), name=f"input_{level}", **dtypes)
        h = image = (Conv(h.shape[-1], **halved)(fir_smooth(image)) + h) * ROOT_HALF
      return h

    h = Conv(self.channels, kernel_init=initializer(), name="in", **dtypes)(x)
    h = u_shape(h, levels, self.blocks, residual, attend, sample, self.attention, attention_up="last")
    h = nn.silu(GroupNorm(groups_for(h.shape[-1]), name="out_norm", **dtypes)(h))
    return Conv(self.out_channels, kernel_init=initializer(1e-10), name="out", **dtypes)(h).astype(x.dtype)


def attention_initializer(scale: float = 0.1):
  """The initialiser of queries, keys and values, which start smaller than in Ho et al.'s network."""
  return initializer(scale)
