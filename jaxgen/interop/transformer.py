"""The layouts of transformers' BERT, and of its encoder-decoders: Marian, BART, and those with the same names.

Tensors of `BertModel.state_dict()` and `MarianMTModel.state_dict()`.
"""

from jaxgen.interop.layout import Entry, beside, dense, joined, same, shaped, stacked
from jaxgen.nn.blocks.positions import Learned
from jaxgen.nn.sequence.transformer import Encoder, EncoderDecoder


def _norm(theirs: str, ours: str) -> list[Entry]:
  return [same(f"{theirs}.weight", f"{ours}/scale"), same(f"{theirs}.bias", f"{ours}/bias")]


def _dense(theirs: str, ours: str) -> list[Entry]:
  return [dense(f"{theirs}.weight", f"{ours}/kernel"), same(f"{theirs}.bias", f"{ours}/bias")]


def _side_by_side(theirs: list[str], ours: str) -> list[Entry]:
  return [joined(parts) for parts in zip(*(_dense(name, ours) for name in theirs), strict=True)]


def bert(network: Encoder, prefix: str = "") -> list[Entry]:
  """`BertModel`; prefix: "bert." in the models that have a head."""

  def block(i: int) -> list[Entry]:
    theirs, ours = f"{prefix}encoder.layer.{i}", "params/encoder/stack/blocks"
    attention = [f"{theirs}.attention.self.{part}" for part in ("query", "key", "value")]
    return [
      *_side_by_side(attention, f"{ours}/attention/qkv"),
      *_dense(f"{theirs}.attention.output.dense", f"{ours}/attention/out"),
      *_norm(f"{theirs}.attention.output.LayerNorm", f"{ours}/norm_attention"),
      *_dense(f"{theirs}.intermediate.dense", f"{ours}/mlp/in"),
      *_dense(f"{theirs}.output.dense", f"{ours}/mlp/out"),
      *_norm(f"{theirs}.output.LayerNorm", f"{ours}/norm_mlp"),
    ]

  embeddings = f"{prefix}embeddings"
  types = [same(f"{embeddings}.token_type_embeddings.weight", "params/types/table")]
  return [
    same(f"{embeddings}.word_embeddings.weight", "params/embedding/table"),
    *(types if network.types else []),
    same(f"{embeddings}.position_embeddings.weight", "params/encoder/positions/table"),
    *_norm(f"{embeddings}.LayerNorm", "params/encoder/embedding_norm"),
    *_dense(f"{prefix}pooler.dense", "params/pooler"),
    *stacked([block(i) for i in range(network.options.depth)]),
    beside(f"{embeddings}.position_ids"),
  ]


def encoder_decoder(network: EncoderDecoder) -> list[Entry]:
  """`MarianMTModel` and `BartForConditionalGeneration`; with norm="pre" `PegasusForConditionalGeneration`."""

  def block(side: str, i: int) -> list[Entry]:
    theirs, ours = f"model.{side}.layers.{i}", f"params/{side}/stack/blocks"
    part = lambda attention, names: [f"{theirs}.{attention}.{name}_proj" for name in names]
    entries = [
      *_side_by_side(part("self_attn", "qkv"), f"{ours}/attention/qkv"),
      *_dense(f"{theirs}.self_attn.out_proj", f"{ours}/attention/out"),
      *_norm(f"{theirs}.self_attn_layer_norm", f"{ours}/norm_attention"),
      *_dense(f"{theirs}.fc1", f"{ours}/mlp/in"),
      *_dense(f"{theirs}.fc2", f"{ours}/mlp/out"),
      *_norm(f"{theirs}.final_layer_norm", f"{ours}/norm_mlp"),
    ]
    if side == "decoder":
      entries += [
        *_dense(f"{theirs}.encoder_attn.q_proj", f"{ours}/context/q"),
        *_side_by_side(part("encoder_attn", "kv"), f"{ours}/context/kv"),
        *_dense(f"{theirs}.encoder_attn.out_proj", f"{ours}/context/out"),
        *_norm(f"{theirs}.encoder_attn_layer_norm", f"{ours}/norm_context"),
      ]
    return entries

  options, count = network.options, network.vocabulary
  bias = same("final_logits_bias", "params/output_bias")
  entries = [same("model.shared.weight", "params/embedding/table")]
  entries += [shaped(bias, (1, count), (count,))] if network.output_bias else []
  # The shared table again, under its other names.
  entries += [beside("lm_head.weight", *(f"model.{side}.embed_tokens.weight" for side in ("encoder", "decoder")))]
  for side, depth in zip(("encoder", "decoder"), network.depths, strict=True):
    if getattr(options.absolute, "func", options.absolute) is Learned:
      entries.append(same(f"model.{side}.embed_positions.weight", f"params/{side}/positions/table"))
    else:  # a table of sinusoids
      entries.append(beside(f"model.{side}.embed_positions.weight"))
    if options.embedding_norm:
      entries += _norm(f"model.{side}.layernorm_embedding", f"params/{side}/embedding_norm")
    if options.norm == "pre":
      entries += _norm(f"model.{side}.layer_norm", f"params/{side}/norm")
    entries += stacked([block(side, i) for i in range(depth)])
  return entries
