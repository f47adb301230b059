"""The encoder's weights in the layout of transformers' BERT, `BertModel.state_dict()`."""

from jaxgen.interop.layout import Entry, beside, same, stacked
from jaxgen.interop.vit import affine, norm, separate
from jaxgen.nn.sequence.transformer import Encoder


def transformers(network: Encoder, prefix: str = "") -> list[Entry]:
  """`BertModel`; prefix: "bert." in the models that have a head."""

  def block(i: int) -> list[Entry]:
    theirs, ours = f"{prefix}encoder.layer.{i}", "params/encoder/stack/blocks"
    attention = tuple(f"{theirs}.attention.self.{part}" for part in ("query", "key", "value"))
    return [
      *separate(attention, f"{ours}/attention/qkv"),
      *affine(f"{theirs}.attention.output.dense", f"{ours}/attention/out"),
      *norm(f"{theirs}.attention.output.LayerNorm", f"{ours}/norm_attention"),
      *affine(f"{theirs}.intermediate.dense", f"{ours}/mlp/in"),
      *affine(f"{theirs}.output.dense", f"{ours}/mlp/out"),
      *norm(f"{theirs}.output.LayerNorm", f"{ours}/norm_mlp"),
    ]

  embeddings = f"{prefix}embeddings"
  types = [same(f"{embeddings}.token_type_embeddings.weight", "params/types/table")]
  return [
    same(f"{embeddings}.word_embeddings.weight", "params/embedding/table"),
    *(types if network.types else []),
    same(f"{embeddings}.position_embeddings.weight", "params/encoder/positions/table"),
    *norm(f"{embeddings}.LayerNorm", "params/encoder/embedding_norm"),
    *affine(f"{prefix}pooler.dense", "params/pooler"),
    *stacked([block(i) for i in range(network.options.depth)]),
    beside(f"{embeddings}.position_ids"),
  ]
