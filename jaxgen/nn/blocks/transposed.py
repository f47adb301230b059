"""Transposed convolution that doubles an image, with derivatives that are fast on a CPU."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float

from jaxgen.nn.blocks.conv import NHWC, conv
from jaxgen.nn.blocks.layers import add_bias
from jaxgen.nn.blocks.rules import Bilinear

Dtype = Any


def _plain(x, w):
  size = w.shape[0]
  r = (size - 1) // 2
  pads = [(size - 1 - r, r + 1)] * 2
  return lax.conv_general_dilated(x, w[::-1, ::-1], (1, 1), pads, lhs_dilation=(2, 2), dimension_numbers=NHWC)


def _by_phases(x, w):
  """Computes the four output pixels of each pixel of x by one convolution without strides or dilation.

  Each depends on at most ceil(k / 2) pixels of x in either direction.
  """
  (batch, height, width, inputs), size, features = x.shape, w.shape[0], w.shape[3]
  r = (size - 1) // 2
  # Pixel 2 i + a sees pixel i + s of x through tap h = a + r - 2 s.
  steps = -(-size // 2)
  seen = [[s for s in range(-size, size) if 0 <= a + r - 2 * s < size] for a in (0, 1)]
  first = min(s[0] for s in seen)
  taps = np.zeros((2, steps, size), w.dtype)
  for a, offsets in enumerate(seen):
    for s in offsets:
      taps[a, s - offsets[0], a + r - 2 * s] = 1
  w = jnp.einsum("arh,bcv,hvio->rciabo", taps, taps, w).reshape(steps, steps, inputs, 4 * features)
  starts = [offsets[0] - first for offsets in seen]
  pads = (-first, max(starts) + first + steps - 1)
  y = conv(x, w, (1, 1), (pads, pads), dimension_numbers=NHWC)
  y = y.reshape(*y.shape[:3], 2, 2, features)
  a, b = starts
  rows = [[y[:, s : s + height, t : t + width, i, j] for j, t in enumerate((a, b))] for i, s in enumerate((a, b))]
  y = jnp.stack([jnp.stack(row, axis=3) for row in rows], axis=2)  # [B, H, 2, W, 2, O]
  return y.reshape(batch, 2 * height, 2 * width, features)


def conv_transposed(x: Float[Array, "B H W I"], w: Float[Array, "k k I O"]) -> Float[Array, "B 2*H 2*W O"]:
  """y[b, p, q, o] = sum x[b, i, j, c] w[h, v, c, o] over 2 i + h = p + r and 2 j + v = q + r, with r = (k - 1) // 2.

  It is PyTorch's `conv_transpose2d` of stride 2 with padding r, and output_padding 1 where k is odd.
  """
  return Bilinear(_plain, (_by_phases, None, None))(x, w)


class ConvTransposed(nn.Module):
  """`conv_transposed`, whose kernel is [k, k, inputs, features]."""

  features: int
  kernel: int = 4
  use_bias: bool = True
  kernel_init: Any = nn.initializers.lecun_normal()
  dtype: Dtype = None
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "batch height width channels"]) -> Float[Array, "batch h w {self.features}"]:
    shape = (self.kernel, self.kernel, x.shape[-1], self.features)
    kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
    bias = self.param("bias", nn.initializers.zeros, (self.features,), self.param_dtype) if self.use_bias else None
    x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
    return add_bias(conv_transposed(x, kernel), bias)
