"""Masked autoencoders of pictures: MAE, whose encoder gets only the visible patches, and SimMIM, whose encoder gets
all.

MAE: He et al. 2021, https://arxiv.org/abs/2111.06377, section 3 and Appendix A.1. SimMIM: Xie et al. 2021,
https://arxiv.org/abs/2111.09886, section 3.

    MAE(ViT(**SIZES["B/16"], fixed_positions=True))                   111,907,840 parameters on 224 x 224 pictures
    MAE(ViT(**SIZES["L/16"], fixed_positions=True))                   329,541,888
    MAE(ViT(**SIZES["H/14"], fixed_positions=True))                   657,074,508
    MAE(ViT(2, 64, 4, 4, fixed_positions=True), 32, 2, 4)             8x8 digits in patches of 2x2

The numbers have both tables of fixed positions, as transformers counts them; they have no gradient. The encoder is
the submodule "backbone", a ViT like any other: `features` reads it, without masking.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int, Num

from jaxgen.core.errors import UserError
from jaxgen.nn.blocks.attention import Block, Blocks, Index, normal, xavier
from jaxgen.nn.blocks.layers import Dense, LayerNorm
from jaxgen.nn.blocks.modulation import put_together
from jaxgen.nn.vision.vit import Pictures, ViT, grid_positions, positions, taken_apart

Noise = Float[Array, "batch patches"]
Patches = Float[Array, "batch patches values"]


class Masking(NamedTuple):
  """Which patches are seen.

  Attributes:
    visible: the patches that are seen, in the order of the noise.
    restore: where patch i stands among the visible ones followed by the masked ones.
    mask: 1 for masked patches, 0 for visible ones.
  """

  visible: Int[Array, "batch seen"]
  restore: Int[Array, "batch patches"]
  mask: Float[Array, "batch patches"]


def visible_patches(patches: int, mask_ratio: float) -> int:
  """int(patches (1 - mask_ratio)), as the authors round it.

  Raises:
    UserError: the ratio lies outside [0, 1), or no patch is left.
  """
  seen = int(patches * (1 - mask_ratio)) if 0 <= mask_ratio < 1 else 0
  if seen < 1:
    raise UserError(
      f"a mask ratio of {mask_ratio:g} leaves none of {patches} patches to be seen: it is 0 or more and below "
      f"{1 - 1 / patches:.3g}"
    )
  return seen


def random_masking(noise: Noise, mask_ratio: float) -> Masking:
  """Each example's patches with the smallest noise are seen: Appendix A.1, "shuffle and unshuffle".

  Raises:
    UserError: see `visible_patches`.
  """
  seen = visible_patches(noise.shape[1], mask_ratio)
  shuffle = jnp.argsort(noise, axis=1)
  restore = jnp.argsort(shuffle, axis=1)
  return Masking(shuffle[:, :seen], restore, (restore >= seen).astype(noise.dtype))


def patchify(x: Num[Array, "batch height width channels"], patch: int) -> Num[Array, "batch patches values"]:
  """Pictures as rows of patches, whose values are rows, columns and channels of pixels.

  Raises:
    UserError: the patch does not divide the picture's sides.
  """
  squares = taken_apart(x, patch)
  return squares.reshape(len(x), -1, squares.shape[-1])


def unpatchify(x: Num[Array, "batch patches values"], shape: tuple[int, int, int], patch: int) -> Num[Array, "b h w c"]:
  """The pictures of this (height, width, channels) that `patchify` makes these patches of."""
  return put_together(x, (shape[0] // patch, shape[1] // patch), patch)


class MAE(nn.Module):
  """A ViT as encoder, and a light Transformer that reconstructs the masked patches.

  Attributes:
    backbone: the encoder, with fixed positions as in the paper, or learned ones.
    width, depth, heads: the decoder's; its MLPs are 4 times as wide.
    eps: of the decoder's layer normalisations.
  """

  backbone: ViT
  width: int = 512
  depth: int = 8
  heads: int = 16
  eps: float = 1e-6

  def features(self, x: Pictures, index: Index = None) -> Float[Array, "batch features"]:
    """The encoder's features of the whole picture: its class token, or the mean over patches."""
    return self.backbone.features(x, index)

  @nn.compact
  def __call__(
    self, x: Pictures, noise: Noise, mask_ratio: float = 0.75, index: Index = None
  ) -> tuple[Patches, Float[Array, "batch patches"]]:
    """(the predicted patches, the mask: 1 where a patch was not seen).

    Args:
      x: the pictures.
      noise: a number for each patch; those with the smallest are seen.
      mask_ratio: share of the patches that are not.
      index: the examples' positions in the global batch, in training.

    Raises:
      UserError: see `visible_patches`.
    """
    vit = self.backbone
    dtypes = dict(dtype=vit.dtype, param_dtype=vit.param_dtype)
    masking = random_masking(noise, mask_ratio)
    rows, columns = (side // vit.patch for side in x.shape[1:3])
    h = vit.tokens(x, index, visible=masking.visible)
    first = h.shape[1] - masking.visible.shape[1]  # the class token
    h = Dense(self.width, kernel_init=xavier, name="decoder_embed", **dtypes)(h)
    token = self.param("mask_token", normal, (1, self.width), vit.param_dtype).astype(h.dtype)
    rest = jnp.broadcast_to(token, (len(h), rows * columns + first - h.shape[1], self.width))
    patches = jnp.concatenate([h[:, first:], rest], axis=1)
    patches = jnp.take_along_axis(patches, masking.restore[..., None], axis=1)
    h = jnp.concatenate([h[:, :first], patches], axis=1)
    table = positions(self, h.shape[1], self.width, vit.param_dtype, grid_positions(rows, columns, first))
    h = h + jax.lax.stop_gradient(table).astype(h.dtype)

    def block(name: str) -> nn.Module:
      return Block(self.heads, 4 * self.width, eps=self.eps, kernel_init=xavier, name=name, **dtypes)

    h = Blocks(block, self.depth, remat=vit.remat, unroll=vit.unroll, name="decoder")(h, index)
    h = LayerNorm(self.eps, name="decoder_norm", **dtypes)(h)
    out = Dense(vit.patch**2 * x.shape[-1], kernel_init=xavier, name="decoder_pred", **dtypes)(h)
    return out[:, first:], masking.mask


class SimMIM(nn.Module):
  """A ViT with a learned token instead of each masked patch, and one linear layer that predicts the pixels.

  Attributes:
    backbone: the encoder.
  """

  backbone: ViT

  def features(self, x: Pictures, index: Index = None) -> Float[Array, "batch features"]:
    """The encoder's features of the whole picture."""
    return self.backbone.features(x, index)

  @nn.compact
  def __call__(
    self, x: Pictures, noise: Noise, mask_ratio: float = 0.6, index: Index = None
  ) -> tuple[Patches, Float[Array, "batch patches"]]:
    """(the predicted patches, the mask); see `MAE`."""
    vit: Any = self.backbone
    mask = random_masking(noise, mask_ratio).mask
    h = vit.tokens(x, index, masked=mask > 0)[:, -noise.shape[1] :]
    options = dict(dtype=vit.dtype, param_dtype=vit.param_dtype)
    return Dense(vit.patch**2 * x.shape[-1], kernel_init=xavier, name="pixels", **options)(h), mask
