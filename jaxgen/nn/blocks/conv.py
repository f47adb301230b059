"""Convolution whose derivatives stay fast inside a compiled loop on a CPU.

Inside a loop or a cond, XLA's CPU backend runs JAX's gradients of a convolution 10 to 300 times slower than elsewhere.
Therefore programs for a CPU have both gradients written as plain convolutions of the one form that is always fast: NHWC
images, HWIO kernels, stride 1, no dilation. Other platforms get `jax.lax.conv_general_dilated` and its transposes. See
`nn.blocks.rules`.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from jaxgen.core.arrays import wide
from jaxgen.nn.blocks.reductions import sum_over_second
from jaxgen.nn.blocks.rules import Bilinear

NHWC = ("NHWC", "HWIO", "NHWC")
Pads = tuple[tuple[int, int], tuple[int, int]]
Strides = tuple[int, int]


def _pad(x, pads):
  """Zeros around x; a negative width crops."""
  return lax.pad(x, jnp.zeros((), x.dtype), [(low, high, 0) for low, high in pads])


def _mirrored(w, pads):
  """The padding of the transposed convolution, with the kernel reversed."""
  return tuple((n - 1 - low, n - 1 - high) for n, (low, high) in zip(w.shape[:2], pads, strict=True))


# --- One group, stride 1 ----------------------------------------------------------------------------------------------


def _conv(x: Float[Array, "B H W I"], w: Float[Array, "h w I O"], pads: Pads) -> Float[Array, "B P Q O"]:
  """y[b, p, q, o] = sum_{i, j, c} x[b, p + i - top, q + j - left, c] w[i, j, c, o]."""
  return lax.conv_general_dilated(x, w, (1, 1), pads, dimension_numbers=NHWC)


def _conv_images(dy, w, x_shape, pads):
  return _conv(dy, w[::-1, ::-1].swapaxes(2, 3), _mirrored(w, pads))


def _conv_kernels(x, dy, w_shape, pads):
  # dw[i, j, c, o] = sum_{b, p, q} x[b, p + i - top, q + j - left, c] dy[b, p, q, o]: a convolution of x, its channels
  # taken as the batch, with dy as the kernel, over the batch taken as channels.
  if dy.shape[1] * dy.shape[2] > x.shape[1] * x.shape[2]:
    # XLA would exchange images and kernel if the kernel is larger, and reverse one of them: the slow form again.
    x, pads = _pad(x, ((0, 0), *pads, (0, 0))), ((0, 0), (0, 0))
  return _conv(x.transpose(3, 1, 2, 0), dy.transpose(1, 2, 0, 3), pads).transpose(1, 2, 0, 3)


_CONV = (_conv, _conv_images, _conv_kernels)

# --- One group for each channel, stride 1 -----------------------------------------------------------------------------


def _depthwise(x: Float[Array, "B H W C"], w: Float[Array, "h w 1 C"], pads: Pads) -> Float[Array, "B P Q C"]:
  """y[b, p, q, c] = sum_{i, j} x[b, p + i - top, q + j - left, c] w[i, j, 0, c]."""
  y = sum(part * w[i, j, 0] for i, row in enumerate(_seen(x, w.shape, pads)) for j, part in enumerate(row))
  return y.astype(x.dtype)


def _seen(x, w_shape, pads):
  """The part of x that each kernel entry i, j sees, x[b, p + i - top, q + j - left, c], in float32 or wider."""
  x = _pad(wide(x), ((0, 0), *pads, (0, 0)))
  height, width = (n - k + 1 for n, k in zip(x.shape[1:3], w_shape[:2], strict=True))
  return [[x[:, i : i + height, j : j + width] for j in range(w_shape[1])] for i in range(w_shape[0])]


def _depthwise_images(dy, w, x_shape, pads):
  return _depthwise(dy, w[::-1, ::-1], _mirrored(w, pads))


def _depthwise_kernels(x, dy, w_shape, pads):
  rows = []
  for row in _seen(x, w_shape, pads):
    row = tuple(part * dy for part in row)
    for _ in range(2):
      row = sum_over_second(row)
    rows.append(jnp.stack([part.sum(0) for part in row]))
  return jnp.stack(rows)[:, :, None].astype(dy.dtype)


_DEPTHWISE = (_depthwise, _depthwise_images, _depthwise_kernels)

# --- Any --------------------------------------------------------------------------------------------------------------


def _plain(x, w, pads, strides=(1, 1)):
  return lax.conv_general_dilated(x, w, strides, pads, dimension_numbers=NHWC)


def _plain_depthwise(x, w, pads, strides=(1, 1)):
  return lax.conv_general_dilated(x, w, strides, pads, dimension_numbers=NHWC, feature_group_count=x.shape[-1])


def _strided(x, w, pads, strides):
  return Bilinear(_plain, _CONV, (((0, 0), (0, 0)),))(*_unstrided(x, w, pads, strides))


def _strided_depthwise(x, w, pads, strides):
  x, w = _unstrided(x, w, pads, strides)
  rule = Bilinear(_plain_depthwise, _DEPTHWISE, (((0, 0), (0, 0)),), channelwise=True)
  y = rule(x, w.reshape(*w.shape[:2], 1, -1))
  return y.reshape(*y.shape[:3], strides[0] * strides[1], -1).sum(3)


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

  Two-dimensional NHWC convolutions without dilation are fast on a CPU if they have one group or one for each channel
  (depthwise); others go to JAX's function. A strided convolution has the gradient of one without strides over blocks of
  positions, because its own would be slow.
  """
  depthwise = feature_group_count > 1 and feature_group_count == lhs.shape[-1] == rhs.shape[-1]
  plain = (
    lhs.ndim == 4
    and lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
    == lax.conv_dimension_numbers(lhs.shape, rhs.shape, NHWC)
    and {*(lhs_dilation or ()), *(rhs_dilation or ())} <= {1}
    and (feature_group_count == 1 or depthwise)
    and precision is None
  )
  if not plain:
    return lax.conv_general_dilated(
      lhs, rhs, window_strides, padding, lhs_dilation, rhs_dilation, dimension_numbers, feature_group_count,
      precision=precision,
    )  # fmt: skip
  if isinstance(padding, str):
    padding = lax.padtype_to_pads(lhs.shape[1:3], rhs.shape[:2], window_strides, padding)
  pads, strides = tuple((int(low), int(high)) for low, high in padding), tuple(map(int, window_strides))
  own = _plain_depthwise if depthwise else _plain
  if strides == (1, 1):
    return Bilinear(own, _DEPTHWISE if depthwise else _CONV, (pads,), depthwise)(lhs, rhs)
  blocks = _strided_depthwise if depthwise else _strided
  # A CPU is fast at a convolution with strides, and not at its transposes.
  forward = blocks if depthwise else own
  return Bilinear(own, (forward, None, None), (pads, strides), depthwise, transposed=blocks)(lhs, rhs)


def _unstrided(x, w, pads, strides):
  """Images and kernels whose convolution without strides or padding equals that of x and w with strides and padding.

  Every block of rows x columns positions becomes one position with as many times the channels. A kernel that does not
  divide into blocks is padded with zeros: a 3x3 kernel with stride 2 costs 16 products instead of 9. Evaluated at
  every position and subsampled, it would cost 36.
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


def _doubled(x, w):
  return _plain(x.repeat(2, axis=1).repeat(2, axis=2), w, ((1, 1), (1, 1)))


def _doubled_by_phases(x, w):
  """Computes `conv_of_doubled` without the doubled image: an output pixel sees only 2x2 different pixels of x.

  Their weights are sums of w's rows and columns; they depend on whether the output pixel's row and column are even or
  odd. That costs 4 products instead of 9.
  """
  batch, height, width, _ = x.shape
  # of the two pixels above and below an even row's edge the taps are (w0, w1 + w2), of an odd row's (w0 + w1, w2)
  taps = np.array([[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]], w.dtype)
  w = jnp.einsum("arh,bcw,hwio->rciabo", taps, taps, w)
  pads = ((1, 1), (1, 1))
  y = Bilinear(_plain, _CONV, (pads,))(x, w.reshape(2, 2, x.shape[-1], -1))
  y = y.reshape(batch, height + 1, width + 1, 2, 2, -1)
  phases = [[y[:, a : a + height, b : b + width, a, b] for b in (0, 1)] for a in (0, 1)]
  y = jnp.stack([jnp.stack(row, axis=3) for row in phases], axis=2)  # [B, H, 2, W, 2, O]
  return y.reshape(batch, 2 * height, 2 * width, -1)


def conv_of_doubled(x: Float[Array, "B H W I"], w: Float[Array, "3 3 I O"]) -> Float[Array, "B 2*H 2*W O"]:
  """The "SAME" 3x3 convolution of x with every pixel doubled in both directions."""
  return Bilinear(_doubled, (_doubled_by_phases, None, None))(x, w)
