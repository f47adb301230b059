"""The encoder-decoder's weights in the layouts of transformers' Marian, BART, and those with the same names.

Tensors of `MarianMTModel.state_dict()` and its like.
"""

from jaxgen.interop.layout import Entry, beside, same, shaped, stacked
from jaxgen.interop.vit import affine, norm, separate
from jaxgen.nn.blocks.positions import Learned
from jaxgen.nn.sequence.transformer import EncoderDecoder


def transformers(network: EncoderDecoder) -> list[Entry]:
  """`MarianMTModel` and `BartForConditionalGeneration`; with norm="pre" `PegasusForConditionalGeneration`."""

  def block(side: str, i: int) -> list[Entry]:
    theirs, ours = f"model.{side}.layers.{i}", f"params/{side}/stack/blocks"
    part = lambda attention, names: tuple(f"{theirs}.{attention}.{name}_proj" for name in names)
    entries = [
      *separate(part("self_attn", "qkv"), f"{ours}/attention/qkv"),
      *affine(f"{theirs}.self_attn.out_proj", f"{ours}/attention/out"),
      *norm(f"{theirs}.self_attn_layer_norm", f"{ours}/norm_attention"),
      *affine(f"{theirs}.fc1", f"{ours}/mlp/in"),
      *affine(f"{theirs}.fc2", f"{ours}/mlp/out"),
      *norm(f"{theirs}.final_layer_norm", f"{ours}/norm_mlp"),
    ]
    if side == "decoder":
      entries += [
        *affine(f"{theirs}.encoder_attn.q_proj", f"{ours}/context/q"),
        *separate(part("encoder_attn", "kv"), f"{ours}/context/kv"),
        *affine(f"{theirs}.encoder_attn.out_proj", f"{ours}/context/out"),
        *norm(f"{theirs}.encoder_attn_layer_norm", f"{ours}/norm_context"),
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
      entries += norm(f"model.{side}.layernorm_embedding", f"params/{side}/embedding_norm")
    if options.norm == "pre":
      entries += norm(f"model.{side}.layer_norm", f"params/{side}/norm")
    entries += stacked([block(side, i) for i in range(depth)])
  return entries
