"""The weights of unCLIP's prior in the layout of diffusers' `PriorTransformer`, with its default options."""

from jaxgen.interop.layout import Entry, same, shaped, stacked
from jaxgen.interop.vit import affine, norm, separate
from jaxgen.nn.joint.prior import ADDED, PriorTransformer

BLOCKS = "params/body/blocks"


def diffusers(network: PriorTransformer) -> list[Entry]:
  def block(i: int) -> list[Entry]:
    theirs = f"transformer_blocks.{i}"
    return [
      *norm(f"{theirs}.norm1", f"{BLOCKS}/norm_attention"),
      *separate(tuple(f"{theirs}.attn1.to_{part}" for part in "qkv"), f"{BLOCKS}/attention/qkv"),
      *affine(f"{theirs}.attn1.to_out.0", f"{BLOCKS}/attention/out"),
      *norm(f"{theirs}.norm3", f"{BLOCKS}/norm_mlp"),
      *affine(f"{theirs}.ff.net.0.proj", f"{BLOCKS}/mlp/in"),
      *affine(f"{theirs}.ff.net.2", f"{BLOCKS}/mlp/out"),
    ]

  def with_ones(theirs: str, ours: str, axes: int, *shape: int) -> Entry:
    return shaped(same(theirs, f"params/{ours}"), (*(1,) * (axes - len(shape)), *shape), shape)

  d, width = network.features, network.width
  return [
    *affine("time_embedding.linear_1", "params/time_1"),
    *affine("time_embedding.linear_2", "params/time_2"),
    *affine("proj_in", "params/in"),
    *affine("embedding_proj", "params/text_embedding"),
    *affine("encoder_hidden_states_proj", "params/text"),
    with_ones("positional_embedding", "positions", 3, network.words + ADDED, width),
    with_ones("prd_embedding", "prediction", 3, width),
    *stacked([block(i) for i in range(network.depth)]),
    *norm("norm_out", "params/norm"),
    *affine("proj_to_clip_embeddings", "params/out"),
    with_ones("clip_mean", "clip_mean", 2, d),
    with_ones("clip_std", "clip_std", 2, d),
  ]
