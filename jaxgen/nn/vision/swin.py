"""Swin Transformer: attention within windows, which are shifted in every second block; each stage halves the map.

Liu et al. 2021, https://arxiv.org/abs/2103.14030, section 3 and Table 7.

    Swin(**SIZES["T"])                                             28,288,354 parameters
    Swin(2, 32, (2, 2), (2, 4), window=4, classes=10)              CIFAR-10: 16 x 16 patches, then 8 x 8
    Swin(2, 32, (2, 2), (2, 4), window=2, classes=10)              8x8 digits: 4 x 4 patches, then 2 x 2
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from jaxgen.core import spread
from jaxgen.core.errors import UserError, check_sizes
from jaxgen.nn.blocks.attention import Block, Blocks, Index, Tokens, attend, head_width, normal
from jaxgen.nn.blocks.layers import Dense, LayerNorm
from jaxgen.nn.blocks.projections import Projections
from jaxgen.nn.vision.vit import PatchEmbedding, Pictures, uniform

Dtype = Any
Pair = tuple[int, int]
Map = Float[Array, "batch height width channels"]

# Parameters are for 1000 classes, and pictures of 224 x 224, or 384 x 384 where the name says so.
SIZES = {
  "T": dict(patch=4, width=96, depths=(2, 2, 6, 2), heads=(3, 6, 12, 24)),  # 28,288,354
  "S": dict(patch=4, width=96, depths=(2, 2, 18, 2), heads=(3, 6, 12, 24)),  # 49,606,258
  "B": dict(patch=4, width=128, depths=(2, 2, 18, 2), heads=(4, 8, 16, 32)),  # 87,768,224
  "B, 384": dict(patch=4, width=128, depths=(2, 2, 18, 2), heads=(4, 8, 16, 32), window=12),  # 87,903,584
  "L": dict(patch=4, width=192, depths=(2, 2, 18, 2), heads=(6, 12, 24, 48)),  # 196,532,476
  "L, 384": dict(patch=4, width=192, depths=(2, 2, 18, 2), heads=(6, 12, 24, 48), window=12),  # 196,735,516
}


def windows_of(x: Map, window: Pair) -> Float[Array, "windows tokens channels"]:
  """Cuts a map into windows, in row-major order; so are the tokens of each window."""
  batch, height, width, channels = x.shape
  x = x.reshape(batch, height // window[0], window[0], width // window[1], window[1], channels)
  return x.swapaxes(2, 3).reshape(-1, window[0] * window[1], channels)


def from_windows(x: Float[Array, "windows tokens channels"], window: Pair, height: int, width: int) -> Map:
  """The inverse of `windows_of`."""
  x = x.reshape(-1, height // window[0], width // window[1], *window, x.shape[-1])
  return x.swapaxes(2, 3).reshape(-1, height, width, x.shape[-1])


def relative_positions(window: Pair) -> Int[np.ndarray, "tokens tokens"]:
  """The row of the table of biases for query i and key j: (dy + h - 1) (2 w - 1) + dx + w - 1 with (dy, dx) = i - j."""
  y, x = (axis.ravel() for axis in np.indices(window))
  difference = lambda axis, side: axis[:, None] - axis[None, :] + side - 1
  return difference(y, window[0]) * (2 * window[1] - 1) + difference(x, window[1])


def shifted_mask(height: int, width: int, window: Pair, shift: Pair) -> Bool[np.ndarray, "windows tokens tokens"]:
  """The keys that a query sees after the map is rolled by -shift: those that were its neighbours before; Figure 4."""
  region = np.zeros((height, width), int)
  for axis in (0, 1):
    wrapped = np.arange((height, width)[axis]) >= (height, width)[axis] - shift[axis]
    region = 2 * region + np.expand_dims(wrapped, 1 - axis)
  region = region.reshape(height // window[0], window[0], width // window[1], window[1])
  region = region.swapaxes(1, 2).reshape(-1, window[0] * window[1])
  return region[:, :, None] == region[:, None, :]


class WindowAttention(nn.Module):
  """Attention within windows, with a bias for each head and relative position: section 3.2, eq. 4.

  Attributes:
    heads, qkv_bias: as in `nn.blocks.attention.Attention`.
    grid: rows and columns of the map of tokens.
    window: rows and columns of a window. If it does not divide the map, zeros are added below and on the right.
    shift: the windows' shift down and to the right.
  """

  heads: int
  qkv_bias: bool = True
  dropout: float = 0.0
  grid: Pair = (7, 7)
  window: Pair = (7, 7)
  shift: Pair = (0, 0)
  kernel_init: Any = normal
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Tokens, index: Index = None) -> Tokens:
    if self.dropout:
      raise UserError("attention in windows has no dropout: set its dropout to 0")
    (height, width), (h, w), channels = self.grid, self.window, x.shape[-1]
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    y = x.reshape(-1, height, width, channels)
    y = jnp.pad(y, ((0, 0), (0, -height % h), (0, -width % w), (0, 0)))
    padded = y.shape[1:3]
    y = windows_of(jnp.roll(y, (-self.shift[0], -self.shift[1]), (1, 2)), self.window)

    cut = spread.cuts(self.heads, "heads")
    y = y if cut else spread.over_devices(y)
    options = dict(use_bias=self.qkv_bias, kernel_init=self.kernel_init, **dtypes)
    q, k, v = Projections(3, self.heads, head_width(channels, self.heads), cut, name="qkv", **options)(y)
    table = self.param("relative", normal, ((2 * h - 1) * (2 * w - 1), self.heads), self.param_dtype)
    bias = table[relative_positions(self.window)].transpose(2, 0, 1)[None].astype(y.dtype)
    mask = None
    if any(self.shift):
      mask = shifted_mask(*padded, self.window, self.shift)
      mask = jnp.asarray(np.tile(mask, (len(x), 1, 1)))[:, None]
    y = attend(q, k, v, mask=mask, bias=bias).reshape(y.shape)
    y = spread.joined(Dense(channels, kernel_init=self.kernel_init, name="out", **dtypes)(y))

    y = jnp.roll(from_windows(y, self.window, *padded), self.shift, (1, 2))[:, :height, :width]
    return y.reshape(x.shape)


class TwoBlocks(nn.Module):
  """A block and a block with windows shifted by half a window: Figure 3(b), eq. 3. drop_path has the rates of both."""

  block: Any
  grid: Pair
  window: Pair

  @nn.compact
  def __call__(self, x: Tokens, index: Index = None, drop_path: Any = (0.0, 0.0)) -> Tokens:
    # A window that covers an axis of the map shrinks to it, and is not shifted along it.
    window = tuple(min(self.window[i], self.grid[i]) for i in (0, 1))
    shift = tuple(window[i] // 2 if window[i] < self.grid[i] else 0 for i in (0, 1))
    attention = partial(WindowAttention, grid=self.grid, window=window)
    rates = (0.0, 0.0) if isinstance(drop_path, float) else drop_path
    x = self.block(attention=attention, name="regular")(x, index, rates[0])
    return self.block(attention=partial(attention, shift=shift), name="shifted")(x, index, rates[1])


class PatchMerging(nn.Module):
  """Four neighbours become one token of twice the width: section 3.1. An odd side is padded with zeros."""

  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Map) -> Float[Array, "batch h w features"]:
    batch, height, width, channels = x.shape
    x = jnp.pad(x, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)))
    # Above left, below left, above right, below right.
    x = jnp.concatenate([x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)], axis=-1)
    x = LayerNorm(1e-5, name="norm", dtype=self.dtype, param_dtype=self.param_dtype)(x)
    options = dict(kernel_init=normal, dtype=self.dtype, param_dtype=self.param_dtype)
    return Dense(2 * channels, use_bias=False, name="reduction", **options)(x)


class Swin(nn.Module):
  """Swin Transformer for classification; the head sees the mean over all tokens.

  Attributes:
    patch: side of a patch, in pixels.
    width: features of a token in the first stage; each further stage doubles them and halves the map.
    depths: number of blocks of each stage, even, because every second block has shifted windows.
    heads: number of attention's heads in each stage.
    window: side of a window. If the map is smaller, the window is the map and is not shifted.
    drop_path: stochastic depth's rate at the last block.
  """

  patch: int
  width: int
  depths: Sequence[int]
  heads: Sequence[int]
  window: int = 7
  classes: int = 1000
  drop_path: float = 0.0
  eps: float = 1e-5
  remat: bool = False
  unroll: int = 1
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  def setup(self):
    self.head = Dense(self.classes, kernel_init=normal, dtype=self.dtype, param_dtype=self.param_dtype)

  @nn.compact
  def features(self, x: Pictures, index: Index = None) -> Float[Array, "batch features"]:
    """The mean over the last stage's tokens, normalised.

    Raises:
      UserError: odd depths, sizes of 0, or not as many stages as heads.
    """
    check_sizes("Swin", stages=len(self.depths), depths=self.depths, window=self.window)
    if any(depth % 2 for depth in self.depths):
      raise UserError(f"Swin's depths {tuple(self.depths)} must be even: every second block has shifted windows")
    if len(self.depths) != len(self.heads):
      raise UserError(f"Swin has {len(self.depths)} stages and heads for {len(self.heads)}: give as many")
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    norm = partial(LayerNorm, self.eps, **dtypes)
    x = PatchEmbedding(self.width, self.patch, uniform, name="patches", **dtypes)(x)
    x = norm(name="patches_norm")(x)
    rates = np.linspace(0, self.drop_path, sum(self.depths)).reshape(-1, 2)
    for i, (depth, heads) in enumerate(zip(self.depths, self.heads, strict=True)):
      if i:
        x = PatchMerging(name=f"merging_{i}", **dtypes)(x)
      first, shape = sum(self.depths[:i]) // 2, x.shape
      block = partial(Block, heads, 4 * shape[-1], eps=self.eps, kernel_init=normal, **dtypes)
      pair = partial(TwoBlocks, block, shape[1:3], (self.window, self.window))
      drop_path = tuple(map(tuple, rates[first : first + depth // 2].tolist()))
      stage = Blocks(pair, depth // 2, drop_path, self.remat, self.unroll, name=f"stage_{i}")
      x = stage(x.reshape(len(x), -1, shape[-1]), index).reshape(shape)
    return norm(name="norm")(x).mean((1, 2))

  def __call__(self, x: Pictures, index: Index = None) -> Float[Array, "batch {self.classes}"]:
    """Logits."""
    return self.head(self.features(x, index))
