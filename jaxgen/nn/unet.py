"""The U-Net of denoising diffusion probabilistic models.

Ho et al. 2020, https://arxiv.org/abs/2006.11239, Appendix B, as in the authors' code: residual blocks with group
normalisation and SiLU, each given the sinusoidal time embedding; single-head self-attention at chosen resolutions;
strided convolutions down, nearest-neighbour and convolution up. With the defaults and attention at 16, the paper's
CIFAR-10 network: 35,746,307 parameters.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from jaxgen.nn.layers import Conv, Dense, Dropout, GroupNorm, groups_for, timestep_embedding

Dtype = Any


def initializer(scale: float = 1.0):
  """The original's: uniform, variance scaled by the average of fan-in and fan-out."""
  return nn.initializers.variance_scaling(scale, "fan_avg", "uniform")


class ResidualBlock(nn.Module):
  """norm, SiLU, conv, + time; norm, SiLU, dropout, conv; + input (through a dense layer where the width changes)."""

  features: int
  groups: int
  dropout: float
  dtype: Dtype
  param_dtype: Dtype

  @nn.compact
  def __call__(
    self, x: Float[Array, "batch height width channels"], embedding: Float[Array, "batch e"], index
  ) -> Float[Array, "batch height width {self.features}"]:
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    norm = partial(GroupNorm, self.groups, **dtypes)
    h = nn.silu(norm(name="norm_1")(x))
    h = Conv(self.features, kernel_init=initializer(), name="conv_1", **dtypes)(h)
    time = Dense(self.features, kernel_init=initializer(), name="time", **dtypes)(nn.silu(embedding))
    h = nn.silu(norm(name="norm_2")(h, time))
    h = Dropout(self.dropout)(h, index)
    h = Conv(self.features, kernel_init=initializer(1e-10), name="conv_2", **dtypes)(h)
    if x.shape[-1] != self.features:
      x = Conv(self.features, 1, kernel_init=initializer(), name="shortcut", **dtypes)(x)
    return x + h


class Attention(nn.Module):
  """Self-attention over all positions of a feature map, with a residual connection."""

  groups: int
  heads: int
  dtype: Dtype
  param_dtype: Dtype

  @nn.compact
  def __call__(self, x: Float[Array, "batch height width channels"]) -> Float[Array, "batch height width channels"]:
    batch, height, width, channels = x.shape
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    h = GroupNorm(self.groups, name="norm", **dtypes)(x).reshape(batch, height * width, channels)
    dense = partial(Dense, channels, **dtypes)
    split = lambda z: z.reshape(batch, height * width, self.heads, channels // self.heads)
    q, k, v = (split(dense(kernel_init=initializer(), name=name)(h)) for name in ("query", "key", "value"))
    logits = jnp.einsum("bqhc,bkhc->bhqk", q, k) * (channels // self.heads) ** -0.5
    weights = jax.nn.softmax(logits.astype(jnp.promote_types(logits.dtype, jnp.float32)), axis=-1).astype(v.dtype)
    h = jnp.einsum("bhqk,bkhc->bqhc", weights, v).reshape(batch, height, width, channels)
    return x + dense(kernel_init=initializer(1e-10), name="out")(h)


class UNet(nn.Module):
  """DDPM's U-Net.

  channels: width at full resolution; level i has channels * multipliers[i] and 1 / 2^i of the resolution.
  multipliers: one entry per level.
  blocks: residual blocks per level on the way down, one more on the way up.
  attention: resolutions (heights of the feature map, in pixels) after whose residual blocks there is attention; one
    more is always in the middle, between two residual blocks.
  dropout: rate, inside each residual block.
  classes: number of classes of a class-conditional network; a label's embedding is added to the time's.
  out_channels: of the output.
  heads: of the attention.
  dtype: of the computation; normalisation statistics and softmax are at least float32.
  param_dtype: of the parameters.
  """

  channels: int = 128
  multipliers: Sequence[int] = (1, 2, 2, 2)
  blocks: int = 2
  attention: Sequence[int] = (16,)
  dropout: float = 0.0
  classes: int | None = None
  out_channels: int = 3
  heads: int = 1
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
    """The network's output at x [B, H, W, C] and times t [B] (DDPM's 0..T-1), in x's dtype.

    Dropout is on where `index`, the examples' positions in the global batch, is given; it needs rngs={"dropout": key}.

    Raises:
      ValueError: H or W does not divide by 2^(levels - 1); a label without `classes`, or the reverse.
    """
    levels = len(self.multipliers)
    factor = 2 ** (levels - 1)
    if x.shape[1] % factor or x.shape[2] % factor:
      raise ValueError(f"a U-Net of {levels} levels takes images whose sides divide by {factor}, not {x.shape[1:3]}")
    if (label is None) != (self.classes is None):
      raise ValueError(f"a label is given where, and only where, the U-Net has classes (classes={self.classes})")
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    groups = groups_for(self.channels)
    residual = partial(ResidualBlock, groups=groups, dropout=self.dropout, **dtypes)
    attend = partial(Attention, groups=groups, heads=self.heads, **dtypes)
    dense = partial(Dense, 4 * self.channels, kernel_init=initializer(), **dtypes)

    embedding = dense(name="time_1")(timestep_embedding(t, self.channels))
    embedding = dense(name="time_2")(nn.silu(embedding))
    if self.classes is not None:
      normal = nn.initializers.normal(1.0)
      embedding += nn.Embed(self.classes, 4 * self.channels, embedding_init=normal, name="class", **dtypes)(label)

    h = Conv(self.channels, kernel_init=initializer(), name="in", **dtypes)(x)
    skips = [h]
    for level, multiplier in enumerate(self.multipliers):
      for block in range(self.blocks):
        h = residual(self.channels * multiplier, name=f"down_{level}_{block}")(h, embedding, index)
        if h.shape[1] in self.attention:
          h = attend(name=f"down_{level}_{block}_attention")(h)
        skips.append(h)
      if level < levels - 1:
        h = Conv(h.shape[-1], stride=2, kernel_init=initializer(), name=f"down_{level}_sample", **dtypes)(h)
        skips.append(h)

    h = residual(h.shape[-1], name="middle_0")(h, embedding, index)
    h = attend(name="middle_attention")(h)
    h = residual(h.shape[-1], name="middle_1")(h, embedding, index)

    for level, multiplier in reversed(list(enumerate(self.multipliers))):
      for block in range(self.blocks + 1):
        h = jnp.concatenate([h, skips.pop()], axis=-1)
        h = residual(self.channels * multiplier, name=f"up_{level}_{block}")(h, embedding, index)
        if h.shape[1] in self.attention:
          h = attend(name=f"up_{level}_{block}_attention")(h)
      if level:
        h = Conv(h.shape[-1], double=True, kernel_init=initializer(), name=f"up_{level}_sample", **dtypes)(h)

    h = nn.silu(GroupNorm(groups, name="out_norm", **dtypes)(h))
    return Conv(self.out_channels, kernel_init=initializer(1e-10), name="out", **dtypes)(h).astype(x.dtype)
