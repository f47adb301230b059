"""Swin's weights in the layouts of timm (`SwinTransformer`) and of transformers (`SwinForImageClassification`).

The authors' files differ from timm's in the names of patch merging, which belongs to the previous stage there, and of
the head: `authors`.

timm's network equals ours only where windows divide the map, as they do at the sizes that weights are published for: in
shifted blocks it rolls the map and pads it then, where ours, as transformers', pads it first.
"""

from jaxgen.interop.layout import Entry, beside, dense, same, stacked
from jaxgen.interop.vit import affine, norm, patches, timm_block, transformers_block
from jaxgen.nn.vision.swin import Swin


def _stages(network: Swin, block) -> list[Entry]:
  """The entries of all stages. Two blocks are one step of a stage's scan.

  Args:
    network: the network.
    block: (stage, number, our path) -> the entries of one block.
  """
  entries = []
  for i, depth in enumerate(network.depths):
    ours = f"params/stage_{i}/blocks"
    pairs = [block(i, j, f"{ours}/regular") + block(i, j + 1, f"{ours}/shifted") for j in range(0, depth, 2)]
    entries.extend(stacked(pairs))
  return entries


def _constants(network: Swin, layers: str, *names: str) -> Entry:
  """Tables of each block that some files have and the network computes."""
  blocks = [f"{layers}.{i}.blocks.{j}" for i, depth in enumerate(network.depths) for j in range(depth)]
  return beside(*(f"{block}.{name}" for block in blocks for name in names))


def _merging(theirs: str, ours: str) -> list[Entry]:
  return [*norm(f"{theirs}.norm", f"{ours}/norm"), dense(f"{theirs}.reduction.weight", f"{ours}/reduction/kernel")]


def _timm(network: Swin, offset: int, head: str) -> list[Entry]:
  def block(stage: int, number: int, ours: str) -> list[Entry]:
    theirs = f"layers.{stage}.blocks.{number}"
    table = same(f"{theirs}.attn.relative_position_bias_table", f"{ours}/attention/relative")
    return [*timm_block(theirs, ours), table]

  entries = [*patches("patch_embed.proj"), *norm("patch_embed.norm", "params/patches_norm"), *_stages(network, block)]
  for i in range(1, len(network.depths)):
    entries.extend(_merging(f"layers.{i - offset}.downsample", f"params/merging_{i}"))
  constants = _constants(network, "layers", "attn.relative_position_index", "attn_mask")
  return [*entries, *norm("norm", "params/norm"), *affine(head, "params/head"), constants]


def timm(network: Swin) -> list[Entry]:
  return _timm(network, 0, "head.fc")


def authors(network: Swin) -> list[Entry]:
  return _timm(network, 1, "head")


def transformers(network: Swin) -> list[Entry]:
  def block(stage: int, number: int, ours: str) -> list[Entry]:
    theirs = f"swin.encoder.layers.{stage}.blocks.{number}"
    table = same(f"{theirs}.attention.self.relative_position_bias_table", f"{ours}/attention/relative")
    return [*transformers_block(theirs, ours, "self"), table]

  entries = [
    *patches("swin.embeddings.patch_embeddings.projection"),
    *norm("swin.embeddings.norm", "params/patches_norm"),
    *_stages(network, block),
    *norm("swin.layernorm", "params/norm"),
    *affine("classifier", "params/head"),
    _constants(network, "swin.encoder.layers", "attention.self.relative_position_index"),
  ]
  for i in range(1, len(network.depths)):
    entries.extend(_merging(f"swin.encoder.layers.{i - 1}.downsample", f"params/merging_{i}"))
  return entries
