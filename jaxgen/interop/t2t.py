"""T2T-ViT's weights in the authors' layout (https://github.com/yitu-opensource/T2T-ViT)."""

from jaxgen.interop.layout import Entry, dense, same, stacked
from jaxgen.interop.vit import affine, norm, row, table, timm_block
from jaxgen.nn.vision.t2t import T2TViT


def _transformer(theirs: str, ours: str) -> list[Entry]:
  return [
    *norm(f"{theirs}.norm1", f"{ours}/norm_attention"),
    dense(f"{theirs}.attn.qkv.weight", f"{ours}/qkv/kernel"),
    *affine(f"{theirs}.attn.proj", f"{ours}/out"),
    *norm(f"{theirs}.norm2", f"{ours}/norm_mlp"),
    *affine(f"{theirs}.mlp.fc1", f"{ours}/mlp/in"),
    *affine(f"{theirs}.mlp.fc2", f"{ours}/mlp/out"),
  ]


def _performer(theirs: str, ours: str) -> list[Entry]:
  return [
    same(f"{theirs}.w", f"{ours}/directions"),
    *norm(f"{theirs}.norm1", f"{ours}/norm_attention"),
    *affine(f"{theirs}.kqv", f"{ours}/kqv"),
    *affine(f"{theirs}.proj", f"{ours}/out"),
    *norm(f"{theirs}.norm2", f"{ours}/norm_mlp"),
    *affine(f"{theirs}.mlp.0", f"{ours}/mlp/in"),
    *affine(f"{theirs}.mlp.2", f"{ours}/mlp/out"),
  ]


def authors(network: T2TViT) -> list[Entry]:
  token = {"transformer": _transformer, "performer": _performer}[network.token]
  entries = [
    *affine("tokens_to_token.project", "params/project"),
    table("pos_embed", "params/positions", network.width, 1),
    row("cls_token", "params/class_token", network.width),
    *stacked([timm_block(f"blocks.{i}", "params/encoder/blocks", qkv_bias=False) for i in range(network.depth)]),
    *norm("norm", "params/norm"),
    *affine("head", "params/head"),
  ]
  for i in range(len(network.splits) - 1):
    entries.extend(token(f"tokens_to_token.attention{i + 1}", f"params/token_{i}"))
  return entries
