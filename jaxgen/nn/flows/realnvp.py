"""RealNVP: Dinh et al. 2016, https://arxiv.org/abs/1605.08803. Affine coupling layers with masks, at several scales.

Published size: `realnvp(2, 64, 8)` for CIFAR-10, two scales of eight residual blocks a network.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxgen.core.errors import check_sizes
from jaxgen.nn.blocks.conv import conv
from jaxgen.nn.blocks.layers import BatchNorm, Dense, add_bias, matmul
from jaxgen.nn.flows import bijections
from jaxgen.nn.flows.bijections import ActNorm, Chain, CheckerboardCoupling, Coupling, Logit, Split, Squeezed

Dtype = Any
Image = Float[Array, "batch height width channels"]
Out = Float[Array, "batch height width out"]


class WeightNormConv(nn.Module):
  """Convolution with weight normalisation, w = g v / ||v|| by output: Salimans and Kingma 2016, arXiv:1602.07868.

  Attributes:
    g: the initial g; None: there is no g, because normalisation follows and would cancel it.
  """

  features: int
  kernel: int = 3
  g: float | None = None
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Image) -> Float[Array, "batch height width {self.features}"]:
    symmetric = lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -1, 1)
    v = self.param("v", symmetric, (self.kernel, self.kernel, x.shape[-1], self.features), self.param_dtype)
    b = self.param("bias", nn.initializers.zeros, (self.features,), self.param_dtype)
    w = v * jax.lax.rsqrt(jnp.sum(jnp.square(v), axis=(0, 1, 2)))
    if self.g is not None:
      w = w * self.param("g", nn.initializers.constant(self.g), (self.features,), self.param_dtype)
    x, w, b = nn.dtypes.promote_dtype(x, w, b, dtype=self.dtype)
    if self.kernel == 1:
      return add_bias(matmul(x, w[0, 0]), b)
    return add_bias(conv(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")), b)


# The authors' code draws v in [-s, s] with s = sqrt(2 / inputs), and g starts at the average norm of such a v.
_G_3X3, _G_1X1 = (2 * 9 / 12) ** 0.5, (2 / 12) ** 0.5


class ResidualBlock(nn.Module):
  """(h, out) -> (h + norm-ReLU-conv-norm-ReLU-conv(h), out + 1x1 conv of that)."""

  dtype: Dtype
  param_dtype: Dtype

  @nn.compact
  def __call__(self, carry: tuple[Image, Image], train: bool) -> tuple[Image, Image]:
    h, out = carry
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    norm = lambda name: BatchNorm(eps=1e-4, name=name, **dtypes)
    r = WeightNormConv(h.shape[-1], name="conv_1", **dtypes)(nn.relu(norm("norm_1")(h, train)))
    r = WeightNormConv(h.shape[-1], g=_G_3X3, name="conv_2", **dtypes)(nn.relu(norm("norm_2")(r, train)))
    h = h + r
    return h, out + WeightNormConv(h.shape[-1], 1, g=_G_1X1, name="skip", **dtypes)(h)


class ResNet(nn.Module):
  """s and t of affine coupling, with s = scale tanh(.), by a residual network that adds up its blocks' outputs.

  As in the authors' Appendix and code, its input is batch-normalised h and -h, so that the first ReLU loses nothing.

  Attributes:
    features: width of the network.
    blocks: number of residual blocks.
    scale: the initial scale of s.
  """

  features: int
  blocks: int
  scale: float = 0.0
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, a: Image, features: int, train: bool = False) -> tuple[Out, Out]:
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    norm = lambda name, h: BatchNorm(eps=1e-4, name=name, **dtypes)(h, train)
    h = norm("norm_in", a)
    h = WeightNormConv(self.features, name="in", **dtypes)(nn.relu(jnp.concatenate([h, -h], axis=-1)))
    out = WeightNormConv(self.features, 1, g=_G_1X1, name="skip_in", **dtypes)(h)
    if self.blocks:
      one = lambda block, carry, _: (block(carry, train), None)
      scan = nn.scan(one, variable_axes={True: 0}, split_rngs={"params": True}, length=self.blocks)
      (_, out), _ = scan(ResidualBlock(name="blocks", **dtypes), (h, out), None)
    out = nn.relu(norm("norm_out", out))
    s, t = jnp.split(WeightNormConv(2 * features, 1, g=_G_1X1, name="out", **dtypes)(out), 2, axis=-1)
    scale = self.param("scale", nn.initializers.constant(self.scale), (), self.param_dtype).astype(s.dtype)
    return scale * jnp.tanh(s), t


def realnvp(
  scales: int,
  features: int,
  blocks: int,
  *,
  alpha: float = 0.05,
  dtype: Dtype = jnp.float32,
  param_dtype: Dtype = jnp.float32,
) -> Chain:
  """The flow of images in [-1, 1]: logits, then the scales of the paper's section 3.6.

  Each scale but the last has three coupling layers with checkerboard masks, squeezes, and has three with channel masks;
  then half of the values leave, one colour of a checkerboard. The last scale has four coupling layers with checkerboard
  masks. Batch normalisation follows every coupling layer, section 3.7.

  Args:
    scales: number of scales; the image is halved after all but the last.
    features: width of the residual networks, doubled at every halving.
    blocks: number of residual blocks in each network.
    alpha: alpha of `Logit`.

  Raises:
    UserError: a size is 0; `blocks` may be 0.
  """
  check_sizes("RealNVP", scales=scales, features=features)
  check_sizes("RealNVP", 0, blocks=blocks)
  dtypes = dict(dtype=dtype, param_dtype=param_dtype)
  norm = lambda: bijections.BatchNorm(param_dtype=param_dtype)

  def scale(k: int) -> Chain:
    width = features * 2**k
    checkerboards = [
      layer
      for i in range(3 if k < scales - 1 else 4)
      for layer in (CheckerboardCoupling(ResNet(width, blocks, 0.0, **dtypes), odd=i % 2 == 1), norm())
    ]
    if k == scales - 1:
      return Chain(checkerboards)
    channels = [
      layer for i in range(3) for layer in (Coupling(ResNet(2 * width, blocks, 1.0, **dtypes), swap=i % 2 == 1), norm())
    ]
    return Chain((*checkerboards, Squeezed(Chain(channels)), Squeezed(Split(scale(k + 1)), diagonal=True)))

  return Chain((Logit(alpha), scale(0)))


class ScaleShift(nn.Module):
  """s and t of affine coupling of vectors, with s = scale tanh(.), by a perceptron."""

  widths: Sequence[int]
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(
    self, a: Float[Array, "batch c"], features: int, train: bool = False
  ) -> tuple[Float[Array, "batch {features}"], Float[Array, "batch {features}"]]:
    dense = lambda width, name, **options: Dense(width, param_dtype=self.param_dtype, name=name, **options)
    for i, width in enumerate(self.widths):
      a = nn.silu(dense(width, f"hidden_{i}")(a))
    s, t = jnp.split(dense(2 * features, "out", kernel_init=nn.initializers.zeros)(a), 2, axis=-1)
    return self.param("scale", nn.initializers.ones, (features,), self.param_dtype) * jnp.tanh(s), t


def realnvp_vectors(couplings: int, widths: Sequence[int], *, param_dtype: Dtype = jnp.float32) -> Chain:
  """The flow of vectors [B, D]: affine coupling layers that change the halves in turn, each after actnorm.

  The perceptrons are smooth, and therefore the density is.

  Args:
    couplings: number of coupling layers.
    widths: widths of the hidden layers of each coupling layer.

  Raises:
    UserError: a size is 0.
  """
  check_sizes("RealNVP", couplings=couplings, widths=widths)
  return Chain(
    tuple(
      layer
      for i in range(couplings)
      for layer in (ActNorm(param_dtype=param_dtype), Coupling(ScaleShift(widths, param_dtype), swap=i % 2 == 1))
    )
  )
