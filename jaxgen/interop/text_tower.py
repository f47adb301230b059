"""CLIP's and SigLIP's text towers in transformers' layout."""

from jaxgen.interop.layout import Entry, beside, dense, same, stacked
from jaxgen.interop.vit import affine, norm, separate
from jaxgen.nn.joint.text import TextTower


def layers(theirs: str, ours: str, depth: int) -> list[Entry]:
  """transformers' `CLIPEncoderLayer`, which SigLIP has too, and both towers of each."""

  def block(i: int) -> list[Entry]:
    layer = f"{theirs}.{i}"
    return [
      *norm(f"{layer}.layer_norm1", f"{ours}/norm_attention"),
      *separate(tuple(f"{layer}.self_attn.{part}_proj" for part in "qkv"), f"{ours}/attention/qkv"),
      *affine(f"{layer}.self_attn.out_proj", f"{ours}/attention/out"),
      *norm(f"{layer}.layer_norm2", f"{ours}/norm_mlp"),
      *affine(f"{layer}.mlp.fc1", f"{ours}/mlp/in"),
      *affine(f"{layer}.mlp.fc2", f"{ours}/mlp/out"),
    ]

  return stacked([block(i) for i in range(depth)])


def transformers(network: TextTower, prefix: str = "text_model.", ours: str = "params") -> list[Entry]:
  """`CLIPTextModel` and `CLIPTextModelWithProjection` as their files name them, and SigLIP's text model.

  Args:
    prefix: "" for the names in memory of a `CLIPTextModel` of transformers 5, which its files do not have.
    ours: the tower's path among the network's variables.
  """
  entries = [
    same(f"{prefix}embeddings.token_embedding.weight", f"{ours}/embedding/table"),
    same(f"{prefix}embeddings.position_embedding.weight", f"{ours}/encoder/positions/table"),
    *layers(f"{prefix}encoder.layers", f"{ours}/encoder/stack/blocks", network.options.depth),
    *norm(f"{prefix}final_layer_norm", f"{ours}/encoder/norm"),
    beside(f"{prefix}embeddings.position_ids"),
  ]
  if network.projection is None:
    return entries
  if network.projection_bias:
    return [*entries, *affine(f"{prefix}head", f"{ours}/projection")]
  return [*entries, dense("text_projection.weight", f"{ours}/projection/kernel")]
