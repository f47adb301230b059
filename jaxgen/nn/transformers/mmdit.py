"""MMDiT, Stable Diffusion 3's network: Esser et al. 2024, https://arxiv.org/abs/2403.03206, section 4 and Figure 2.

Two sequences of tokens, the picture's patches and a text's, have their own weights and attend to each other as one
sequence. Blocks are DiT's (`nn.transformers.dit`), conditioned on the time and on a vector of the whole text; the last
one changes only the picture. Queries and keys may be normalised (their section 5.3), and in the first blocks of SD 3.5
medium the picture has another attention, only to itself.

    MMDiT(**SIZES["SD3 medium"])       2,028,328,000
    MMDiT(**SIZES["SD3.5 medium"])     2,243,171,520
    MMDiT(**SIZES["SD3.5 large"])      8,056,627,520
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from jaxgen.core import spread
from jaxgen.core.condition import Told
from jaxgen.core.errors import UserError
from jaxgen.nn.blocks.activations import gelu_tanh
from jaxgen.nn.blocks.attention import (
  MLP,
  Attention,
  Blocks,
  Index,
  Row,
  Tokens,
  attend,
  head_width,
  xavier,
)
from jaxgen.nn.blocks.embeddings import cosines_first
from jaxgen.nn.blocks.layers import Dense, RMSNorm
from jaxgen.nn.blocks.modulation import Embedding, Modulation, Readout, as_dense, gated, modulated
from jaxgen.nn.blocks.positions import over_grid
from jaxgen.nn.blocks.projections import Projections
from jaxgen.nn.transformers.dit import FREQUENCIES
from jaxgen.nn.vision.vit import PatchEmbedding

Dtype = Any
Text = Float[Array, "batch words features"]
Rows = tuple[Tokens, Text]

SIZES = {
  "SD3 medium": dict(width=1536, depth=24, heads=24),
  "SD3.5 medium": dict(width=1536, depth=24, heads=24, most=384, base=64, qk_norm=True, dual=13),
  "SD3.5 large": dict(width=2432, depth=38, heads=38, qk_norm=True),
}


class JointAttention(nn.Module):
  """Attention of two rows of tokens to one another as one row.

  Attributes:
    qk_norm: queries and keys of each head are normalised by `RMSNorm`.
    last: the text's output is not wanted.
  """

  heads: int
  qk_norm: bool
  last: bool
  dtype: Dtype
  param_dtype: Dtype

  @nn.compact
  def __call__(self, rows: Rows) -> list[Row]:
    features, dtypes = rows[0].shape[-1], dict(dtype=self.dtype, param_dtype=self.param_dtype)
    width, cut = head_width(features, self.heads), spread.cuts(self.heads, "heads")
    rows = rows if cut else tuple(map(spread.over_devices, rows))

    def split(x: Row, name: str) -> list[Float[Array, "batch _tokens heads d"]]:
      """Query, key and value of each head."""
      q, k, v = Projections(3, self.heads, width, cut, kernel_init=xavier, name=f"{name}_qkv", **dtypes)(x)
      if self.qk_norm:
        q, k = RMSNorm(name=f"{name}_norm_q", **dtypes)(q), RMSNorm(name=f"{name}_norm_k", **dtypes)(k)
      return [q, k, v]

    both = zip(split(rows[0], "picture"), split(rows[1], "text"), strict=True)
    y = attend(*(jnp.concatenate(pair, axis=1) for pair in both)).reshape(len(rows[0]), -1, features)
    parts = jnp.split(y, [rows[0].shape[1]], axis=1)
    names = ("picture",) if self.last else ("picture", "text")
    return [
      spread.joined(Dense(features, kernel_init=xavier, name=f"{name}_out", **dtypes)(part))
      for name, part in zip(names, parts, strict=not self.last)
    ]


class JointBlock(nn.Module):
  """Attention of both rows, then an MLP on each.

  Attributes:
    dual: the picture then also attends only to itself.
    last: of the text nothing but its keys and values is wanted, and its row comes out as it went in.
  """

  heads: int
  hidden: int
  qk_norm: bool = False
  dual: bool = False
  last: bool = False
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(
    self, rows: Rows, index: Index = None, drop_path: float = 0.0, *, told: Float[Array, "batch features"]
  ) -> Rows:
    """No branch is dropped: `index` and `drop_path`, which `Blocks` gives, change nothing."""
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    x, text = rows
    mlp = partial(MLP, self.hidden, gelu_tanh, **dtypes)
    modulation = partial(Modulation, **dtypes)
    shift, scale, gate, mlp_shift, mlp_scale, mlp_gate, *more = modulation(6 + 3 * self.dual, name="modulation")(told)
    t_shift, t_scale, *t_more = modulation(2 if self.last else 6, name="text_modulation")(told)

    joint = JointAttention(self.heads, self.qk_norm, self.last, name="attention", **dtypes)
    y, *of_text = joint((modulated(x, shift, scale), modulated(text, t_shift, t_scale)))
    before = x
    x = x + gated(gate, y)
    if self.dual:
      d_shift, d_scale, d_gate = more
      alone = Attention(self.heads, qk_norm=self.qk_norm, name="dual", **dtypes)
      x = x + gated(d_gate, alone(modulated(before, d_shift, d_scale)))
    x = x + gated(mlp_gate, mlp(name="mlp")(modulated(x, mlp_shift, mlp_scale)))
    if not self.last:
      t_gate, t_mlp_shift, t_mlp_scale, t_mlp_gate = t_more
      text = text + gated(t_gate, of_text[0])
      text = text + gated(t_mlp_gate, mlp(name="text_mlp")(modulated(text, t_mlp_shift, t_mlp_scale)))
    return x, text


class MMDiT(nn.Module):
  """The network of x_t, a time and a text.

  Attributes:
    patch: side of a patch, in latents.
    width, depth, heads: of the blocks.
    most: rows, and columns, of the largest grid of patches; a picture takes the middle of it.
    base: positions of that grid are spaced so that they span `base` units from one side to the other.
    out_channels: of the output.
    qk_norm: queries and keys are normalised.
    dual: the number of first blocks in which the picture also attends only to itself; not the last block.
    remat, unroll: as in `Blocks`.
  """

  width: int
  depth: int
  heads: int
  patch: int = 2
  most: int = 192
  base: int = 64
  out_channels: int = 16
  qk_norm: bool = False
  dual: int = 0
  remat: bool = False
  unroll: int = 1
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "batch height width channels"],
    t: Float[Array, "batch"],
    told: Told,
    index: Int[Array, "batch"] | None = None,
  ) -> Float[Array, "batch height width {self.out_channels}"]:
    """The network's output at x [B, H, W, C] and times t [B], 0 .. 1000, in x's dtype; it has no dropout.

    Args:
      told: "text", the tokens' features [B, T, c], and "pooled", those of the text as a whole [B, p].

    Raises:
      UserError: the condition has other entries; patches that do not divide the picture, or more of them than `most` in
        a row or column; heads that do not divide the width; `dual` that is not less than `depth`.
    """
    if not 0 <= self.dual < self.depth:
      raise UserError(
        f"of an MMDiT's {self.depth} blocks {self.dual} have attention of the picture to itself, and the last one has "
        "none: change dual or depth"
      )
    if not isinstance(told, Mapping) or set(told) != {"text", "pooled"}:
      raise UserError(
        "an MMDiT is conditioned on a text's features, 'text' and 'pooled': take the condition "
        "entries({'text': .., 'pooled': ..})"
      )
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    embedding = partial(Embedding, self.width, **dtypes)
    vector = embedding(name="time")(cosines_first(t, FREQUENCIES)) + embedding(name="pooled")(told["pooled"])
    text = Dense(self.width, kernel_init=xavier, name="text", **dtypes)(told["text"])

    h = PatchEmbedding(self.width, self.patch, as_dense(xavier), name="patches", **dtypes)(x)
    grid = h.shape[1:3]
    h = h.reshape(len(x), -1, self.width) + self.positions(grid).astype(h.dtype)

    def blocks(depth: int, name: str, **options: Any) -> nn.Module:
      block = partial(JointBlock, self.heads, 4 * self.width, self.qk_norm, **options, **dtypes)
      return Blocks(lambda name: block(name=name), depth, remat=self.remat, unroll=self.unroll, name=name)

    rows = (h, text)
    if self.dual:
      rows = blocks(self.dual, "first", dual=True)(rows, told=vector)
    if self.depth - 1 > self.dual:
      rows = blocks(self.depth - 1 - self.dual, "body")(rows, told=vector)
    last = nn.remat(JointBlock) if self.remat else JointBlock
    h, _ = last(self.heads, 4 * self.width, self.qk_norm, last=True, name="last", **dtypes)(rows, told=vector)
    return Readout(self.patch, self.out_channels, name="readout", **dtypes)(h, vector, grid).astype(x.dtype)

  @nn.nowrap
  def positions(self, grid: tuple[int, int]) -> Float[Array, "tokens {self.width}"]:
    """Those of the middle of the largest grid. Raises a UserError where the grid is larger."""
    if max(grid) > self.most:
      raise UserError(
        f"a picture of {grid[0]} x {grid[1]} patches is larger than the network's {self.most} x {self.most}: "
        "make it smaller"
      )
    dtype = jnp.promote_types(self.dtype, jnp.float32)
    at = lambda count: ((self.most - count) // 2 + jnp.arange(count)).astype(dtype) * (self.base / self.most)
    return over_grid(at(grid[0]), at(grid[1]), self.width, dtype)
