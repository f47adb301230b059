"""Blocks that the networks share."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int

from jaxgen.nn.conv import conv, conv_of_doubled, written_out

Dtype = Any


def groups_for(channels: int, most: int = 32, width: int = 4) -> int:
  """The largest number of groups, at most `most`, of at least `width` channels each, that divides `channels`."""
  return max(g for g in range(1, max(1, min(most, channels // width)) + 1) if channels % g == 0)


def timestep_embedding(t: Float[Array, "batch"], dim: int, period: float = 10_000.0) -> Float[Array, "batch {dim}"]:
  """Sinusoidal embedding of Ho et al. 2020 (their code's `get_timestep_embedding`): all sines, then all cosines.

  Frequencies fall geometrically from 1 to 1 / period. An odd `dim` ends with a zero.
  """
  half = dim // 2
  frequencies = np.exp(-np.log(period) * np.arange(half) / max(half - 1, 1))
  angle = t[:, None] * jnp.asarray(frequencies, t.dtype)
  return jnp.pad(jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1), ((0, 0), (0, dim % 2)))


def _wide(x):
  """Sums are at least float32."""
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _spread(v, x):
  """v [B, C] along the positions of x [B, *space, C]."""
  return jnp.expand_dims(v, range(1, x.ndim - 1))


def _sums(x, y):
  x, y = _wide(x), _wide(y)
  pair, zero = (x, x * y), jnp.zeros((), x.dtype)
  for _ in range(x.ndim - 2):
    pair = jax.lax.reduce(pair, (zero, zero), lambda a, b: (a[0] + b[0], a[1] + b[1]), (1,))
  return pair


@jax.custom_vjp
def _written_sums(x, y):
  return _sums(x, y)


def _written_sums_backward(saved, cotangents):
  x, y = saved
  ds, dp = (_spread(c, x) for c in cotangents)
  return (ds + _wide(y) * dp).astype(x.dtype), (_wide(x) * dp).astype(y.dtype)


_written_sums.defvjp(lambda x, y: (_sums(x, y), (x, y)), _written_sums_backward)


def sums(
  x: Float[Array, "B *space C"], y: Float[Array, "B *space C"]
) -> tuple[Float[Array, "B C"], Float[Array, "B C"]]:
  """Sums of x and of x * y over the positions.

  XLA's CPU backend turns a reduction of one array over many positions into windows and does not vectorise it; a
  reduction of two arrays at once, one axis after the other, is 3 to 7 times faster.
  """
  if written_out():
    return _written_sums(x, y)
  x, y = _wide(x), _wide(y)
  axes = tuple(range(1, x.ndim - 1))
  return x.sum(axes), (x * y).sum(axes)


def _scale_shift(x, center, scale, shift):
  center, scale, shift = (_spread(v, x) for v in (center, scale, shift))
  return ((_wide(x) - center) * scale + shift).astype(x.dtype)


@jax.custom_vjp
def _written_scale_shift(x, center, scale, shift):
  return _scale_shift(x, center, scale, shift)


def _written_scale_shift_backward(saved, dy):
  x, center, scale = saved
  dshift, product = sums(dy, x)
  dx = (_wide(dy) * _spread(scale, x)).astype(x.dtype)
  return dx, -scale * dshift, product - center * dshift, dshift


_written_scale_shift.defvjp(
  lambda x, center, scale, shift: (_scale_shift(x, center, scale, shift), (x, center, scale)),
  _written_scale_shift_backward,
)


def scale_shift(
  x: Float[Array, "B *space C"], center: Float[Array, "B C"], scale: Float[Array, "B C"], shift: Float[Array, "B C"]
) -> Float[Array, "B *space C"]:
  """(x - center) * scale + shift, each given per example and channel; its gradient takes one pass of `sums`."""
  return (_written_scale_shift if written_out() else _scale_shift)(x, center, scale, shift)


@jax.custom_vjp
def _written_add_bias(x, bias):
  return x + bias


def _written_add_bias_backward(_, dy):
  rows = dy.reshape(-1, dy.shape[-1])
  return dy, jnp.ones((rows.shape[0],), dy.dtype) @ rows


_written_add_bias.defvjp(lambda x, bias: (x + bias, None), _written_add_bias_backward)


def add_bias(x: Float[Array, "*rest C"], bias: Float[Array, "C"] | None) -> Float[Array, "*rest C"]:
  """x + bias. On a CPU the bias's gradient is summed by a matrix product: 4 to 35 times faster than XLA's reduction."""
  if bias is None:
    return x
  return _written_add_bias(x, bias) if written_out() else x + bias


def matmul(x: Float[Array, "*rest I"], kernel: Float[Array, "I O"]) -> Float[Array, "*rest O"]:
  """x @ kernel with the leading axes flattened first, so that the kernel's gradient is one product of two matrices.

  Otherwise XLA's CPU backend copies x, transposed, through whatever elementwise work produced it.
  """
  return (x.reshape(-1, x.shape[-1]) @ kernel).reshape(*x.shape[:-1], kernel.shape[-1])


class Dense(nn.Module):
  """x @ kernel + bias, over the last axis."""

  features: int
  use_bias: bool = True
  kernel_init: Any = nn.initializers.lecun_normal()
  dtype: Dtype = None
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "*batch channels"]) -> Float[Array, "*batch {self.features}"]:
    kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features), self.param_dtype)
    bias = self.param("bias", nn.initializers.zeros, (self.features,), self.param_dtype) if self.use_bias else None
    x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
    return add_bias(matmul(x, kernel), bias)


class Conv(nn.Module):
  """2D convolution, NHWC, "SAME" padding as in TensorFlow; 1x1 ones are dense layers, which is what they are.

  padding: another, as in `jax.lax.conv_general_dilated`. PyTorch's padding=1 is ((1, 1), (1, 1)), which with stride 2
    is not "SAME".
  double: the image is doubled first, each pixel repeated in both directions. For 3x3 kernels without stride.
  """

  features: int
  kernel: int = 3
  stride: int = 1
  padding: Any = "SAME"
  double: bool = False
  use_bias: bool = True
  kernel_init: Any = nn.initializers.lecun_normal()
  dtype: Dtype = None
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "batch height width channels"]) -> Float[Array, "batch h w {self.features}"]:
    size = (self.kernel, self.kernel)
    kernel = self.param("kernel", self.kernel_init, (*size, x.shape[-1], self.features), self.param_dtype)
    bias = self.param("bias", nn.initializers.zeros, (self.features,), self.param_dtype) if self.use_bias else None
    x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
    if self.kernel == 1 and self.stride == 1:
      return add_bias(matmul(x, kernel[0, 0]), bias)
    if self.double:
      return add_bias(conv_of_doubled(x, kernel), bias)
    y = conv(x, kernel, (self.stride, self.stride), self.padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return add_bias(y, bias)


class GroupNorm(nn.Module):
  """Group normalisation (Wu and He 2018) over the positions and channels of each group, statistics at least float32.

  `shift` [B, C] is added to every position first. It costs nothing: moments of x + shift follow from those of x.
  """

  groups: int
  eps: float = 1e-6
  dtype: Dtype = None
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(
    self, x: Float[Array, "batch *space channels"], shift: Float[Array, "batch channels"] | None = None
  ) -> Float[Array, "batch *space channels"]:
    channels = x.shape[-1]
    scale = self.param("scale", nn.initializers.ones, (channels,), self.param_dtype)
    bias = self.param("bias", nn.initializers.zeros, (channels,), self.param_dtype)
    x = x.astype(self.dtype or x.dtype)
    positions = x.size // (x.shape[0] * channels)
    first, second = (s / positions for s in sums(x, x))
    # The difference of two large numbers is taken within a channel only; between channels, and with the shift, whose
    # means may be far apart, the moments are combined without one.
    within = jnp.maximum(second - first**2, 0)
    shift = 0 if shift is None else _wide(shift)
    group = lambda v: v.reshape(-1, self.groups, channels // self.groups)
    means = group(first + shift)
    mean = means.mean(-1, keepdims=True)
    variance = group(within).mean(-1, keepdims=True) + jnp.square(means - mean).mean(-1, keepdims=True)
    spread = lambda v: jnp.broadcast_to(v, means.shape).reshape(first.shape)
    gain = spread(jax.lax.rsqrt(variance + self.eps)) * scale
    return scale_shift(x, spread(mean) - shift, gain, jnp.broadcast_to(_wide(bias), gain.shape))


class Dropout(nn.Module):
  """Dropout whose mask is a function of each example's position in the global batch.

  The mask of example b is drawn from `fold_in(rng "dropout", index[b])`: microbatches and meshes drop the same units.
  """

  rate: float

  @nn.compact
  def __call__(self, x: Float[Array, "batch *rest"], index: Int[Array, "batch"] | None) -> Float[Array, "batch *rest"]:
    """Without `index` nothing is dropped: sampling and evaluation."""
    if index is None or self.rate == 0:
      return x
    keys = jax.vmap(jax.random.fold_in, (None, 0))(self.make_rng("dropout"), index)
    keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - self.rate, x.shape[1:]))(keys)
    return jnp.where(keep, x / (1 - self.rate), jnp.zeros((), x.dtype))
