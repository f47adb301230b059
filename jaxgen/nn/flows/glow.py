"""Glow: Kingma and Dhariwal 2018, https://arxiv.org/abs/1807.03039: actnorm, invertible 1x1 convolution, coupling.

Published size: `glow(3, 32, 512)` for CIFAR-10.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxgen.core.errors import check_sizes
from jaxgen.nn.blocks.layers import Conv
from jaxgen.nn.flows.bijections import (
  ActNorm,
  Chain,
  Coupling,
  InvertibleConv,
  InvertibleConvLU,
  Repeat,
  Rescale,
  Split,
  Squeezed,
)

Dtype = Any
Image = Float[Array, "batch height width channels"]
Out = Float[Array, "batch height width out"]


class ZeroConv(nn.Module):
  """(3x3 convolution + bias) exp(3 s), all zero at the start. s, one for each channel, speeds up its growth."""

  features: int
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Image) -> Float[Array, "batch height width {self.features}"]:
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    s = self.param("s", nn.initializers.zeros, (self.features,), self.param_dtype)
    y = Conv(self.features, padding="VALID", kernel_init=nn.initializers.zeros, name="conv", **dtypes)(edged(x))
    return y * jnp.exp(3 * s).astype(y.dtype)


def edged(x: Image) -> Float[Array, "batch h w c"]:
  """x with a frame of zeros, and a further channel that is 1 on the frame, so that a 3x3 convolution sees the edge."""
  frame = [(0, 0), (1, 1), (1, 1)]
  edge = jnp.pad(jnp.zeros((*x.shape[:3], 1), x.dtype), [*frame, (0, 0)], constant_values=1)
  return jnp.concatenate([jnp.pad(x, [*frame, (0, 0)]), edge], axis=-1)


class Network(nn.Module):
  """The network of a coupling layer: 3x3, 1x1 and 3x3 convolutions, actnorm and ReLU between them.

  The scale is sigmoid(. + 2), as in their code; if `additive`, there is no scale.
  """

  width: int
  additive: bool = False
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, a: Image, features: int, train: bool = False) -> tuple[Out | None, Out]:
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    options = dict(use_bias=False, kernel_init=nn.initializers.normal(0.05), **dtypes)
    norm = lambda h, name: ActNorm(param_dtype=self.param_dtype, name=name)(h)[0]
    h = nn.relu(norm(Conv(self.width, padding="VALID", name="conv_1", **options)(edged(a)), "norm_1"))
    h = nn.relu(norm(Conv(self.width, 1, name="conv_2", **options)(h), "norm_2"))
    h = ZeroConv(features if self.additive else 2 * features, name="out", **dtypes)(h)
    if self.additive:
      return None, h
    s, t = jnp.split(h, 2, axis=-1)
    return jax.nn.log_sigmoid(s + 2), t


class Prior(nn.Module):
  """log std and mean of the half that leaves at a split, given the half that stays."""

  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, a: Image, features: int, train: bool = False) -> tuple[Out, Out]:
    return tuple(jnp.split(ZeroConv(2 * features, self.dtype, self.param_dtype, name="out")(a), 2, axis=-1))


def glow(
  levels: int,
  steps: int,
  width: int,
  *,
  lu: bool = True,
  additive: bool = False,
  dtype: Dtype = jnp.float32,
  param_dtype: Dtype = jnp.float32,
) -> Chain:
  """The flow of images in [-1, 1], which are first scaled to [-1/2, 1/2].

  Args:
    levels: number of levels. Each squeezes the image; after all but the last, half of the values leave. The last level
      ends with a further actnorm, which gives the prior a mean and scale for each channel.
    steps: number of flow steps at each level.
    width: width of the coupling layers' networks.
    lu: parametrise the 1x1 convolutions by their LU decomposition.
    additive: additive coupling; otherwise affine.

  Raises:
    UserError: a size is 0.
  """
  check_sizes("Glow", levels=levels, steps=steps, width=width)
  dtypes = dict(dtype=dtype, param_dtype=param_dtype)
  convolution = InvertibleConvLU if lu else InvertibleConv

  def level(k: int) -> Squeezed:
    step = (ActNorm(param_dtype=param_dtype), convolution(param_dtype), Coupling(Network(width, additive, **dtypes)))
    last = ActNorm(param_dtype=param_dtype) if k == levels - 1 else Split(level(k + 1), Prior(**dtypes))
    return Squeezed(Chain((Repeat(Chain(step), steps), last)))

  return Chain((Rescale(0.5), level(0)))
