"""Convolution whose derivatives stay fast inside a compiled loop on a CPU.

Inside a loop or a cond, XLA's CPU backend runs the convolutions that JAX derives for the gradient of a convolution on a
path 10 to 300 times slower than others. `conv` writes both gradients out as plain convolutions of the one form that is
fast everywhere: NHWC images, HWIO kernels, stride 1, no dilation. Other backends get JAX's own derivatives.

Written-out derivatives (here and in `nn.blocks.layers`) are differentiable again in reverse mode, to any order, and go
through vmap. Forward mode (`jax.jvp`, `jax.jacfwd`, `jax.linearize`) needs JAX's own:

    with jax_derivatives():
      y, dy = jax.jvp(network, (x,), (dx,))

What is jitted must be jitted, and traced for the first time, within that block.
"""

import contextlib
import contextvars
from collections.abc import Iterator, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

_NHWC = ("NHWC", "HWIO", "NHWC")
Pads = tuple[tuple[int, int], tuple[int, int]]

_jax_derivatives = contextvars.ContextVar("jax_derivatives", default=False)


@contextlib.contextmanager
def jax_derivatives() -> Iterator[None]:
  """Networks traced within are differentiated by JAX's own rules, which know forward mode and are slower on a CPU."""
  token = _jax_derivatives.set(True)
  try:
    yield
  finally:
    _jax_derivatives.reset(token)


def written_out() -> bool:
  """Whether what is traced now gets the derivatives written out for the CPU."""
  return jax.default_backend() == "cpu" and not _jax_derivatives.get()


def _pad(x, pads):
  """Zeros around x; a negative width crops."""
  return lax.pad(x, jnp.zeros((), x.dtype), [(low, high, 0) for low, high in pads])


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _conv(x: Float[Array, "B H W I"], w: Float[Array, "h w I O"], pads: Pads) -> Float[Array, "B P Q O"]:
  """y[b, p, q, o] = sum_{i, j, c} x[b, p + i - top, q + j - left, c] w[i, j, c, o]."""
  return lax.conv_general_dilated(x, w, (1, 1), pads, dimension_numbers=_NHWC)


def _conv_forward(x, w, pads):
  return _conv(x, w, pads), (x, w)


def _conv_backward(pads, saved, dy):
  x, w = saved
  mirrored = tuple((n - 1 - low, n - 1 - high) for n, (low, high) in zip(w.shape[:2], pads, strict=True))
  dx = _conv(dy, w[::-1, ::-1].swapaxes(2, 3), mirrored)
  # dw[i, j, c, o] = sum_{b, p, q} x[b, p + i - top, q + j - left, c] dy[b, p, q, o]: a convolution of x, its channels
  # taken as the batch, with dy as the kernel, over the batch taken as channels.
  if dy.shape[1] * dy.shape[2] > x.shape[1] * x.shape[2]:
    # XLA would exchange images and kernel, the larger of the two, and reverse one: the slow form again.
    x, pads = _pad(x, ((0, 0), *pads, (0, 0))), ((0, 0), (0, 0))
  dw = _conv(x.transpose(3, 1, 2, 0), dy.transpose(1, 2, 0, 3), pads).transpose(1, 2, 0, 3)
  return dx, dw


_conv.defvjp(_conv_forward, _conv_backward)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _depthwise(x: Float[Array, "B H W C"], w: Float[Array, "h w 1 C"], pads: Pads) -> Float[Array, "B P Q C"]:
  """y[b, p, q, c] = sum_{i, j} x[b, p + i - top, q + j - left, c] w[i, j, 0, c]."""
  y = sum(part * w[i, j, 0] for i, row in enumerate(_seen(x, w, pads)) for j, part in enumerate(row))
  return y.astype(x.dtype)


def _seen(x, w, pads):
  """What each of the kernel's entries sees of x: for every i and j, x[b, p + i - top, q + j - left, c], wide."""
  x = _pad(x.astype(jnp.promote_types(x.dtype, jnp.float32)), ((0, 0), *pads, (0, 0)))
  height, width = (n - k + 1 for n, k in zip(x.shape[1:3], w.shape[:2], strict=True))
  return [[x[:, i : i + height, j : j + width] for j in range(w.shape[1])] for i in range(w.shape[0])]


def _depthwise_backward(pads, saved, dy):
  x, w = saved
  mirrored = tuple((n - 1 - low, n - 1 - high) for n, (low, high) in zip(w.shape[:2], pads, strict=True))
  dx = _depthwise(dy, w[::-1, ::-1], mirrored)
  # Sums over positions; XLA's CPU backend is fast at several in one reduction, one axis after the other.
  rows = []
  for row in _seen(x, w, pads):
    row = tuple(part * dy for part in row)
    for _ in range(2):
      zeros = tuple(jnp.zeros((), part.dtype) for part in row)
      row = lax.reduce(row, zeros, lambda a, b: tuple(map(jnp.add, a, b)), (1,))
    rows.append(jnp.stack([part.sum(0) for part in row]))
  return dx, jnp.stack(rows)[:, :, None].astype(w.dtype)


_depthwise.defvjp(lambda x, w, pads: (_depthwise(x, w, pads), (x, w)), _depthwise_backward)


def conv(
  lhs: Float[Array, "B *space I"],
  rhs: Float[Array, "*kernel C O"],
  window_strides: Sequence[int],
  padding: str | Sequence[tuple[int, int]],
  lhs_dilation: Sequence[int] | None = None,
  rhs_dilation: Sequence[int] | None = None,
  dimension_numbers=None,
  feature_group_count: int = 1,
  precision=None,
) -> Float[Array, "B *out O"]:
  """`jax.lax.conv_general_dilated`, for `nn.Conv(conv_general_dilated=conv)`.

  Two-dimensional NHWC convolutions without dilation are made fast on a CPU where they have one group or one for each
  channel (depthwise); others are passed on as they are. A strided one, whose gradient would be of the slow kind,
  becomes one without strides over blocks of positions.
  """
  depthwise = feature_group_count > 1 and feature_group_count == lhs.shape[-1] == rhs.shape[-1]
  plain = (
    lhs.ndim == 4
    and lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
    == lax.conv_dimension_numbers(lhs.shape, rhs.shape, _NHWC)
    and {*(lhs_dilation or ()), *(rhs_dilation or ())} <= {1}
    and (feature_group_count == 1 or depthwise)
    and precision is None
  )
  if not plain or not written_out():
    return lax.conv_general_dilated(
      lhs, rhs, window_strides, padding, lhs_dilation, rhs_dilation, dimension_numbers, feature_group_count,
      precision=precision,
    )  # fmt: skip
  if isinstance(padding, str):
    padding = lax.padtype_to_pads(lhs.shape[1:3], rhs.shape[:2], window_strides, padding)
  (top, bottom), (left, right) = padding
  rows, columns = window_strides
  if rows == columns == 1:
    return (_depthwise if depthwise else _conv)(lhs, rhs, ((top, bottom), (left, right)))
  lhs, rhs = _unstrided(lhs, rhs, ((top, bottom), (left, right)), (rows, columns))
  if not depthwise:
    return _conv(lhs, rhs, ((0, 0), (0, 0)))
  y = _depthwise(lhs, rhs.reshape(*rhs.shape[:2], 1, -1), ((0, 0), (0, 0)))
  return y.reshape(*y.shape[:3], rows * columns, -1).sum(3)


def _unstrided(x, w, pads, strides):
  """Images and kernels whose convolution without strides or padding is that of x and w with them.

  Every block of rows x columns positions becomes one position of as many times the channels. A kernel that does not
  divide into blocks is continued with zeros: a 3x3 of stride 2 costs 16 products in place of 9; at every position, to
  keep every second row and column, it would cost 36.
  """
  sizes, blocks = [], []
  for n, k, (low, high), stride in zip(x.shape[1:3], w.shape[:2], pads, strides, strict=True):
    blocks.append(-(-k // stride))
    out = max((low + n + high - k) // stride + 1, 0)
    sizes.append(max(out - 1 + blocks[-1], 0))  # in blocks
  (rows, columns), (height, width), (batch, channels) = strides, sizes, (x.shape[0], x.shape[3])
  fit = lambda n, low, blocks, stride: (low, blocks * stride - low - n)
  around = fit(x.shape[1], pads[0][0], height, rows), fit(x.shape[2], pads[1][0], width, columns)
  x = _pad(x, ((0, 0), *around, (0, 0)))
  w = _pad(w, (fit(w.shape[0], 0, blocks[0], rows), fit(w.shape[1], 0, blocks[1], columns), (0, 0), (0, 0)))
  x = x.reshape(batch, height, rows, width, columns, channels).transpose(0, 1, 3, 2, 4, 5)
  inputs, outputs = w.shape[2:]
  w = w.reshape(blocks[0], rows, blocks[1], columns, inputs, outputs).transpose(0, 2, 1, 3, 4, 5)
  return x.reshape(batch, height, width, -1), w.reshape(*blocks, rows * columns * inputs, outputs)


def conv_of_doubled(x: Float[Array, "B H W I"], w: Float[Array, "3 3 I O"]) -> Float[Array, "B 2*H 2*W O"]:
  """The "SAME" 3x3 convolution of x with every pixel doubled in both directions.

  On a CPU the doubled image is never made: an output pixel sees only 2x2 different pixels of x, through sums of w's
  rows and columns that depend on whether its own row and column are even or odd. That is 4 products in place of 9.
  """
  batch, height, width, _ = x.shape
  if not written_out():
    x = x.repeat(2, axis=1).repeat(2, axis=2)
    return lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=_NHWC)
  # of the two pixels above and below an even row's edge the taps are (w0, w1 + w2), of an odd row's (w0 + w1, w2)
  taps = np.array([[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]], w.dtype)
  w = jnp.einsum("arh,bcw,hwio->rciabo", taps, taps, w)
  y = _conv(x, w.reshape(2, 2, x.shape[-1], -1), ((1, 1), (1, 1))).reshape(batch, height + 1, width + 1, 2, 2, -1)
  phases = [[y[:, a : a + height, b : b + width, a, b] for b in (0, 1)] for a in (0, 1)]
  y = jnp.stack([jnp.stack(row, axis=3) for row in phases], axis=2)  # [B, H, 2, W, 2, O]
  return y.reshape(batch, 2 * height, 2 * width, -1)
