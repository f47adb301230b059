"""DINOv2's weights in the layouts of its authors' files and of transformers' `Dinov2Model`.

Oquab et al. 2023, https://arxiv.org/abs/2304.07193. The published networks have positions of 37 x 37 patches, of
pictures of 518 x 518, and are used at other sizes: positions are then interpolated, and not in the same way everywhere.
transformers scales by the ratio of the sides; the authors' code, by (new + 0.1) / old, which torch.hub's users get.
"""

import math
from functools import partial

import numpy as np
from jaxtyping import Float

from jaxgen.interop.layout import Entry, beside, same, stacked
from jaxgen.interop.vit import affine, norm, patches, row, separate, table, timm_block
from jaxgen.nn.vision.vit import ViT

OFFSET = 0.1  # of the authors' interpolation


def cubic_matrix(old: int, new: int, scale: float) -> Float[np.ndarray, "{new} {old}"]:
  """PyTorch's bicubic interpolation without antialiasing: Keys' kernel with a = -3/4, borders repeated.

  Args:
    scale: new positions per old one; PyTorch takes the given one, and new / old where a size is given.
  """
  a, found = -0.75, np.zeros((new, old))
  position = (np.arange(new) + 0.5) / scale - 0.5
  start = np.floor(position).astype(int)
  for offset in range(-1, 3):
    x = np.abs(position - start - offset)
    inner = ((a + 2) * x - (a + 3)) * x * x + 1
    outer = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    np.add.at(found, (np.arange(new), np.clip(start + offset, 0, old - 1)), np.where(x <= 1, inner, outer))
  return found


def fit(positions: np.ndarray, shape: tuple[int, ...], offset: float) -> np.ndarray:
  """Positions [1, 1 + old^2, width] of a class token and square pictures, for square pictures of another size.

  Args:
    offset: the number that is added to the new side before the scale is computed.
  """
  old, new = (math.isqrt(n - 1) for n in (positions.shape[1], shape[1]))
  if old**2 + 1 != positions.shape[1] or new**2 + 1 != shape[1]:
    return positions  # another network's: `layout.read` raises the error
  m = cubic_matrix(old, new, (new + offset) / old)
  grid = positions[0, 1:].reshape(old, old, -1).astype(np.float64)
  grid = np.einsum("ph,qw,hwc->pqc", m, m, grid, optimize=True)  # h, w: old; p, q: new
  return np.concatenate([positions[:, :1], grid.reshape(1, new * new, -1).astype(positions.dtype)], axis=1)


def _positions(theirs: str, width: int, offset: float) -> Entry:
  return table(theirs, "params/positions", width, 1)._replace(fit=partial(fit, offset=offset))


def hub(network: ViT) -> list[Entry]:
  """The authors' files, dinov2_vitl14_pretrain.pth for one: ViT with `layer_scale`, without a head."""
  return [
    *patches("patch_embed.proj"),
    _positions("pos_embed", network.width, OFFSET),
    row("cls_token", "params/class_token", network.width),
    beside("mask_token"),
    *stacked(
      [
        [
          *timm_block(f"blocks.{i}", "params/encoder/blocks"),
          same(f"blocks.{i}.ls1.gamma", "params/encoder/blocks/scale_attention/scale"),
          same(f"blocks.{i}.ls2.gamma", "params/encoder/blocks/scale_mlp/scale"),
        ]
        for i in range(network.depth)
      ]
    ),
    *norm("norm", "params/norm"),
  ]


def transformers(network: ViT) -> list[Entry]:
  """`Dinov2Model`."""
  return [
    *patches("embeddings.patch_embeddings.projection"),
    _positions("embeddings.position_embeddings", network.width, 0.0),
    row("embeddings.cls_token", "params/class_token", network.width),
    beside("embeddings.mask_token"),
    *stacked([_block(f"encoder.layer.{i}") for i in range(network.depth)]),
    *norm("layernorm", "params/norm"),
  ]


def _block(theirs: str) -> list[Entry]:
  """transformers' `Dinov2Layer`."""
  ours = "params/encoder/blocks"
  attention = tuple(f"{theirs}.attention.attention.{part}" for part in ("query", "key", "value"))
  return [
    *norm(f"{theirs}.norm1", f"{ours}/norm_attention"),
    *separate(attention, f"{ours}/attention/qkv"),
    *affine(f"{theirs}.attention.output.dense", f"{ours}/attention/out"),
    same(f"{theirs}.layer_scale1.lambda1", f"{ours}/scale_attention/scale"),
    *norm(f"{theirs}.norm2", f"{ours}/norm_mlp"),
    *affine(f"{theirs}.mlp.fc1", f"{ours}/mlp/in"),
    *affine(f"{theirs}.mlp.fc2", f"{ours}/mlp/out"),
    same(f"{theirs}.layer_scale2.lambda1", f"{ours}/scale_mlp/scale"),
  ]
