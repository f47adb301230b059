"""The graph Transformer's weights in the layout of the authors of DiGress."""

from jaxgen.interop.layout import Entry, beside
from jaxgen.interop.vit import affine, norm
from jaxgen.nn.graphs.transformer import GraphTransformer

# The authors' names of a layer's parts, and ours.
PARTS = {
  "self_attn.q": "mixing/query", "self_attn.k": "mixing/key", "self_attn.v": "mixing/value",
  "self_attn.e_add": "mixing/edge_add", "self_attn.e_mul": "mixing/edge_scale",
  "self_attn.y_e_mul": "mixing/graph_edge_scale", "self_attn.y_e_add": "mixing/graph_edge_add",
  "self_attn.y_x_mul": "mixing/graph_node_scale", "self_attn.y_x_add": "mixing/graph_node_add",
  "self_attn.y_y": "mixing/graph", "self_attn.x_y.lin": "mixing/node_statistics",
  "self_attn.e_y.lin": "mixing/edge_statistics", "self_attn.x_out": "mixing/node_out",
  "self_attn.e_out": "mixing/edge_out", "self_attn.y_out.0": "mixing/graph_out_1",
  "self_attn.y_out.2": "mixing/graph_out_2", "linX1": "node_1", "linX2": "node_2", "linE1": "edge_1",
  "linE2": "edge_2", "lin_y1": "graph_1", "lin_y2": "graph_2",
}  # fmt: skip
NORMS = {
  "normX1": "node_norm_1", "normX2": "node_norm_2", "normE1": "edge_norm_1", "normE2": "edge_norm_2",
  "norm_y1": "graph_norm_1", "norm_y2": "graph_norm_2",
}  # fmt: skip


def authors(network: GraphTransformer, path: str = "params") -> list[Entry]:
  """Of their `GraphTransformer`. Its `mlp_out_y` has no output, and no place here.

  Args:
    network: the network.
    path: where its parameters are: "params/body" within `DiGress`.
  """
  entries = []
  for theirs, ours in (("X", "node"), ("E", "edge"), ("y", "graph")):
    entries += [
      *affine(f"mlp_in_{theirs}.0", f"{path}/{ours}_in_1"),
      *affine(f"mlp_in_{theirs}.2", f"{path}/{ours}_in_2"),
    ]
  for theirs, ours in (("X", "node"), ("E", "edge")):
    entries += [
      *affine(f"mlp_out_{theirs}.0", f"{path}/{ours}_out_1"),
      *affine(f"mlp_out_{theirs}.2", f"{path}/{ours}_out_2"),
    ]
  for i in range(network.depth):
    for theirs, ours in PARTS.items():
      entries += affine(f"tf_layers.{i}.{theirs}", f"{path}/layer_{i}/{ours}")
    for theirs, ours in NORMS.items():
      entries += norm(f"tf_layers.{i}.{theirs}", f"{path}/layer_{i}/{ours}")
  return [*entries, beside(*(f"mlp_out_y.{i}.{leaf}" for i in (0, 2) for leaf in ("weight", "bias")))]
