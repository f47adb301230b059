"""Convolutions for autoregressive models of images, evaluated on a whole map, on a row or on a pixel at a time.

`Window` sees given rows and columns around each position. Called with a whole map it is a convolution. Called with
`at`, its input is only the next row or pixel; it keeps the earlier ones in the collection "cache" and returns the
corresponding row or pixel of its output. Nothing is computed twice. A network of windows and pointwise layers can thus
be written once and sampled at the cost of one evaluation (Ramachandran et al. 2017, https://arxiv.org/abs/1704.06001);
`stepper` makes the step for sampling.

Such a network has two methods:

    vertical(x, label, index, at) -> maps that see only rows above their own (it may be none); a row at a time
    horizontal(x, maps, label, index, at) -> [B, height, width, draws, outputs], the pixels' parameters; one at a time
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int

from jaxgen.nn.blocks.conv import conv
from jaxgen.nn.blocks.layers import Dtype, add_bias, matmul

Map = Float[Array, "_ _ _ _"]  # batch, height, width, channels


class At(NamedTuple):
  """A row, or, if it has a column, a pixel, of a map of this size."""

  row: Int[Array, ""]
  column: Int[Array, ""] | None
  height: int
  width: int

  def halved(self, times: int = 1) -> "At":
    """The corresponding row or pixel of a map of half the size, a quarter, ..."""
    column = None if self.column is None else self.column >> times
    return At(self.row >> times, column, self.height >> times, self.width >> times)


class Window(nn.Module):
  """y[i, j] = sum over rows r and columns c of x[stride i + r, stride j + c] w[r, c], with zeros outside of x.

  Attributes:
    rows, columns: the first and the last that are seen, relative to the position: rows (-1, 0) are the row above and
      the position's own, columns (-1, 1) are three. The last row is at most 0.
    mask: a mask of the weights, which broadcasts to [rows, columns, in, out]; None: all weights are used.
    normalized: weight normalisation, a length for each output times a direction. It is initialised from a batch, on
      which each output has mean 0 and this standard deviation: Salimans and Kingma 2016,
      https://arxiv.org/abs/1602.07868, section 3.
    image: x is the whole input even with `at`, filled up to there, and nothing is cached.
  """

  features: int
  rows: tuple[int, int]
  columns: tuple[int, int]
  stride: int = 1
  mask: Any = None
  use_bias: bool = True
  normalized: float | None = None
  image: bool = False
  kernel_init: Any = nn.initializers.lecun_normal()
  dtype: Dtype = None
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Map, at: At | None = None) -> Map:
    """`at` is the row or the pixel of x."""
    (top, bottom), (left, right) = self.rows, self.columns
    size = (bottom - top + 1, right - left + 1)
    kernel = self.param("kernel", self.kernel_init, (*size, x.shape[-1], self.features), self.param_dtype)
    if self.mask is not None:
      kernel = kernel * jnp.asarray(self.mask, kernel.dtype)
    bias_init = nn.initializers.zeros
    if self.normalized is not None:
      kernel = kernel / jnp.sqrt(jnp.sum(kernel**2, axis=(0, 1, 2)))
      scale_init = nn.initializers.ones
      if self.is_initializing():
        y = self._apply(x, kernel, None, at)
        variance = jnp.var(y, axis=(0, 1, 2))
        scale = self.normalized / jnp.sqrt(jnp.where(variance > 1e-6, variance, 1))  # a constant is not scaled
        scale_init = lambda key, shape, dtype: scale.astype(dtype)
        bias_init = lambda key, shape, dtype: (-scale * jnp.mean(y, axis=(0, 1, 2))).astype(dtype)
      kernel = kernel * self.param("scale", scale_init, (self.features,), self.param_dtype)
    bias = self.param("bias", bias_init, (self.features,), self.param_dtype) if self.use_bias else None
    return self._apply(x, kernel, bias, at)

  def _apply(self, x: Map, kernel: Array, bias: Array | None, at: At | None) -> Map:
    (top, bottom), (left, right) = self.rows, self.columns
    size = kernel.shape[:2]
    x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
    if size == (1, 1) and (top, left) == (0, 0) and self.stride == 1 and not self.image:
      return add_bias(matmul(x, kernel[0, 0]), bias)
    if at is None:
      layout = ("NHWC", "HWIO", "NHWC")
      pads = ((-top, bottom), (-left, right))
      return add_bias(conv(x, kernel, (self.stride, self.stride), pads, dimension_numbers=layout), bias)
    return add_bias(self._part(x, kernel, at), bias)

  def _part(self, x: Map, kernel: Array, at: At) -> Map:
    (top, _), (left, right) = self.rows, self.columns
    before, around = -top, (max(-left, 0), max(right, 0))
    if self.image:
      seen = jnp.pad(x, ((0, 0), (before, 0), around, (0, 0)))
    else:
      shape = (x.shape[0], at.height + before, at.width + sum(around), x.shape[-1])
      cache = self.variable("cache", "x", jnp.zeros, shape, x.dtype)
      column = 0 if at.column is None else at.column
      cache.value = jax.lax.dynamic_update_slice(cache.value, x, _start(at.row + before, column + around[0]))
      seen = cache.value
    row = at.row - at.row % self.stride
    if at.column is None:
      rows = jax.lax.dynamic_slice_in_dim(seen, row, kernel.shape[0], axis=1)
      rows = rows[:, :, around[0] + left : seen.shape[2] - around[1] + right]
      layout = ("NHWC", "HWIO", "NHWC")
      return conv(rows, kernel, (1, self.stride), ((0, 0), (0, 0)), dimension_numbers=layout)
    start = _start(row, at.column - at.column % self.stride + left + around[0])
    window = jax.lax.dynamic_slice(seen, start, (x.shape[0], *kernel.shape[:2], x.shape[-1]))
    return (window.reshape(x.shape[0], -1) @ kernel.reshape(-1, self.features))[:, None, None]


def _start(row: Array, column: Array | int) -> tuple[Array, ...]:
  return tuple(jnp.asarray(i, jnp.int32) for i in (0, row, column, 0))


def colors_mask(own: bool, inputs: int, outputs: int, colors: int, gates: int = 1) -> Float[np.ndarray, "i o"]:
  """The mask of a layer within a pixel. A colour's channels see those of the colours before it; if `own` (mask B), also
  those of the colour itself.

  Channels are divided evenly among the colours, in order; outputs are so divided in each of `gates` parts.
  """
  i = np.arange(inputs) * colors // inputs
  o = np.arange(outputs) % (outputs // gates) * colors // (outputs // gates)
  return ((i[:, None] <= o) if own else (i[:, None] < o)).astype(np.float32)


def whole(network: nn.Module, x: Map, label: Array | None, index: Array | None) -> Float[Array, "batch k outputs"]:
  """The parameters of all pixels at once, in the order of generation: rows, columns, draws."""
  parameters = network.horizontal(x, network.vertical(x, label, index), label, index)
  return parameters.reshape(len(x), -1, parameters.shape[-1])


def stepper(network: nn.Module, params: Any, x: Map, draws: int, label: Array | None = None):
  """(step, carry) for `jaxgen.methods.likelihood.autoregressive`, with `draws` steps for each pixel."""
  n, height, width, _ = shape = x.shape

  def run(method: str, cache: Any, *inputs: Any, at: At) -> tuple[Any, Any]:
    variables = {"params": params, "cache": cache}
    output, changed = network.apply(variables, *inputs, label, None, at, method=method, mutable=["cache"])
    return output, changed.get("cache", {})

  def row(cache: Any, x: Map, i: Array) -> tuple[Any, Any]:
    return run("vertical", cache, x, at=At(i, None, height, width))

  def pixel(cache: Any, x: Map, maps: Any, i: Array, j: Array) -> tuple[Any, Any]:
    # Of a map of half the width, half the column.
    column = lambda m: jax.lax.dynamic_slice_in_dim(m, j // (width // m.shape[2]), 1, axis=2)
    return run("horizontal", cache, x, jax.tree.map(column, maps), at=At(i, j, height, width))

  def step(carry: Any, x: Array, k: Array) -> tuple[Array, Any]:
    above, beside, maps = carry
    x, (position, draw) = x.reshape(shape), (k // draws, k % draws)
    i, j = position // width, position % width
    first = (j == 0) & (draw == 0)
    maps, above = jax.lax.cond(first, lambda _, above: row(above, x, i), lambda *kept: kept, maps, above)
    parameters, beside = pixel(beside, x, maps, i, j)
    return parameters[:, 0, 0, draw], (above, beside, maps)

  zero = jnp.zeros((), jnp.int32)
  empty = lambda tree: jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), tree)
  maps, above = empty(jax.eval_shape(lambda: row({}, x, zero)))
  _, beside = empty(jax.eval_shape(lambda: pixel({}, x, maps, zero, zero)))
  return step, (above, beside, maps)
