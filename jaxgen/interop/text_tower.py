"""CLIP's and SigLIP's text towers in transformers' layout, and CLIP's in OpenAI's, which is OpenCLIP's too."""

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


def resblocks(theirs: str, ours: str, depth: int) -> list[Entry]:
  """OpenAI's `ResidualAttentionBlock`."""

  def block(i: int) -> list[Entry]:
    layer = f"{theirs}.{i}"
    return [
      *norm(f"{layer}.ln_1", f"{ours}/norm_attention"),
      dense(f"{layer}.attn.in_proj_weight", f"{ours}/attention/qkv/kernel"),
      same(f"{layer}.attn.in_proj_bias", f"{ours}/attention/qkv/bias"),
      *affine(f"{layer}.attn.out_proj", f"{ours}/attention/out"),
      *norm(f"{layer}.ln_2", f"{ours}/norm_mlp"),
      *affine(f"{layer}.mlp.c_fc", f"{ours}/mlp/in"),
      *affine(f"{layer}.mlp.c_proj", f"{ours}/mlp/out"),
    ]

  return stacked([block(i) for i in range(depth)])


def open_clip(network: TextTower, prefix: str = "", ours: str = "params") -> list[Entry]:
  """OpenCLIP's text tower, as it stands in single files of Stable Diffusion 2 and XL.

  Args:
    prefix: of the names.
    ours: the tower's path among the network's variables.
  """
  entries = [
    same(f"{prefix}token_embedding.weight", f"{ours}/embedding/table"),
    same(f"{prefix}positional_embedding", f"{ours}/encoder/positions/table"),
    *resblocks(f"{prefix}transformer.resblocks", f"{ours}/encoder/stack/blocks", network.options.depth),
    *norm(f"{prefix}ln_final", f"{ours}/encoder/norm"),
  ]
  return (
    entries if network.projection is None else [*entries, same(f"{prefix}text_projection", f"{ours}/projection/kernel")]
  )
