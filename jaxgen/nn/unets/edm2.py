"""EDM2's magnitude-preserving U-Net: Karras et al. 2024, https://arxiv.org/abs/2312.02696, config G.

Section 2 and Appendix B: every layer keeps the expected magnitude of its activations, sqrt(mean x^2) = 1, so that there
is no group normalisation and no bias, and weights can be held to unit magnitude in training (`forced`).

    w^ = w / |w|            each output's weights, of unit norm                                          (eq. 47)
    mp_silu(x) = silu(x) / 0.596                                                                         (eq. 81)
    mp_sum(a, b, t) = ((1 - t) a + t b) / sqrt((1 - t)^2 + t^2)                                          (eq. 88)
    mp_cat(a, b, t) = sqrt((N_a + N_b) / ((1 - t)^2 + t^2)) [(1 - t) / sqrt(N_a) a, t / sqrt(N_b) b]     (eq. 103)
    fourier(c) = sqrt(2) cos(2 pi (f c + phase)),   f ~ N(0, 1), phase ~ U(0, 1)                         (eq. 75)

Parameters on 64 x 64 x 4 latents with 1,000 classes, the log-variance included, as in the paper's Table 6 rounded:
XS 124,713,253, S 280,212,837, M 497,807,781, L 777,498,085, XL 1,119,283,749, XXL 1,523,164,773. The frequencies and
phases, which are not trained, are not counted in these.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int, PyTree

from jaxgen.core.arrays import wide
from jaxgen.nn.blocks.attention import attend
from jaxgen.nn.blocks.conv import NHWC, conv
from jaxgen.nn.blocks.layers import Dropout, matmul
from jaxgen.nn.unets.adm import doubled
from jaxgen.nn.unets.unet import Map, check, check_widths
from jaxgen.nn.vision.convnet import halve

Dtype = Any
SIZES = {"XS": 128, "S": 192, "M": 256, "L": 320, "XL": 384, "XXL": 448}  # channels
EPS = 1e-4


def unit(x: Array, axes: Sequence[int]) -> Array:
  """x / (sqrt(mean x^2) + eps), the mean over the axes: of unit magnitude. In float32 or wider."""
  magnitude = jnp.sqrt(jnp.mean(wide(x) ** 2, axis=tuple(axes), keepdims=True))
  return (wide(x) / (magnitude + EPS)).astype(x.dtype)


def unit_weights(w: Float[Array, "*shape out"]) -> Float[Array, "*shape out"]:
  """Weights whose entries have unit magnitude for each output."""
  return unit(w, range(w.ndim - 1))


def mp_silu(x: Array) -> Array:
  return nn.silu(x) / 0.596


def mp_sum(a: Array, b: Array, t: float) -> Array:
  return ((1 - t) * a + t * b) / np.sqrt((1 - t) ** 2 + t**2)


def mp_cat(a: Float[Array, "*b n"], b: Float[Array, "*b m"], t: float) -> Float[Array, "*b n+m"]:
  n, m = a.shape[-1], b.shape[-1]
  scale = np.sqrt((n + m) / ((1 - t) ** 2 + t**2))
  return jnp.concatenate([scale * (1 - t) / np.sqrt(n) * a, scale * t / np.sqrt(m) * b], axis=-1)


def forced(params: PyTree) -> PyTree:
  """Forced weight normalisation, section 2.3: every "weight" of a tree of parameters, of unit magnitude an output.

  It is done after each update (`optimizers.projected`), so that growing weights do not lower the effective learning
  rate.
  """
  at = lambda path, w: unit_weights(w) if getattr(path[-1], "key", None) == "weight" else w
  return jax.tree_util.tree_map_with_path(at, params)


def _unit_normal(key: Array, shape: Sequence[int], dtype: Dtype) -> Array:
  return unit_weights(jax.random.normal(key, shape, dtype))


class MPLayer(nn.Module):
  """A dense layer, or an odd convolution with "SAME" padding, whose weights have unit norm; no bias.

  Attributes:
    kernel: its width; None: a dense layer.
  """

  features: int
  kernel: int | None = None
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "*batch channels"], gain: Any = 1.0) -> Float[Array, "*batch {self.features}"]:
    shape = (*([] if self.kernel is None else [self.kernel] * 2), x.shape[-1], self.features)
    w = self.param("weight", _unit_normal, shape, self.param_dtype)
    w = (unit_weights(wide(w)) * (gain / np.sqrt(np.prod(shape[:-1])))).astype(self.dtype)
    x = x.astype(self.dtype)
    if self.kernel in (None, 1):
      return matmul(x, w.reshape(shape[-2:]))
    return conv(x, w, (1, 1), "SAME", dimension_numbers=NHWC)


class MPFourier(nn.Module):
  """Random features of a number, of unit magnitude. Its frequencies and phases are parameters that are not trained."""

  features: int
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, c: Float[Array, " batch"]) -> Float[Array, "batch {self.features}"]:
    f = self.param("frequencies", nn.initializers.normal(1.0), (self.features,), self.param_dtype)
    phase = self.param("phases", nn.initializers.uniform(1.0), (self.features,), self.param_dtype)
    f, phase = jax.lax.stop_gradient((f, phase))
    return np.sqrt(2) * jnp.cos(2 * np.pi * (c[:, None] * f + phase))


class LogVariance(nn.Module):
  """u(c), the logarithm of a loss's size at the noise c, which uncertainty weighting learns (eq. 14 to 17).

  Attributes:
    features: of the number.
  """

  features: int = 128
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, c: Float[Array, " batch"]) -> Float[Array, " batch"]:
    features = MPFourier(self.features, self.param_dtype, name="fourier")(c)
    return MPLayer(1, dtype=features.dtype, param_dtype=self.param_dtype, name="linear")(features)[:, 0]


class Block(nn.Module):
  """A residual block, of the way down ("enc") or up ("dec"), with attention if it has heads (Figure 21)."""

  features: int
  kind: Literal["enc", "dec"]
  heads: int
  resample: Literal["keep", "down", "up"]
  dropout: float
  balance: tuple[float, float]
  clip: float
  dtype: Dtype
  param_dtype: Dtype

  @nn.compact
  def __call__(
    self, x: Map, embedding: Float[Array, "batch e"], index: Int[Array, " batch"] | None
  ) -> Float[Array, "batch h w {self.features}"]:
    layer = partial(MPLayer, self.features, dtype=self.dtype, param_dtype=self.param_dtype)
    residual, attention = self.balance
    if self.resample == "down":
      x = halve(x)
    elif self.resample == "up":
      x = doubled(x)
    project = x.shape[-1] != self.features
    if self.kind == "enc":
      x = layer(1, name="skip")(x) if project else x
      x = unit(x, [-1])
    h = layer(3, name="conv_1")(mp_silu(x))
    gain = self.param("gain", nn.initializers.zeros, (), self.param_dtype)
    h = mp_silu(h * (layer(name="embedding")(embedding, gain) + 1)[:, None, None].astype(h.dtype))
    h = layer(3, name="conv_2")(Dropout(self.dropout)(h, index))
    if self.kind == "dec" and project:
      x = layer(1, name="skip")(x)
    x = mp_sum(x, h, residual)
    if self.heads:
      batch, height, width, channels = x.shape
      qkv = MPLayer(3 * channels, 1, self.dtype, self.param_dtype, name="qkv")(x)
      qkv = unit(qkv.reshape(batch, height * width, 3, self.heads, channels // self.heads), [-1])
      h = attend(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]).reshape(x.shape)
      x = mp_sum(x, layer(1, name="out")(h), attention)
    return x.clip(-self.clip, self.clip)


class EDM2UNet(nn.Module):
  """EDM2's network: F of EDM's prediction; its time input is c_noise.

  Attributes:
    channels: width at full resolution, `SIZES`; level i has channels * multipliers[i].
    multipliers: one entry a level. The embedding is as wide as the widest level.
    blocks: residual blocks a level on the way down, one more on the way up.
    attention: heights of feature maps with attention, of heads of 64 channels.
    dropout: rate in each block.
    classes: number of classes; a label outside 0 .. classes - 1 means no label. None: unconditional.
    out_channels: of the output.
    head_channels: of each head.
    label_balance, concat_balance, residual_balance, attention_balance: t of mp_sum and mp_cat.
    clip: activations are clipped to it after each block.
    dtype: of the computation; magnitudes are float32 or wider.
    param_dtype: of the parameters.
  """

  channels: int = 128
  multipliers: Sequence[int] = (1, 2, 3, 4)
  blocks: int = 3
  attention: Sequence[int] = (16, 8)
  dropout: float = 0.0
  classes: int | None = None
  out_channels: int = 4
  head_channels: int = 64
  label_balance: float = 0.5
  concat_balance: float = 0.5
  residual_balance: float = 0.3
  attention_balance: float = 0.3
  clip: float = 256.0
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
    """The network's output at x [B, H, W, C], of unit magnitude, and c_noise t [B], in x's dtype.

    Dropout is on where `index`, the examples' positions in the global batch, is given; it needs rngs={"dropout": key}.

    Raises:
      UserError: H or W does not divide by 2^(levels - 1); a label without `classes`, or the reverse; attention at a
        height that no feature map has.
    """
    levels = len(self.multipliers)
    check(x, levels, label, self.classes, self.attention)
    check_widths(self.channels, self.multipliers, self.blocks)
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    widths = [self.channels * multiplier for multiplier in self.multipliers]
    dense = partial(MPLayer, max(widths), **dtypes)

    embedding = dense(name="noise")(MPFourier(widths[0], self.param_dtype, name="fourier")(t))
    if self.classes is not None:
      one_hot = jax.nn.one_hot(label, self.classes, dtype=embedding.dtype) * np.sqrt(self.classes)
      embedding = mp_sum(embedding, dense(name="class")(one_hot), self.label_balance)
    embedding = mp_silu(embedding)

    def block(
      h: Array,
      level: int,
      kind: str,
      name: str,
      resample: str = "keep",
      attends: bool | None = None,
      same: bool = False,
    ) -> Array:
      width = h.shape[-1] if same else widths[level]
      height = h.shape[1] if resample == "keep" else h.shape[1] // 2 if resample == "down" else h.shape[1] * 2
      attends = height in self.attention if attends is None else attends
      heads = max(width // self.head_channels, 1) if attends else 0
      balance = (self.residual_balance, self.attention_balance)
      made = Block(width, kind, heads, resample, self.dropout, balance, self.clip, name=name, **dtypes)
      return made(h, embedding, index)

    h = jnp.concatenate([x, jnp.ones_like(x[..., :1])], axis=-1)
    h = MPLayer(widths[0], 3, name="in", **dtypes)(h)
    skips = [h]
    for level in range(levels):
      if level:
        h = block(h, level, "enc", f"down_{level}_sample", "down", attends=False, same=True)
        skips.append(h)
      for number in range(self.blocks):
        h = block(h, level, "enc", f"down_{level}_{number}")
        skips.append(h)
    h = block(h, levels - 1, "dec", "middle_0", attends=True, same=True)
    h = block(h, levels - 1, "dec", "middle_1", attends=False, same=True)
    for level in reversed(range(levels)):
      if level < levels - 1:
        h = block(h, level, "dec", f"up_{level}_sample", "up", attends=False, same=True)
      for number in range(self.blocks + 1):
        h = block(mp_cat(h, skips.pop(), self.concat_balance), level, "dec", f"up_{level}_{number}")
    gain = self.param("out_gain", nn.initializers.zeros, (), self.param_dtype)
    return MPLayer(self.out_channels, 3, name="out", **dtypes)(h, gain).astype(x.dtype)
