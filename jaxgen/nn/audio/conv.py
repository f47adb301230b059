"""Convolutions of waves [B, L, C], computed as a dense layer of shifted copies.

A dilated convolution's own gradient is slow inside a compiled loop on a CPU; that of a dense layer is not. The dilation
may also be traced, so that layers of different dilations are one scan.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from jaxgen.nn.blocks.layers import Dense

Wave = Float[Array, "batch length channels"]


def around(
  x: Wave, kernel: int, dilation: int | Int[Array, ""], most: int | None = None
) -> Float[Array, "batch length taps"]:
  """x_(t - h d), .., x_t, .., x_(t + h d) side by side, h = kernel // 2; zeros beyond the ends.

  Args:
    x: the wave.
    kernel: the number of taps; odd.
    dilation: d; it may be traced.
    most: an upper limit of d, known when the program is compiled; None: d itself.
  """
  half = kernel // 2
  reach = half * (dilation if most is None else most)
  padded = jnp.pad(x, ((0, 0), (reach, reach), (0, 0)))
  cut = lambda j: jax.lax.dynamic_slice_in_dim(padded, reach + (j - half) * dilation, x.shape[1], axis=1)
  return jnp.concatenate([cut(j) for j in range(kernel)], axis=-1)


class Conv1D(nn.Module):
  """A convolution of a wave that keeps its length; the kernel's parameters are [taps * channels, features].

  Attributes:
    features: channels of the result.
    kernel: the number of taps; odd.
    dilation: the distance between taps, in samples.
  """

  features: int
  kernel: int = 3
  dilation: int = 1
  kernel_init: Any = nn.initializers.lecun_normal()
  dtype: Any = None
  param_dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Wave) -> Float[Array, "batch length {self.features}"]:
    dense = Dense(
      self.features, kernel_init=self.kernel_init, name="taps", dtype=self.dtype, param_dtype=self.param_dtype
    )
    return dense(around(x, self.kernel, self.dilation) if self.kernel > 1 else x)


def repeated(x: Float[Array, "batch frames channels"], factor: int) -> Float[Array, "batch length channels"]:
  """Each frame `factor` times: interpolation by the nearest neighbour."""
  batch, frames, channels = x.shape
  return jnp.broadcast_to(x[:, :, None], (batch, frames, factor, channels)).reshape(batch, -1, channels)


def thinned(x: Wave, factor: int) -> Float[Array, "batch frames channels"]:
  """Every `factor`-th sample, from the first on; `factor` divides the length."""
  batch, length, channels = x.shape
  return x.reshape(batch, length // factor, factor, channels)[:, :, 0]
