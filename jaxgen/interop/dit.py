"""DiT's weights in the layouts of the authors, which SiT's authors share, and of diffusers' `DiTTransformer2DModel`.

The authors' fixed positions are not written: the network computes them. diffusers has the embeddings of
time and class in every block, all the same; and it rounds the time's frequencies otherwise, see
`nn.transformers.dit.to_the_last`.
"""

from jaxgen.interop.layout import Entry, beside, repeated, same, stacked
from jaxgen.interop.vit import affine, patches, separate
from jaxgen.nn.transformers.dit import DiT

BLOCKS = "params/body/blocks"


def embedding(first: str, second: str, ours: str) -> list[Entry]:
  """(dense, SiLU, dense), by the names of both layers."""
  return [*affine(first, f"{ours}/in"), *affine(second, f"{ours}/out")]


def authors(network: DiT) -> list[Entry]:
  def block(i: int) -> list[Entry]:
    return [
      *affine(f"blocks.{i}.adaLN_modulation.1", f"{BLOCKS}/modulation/dense"),
      *affine(f"blocks.{i}.attn.qkv", f"{BLOCKS}/attention/qkv"),
      *affine(f"blocks.{i}.attn.proj", f"{BLOCKS}/attention/out"),
      *affine(f"blocks.{i}.mlp.fc1", f"{BLOCKS}/mlp/in"),
      *affine(f"blocks.{i}.mlp.fc2", f"{BLOCKS}/mlp/out"),
    ]

  entries = [
    *patches("x_embedder.proj"),
    *embedding("t_embedder.mlp.0", "t_embedder.mlp.2", "params/time"),
    *stacked([block(i) for i in range(network.depth)]),
    *affine("final_layer.adaLN_modulation.1", "params/readout/modulation/dense"),
    *affine("final_layer.linear", "params/readout/dense"),
    beside("pos_embed"),
  ]
  if network.classes is not None:
    entries.append(same("y_embedder.embedding_table.weight", "params/class/embedding"))
  return entries


def diffusers(network: DiT) -> list[Entry]:
  """For a network with classes, which all of theirs have."""

  def block(i: int) -> list[Entry]:
    theirs = f"transformer_blocks.{i}"
    return [
      *affine(f"{theirs}.norm1.linear", f"{BLOCKS}/modulation/dense"),
      *separate(tuple(f"{theirs}.attn1.to_{part}" for part in "qkv"), f"{BLOCKS}/attention/qkv"),
      *affine(f"{theirs}.attn1.to_out.0", f"{BLOCKS}/attention/out"),
      *affine(f"{theirs}.ff.net.0.proj", f"{BLOCKS}/mlp/in"),
      *affine(f"{theirs}.ff.net.2", f"{BLOCKS}/mlp/out"),
    ]

  def of_time_and_class(i: int) -> list[Entry]:
    theirs = f"transformer_blocks.{i}.norm1.emb"
    time = f"{theirs}.timestep_embedder.linear"
    table = same(f"{theirs}.class_embedder.embedding_table.weight", "params/class/embedding")
    return [*embedding(f"{time}_1", f"{time}_2", "params/time"), table]

  return [
    *patches("pos_embed.proj"),
    *repeated([of_time_and_class(i) for i in range(network.depth)]),
    *stacked([block(i) for i in range(network.depth)]),
    *affine("proj_out_1", "params/readout/modulation/dense"),
    *affine("proj_out_2", "params/readout/dense"),
  ]
