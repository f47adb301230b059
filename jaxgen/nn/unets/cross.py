"""The U-Net of latent diffusion whose features attend to a text: Stable Diffusion 1, 2 and XL.

Rombach et al. 2022, https://arxiv.org/abs/2112.10752, section 3.3 and Appendix E; Podell et al. 2023 (SDXL),
https://arxiv.org/abs/2307.01952, sections 2.1 and 2.2. Improved DDPM's U-Net (`nn.unets.adm`) with its times added
before the second norm of a block, with Transformer blocks (self-attention, attention to the text, gated MLP) instead of
its attention. A place's blocks are one scan, so SDXL's ten compile as one.

    CrossUNet(**SIZES["SD 1"])             text [B, 77, 768]                              859,520,964
    CrossUNet(**SIZES["SD 2"])             text [B, 77, 1024]                             865,910,724
    CrossUNet(**SIZES["SDXL"])             text [B, 77, 2048], pooled [B, 1280]         2,567,463,684

Stable Diffusion's networks of inpainting are the same with more channels of x: the picture beside it.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from jaxgen.core import spread
from jaxgen.core.condition import Told
from jaxgen.core.errors import UserError, check_sizes
from jaxgen.nn.blocks import maps
from jaxgen.nn.blocks.activations import geglu
from jaxgen.nn.blocks.attention import Block, Blocks, head_width
from jaxgen.nn.blocks.embeddings import cosines_first
from jaxgen.nn.blocks.layers import Conv, Dense, GroupNorm
from jaxgen.nn.unets.adm import doubled, initializer
from jaxgen.nn.unets.unet import Map, ResidualBlock, check_widths, way_down, way_up

Dtype = Any
Vector = Float[Array, "batch vector"]

SIZES = {
  "SD 1": dict(),
  "SD 2": dict(heads=(5, 10, 20, 20)),
  "SDXL": dict(multipliers=(1, 2, 4), depths=(0, 2, 10), middle=10, heads=(5, 10, 20), micro=256),
}


class Heard(NamedTuple):
  """What a U-Net's blocks are told.

  Attributes:
    vector: for residual blocks.
    told, t: the network's, for attention.
  """

  vector: Vector
  told: Told
  t: Float[Array, " batch"]


class SpatialTransformer(nn.Module):
  """norm, dense, Transformer's blocks over all positions, dense, + input: Rombach et al. 2022, Table 15.

  Attributes:
    depth, heads: of the blocks.
    remat: keep only each block's input for the backward pass, and compute the rest again.
  """

  depth: int
  heads: int
  groups: int
  remat: bool
  dtype: Dtype
  param_dtype: Dtype

  @nn.compact
  def __call__(self, x: Map, told: Told, t: Float[Array, "batch"]) -> Map:
    batch, height, width, channels = x.shape
    head_width(channels, self.heads)
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    dense = partial(Dense, channels, **dtypes)

    def block(name: str) -> Block:
      return Block(
        self.heads, 8 * channels, activation=geglu, qkv_bias=False, eps=1e-5, kernel_init=initializer(), name=name,
        **dtypes,
      )  # fmt: skip

    change = maps.changes(told.get("maps"), t, height * width)
    h = GroupNorm(self.groups, 1e-6, name="norm", **dtypes)(x).reshape(batch, height * width, channels)
    h = dense(kernel_init=initializer(), name="in")(h)
    h = Blocks(block, self.depth, remat=self.remat, name="body")(h, context=told["text"], **change)
    h = dense(kernel_init=initializer(1e-10), name="out")(h)
    return x + h.reshape(x.shape)


class _CrossUNet(nn.Module):
  """The parts that the U-Net and a ControlNet share: all but the way up.

  Attributes:
    channels: width at full resolution; level i has channels * multipliers[i] and 1 / 2^i of the resolution.
    multipliers: one entry per level.
    blocks: residual blocks per level on the way down, one more on the way up.
    depths: of each level, the Transformer's blocks after each residual block; 0: none.
    middle: the Transformer's blocks in the middle, between two residual blocks.
    heads: number of attention's heads, of all levels or of each. diffusers' configs call it "attention_head_dim".
    groups: of the group norms.
    micro: numbers of sinusoids of each of the picture's sizes, on which SDXL is conditioned together with a vector of
      the whole text; None: there are neither.
    remat: keep only each block's input for the backward pass, and compute the rest again.
    dtype: dtype of the computation; normalisation statistics and softmax are float32 or wider.
    param_dtype: dtype of the parameters.
  """

  channels: int = 320
  multipliers: Sequence[int] = (1, 2, 4, 4)
  blocks: int = 2
  depths: Sequence[int] = (1, 1, 1, 0)
  middle: int = 1
  heads: int | Sequence[int] = 8
  groups: int = 32
  micro: int | None = None
  remat: bool = False
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @property
  def level_heads(self) -> tuple[int, ...]:
    """The number of heads of each level."""
    return (self.heads,) * len(self.multipliers) if isinstance(self.heads, int) else tuple(self.heads)

  def check(self, told: Told) -> None:
    """Raises a UserError if the attributes do not fit together, or the condition has other entries."""
    check_sizes("a U-Net", levels=len(self.multipliers), middle=self.middle)
    check_widths(self.channels, self.multipliers, self.blocks)
    for name, value in (("depths", self.depths), ("heads", self.level_heads)):
      if len(value) != len(self.multipliers):
        raise UserError(
          f"a U-Net of {len(self.multipliers)} levels has {name} of each, and these are {len(value)}: {tuple(value)}"
        )
    wanted = {"text"} if self.micro is None else {"text", "pooled", "sizes"}
    if not isinstance(told, Mapping) or set(told) - {"picture", "residuals", "maps"} != wanted:
      names = ", ".join(f"{name!r}: .." for name in sorted(wanted, reverse=True))
      raise UserError(
        f"this U-Net is conditioned on {' and '.join(map(repr, sorted(wanted, reverse=True)))}: take the condition "
        f"entries({{{names}}})"
      )
    if self.micro is not None and told["sizes"].ndim != 2:
      raise UserError(f"sizes are numbers of each example, [B, 6] in SDXL, not {told['sizes'].shape}")

  def dtypes(self) -> dict[str, Dtype]:
    return dict(dtype=self.dtype, param_dtype=self.param_dtype)

  def conv(self, features: int, name: str, scale: float = 1.0, **options: Any) -> Conv:
    return Conv(features, kernel_init=initializer(scale), name=name, **options, **self.dtypes())

  def heard(self, t: Float[Array, "batch"], told: Told) -> Heard:
    """What blocks are told, of the time and, in SDXL, of the text as a whole and of the picture's sizes."""
    dense = partial(Dense, 4 * self.channels, kernel_init=initializer(), **self.dtypes())
    two = lambda x, name: dense(name=f"{name}_2")(nn.silu(dense(name=f"{name}_1")(x)))
    vector = two(cosines_first(t, self.channels), "time")
    if self.micro is None:
      return Heard(vector, told, t)
    pooled, sizes = told["pooled"], told["sizes"]
    sinusoids = cosines_first(sizes.reshape(-1).astype(t.dtype), self.micro).reshape(len(sizes), -1)
    added = two(jnp.concatenate([pooled.astype(sinusoids.dtype), sinusoids], axis=-1), "added")
    return Heard(vector + added, told, t)

  def block(self, h: Map, level: int, name: str, depth: int, heard: Heard, index: Any) -> Array:
    """A residual block and the Transformer after it."""
    common = dict(eps=1e-5, kernel_init=initializer, **self.dtypes())
    kind = nn.remat(ResidualBlock) if self.remat else ResidualBlock
    h = kind(self.channels * self.multipliers[level], self.groups, 0.0, name=name, **common)(h, heard.vector, index)
    if not depth:
      return h
    heads = self.level_heads[level]
    return SpatialTransformer(
      depth, heads, self.groups, self.remat, name=f"{name}_attention", **self.dtypes()
    )(h, heard.told, heard.t)  # fmt: skip

  def down(self, h: Map, heard: Heard, index: Any) -> tuple[Float[Array, "batch h w lowest"], list[Array]]:
    """(the middle's output, the maps of the way down)."""

    def block(h: Array, level: int, name: str, last: bool) -> Array:
      return self.block(h, level, name, self.depths[level], heard, index)

    def sample(h: Array, level: int, way: str) -> Array:
      return self.conv(h.shape[-1], f"{way}_{level}_sample", stride=2, padding=((1, 1), (1, 1)))(h)

    levels = len(self.multipliers)
    h, skips = way_down(h, levels, self.blocks, block, sample)
    h = self.block(h, levels - 1, "middle_0", self.middle, heard, index)
    return self.block(h, levels - 1, "middle_1", 0, heard, index), skips


class CrossUNet(_CrossUNet):
  """The network of x_t, a time and a text; its attributes are those of `_CrossUNet`, and one more.

  Attributes:
    out_channels: channels of the output.
  """

  out_channels: int = 4

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "batch height width channels"],
    t: Float[Array, "batch"],
    told: Told,
    index: Int[Array, "batch"] | None = None,
  ) -> Float[Array, "batch height width {self.out_channels}"]:
    """The network's output at x [B, H, W, C] and times t [B], 0 .. 999, in x's dtype; it has no dropout.

    Sides need not divide by anything: an odd one is halved upwards, and cropped on the way up, as in diffusers.

    Args:
      told: "text", the words' features [B, T, c]; with `micro` also "pooled", those of the text as a whole [B, p], and
        "sizes", numbers of the picture [B, n]: in SDXL its original height and width, the position of the crop from the
        top and from the left, and the target height and width. "picture" [B, H, W, c], where it is there, is more
        channels of x, "residuals" what a `ControlNet` adds, and "maps" which attention maps are other examples':
        `nn.blocks.maps`.

    Raises:
      UserError: the condition has other entries; heads that do not divide a width; a picture of another size.
    """
    self.check(told)
    levels, inputs = len(self.multipliers), x
    if (picture := told.get("picture")) is not None:
      if picture.shape[:3] != x.shape[:3]:
        raise UserError(
          f"a picture of {picture.shape[1]} x {picture.shape[2]} stands beside {x.shape[1]} x {x.shape[2]} that the "
          "network sees: give it the same size"
        )
      inputs = jnp.concatenate([x, picture.astype(x.dtype)], axis=-1)
    heard = self.heard(t, told)
    h, skips = self.down(self.conv(self.channels, "in")(inputs), heard, index)
    if (residuals := told.get("residuals")) is not None:
      *added, at_middle = residuals
      skips = [skip + more for skip, more in zip(skips, added, strict=True)]
      h = h + at_middle

    def block(h: Array, level: int, name: str, last: bool) -> Array:
      return self.block(h, level, name, self.depths[level], heard, index)

    def sample(h: Array, level: int, way: str, sides: tuple[int, int]) -> Array:
      whole = sides == (2 * h.shape[1], 2 * h.shape[2])
      h = h if whole else doubled(h)[:, : sides[0], : sides[1]]
      return self.conv(h.shape[-1], f"{way}_{level}_sample", double=whole)(h)

    h = way_up(h, skips, levels, self.blocks, block, sample)
    h = nn.silu(GroupNorm(self.groups, 1e-5, name="out_norm", **self.dtypes())(spread.joined(h)))
    return self.conv(self.out_channels, "out", 1e-10)(h).astype(x.dtype)
