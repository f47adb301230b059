"""ViT's and DeiT's weights in the layouts of timm and of transformers.

As in files: `VisionTransformer` and `VisionTransformerDistilled` of timm, `ViTForImageClassification` and
`DeiTForImageClassificationWithTeacher` of transformers. The entries that the families built on ViT share are here as
well.
"""

import math

import numpy as np

from jaxgen.interop.layout import Entry, conv, dense, joined, same, shaped, stacked
from jaxgen.nn.vision.vit import ViT, resize_positions


def affine(theirs: str, ours: str) -> list[Entry]:
  """A dense layer with its bias."""
  return [dense(f"{theirs}.weight", f"{ours}/kernel"), same(f"{theirs}.bias", f"{ours}/bias")]


def norm(theirs: str, ours: str) -> list[Entry]:
  return [same(f"{theirs}.weight", f"{ours}/scale"), same(f"{theirs}.bias", f"{ours}/bias")]


def row(theirs: str, ours: str, width: int) -> Entry:
  """A single token, [1, 1, width] there and [1, width] here."""
  return shaped(same(theirs, ours), (1, 1, width), (1, width))


def table(theirs: str, ours: str, width: int, tokens: int) -> Entry:
  """Positions, [1, T, width] there and [T, width] here, the first ones of `tokens` that are no patches.

  Those of a square picture of another size are resized to a square picture.
  """

  def fit(positions: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    sides = [math.isqrt(n - tokens) for n in (positions.shape[1], shape[1])]
    square = all(side**2 == n - tokens for side, n in zip(sides, (positions.shape[1], shape[1]), strict=True))
    if not square or positions.shape[2] != width:
      return positions
    old, new = ((side, side) for side in sides)
    return np.asarray(resize_positions(positions[0], old, new))[None]

  return shaped(same(theirs, ours), (1, -1, width), (-1, width))._replace(fit=fit)


def patches(theirs: str) -> list[Entry]:
  return [conv(f"{theirs}.weight", "params/patches/kernel"), same(f"{theirs}.bias", "params/patches/bias")]


def separate(names: tuple[str, ...], ours: str, bias: bool = True) -> list[Entry]:
  """Dense layers side by side in one of ours, with their biases."""
  kernels = joined([dense(f"{name}.weight", f"{ours}/kernel") for name in names])
  return [kernels, *([joined([same(f"{name}.bias", f"{ours}/bias") for name in names])] if bias else [])]


def timm_block(theirs: str, ours: str, qkv_bias: bool = True) -> list[Entry]:
  """timm's `Block` and ours, `nn.blocks.attention.Block`."""
  return [
    *norm(f"{theirs}.norm1", f"{ours}/norm_attention"),
    *affine(f"{theirs}.attn.qkv", f"{ours}/attention/qkv")[: 2 if qkv_bias else 1],
    *affine(f"{theirs}.attn.proj", f"{ours}/attention/out"),
    *norm(f"{theirs}.norm2", f"{ours}/norm_mlp"),
    *affine(f"{theirs}.mlp.fc1", f"{ours}/mlp/in"),
    *affine(f"{theirs}.mlp.fc2", f"{ours}/mlp/out"),
  ]


def transformers_block(theirs: str, ours: str, attention: str) -> list[Entry]:
  """The layers of the transformers library, under the names of its files.

  Args:
    attention: the name of the part with query, key and value.
  """
  return [
    *norm(f"{theirs}.layernorm_before", f"{ours}/norm_attention"),
    *separate(
      tuple(f"{theirs}.attention.{attention}.{part}" for part in ("query", "key", "value")), f"{ours}/attention/qkv"
    ),
    *affine(f"{theirs}.attention.output.dense", f"{ours}/attention/out"),
    *norm(f"{theirs}.layernorm_after", f"{ours}/norm_mlp"),
    *affine(f"{theirs}.intermediate.dense", f"{ours}/mlp/in"),
    *affine(f"{theirs}.output.dense", f"{ours}/mlp/out"),
  ]


def _tokens(network: ViT) -> int:
  """The number of the network's tokens that are not patches."""
  return (network.pool == "class") + network.distilled


def timm(network: ViT) -> list[Entry]:
  entries = [
    *patches("patch_embed.proj"),
    table("pos_embed", "params/positions", network.width, _tokens(network)),
    *stacked([timm_block(f"blocks.{i}", "params/encoder/blocks") for i in range(network.depth)]),
    *norm("norm", "params/norm"),
    *affine("head", "params/head"),
  ]
  if network.pool == "class":
    entries.append(row("cls_token", "params/class_token", network.width))
  if network.distilled:
    entries.append(row("dist_token", "params/distillation_token", network.width))
    entries.extend(affine("head_dist", "params/distillation_head"))
  return entries


def transformers(network: ViT) -> list[Entry]:
  """For a class token, which all of theirs have."""
  model = "deit" if network.distilled else "vit"
  entries = [
    *patches(f"{model}.embeddings.patch_embeddings.projection"),
    table(f"{model}.embeddings.position_embeddings", "params/positions", network.width, _tokens(network)),
    row(f"{model}.embeddings.cls_token", "params/class_token", network.width),
    *stacked(
      [
        transformers_block(f"{model}.encoder.layer.{i}", "params/encoder/blocks", "attention")
        for i in range(network.depth)
      ]
    ),
    *norm(f"{model}.layernorm", "params/norm"),
  ]
  if not network.distilled:
    return [*entries, *affine("classifier", "params/head")]
  return [
    *entries,
    row("deit.embeddings.distillation_token", "params/distillation_token", network.width),
    *affine("cls_classifier", "params/head"),
    *affine("distillation_classifier", "params/distillation_head"),
  ]
