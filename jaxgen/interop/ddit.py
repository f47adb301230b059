"""The weights of SEDD's and MDLM's Transformer in the layout of MDLM's files."""

from jaxgen.interop.dit import embedding
from jaxgen.interop.layout import Entry, beside, dense, same, stacked
from jaxgen.interop.vit import affine
from jaxgen.nn.transformers.ddit import DDiT

BLOCKS = "params/body/blocks"


def authors(network: DDiT) -> list[Entry]:
  """For a network without classes whose `vocabulary` includes the mask, because theirs has logits of all states."""

  def block(i: int) -> list[Entry]:
    theirs = f"blocks.{i}"
    return [
      same(f"{theirs}.norm1.weight", f"{BLOCKS}/norm_attention/scale"),
      dense(f"{theirs}.attn_qkv.weight", f"{BLOCKS}/attention/qkv/kernel"),
      dense(f"{theirs}.attn_out.weight", f"{BLOCKS}/attention/out/kernel"),
      same(f"{theirs}.norm2.weight", f"{BLOCKS}/norm_mlp/scale"),
      *affine(f"{theirs}.mlp.0", f"{BLOCKS}/mlp/in"),
      *affine(f"{theirs}.mlp.2", f"{BLOCKS}/mlp/out"),
      *affine(f"{theirs}.adaLN_modulation", f"{BLOCKS}/modulation"),
    ]

  return [
    same("vocab_embed.embedding", "params/embedding/embedding"),
    *embedding("sigma_map.mlp.0", "sigma_map.mlp.2", "params/time"),
    *stacked([block(i) for i in range(network.depth)]),
    same("output_layer.norm_final.weight", "params/norm/scale"),
    *affine("output_layer.adaLN_modulation", "params/modulation"),
    *affine("output_layer.linear", "params/readout"),
    beside("rotary_emb.inv_freq"),
  ]
