"""EGNN's weights in the layout of the authors of equivariant diffusion for molecules."""

from jaxgen.interop.layout import Entry, dense
from jaxgen.interop.vit import affine
from jaxgen.nn.graphs.egnn import EGNN


def authors(network: EGNN) -> list[Entry]:
  """Of `EGNN_dynamics_QM9`."""
  entries = [*affine("egnn.embedding", "params/embedding"), *affine("egnn.embedding_out", "params/readout")]
  for i in range(network.depth):
    for j in range(network.layers):
      theirs, ours = f"egnn.e_block_{i}.gcl_{j}", f"params/block_{i}_messages_{j}"
      entries += [
        *affine(f"{theirs}.edge_mlp.0", f"{ours}/pair/in"),
        *affine(f"{theirs}.edge_mlp.2", f"{ours}/pair/out"),
        *affine(f"{theirs}.node_mlp.0", f"{ours}/in"),
        *affine(f"{theirs}.node_mlp.2", f"{ours}/out"),
        *(affine(f"{theirs}.att_mlp.0", f"{ours}/attention") if network.attention else []),
      ]
    theirs, ours = f"egnn.e_block_{i}.gcl_equiv.coord_mlp", f"params/block_{i}_moves"
    entries += [*affine(f"{theirs}.0", f"{ours}/pair/in"), *affine(f"{theirs}.2", f"{ours}/pair/out")]
    entries.append(dense(f"{theirs}.4.weight", f"{ours}/out/kernel"))
  return entries
