"""Bijections: invertible maps with a tractable Jacobian determinant, the layers of flows.

A bijection is a Flax module whose output has its input's shape,

    y, log_det = bijection(x)                  log_det [B] = log |det dy/dx|
    x, log_det = bijection(y, inverse=True)    log_det [B] = log |det dx/dy|, the negative of the other

With `train=True` batch statistics are those of the batch, and the running ones move. Bijections compose: `Chain`
applies several in turn, `Repeat` several of a kind, and `Flattened`, `Squeezed` and `Split` apply one within another
shape or to a part. `init` is given a batch of data, since some parameters start from it (`ActNorm`).
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.scipy.linalg import lu, solve_triangular
from jaxtyping import Array, Float, Int

from jaxgen.core.arrays import wide
from jaxgen.core.errors import UserError
from jaxgen.nn.blocks.layers import average

Dtype = Any
Event = Float[Array, "batch *shape"]
Image = Float[Array, "batch height width channels"]
LogDet = Float[Array, " batch"]


def _each(log_det: Array, x: Array) -> LogDet:
  """Repeats a log-determinant that is the same for every example of x."""
  return jnp.broadcast_to(log_det, len(x)).astype(x.dtype)


def _positions(x: Array) -> int:
  return math.prod(x.shape[1:-1])


def affine(x: Event, log_scale: Event | None, shift: Event, inverse: bool = False) -> tuple[Event, LogDet]:
  """x exp(log_scale) + shift, elementwise; x + shift if log_scale is None. With `inverse` its inverse."""
  if log_scale is None:
    return (x - shift if inverse else x + shift), jnp.zeros(len(x), x.dtype)
  y = (x - shift) * jnp.exp(-log_scale) if inverse else x * jnp.exp(log_scale) + shift
  log_det = log_scale.reshape(len(x), -1).sum(axis=1)
  return y, -log_det if inverse else log_det


# Composition ----------------------------------------------------------------------------------------------------------


class Chain(nn.Module):
  """Applies bijections in order."""

  bijections: Sequence[Any]

  @nn.compact
  def __call__(self, x: Event, inverse: bool = False, train: bool = False) -> tuple[Event, LogDet]:
    total = jnp.zeros(len(x), x.dtype)
    for bijection in reversed(self.bijections) if inverse else self.bijections:
      x, log_det = bijection(x, inverse=inverse, train=train)
      total += log_det
    return x, total


class Repeat(nn.Module):
  """Applies `times` bijections of one kind in turn. Each has its own parameters, stacked along the first axis.

  It is one `lax.scan`, so that a deep flow compiles as fast as a shallow one.
  """

  bijection: Any
  times: int

  @nn.compact
  def __call__(self, x: Event, inverse: bool = False, train: bool = False) -> tuple[Event, LogDet]:
    def one(bijection, x, _):
      return bijection(x, inverse=inverse, train=train)

    scan = nn.scan(one, variable_axes={True: 0}, split_rngs={"params": True}, length=self.times, reverse=inverse)
    x, log_dets = scan(self.bijection, x, None)
    return x, log_dets.sum(axis=0)


class Flattened(nn.Module):
  """A bijection of vectors [B, D], applied to examples of any shape."""

  bijection: Any

  @nn.compact
  def __call__(self, x: Event, inverse: bool = False, train: bool = False) -> tuple[Event, LogDet]:
    y, log_det = self.bijection(x.reshape(len(x), -1), inverse=inverse, train=train)
    return y.reshape(x.shape), log_det


_IN_ROWS, _DIAGONAL_FIRST = np.arange(4), np.array([0, 3, 1, 2])


def squeeze(x: Image, diagonal: bool = False) -> Float[Array, "batch h w c"]:
  """[B, H, W, C] -> [B, H / 2, W / 2, 4 C]: each 2x2 square of pixels becomes one pixel.

  The four values of a channel are neighbours, row by row. With `diagonal` the channels of a pixel are neighbours and
  the pixels of the main diagonal come first, so that the first half of the new channels is one colour of a
  checkerboard.

  Raises:
    UserError: a side is odd.
  """
  b, h, w, c = x.shape
  if h % 2 or w % 2:
    raise UserError(
      f"images are {h}x{w} where the flow squeezes them, and only even sides squeeze: use fewer levels, or put "
      "data.transforms.pad(size) before the other transforms"
    )
  y = x.reshape(b, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 2, 4, 5).reshape(b, h // 2, w // 2, 4, c)
  y = y[:, :, :, _DIAGONAL_FIRST] if diagonal else y.swapaxes(3, 4)
  return y.reshape(b, h // 2, w // 2, 4 * c)


def unsqueeze(y: Image, diagonal: bool = False) -> Float[Array, "batch h w c"]:
  """Undoes `squeeze`."""
  b, h, w, c = y.shape
  if diagonal:
    x = y.reshape(b, h, w, 4, c // 4)[:, :, :, np.argsort(_DIAGONAL_FIRST)]
  else:
    x = y.reshape(b, h, w, c // 4, 4).swapaxes(3, 4)
  return x.reshape(b, h, w, 2, 2, c // 4).transpose(0, 1, 3, 2, 4, 5).reshape(b, 2 * h, 2 * w, c // 4)


class Squeezed(nn.Module):
  """A bijection applied to squeezed images; see `squeeze`."""

  bijection: Any
  diagonal: bool = False

  @nn.compact
  def __call__(self, x: Image, inverse: bool = False, train: bool = False) -> tuple[Image, LogDet]:
    y, log_det = self.bijection(squeeze(x, self.diagonal), inverse=inverse, train=train)
    return unsqueeze(y, self.diagonal), log_det


class Split(nn.Module):
  """A bijection of the first half of the channels. The second half b becomes a part of the latent.

  With a prior, the latent has (b - mean) / std instead of b, where (log std, mean) = prior(first half, channels of b,
  train). A standard normal latent then means that b is normal given the first half.
  """

  bijection: Any
  prior: Any = None

  @nn.compact
  def __call__(self, x: Event, inverse: bool = False, train: bool = False) -> tuple[Event, LogDet]:
    a, b = jnp.split(x, 2, axis=-1)
    inner, log_det = self.bijection(a, inverse=inverse, train=train)
    if self.prior is not None:
      log_std, mean = self.prior(inner if inverse else a, b.shape[-1], train)
      b, more = affine(b, log_std.astype(b.dtype), mean.astype(b.dtype), inverse=not inverse)
      log_det += more
    return jnp.concatenate([inner, b], axis=-1), log_det


# Coupling layers ------------------------------------------------------------------------------------------------------


class Coupling(nn.Module):
  """Changes one half b of the last axis by a network of the other half a: b exp(log_scale) + shift.

  (log_scale, shift) = conditioner(a, entries of b, train), each of b's shape; log_scale is None for additive coupling.
  Dinh et al. 2014, https://arxiv.org/abs/1410.8516, section 3.2; 2016, https://arxiv.org/abs/1605.08803, eq. 4, 5.

  Attributes:
    swap: b is the first half and a the second; otherwise a is the first.
  """

  conditioner: Any
  swap: bool = False

  @nn.compact
  def __call__(self, x: Event, inverse: bool = False, train: bool = False) -> tuple[Event, LogDet]:
    if x.shape[-1] < 2:
      raise UserError("a coupling layer cuts the last axis into two, and here it has one entry: squeeze images first")
    a, b = jnp.split(x, [x.shape[-1] // 2], axis=-1)
    if self.swap:
      a, b = b, a
    log_scale, shift = self.conditioner(a, b.shape[-1], train)
    cast = lambda v: None if v is None else v.astype(x.dtype)
    b, log_det = affine(b, cast(log_scale), cast(shift), inverse)
    return jnp.concatenate([b, a] if self.swap else [a, b], axis=-1), log_det


def checkerboard(height: int, width: int, odd: bool) -> Int[np.ndarray, "height width 1"]:
  """1 where row + column is even and 0 elsewhere; with `odd` the reverse."""
  return ((np.add.outer(np.arange(height), np.arange(width)) + 1 + odd) % 2)[..., None]


class CheckerboardCoupling(nn.Module):
  """Affine coupling of images: the pixels of one colour of a checkerboard change those of the other.

  Dinh et al. 2016, eq. 9, with the mask b: y = b x + (1 - b) (x exp(s(b x)) + t(b x)). The network also sees the mask
  as a further channel: (s, t) = conditioner([b x, b], channels of x, train).

  Attributes:
    odd: pixels with odd row + column are not changed; otherwise those with even row + column.
  """

  conditioner: Any
  odd: bool = False

  @nn.compact
  def __call__(self, x: Image, inverse: bool = False, train: bool = False) -> tuple[Image, LogDet]:
    mask = jnp.asarray(checkerboard(*x.shape[1:3], self.odd), x.dtype)
    seen = jnp.concatenate([mask * x, jnp.broadcast_to(mask, (*x.shape[:3], 1))], axis=-1)
    s, t = (v.astype(x.dtype) * (1 - mask) for v in self.conditioner(seen, x.shape[-1], train))
    return affine(x, s, t, inverse)


# Linear ones ----------------------------------------------------------------------------------------------------------


class Rescale(nn.Module):
  """scale x + shift, two fixed numbers."""

  scale: float
  shift: float = 0.0

  @nn.compact
  def __call__(self, x: Event, inverse: bool = False, train: bool = False) -> tuple[Event, LogDet]:
    y = (x - self.shift) / self.scale if inverse else self.scale * x + self.shift
    log_det = math.prod(x.shape[1:]) * math.log(abs(self.scale))
    return y, jnp.full(len(x), -log_det if inverse else log_det, x.dtype)


class Scaling(nn.Module):
  """exp(s) x with a learned s for every entry of an example, initially 0: Dinh et al. 2014, section 3.3."""

  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Event, inverse: bool = False, train: bool = False) -> tuple[Event, LogDet]:
    s = self.param("s", nn.initializers.zeros, x.shape[1:], self.param_dtype).astype(x.dtype)
    s = -s if inverse else s
    return x * jnp.exp(s), _each(s.sum(), x)


class Permutation(nn.Module):
  """Permutes the last axis, of size D: entry i of y is entry order(D)[i] of x. An `order` is `evens_first`."""

  order: Callable[[int], np.ndarray]

  @nn.compact
  def __call__(self, x: Event, inverse: bool = False, train: bool = False) -> tuple[Event, LogDet]:
    order = self.order(x.shape[-1])
    return x[..., np.argsort(order) if inverse else order], jnp.zeros(len(x), x.dtype)


def evens_first(n: int) -> Int[np.ndarray, "{n}"]:
  """0, 2, 4, ..., 1, 3, 5, ..."""
  return np.concatenate([np.arange(0, n, 2), np.arange(1, n, 2)])


def backwards(n: int) -> Int[np.ndarray, "{n}"]:
  return np.arange(n)[::-1]


def _rotation(key: Array, size: int, dtype: Dtype) -> Float[Array, "{size} {size}"]:
  """A random orthogonal matrix."""
  return jnp.linalg.qr(jax.random.normal(key, (size, size), dtype))[0]


def _rows_times(x: Array, w: Array) -> Array:
  """x W for the row x of every position's channels, at full precision, which an exact inverse needs."""
  return jnp.matmul(x.reshape(-1, x.shape[-1]), w.astype(x.dtype), precision="highest").reshape(x.shape)


class InvertibleConv(nn.Module):
  """1x1 convolution x W with a square W that starts as a random rotation: Kingma and Dhariwal 2018, section 3.2."""

  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Event, inverse: bool = False, train: bool = False) -> tuple[Event, LogDet]:
    w = self.param("W", _rotation, x.shape[-1], self.param_dtype)
    log_det = _each(_positions(x) * jnp.linalg.slogdet(w)[1], x)
    return (_rows_times(x, jnp.linalg.inv(w)), -log_det) if inverse else (_rows_times(x, w), log_det)


class InvertibleConvLU(nn.Module):
  """The same with W = P L (U + diag(s)) and log_det = positions * sum log |s|; their eq. 10 and 11.

  L has ones on its diagonal and U zeros. P and the signs of s stay as they start, in the collection "fixed".
  """

  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Event, inverse: bool = False, train: bool = False) -> tuple[Event, LogDet]:
    c, dtype = x.shape[-1], self.param_dtype
    eye = jnp.eye(c, dtype=dtype)
    p, l, u = lu(_rotation(self.make_rng("params"), c, dtype)) if self.is_initializing() else (eye, eye, eye)
    s = jnp.diag(u)
    p = self.variable("fixed", "P", lambda: p).value
    sign = self.variable("fixed", "sign", lambda: jnp.sign(s)).value
    log_s = self.param("log_s", lambda _: jnp.log(jnp.abs(s)))
    l = jnp.tril(self.param("L", lambda _: l), -1) + eye
    u = jnp.triu(self.param("U", lambda _: u), 1) + jnp.diag(sign * jnp.exp(log_s))
    log_det = _each(_positions(x) * log_s.sum(), x)
    if inverse:
      inverse_of_pl = solve_triangular(l, p.T, lower=True, unit_diagonal=True)
      return _rows_times(x, solve_triangular(u, inverse_of_pl)), -log_det
    return _rows_times(x, jnp.matmul(jnp.matmul(p, l, precision="highest"), u, precision="highest")), log_det


# Normalisation --------------------------------------------------------------------------------------------------------


def _moments(x: Array) -> tuple[Float[Array, " channels"], Float[Array, " channels"]]:
  """Mean and variance of each channel over the batch and its positions, at least float32."""
  x = wide(x)
  mean = average(x).mean(axis=0)
  return mean, average(jnp.square(x - mean)).mean(axis=0)


class ActNorm(nn.Module):
  """s x + b with s > 0 and b for each channel. They start such that the first batch gets mean 0 and variance 1.

  Kingma and Dhariwal 2018, https://arxiv.org/abs/1807.03039, section 3.1. The parameter is log s. For a constant
  channel, such as that of a dead ReLU, s starts at 1.
  """

  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Event, inverse: bool = False, train: bool = False) -> tuple[Event, LogDet]:
    def start(key: Array) -> dict[str, Array]:
      mean, variance = _moments(x)
      s = jnp.where(variance > 1e-12, jax.lax.rsqrt(variance), 1)
      return {"log_s": jnp.log(s).astype(self.param_dtype), "b": (-mean * s).astype(self.param_dtype)}

    both = self.param("affine", start)
    log_s, b = both["log_s"].astype(x.dtype), both["b"].astype(x.dtype)
    log_det = _each(_positions(x) * log_s.sum(), x)
    return ((x - b) * jnp.exp(-log_s), -log_det) if inverse else (x * jnp.exp(log_s) + b, log_det)


class BatchNorm(nn.Module):
  """(x - mean) / sqrt(var + eps) by channel, with its log-determinant: Dinh et al. 2016, section 3.7.

  In training, mean and var are those of the batch, so that examples depend on each other; log_det is that of one
  example with fixed statistics. Collection "batch_stats" keeps moving averages, average <- momentum * average + (1 -
  momentum) * statistic, which are used outside of training. There the map is a bijection of each example.
  """

  momentum: float = 0.9
  eps: float = 1e-4
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Event, inverse: bool = False, train: bool = False) -> tuple[Event, LogDet]:
    mean_average = self.variable("batch_stats", "mean", jnp.zeros, x.shape[-1], self.param_dtype)
    var_average = self.variable("batch_stats", "var", jnp.ones, x.shape[-1], self.param_dtype)
    mean, var = mean_average.value, var_average.value
    if train:
      move = lambda average, new: self.momentum * average + (1 - self.momentum) * new.astype(self.param_dtype)
      averages, (mean, var) = (mean, var), _moments(x)
      if not self.is_initializing():
        mean_average.value, var_average.value = move(averages[0], mean), move(averages[1], var)
    mean, std = mean.astype(x.dtype), jnp.sqrt(var + self.eps).astype(x.dtype)
    log_det = _each(-_positions(x) * jnp.log(std).sum(), x)
    return (x * std + mean, -log_det) if inverse else ((x - mean) / std, log_det)


# Onto the real line ---------------------------------------------------------------------------------------------------


class Logit(nn.Module):
  """logit((1 + (1 - 2 alpha) x) / 2), from [-1, 1] to the real line: Dinh et al. 2016, section 4.1, as in their code.

  Without it a model has density outside of [-1, 1]. alpha keeps the values at -1 and 1 finite.
  """

  alpha: float = 0.05

  @nn.compact
  def __call__(self, x: Event, inverse: bool = False, train: bool = False) -> tuple[Event, LogDet]:
    width = 1 - 2 * self.alpha
    y = x if inverse else jnp.log1p(width * x) - jnp.log1p(-width * x)
    # d logit(p) / dp = 1 / (p (1 - p)), and log p = -softplus(-y), log(1 - p) = -softplus(y)
    log_slope = math.log(width / 2) + jax.nn.softplus(y) + jax.nn.softplus(-y)
    log_det = log_slope.reshape(len(x), -1).sum(axis=1)
    return (jnp.tanh(y / 2) / width, -log_det) if inverse else (y, log_det)
