"""Imagen's Efficient U-Net, conditioned on a text, a picture's embedding and a low-resolution picture.

Saharia et al. 2022, https://arxiv.org/abs/2205.11487, section 2.5 and Appendix B: more residual blocks at low
resolutions; a block of the way down halves the resolution before its convolutions, a block of the way up doubles it
after them; sums are scaled by 2^-1/2. Ramesh et al. 2022 (unCLIP), https://arxiv.org/abs/2204.06125, section 2.1: a
CLIP embedding of a picture is projected and added to that of the time, and projected into four tokens beside the text.

    EfficientUNet(**SIZES["Imagen 64"])        text [B, T, 4096]                               2,003,627,523: 2 B
    EfficientUNet(**SIZES["Imagen 256"])       text [B, T, 4096], low [B, 64, 64, 3]             608,086,403: 600 M
    EfficientUNet(**SIZES["Imagen 1024"])      text [B, T, 4096], low [B, 256, 256, 3]           398,281,091: 400 M
    EfficientUNet(**SIZES["DALL-E 2 64"])      text [B, T, 768], embedding [B, 768]            3,488,065,923: 3.5 B
    EfficientUNet(**SIZES["DALL-E 2 256"])     low [B, 64, 64, 3]                                703,748,323: 700 M
    EfficientUNet(**SIZES["DALL-E 2 1024"])    low [B, 256, 256, 3]                              299,380,099: 300 M

Beside them are the papers' numbers. Layouts are chosen here so as to have them; the papers' first stages are U-Nets
like ADM's, and they do not say all of the others. There is no code of theirs. Here:

- the way up has one skip of a level, which is added; the first convolution's output is added before the last one;
- "scaled skip connections" are those of NCSN++ and SR3, which the paper cites for them: the sum of a residual branch
  and its input;
- a text's features, normalised and projected, stand beside the keys and values of the picture's positions, or alone,
  and their mean is added to the time's embedding.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from jaxgen.core import spread
from jaxgen.core.condition import Told
from jaxgen.core.errors import UserError, check_sizes
from jaxgen.nn.blocks.attention import Attention
from jaxgen.nn.blocks.embeddings import cosines_first
from jaxgen.nn.blocks.layers import Conv, Dense, GroupNorm, LayerNorm, groups_for
from jaxgen.nn.unets.adm import initializer
from jaxgen.nn.unets.super_resolution import LEVELS, beside
from jaxgen.nn.unets.unet import Map, ResidualBlock

Dtype = Any
Words = Float[Array, "batch words told"]
SCALE = 2**-0.5  # of sums
ENTRIES = ("text", "mask", "embedding", "low", "level")

BELOW, NOWHERE = (False, True, True, True), (False, False, False, False)
BASE = dict(strides=(1, 2, 2, 2), attention=BELOW, cross=BELOW)

SIZES = {
  "Imagen 64": dict(channels=(512, 1024, 1536, 2048), blocks=(3, 4, 4, 7), **BASE),
  "Imagen 256": dict(blocks=(2, 4, 8, 12)),
  "Imagen 1024": dict(blocks=(2, 4, 7, 7), attention=NOWHERE),
  "DALL-E 2 64": dict(channels=(640, 1280, 1920, 2560), blocks=(3, 4, 5, 8), **BASE),
  "DALL-E 2 256": dict(channels=(160, 320, 640, 1280), blocks=(2, 4, 10, 8), attention=NOWHERE, cross=NOWHERE),
  "DALL-E 2 1024": dict(blocks=(2, 4, 7, 5), attention=NOWHERE, cross=NOWHERE),
}


class TextAttention(nn.Module):
  """norm, attention of a map's positions to themselves and to words, or to words alone, + input.

  Attributes:
    own: whether a position sees the others.
  """

  heads: int
  own: bool
  dtype: Dtype
  param_dtype: Dtype

  @nn.compact
  def __call__(
    self, x: Map, words: Words | None, seen: Bool[Array, "batch words"] | None
  ) -> Float[Array, "batch height width channels"]:
    batch, height, width, channels = x.shape
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    norm = GroupNorm(groups_for(channels), 1e-5, name="norm", **dtypes)
    h = norm(x).reshape(batch, height * width, channels)
    context, mask = ([h], [jnp.ones(h.shape[:2], bool)]) if self.own else ([], [])
    if words is not None:
      words = LayerNorm(1e-5, name="norm_text", **dtypes)(words)
      context.append(Dense(channels, kernel_init=initializer(), name="text", **dtypes)(words))
      mask.append(seen)
    attention = Attention(
      self.heads, kernel_init=initializer(), out_init=initializer(1e-10), name="attention", **dtypes
    )
    mask = jnp.concatenate(mask, axis=1)[:, None, None]
    h = attention(h, jnp.concatenate(context, axis=1), mask=mask).reshape(x.shape)
    return (x + spread.joined(h)) * SCALE


class EfficientUNet(nn.Module):
  """The network of x_t, a time and the condition.

  Attributes:
    channels: width of each level, the highest resolution first.
    blocks: residual blocks of each level, on the way down and again on the way up.
    strides: 2 where a level has half the resolution of the one before, 1 where it has the same; the first level's is
      compared with x.
    attention: of each level, whether positions attend to each other after its residual blocks.
    cross: of each level, whether they attend to the text and to the embedding's tokens there.
    heads: number of attention's heads.
    tokens: number of tokens from a picture's embedding, which is also added to the time's embedding.
    dropout: dropout rate inside each residual block.
    out_channels: channels of the output.
    remat: keep only each residual block's input for the backward pass, and compute the rest again.
    dtype: dtype of the computation; normalisation statistics and softmax are float32 or wider.
    param_dtype: dtype of the parameters.
  """

  channels: Sequence[int] = (128, 256, 512, 1024)
  blocks: Sequence[int] = (2, 4, 8, 8)
  strides: Sequence[int] = (2, 2, 2, 2)
  attention: Sequence[bool] = (False, False, False, True)
  cross: Sequence[bool] = (False, False, False, True)
  heads: int = 8
  tokens: int = 4
  dropout: float = 0.0
  out_channels: int = 3
  remat: bool = False
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  def check(self, x: Array, told: Mapping[str, Any]) -> None:
    """Raises a UserError if the attributes do not fit together, or to the picture or the condition."""
    check_sizes("an Efficient U-Net", channels=self.channels, blocks=self.blocks, heads=self.heads, tokens=self.tokens)
    levels = len(self.channels)
    for name in ("blocks", "strides", "attention", "cross"):
      if len(value := getattr(self, name)) != levels:
        raise UserError(f"an Efficient U-Net of {levels} levels has {name} of each, not {len(value)}: {tuple(value)}")
    if wrong := set(self.strides) - {1, 2}:
      raise UserError(f"a level has the resolution of the one before or half of it, a stride of 1 or 2, not {wrong}")
    factor = 2 ** sum(stride == 2 for stride in self.strides)
    if x.shape[1] % factor or x.shape[2] % factor:
      raise UserError(
        f"an Efficient U-Net with {self.strides.count(2)} strides of 2 takes pictures whose sides divide by {factor}, "
        f"not {x.shape[1]} x {x.shape[2]}: take fewer, or other pictures"
      )
    if unknown := sorted(set(told) - set(ENTRIES)):
      raise UserError(
        f"an Efficient U-Net is conditioned on {', '.join(ENTRIES)}, and not on {unknown[0]!r}: leave it out"
      )
    for one, other in (("text", "mask"), ("low", "level")):
      if (one in told) != (other in told):
        raise UserError(
          f"an Efficient U-Net is conditioned on {one!r} and {other!r} together: take both as its condition"
        )
    if any(self.cross) and not {"text", "embedding"} & set(told):
      raise UserError("a level attends to a text or a picture's embedding, and the condition has neither: set cross")

  def told_of(self, t: Float[Array, "batch"], told: Mapping[str, Any]) -> tuple[Array, Array | None, Array | None]:
    """(what residual blocks are told [B, e], words [B, T, c], which of them are there [B, T])."""
    width = 4 * self.channels[0]
    dense = partial(Dense, kernel_init=initializer(), dtype=self.dtype, param_dtype=self.param_dtype)
    norm = partial(LayerNorm, 1e-5, dtype=self.dtype, param_dtype=self.param_dtype)
    two = lambda name, x: dense(width, name=f"{name}_2")(nn.silu(dense(width, name=f"{name}_1")(x)))
    vector, words, seen = two("time", cosines_first(t, self.channels[0])), None, None
    if "level" in told:
      vector += two("level", cosines_first(LEVELS * told["level"].astype(t.dtype), self.channels[0]))
    if "text" in told:
      words, seen = told["text"].astype(self.dtype), told["mask"]
      mean = jnp.sum(jnp.where(seen[..., None], words, 0), axis=1) / jnp.maximum(seen.sum(1), 1)[:, None]
      vector += two("pooled", norm(name="norm_pooled")(mean.astype(self.dtype)))
    if "embedding" in told:
      embedding = told["embedding"].astype(self.dtype)
      vector += dense(width, name="embedding")(embedding)
      size = width if words is None else words.shape[-1]
      tokens = dense(self.tokens * size, name="tokens")(embedding).reshape(-1, self.tokens, size)
      there = jnp.ones(tokens.shape[:2], bool)
      words = tokens if words is None else jnp.concatenate([words, tokens], axis=1)
      seen = there if seen is None else jnp.concatenate([seen, there], axis=1)
    return vector, words, seen

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "batch height width channels"],
    t: Float[Array, "batch"],
    told: Told = None,
    index: Int[Array, "batch"] | None = None,
  ) -> Float[Array, "batch height width {self.out_channels}"]:
    """The network's output at x and times t (0 .. 1000), in x's dtype.

    Args:
      told: a dict of any of these: "text", the words' features [B, T, c], with "mask" [B, T], True for words that are
        there; "embedding" [B, d], a picture's; "low" [B, h, w, C], a picture of low resolution, with "level" [B], its
        noise. None: nothing.
      index: the examples' positions in the global batch, for dropout; None: nothing is dropped.

    Raises:
      UserError: the condition has other entries, sides do not divide, or attributes do not fit together.
    """
    told = {} if told is None else told
    self.check(x, told)
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    vector, words, seen = self.told_of(t, told)
    conv = lambda features, name, scale=1.0, **options: Conv(
      features, kernel_init=initializer(scale), name=name, **options, **dtypes
    )
    kind = nn.remat(ResidualBlock) if self.remat else ResidualBlock
    common = dict(scale_shift=True, gain=SCALE, eps=1e-5, kernel_init=initializer, **dtypes)

    def level(h: Array, number: int, way: str) -> Array:
      for i in range(self.blocks[number]):
        name = f"{way}_{number}_{i}"
        h = kind(self.channels[number], None, self.dropout, name=name, **common)(h, vector, index)
      own, cross = self.attention[number], self.cross[number]
      if not own and not cross:
        return h
      attend = TextAttention(self.heads, own, name=f"{way}_{number}_attention", **dtypes)
      return attend(h, words if cross else None, seen if cross else None)

    first = h = conv(self.channels[0], "in")(beside(x, told["low"]) if "low" in told else x)
    skips = []
    for number, (features, stride) in enumerate(zip(self.channels, self.strides, strict=True)):
      if stride == 2:
        h = spread.joined(conv(features, f"down_{number}_sample", stride=2, padding=((1, 1), (1, 1)))(h))
      h = level(h, number, "down")
      skips.append(h)
    for number in reversed(range(len(self.channels))):
      h = level(h if number == len(self.channels) - 1 else (h + skips[number]) * SCALE, number, "up")
      h = conv(self.channels[max(number - 1, 0)], f"up_{number}_sample", double=self.strides[number] == 2)(h)
    h = (spread.joined(h) + first) * SCALE
    h = nn.silu(GroupNorm(groups_for(self.channels[0]), 1e-5, name="out_norm", **dtypes)(h))
    return conv(self.out_channels, "out", 1e-10)(h).astype(x.dtype)
