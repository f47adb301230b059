"""CaiT's weights in the layout of timm, which is the authors' as well."""

from jaxgen.interop.layout import Entry, same, stacked
from jaxgen.interop.vit import affine, norm, patches, row, separate, table, timm_block
from jaxgen.nn.vision.cait import CaiT


def _gains(theirs: str, ours: str) -> list[Entry]:
  return [
    same(f"{theirs}.gamma_1", f"{ours}/scale_attention/scale"),
    same(f"{theirs}.gamma_2", f"{ours}/scale_mlp/scale"),
  ]


def _block(theirs: str, ours: str) -> list[Entry]:
  return [
    *timm_block(theirs, ours),
    *affine(f"{theirs}.attn.proj_l", f"{ours}/attention/before/dense"),
    *affine(f"{theirs}.attn.proj_w", f"{ours}/attention/after/dense"),
    *_gains(theirs, ours),
  ]


def _class_block(theirs: str, ours: str) -> list[Entry]:
  return [
    *norm(f"{theirs}.norm1", f"{ours}/norm_attention"),
    *affine(f"{theirs}.attn.q", f"{ours}/attention/q"),
    *separate((f"{theirs}.attn.k", f"{theirs}.attn.v"), f"{ours}/attention/kv"),
    *affine(f"{theirs}.attn.proj", f"{ours}/attention/out"),
    *norm(f"{theirs}.norm2", f"{ours}/norm_mlp"),
    *affine(f"{theirs}.mlp.fc1", f"{ours}/mlp/in"),
    *affine(f"{theirs}.mlp.fc2", f"{ours}/mlp/out"),
    *_gains(theirs, ours),
  ]


def timm(network: CaiT) -> list[Entry]:
  entries = [
    *patches("patch_embed.proj"),
    table("pos_embed", "params/positions", network.width, 0),
    row("cls_token", "params/class_token", network.width),
    *stacked([_block(f"blocks.{i}", "params/encoder/blocks") for i in range(network.depth)]),
    *norm("norm", "params/norm"),
    *affine("head", "params/head"),
  ]
  for i in range(network.class_depth):
    entries.extend(_class_block(f"blocks_token_only.{i}", f"params/class_block_{i}"))
  return entries
