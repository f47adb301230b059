"""Layers over time, for networks whose other layers treat frames separately: frames are folded into the batch.

All of them do nothing when they are new: a network of images to which they are added gives what it gave, frame by
frame.
"""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from jaxgen.nn.blocks.attention import attend, head_width
from jaxgen.nn.blocks.layers import Dense, GroupNorm, add_bias, groups_for, matmul
from jaxgen.nn.blocks.positions import Relative

Dtype = Any
Frames = Float[Array, "frames height width channels"]  # those of clip 0, of clip 1, ..
Seen = Bool[Array, "#clips time time"]  # [b, i, j]: frame i of clip b sees frame j


def seen(time: int, frames: int | None = None, mask: Bool[Array, "clips time"] | None = None) -> Seen:
  """Which frames see which: a clip's frames each other, images and padding themselves alone.

  Args:
    time: the number of frames in a row.
    frames: the first so many are the clip, the others images; None: all are the clip.
    mask: True for a clip's frames, False for padding.
  """
  at = jnp.arange(time)
  in_clip = at < (time if frames is None else frames)
  pairs = (in_clip[:, None] & in_clip)[None]
  if mask is not None:
    pairs = pairs & mask[:, None, :] & mask[:, :, None]
  return pairs | (at[:, None] == at)


class TemporalAttention(nn.Module):
  """Attention of each place to itself in the other frames, with a residual connection.

  Ho et al. 2022, https://arxiv.org/abs/2204.03458, section 3: the axes of space are batch axes, and positions are
  relative, so that the layer knows the order of frames and not their time. Here they are a learned bias of each head
  for each distance, as in T5 (`nn.blocks.positions.Relative`). Each frame is normalised separately, so that images do
  not depend on others, and the last layer is initialised with zeros.

  Attributes:
    time: the number of frames in a row.
    groups: of the norm; None: as many as fit.
  """

  time: int
  heads: int
  groups: int | None = None
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Frames, seen: Seen) -> Frames:
    *_, height, width, channels = x.shape
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    h = GroupNorm(self.groups or groups_for(channels), name="norm", **dtypes)(x)
    h = h.reshape(-1, self.time, height * width, channels).swapaxes(1, 2).reshape(-1, self.time, channels)
    split = lambda z: z.reshape(*z.shape[:2], self.heads, head_width(channels, self.heads))
    q, k, v = (split(Dense(channels, name=name, **dtypes)(h)) for name in ("query", "key", "value"))
    at = jnp.arange(self.time)
    bias = Relative(self.heads, param_dtype=self.param_dtype, name="positions")(at[None], at)
    if len(seen) > 1:
      seen = jnp.repeat(seen, height * width, axis=0)
    h = attend(q, k, v, mask=seen[:, None], bias=bias.astype(q.dtype)).reshape(-1, height * width, self.time, channels)
    h = Dense(channels, kernel_init=nn.initializers.zeros, name="out", **dtypes)(h)
    return x + h.swapaxes(1, 2).reshape(x.shape)


def dirac(
  key: Array, shape: tuple[int, int, int], dtype: Dtype = jnp.float32
) -> Float[Array, "size channels features"]:
  """The kernel [K, C, C] of a convolution that returns its input."""
  size, channels, _ = shape
  return jnp.zeros(shape, dtype).at[size // 2].set(jnp.eye(channels, dtype=dtype))


class TemporalConv(nn.Module):
  """The second half of a pseudo-3D convolution: a 1D one over time at each place, with zeros around the clip.

  Singer et al. 2022, https://arxiv.org/abs/2209.14792, section 3.2.1; it begins as the identity.

  Attributes:
    time: the number of frames in a row.
    size: the kernel's, an odd number.
  """

  time: int
  size: int = 3
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Frames, seen: Seen) -> Frames:
    channels, half = x.shape[-1], self.size // 2
    kernel = self.param("kernel", dirac, (self.size, channels, channels), self.param_dtype)
    bias = self.param("bias", nn.initializers.zeros, (channels,), self.param_dtype)
    h, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
    h = h.reshape(-1, self.time, *x.shape[1:])
    y = matmul(h, kernel[half])
    for away in range(-half, half + 1):  # y_t += x_{t + away} W_away
      if away == 0 or abs(away) >= self.time:
        continue
      pairs = jnp.diagonal(seen, away, axis1=1, axis2=2)  # [b, i]: whether frame i sees i + away, or i - away sees i
      before, after = (0, away) if away > 0 else (-away, 0)
      there = h[:, away:] if away > 0 else h[:, :away]
      there = jnp.where(pairs[..., None, None, None], there, 0)
      y += matmul(jnp.pad(there, ((0, 0), (before, after), (0, 0), (0, 0), (0, 0))), kernel[half + away])
    return add_bias(y, bias).reshape(x.shape)
