"""ProphetNet's weights in the layout of transformers' `ProphetNetForConditionalGeneration.state_dict()`."""

from jaxgen.interop.layout import Entry, beside, same, stacked
from jaxgen.interop.vit import affine, norm, separate
from jaxgen.nn.sequence.prophetnet import ProphetNet


def transformers(network: ProphetNet) -> list[Entry]:
  """`ProphetNetForConditionalGeneration`."""

  def block(side: str, i: int) -> list[Entry]:
    theirs, ours = f"prophetnet.{side}.layers.{i}", f"params/{side}/stack/blocks"
    part = lambda attention, *names: tuple(f"{theirs}.{attention}.{name}_proj" for name in names)
    entries = [
      *separate(part("self_attn", "query", "key", "value"), f"{ours}/attention/qkv"),
      *affine(f"{theirs}.self_attn.out_proj", f"{ours}/attention/out"),
      *norm(f"{theirs}.self_attn_layer_norm", f"{ours}/norm_attention"),
      *affine(f"{theirs}.feed_forward.intermediate", f"{ours}/mlp/in"),
      *affine(f"{theirs}.feed_forward.output", f"{ours}/mlp/out"),
      *norm(f"{theirs}.feed_forward_layer_norm", f"{ours}/norm_mlp"),
    ]
    if side == "decoder":
      entries += [
        *affine(f"{theirs}.self_attn.relative_pos_embeddings", f"{ours}/attention/relative"),
        *affine(f"{theirs}.cross_attn.query_proj", f"{ours}/context/q"),
        *separate(part("cross_attn", "key", "value"), f"{ours}/context/kv"),
        *affine(f"{theirs}.cross_attn.out_proj", f"{ours}/context/out"),
        *norm(f"{theirs}.cross_attn_layer_norm", f"{ours}/norm_context"),
      ]
    return entries

  sides = ("encoder", "decoder")
  entries = [
    same("prophetnet.word_embeddings.weight", "params/embedding/table"),
    # The same table under its other names.
    beside("lm_head.weight", *(f"prophetnet.{side}.word_embeddings.weight" for side in sides)),
    same("prophetnet.decoder.ngram_embeddings.weight", "params/decoder/ngram"),
  ]
  for side in sides:
    entries.append(same(f"prophetnet.{side}.position_embeddings.weight", f"params/{side}/positions/table"))
    entries += norm(f"prophetnet.{side}.embeddings_layer_norm", f"params/{side}/embedding_norm")
    entries += stacked([block(side, i) for i in range(network.options.depth)])
  return entries
