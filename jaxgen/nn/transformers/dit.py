"""DiT, a diffusion model's Transformer: Peebles and Xie 2022, https://arxiv.org/abs/2212.09748, sections 3.2 and 4.

Patches of a picture or its latents are tokens; time and class are one vector, of which each block's layer norms and
gates are made (adaLN-zero, see `nn.blocks.modulation`). SiT (Ma et al. 2024, https://arxiv.org/abs/2401.08740) is this
network with the velocity of an interpolant as its output: `jaxgen train sit_digits`.

    DiT(**SIZES["XL/2"])              ImageNet 256, latents 32 x 32 x 4          674,834,720
    DiT(..., frames=2)                clips, or their latents: patches of 2 frames each, attention over space and time

The authors count 675,129,632 parameters of XL/2: theirs has the 256 x 1152 fixed positions as a parameter.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from jaxgen.core.errors import UserError
from jaxgen.nn.blocks.activations import gelu_tanh
from jaxgen.nn.blocks.attention import MLP, Attention, Blocks, Index, Tokens, normal, xavier
from jaxgen.nn.blocks.embeddings import check_label, cosines_first, timestep_embedding
from jaxgen.nn.blocks.modulation import Embedding, Modulation, Readout, as_dense, gated, modulated
from jaxgen.nn.blocks.positions import over_grid, sinusoids
from jaxgen.nn.vision.vit import PatchEmbedding

Dtype = Any
FREQUENCIES = 256  # numbers of a time's sinusoids

# "Size/patch". Trained parameters are for latents of 4 channels, 1000 classes and learned variances.
_WIDTHS = {
  "S": dict(width=384, depth=12, heads=6),
  "B": dict(width=768, depth=12, heads=12),
  "L": dict(width=1024, depth=24, heads=16),
  "XL": dict(width=1152, depth=28, heads=16),
}
SIZES = {f"{size}/{patch}": dict(patch=patch, **widths) for size, widths in _WIDTHS.items() for patch in (2, 4, 8)}


def to_the_last(t: Float[Array, "batch"], dim: int) -> Float[Array, "batch {dim}"]:
  """diffusers' sinusoids of a time in DiT: frequencies fall to 1 / 10,000 itself, where the authors' stop before it."""
  return jnp.roll(timestep_embedding(t, dim), dim // 2, axis=-1)


class DiTBlock(nn.Module):
  """Attention and MLP, each on a residual branch that is normalised, and scaled, shifted and gated by its condition.

  Attributes:
    eps: of the norm before the MLP; attention's is 1e-6.
  """

  heads: int
  hidden: int
  eps: float = 1e-6
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(
    self, x: Tokens, index: Index = None, drop_path: float = 0.0, *, told: Float[Array, "batch features"]
  ) -> Tokens:
    """No branch is dropped: `index` and `drop_path`, which `Blocks` gives, change nothing."""
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    parts = Modulation(6, name="modulation", **dtypes)(told)
    shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = parts
    attention = Attention(self.heads, name="attention", **dtypes)
    x = x + gated(gate_1, attention(modulated(x, shift_1, scale_1)))
    mlp = MLP(self.hidden, gelu_tanh, name="mlp", **dtypes)
    return x + gated(gate_2, mlp(modulated(x, shift_2, scale_2, self.eps)))


class DiT(nn.Module):
  """The network of x_t, a time and a class.

  Attributes:
    patch: side of a patch, in pixels or latents.
    width: number of features of a token.
    heads: of the attention.
    classes: of a class-conditional network, one of which may stand for no class; None: it is unconditional.
    out_channels: twice the picture's where the variances are learned.
    hidden: width of the MLPs' hidden layers; default 4 x width.
    eps: of the norms before MLPs.
    sinusoids: (t, dim) -> the time as numbers.
    remat: keep only each block's input for the backward pass, and compute the rest again.
    unroll: the number of blocks in one turn of the loop, see `Blocks`.
    frames: of a clip's patch. A clip's tokens are those of its stretches of so many frames, one stretch after the
      other, and all see each other. A stretch's position is added as sinusoids less those of the first one, so that a
      clip of one stretch is an image with its frames as channels, and a network of clips may start from one of images.
  """

  patch: int
  width: int
  depth: int
  heads: int
  classes: int | None = 1001
  out_channels: int = 8
  hidden: int | None = None
  eps: float = 1e-6
  sinusoids: Callable[[Array, int], Array] = cosines_first
  remat: bool = False
  unroll: int = 1
  frames: int = 1
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "batch *time height width channels"],
    t: Float[Array, "batch"],
    label: Int[Array, "batch"] | None = None,
    index: Int[Array, "batch"] | None = None,
  ) -> Float[Array, "batch *time height width {self.out_channels}"]:
    """The network's output at x [B, H, W, C], or clips [B, T, H, W, C], and times t [B], 0 .. 1000, in x's dtype.

    There is no dropout.

    Raises:
      UserError: patches that do not divide the picture or the clip; a label without `classes`, or the reverse; heads
        that do not divide the width.
    """
    check_label(label, self.classes)
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    told = Embedding(self.width, name="time", **dtypes)(self.sinusoids(t, FREQUENCIES))
    if label is not None:
      told += nn.Embed(self.classes, self.width, embedding_init=normal, name="class", **dtypes)(label)

    stretches = in_stretches(x, self.frames)
    count, exact = len(stretches) // len(x), jnp.promote_types(self.dtype, jnp.float32)
    h = PatchEmbedding(self.width, self.patch, as_dense(xavier), name="patches", **dtypes)(stretches)
    grid = h.shape[1:3]
    at = over_grid(jnp.arange(grid[0]), jnp.arange(grid[1]), self.width, exact)
    if count > 1:
      later = sinusoids(jnp.arange(count), self.width, dtype=exact)
      at = (later - later[0])[:, None] + at
    h = h.reshape(len(x), -1, self.width) + at.reshape(-1, self.width).astype(h.dtype)

    def block(name: str) -> nn.Module:
      return DiTBlock(self.heads, self.hidden or 4 * self.width, self.eps, name=name, **dtypes)

    h = Blocks(block, self.depth, remat=self.remat, unroll=self.unroll, name="body")(h, told=told)
    h, told = h.reshape(len(stretches), -1, self.width), jnp.repeat(told, count, axis=0)
    y = Readout(self.patch, self.frames * self.out_channels, name="readout", **dtypes)(h, told, grid)
    return from_stretches(y, x.shape[:-1], self.frames).astype(x.dtype)


def in_stretches(x: Float[Array, "batch *time height width channels"], frames: int) -> Float[Array, "rows h w c"]:
  """Images as they are; clips [B, T, H, W, C] as [B T / F, H, W, F C], each stretch of F frames an image.

  Raises:
    UserError: the frames do not divide the clip, or these are images and F is not 1.
  """
  time = x.shape[1] if x.ndim == 5 else 1
  if time % frames:
    raise UserError(f"patches of {frames} frames do not divide {time}: change the patches or the clips")
  if x.ndim == 4:
    return x
  h, w, c = x.shape[2:]
  return jnp.moveaxis(x.reshape(-1, frames, h, w, c), 1, 3).reshape(-1, h, w, frames * c)


def from_stretches(y: Float[Array, "rows h w c"], shape: tuple[int, ...], frames: int) -> Float[Array, "batch *rest"]:
  """The way back from `in_stretches`, to [*shape, C]."""
  if len(shape) == 3:
    return y
  rows, h, w, c = y.shape
  return jnp.moveaxis(y.reshape(rows, h, w, frames, c // frames), 3, 1).reshape(*shape, c // frames)
