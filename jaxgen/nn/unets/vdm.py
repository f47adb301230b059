"""The networks of variational diffusion models: the score network and the learned noise schedules.

Kingma et al. 2021, https://arxiv.org/abs/2107.00630, Appendices B and H, as in the authors' code. gamma is minus the
log-SNR.

Published size: `ScoreNetwork(-13.3, 5.0)`, CIFAR-10, 30,577,667 parameters, and 512 more in the authors' code, for an
input that is always 0.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int

from jaxgen.core import spread
from jaxgen.core.errors import check_sizes
from jaxgen.nn.blocks.embeddings import timestep_embedding
from jaxgen.nn.blocks.layers import Conv, Dense, Dropout, GroupNorm, groups_for
from jaxgen.nn.unets.unet import Attention, Map, check, u_shape

Dtype = Any


def initializer(scale: float = 1.0):
  """Normal, cut at two standard deviations, of variance scale / fan-in."""
  return nn.initializers.variance_scaling(scale, "fan_in", "truncated_normal")


class Block(nn.Module):
  """norm, SiLU, conv, + condition; norm, SiLU, dropout, conv; + input (through a dense layer if widths differ)."""

  features: int
  dropout: float
  dtype: Dtype
  param_dtype: Dtype

  @nn.compact
  def __call__(
    self, x: Map, condition: Float[Array, "batch e"], index: Int[Array, "batch"] | None
  ) -> Float[Array, "batch height width {self.features}"]:
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    norm = lambda name, x: GroupNorm(groups_for(x.shape[-1]), name=name, **dtypes)
    zeros = nn.initializers.zeros
    x, cut = spread.joined(x), spread.cuts(self.features, "channels")
    h = nn.silu(norm("norm_1", x)(x))
    h = Conv(self.features, name="conv_1", **dtypes)(h if cut else spread.over_devices(h))
    h = spread.over_width(h) if cut else h
    shift = Dense(self.features, use_bias=False, kernel_init=zeros, name="condition", **dtypes)(condition)
    h = Dropout(self.dropout)(nn.silu(norm("norm_2", h)(h, shift)), index)
    h = spread.joined(Conv(self.features, kernel_init=zeros, name="conv_2", **dtypes)(h))
    if x.shape[-1] != self.features:
      x = Conv(self.features, 1, name="shortcut", **dtypes)(x)
    return x + h


class ScoreNetwork(nn.Module):
  """eps from z_t and gamma_t: a U-Net at full resolution throughout, with attention only in the middle.

  Attributes:
    gamma_min, gamma_max: gamma's ends at initialisation; the network sees (gamma - gamma_min) / (gamma_max -
      gamma_min).
    channels: width.
    depth: number of residual blocks on the way down; one more on the way up.
    dropout: dropout rate inside each residual block.
    fourier: the network also sees sin(2^n pi z) and cos(2^n pi z) for these n. The paper has 7 and 8 for 256 values in
      [-1, 1]: for n = 8 the distance of two values is one period. For 17 values that is n = 4.
    classes: number of classes of a class-conditional network.
    remat: keep only each residual block's input for the backward pass, and compute the rest again.
  """

  gamma_min: float
  gamma_max: float
  channels: int = 128
  depth: int = 32
  dropout: float = 0.0
  fourier: Sequence[int] = (7, 8)
  classes: int | None = None
  remat: bool = False
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(
    self,
    z: Map,
    gamma: Float[Array, "batch"],
    label: Int[Array, "batch"] | None = None,
    index: Int[Array, "batch"] | None = None,
  ) -> Map:
    """eps for z [B, H, W, C] and gamma [B], in z's dtype.

    Dropout is on where `index`, the examples' positions in the global batch, is given; it needs rngs={"dropout": key}.

    Raises:
      UserError: a label is given without `classes`, or the reverse.
    """
    check(z, 1, label, self.classes)
    check_sizes("the score network", channels=self.channels, depth=self.depth)
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    t = (gamma - self.gamma_min) / (self.gamma_max - self.gamma_min)
    condition = timestep_embedding(1000 * t, self.channels)
    if self.classes is not None:
      condition = jnp.concatenate([condition, jax.nn.one_hot(label, self.classes, dtype=condition.dtype)], axis=-1)
    condition = nn.silu(Dense(4 * self.channels, name="condition_1", **dtypes)(condition))
    condition = nn.silu(Dense(4 * self.channels, name="condition_2", **dtypes)(condition))

    angle = z[..., None] * jnp.asarray(np.pi * 2.0 ** np.asarray(self.fourier), z.dtype)
    angle = angle.reshape(*z.shape[:-1], -1)
    h = jnp.concatenate([z, jnp.sin(angle), jnp.cos(angle)], axis=-1)

    block = nn.remat(Block) if self.remat else Block

    def residual(h: Array, level: int, name: str) -> Array:
      return block(self.channels, self.dropout, name=name, **dtypes)(h, condition, index)

    def attend(h: Array, name: str) -> Array:
      return Attention(None, 1, kernel_init=initializer, name=name, **dtypes)(h)

    h = Conv(self.channels, name="in", **dtypes)(h)
    h = u_shape(h, 1, self.depth, residual, attend)
    h = nn.silu(GroupNorm(groups_for(self.channels), name="out_norm", **dtypes)(h))
    return z + Conv(z.shape[-1], kernel_init=nn.initializers.zeros, name="out", **dtypes)(h).astype(z.dtype)


class LinearGamma(nn.Module):
  """gamma(t) = b + |w| t, initially the line from gamma_min to gamma_max, as in the CIFAR-10 model.

  The bound in continuous time depends only on gamma's ends (the paper's section 5.1), which are learned.
  """

  gamma_min: float
  gamma_max: float
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, t: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    b = self.param("b", nn.initializers.constant(self.gamma_min), (), self.param_dtype)
    w = self.param("w", nn.initializers.constant(self.gamma_max - self.gamma_min), (), self.param_dtype)
    return b + jnp.abs(w) * t


class MonotoneGamma(nn.Module):
  """gamma(t) = l_1(t) + l_3(phi(l_2(2 t - 1))) / hidden, with phi(x) = 2 sigmoid(x) - 1; Appendix H.

  l_1, l_2 and l_3 are linear maps of widths 1, `hidden` and 1. Their weights enter by absolute values, so that gamma
  increases. It starts close to the line from gamma_min to gamma_max. (The paper also rescales gamma so that its ends
  are two separate parameters; the authors' code, and this, do not.)
  """

  gamma_min: float
  gamma_max: float
  hidden: int = 1024
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, t: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    normal = nn.initializers.normal(0.01)
    line = LinearGamma(self.gamma_min, self.gamma_max, self.param_dtype, name="l_1")(t)
    w_2 = self.param("l_2_kernel", normal, (self.hidden,), self.param_dtype)
    b_2 = self.param("l_2_bias", nn.initializers.zeros, (self.hidden,), self.param_dtype)
    w_3 = self.param("l_3_kernel", normal, (self.hidden,), self.param_dtype)
    h = (2 * t - 1)[..., None] * jnp.abs(w_2) + b_2
    return line + (2 * jax.nn.sigmoid(h) - 1) @ jnp.abs(w_3) / self.hidden
