"""U-ViT, a Transformer with a U-Net's long skips: Bao et al. 2022, https://arxiv.org/abs/2209.12152, section 3.

Time, class and patches are all tokens. There are `depth` blocks and one in the middle. Blocks of the second half have
skip connections from those of the first half, the last block from the first one.

    UViT(**SIZES["S/2"], out_channels=3)                CIFAR-10, pictures 32 x 32 x 3             44,255,328
    UViT(**SIZES["H/2"], classes=1001)                  ImageNet 256, latents 32 x 32 x 4         500,832,164
"""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from jaxgen.core.errors import UserError
from jaxgen.core.spread import over_batch
from jaxgen.nn.blocks.again import in_a_loop
from jaxgen.nn.blocks.attention import Block, Tokens, normal
from jaxgen.nn.blocks.embeddings import check_label, cosines_first
from jaxgen.nn.blocks.layers import Conv, Dense, LayerNorm
from jaxgen.nn.blocks.modulation import as_dense, put_together
from jaxgen.nn.vision.vit import PatchEmbedding, positions

Dtype = Any

# "Size/patch" of the paper's Table 1; depth is that without the block in the middle.
SIZES = {
  "S/2": dict(patch=2, width=512, depth=12, heads=8),
  "S/4": dict(patch=4, width=512, depth=12, heads=8),
  "S deep/2": dict(patch=2, width=512, depth=16, heads=8),
  "M/4": dict(patch=4, width=768, depth=16, heads=12),
  "L/2": dict(patch=2, width=1024, depth=20, heads=16),
  "L/4": dict(patch=4, width=1024, depth=20, heads=16),
  "H/2": dict(patch=2, width=1152, depth=28, heads=16),
  "H/4": dict(patch=4, width=1152, depth=28, heads=16),
}


class SkipBlock(nn.Module):
  """A block whose input is a dense layer of the tokens and of those of an earlier block; without those, an ordinary
  one."""

  heads: int
  hidden: int
  eps: float
  dtype: Dtype
  param_dtype: Dtype

  @nn.compact
  def __call__(self, x: Tokens, skip: Tokens | None = None) -> tuple[Tokens, Tokens]:
    """Its output twice, for whatever comes next and for a skip."""
    options = dict(kernel_init=normal, dtype=self.dtype, param_dtype=self.param_dtype)
    x = over_batch(x)
    if skip is not None:
      x = Dense(x.shape[-1], name="skip", **options)(jnp.concatenate([x, skip], axis=-1))
    x = Block(self.heads, self.hidden, qkv_bias=False, eps=self.eps, name="block", **options)(x)
    return (x := over_batch(x)), x


class UViT(nn.Module):
  """The network of x_t, a time and a class.

  Attributes:
    patch: side of a patch, in pixels or latents.
    width: number of features of a token.
    depth: blocks without the one in the middle; even.
    heads: of the attention.
    classes: of a class-conditional network, one of which may stand for no class; None: it is unconditional.
    out_channels: of the output.
    eps: of the layer norms.
    remat: keep only each block's input for the backward pass, and compute the rest again.
  """

  patch: int
  width: int
  depth: int
  heads: int
  classes: int | None = None
  out_channels: int = 4
  eps: float = 1e-5
  remat: bool = False
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "batch height width channels"],
    t: Float[Array, "batch"],
    label: Int[Array, "batch"] | None = None,
    index: Int[Array, "batch"] | None = None,
  ) -> Float[Array, "batch height width {self.out_channels}"]:
    """The network's output at x [B, H, W, C] and times t [B], 0 .. 1000, in x's dtype; it has no dropout.

    Raises:
      UserError: patches that do not divide the picture; a label without `classes`, or the reverse; an odd depth; heads
        that do not divide the width.
    """
    check_label(label, self.classes)
    if self.depth < 2 or self.depth % 2:
      raise UserError(f"a U-ViT has as many blocks before its middle as after, not {self.depth} in all: change depth")
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    h = PatchEmbedding(self.width, self.patch, as_dense(normal), name="patches", **dtypes)(x)
    grid = h.shape[1:3]
    first = [cosines_first(t, self.width).astype(h.dtype)]
    if label is not None:
      first.insert(0, nn.Embed(self.classes, self.width, embedding_init=normal, name="class", **dtypes)(label))
    h = jnp.concatenate([*(token[:, None] for token in first), h.reshape(len(x), -1, self.width)], axis=1)
    h = h + positions(self, h.shape[1], self.width, self.param_dtype).astype(h.dtype)

    def block(name: str, looped: bool = True) -> nn.Module:
      kind = nn.remat(SkipBlock, prevent_cse=not looped) if self.remat else SkipBlock
      return kind(self.heads, 4 * self.width, self.eps, name=name, **dtypes)

    def turn(block: nn.Module, h: Array, skip: Array | None) -> tuple[Array, Array]:
      with in_a_loop():
        return block(h, skip)

    half = dict(variable_axes={"params": 0}, split_rngs={"params": True}, length=self.depth // 2)
    h, skips = nn.scan(turn, **half)(block("down"), h, None)
    h, _ = block("middle", looped=False)(h)
    h, _ = nn.scan(turn, **half)(block("up"), h, skips[::-1])

    h = LayerNorm(self.eps, name="norm", **dtypes)(h)[:, len(first) :]
    h = Dense(self.patch**2 * self.out_channels, kernel_init=normal, name="out", **dtypes)(h)
    h = put_together(h, grid, self.patch)
    return Conv(self.out_channels, name="smooth", **dtypes)(h).astype(x.dtype)
