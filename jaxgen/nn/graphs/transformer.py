"""The graph Transformer of DiGress: Vignac et al. 2023, https://arxiv.org/abs/2209.14734, and their code.

It has features of nodes X, of all pairs of nodes E and of the graph y. Pairs change the attention of each feature, and
the graph changes both, by FiLM; statistics of nodes and pairs change the graph:

    (1)  Y_ij = (q_i k_j / sqrt(d)) (1 + E_ij W_m) + E_ij W_a,   E <- (1 + y W_m) Y + y W_a
    (2)  X_i <- (1 + y W_m) sum_j softmax_j(Y_ij) v_j + y W_a,   y <- y W + W [mean, min, max, std](X) + W [..](E)

Each is followed by a dense layer, and then by its own layer norm and MLP. Each feature has its own softmax, as in their
code. All pairs of N nodes are computed, padding too.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from jaxgen.core.arrays import masked
from jaxgen.core.errors import UserError, check_sizes
from jaxgen.nn.blocks.attention import Index, head_width
from jaxgen.nn.blocks.layers import Dense, Dropout, LayerNorm
from jaxgen.nn.graphs.features import Kind, extra

Dtype = Any
Nodes = Float[Array, "batch nodes _x"]
Pairs = Float[Array, "batch nodes nodes _e"]
Graph = Float[Array, "batch _y"]
Mask = Bool[Array, "batch nodes"]


def statistics(
  x: Float[Array, "batch *places features"], there: Bool[Array, "batch *places"]
) -> Float[Array, "batch four_features"]:
  """Mean, least, largest and standard deviation (of n - 1) over the places that are there, each of every feature."""
  axes, there = tuple(range(1, x.ndim - 1)), there[..., None]
  count = jnp.sum(there, axis=axes).astype(x.dtype)
  mean = jnp.sum(x, axis=axes, where=there) / jnp.maximum(count, 1)
  low = jnp.min(x, axis=axes, where=there, initial=jnp.finfo(x.dtype).max)
  high = jnp.max(x, axis=axes, where=there, initial=jnp.finfo(x.dtype).min)
  away = x - jax.lax.expand_dims(mean, axes)
  variance = jnp.sum(away**2, axis=axes, where=there) / jnp.maximum(count - 1, 1)
  positive = variance > 0  # the root has no derivative at 0
  std = jnp.where(positive, jnp.sqrt(jnp.where(positive, variance, 1)), 0)
  return jnp.concatenate([mean, low, high, std], axis=-1)


class Mixing(nn.Module):
  """(1) and (2)."""

  heads: int
  masked_statistics: bool
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, X: Nodes, E: Pairs, y: Graph, mask: Mask) -> tuple[Nodes, Pairs, Graph]:
    dense = partial(Dense, dtype=self.dtype, param_dtype=self.param_dtype)
    dx, de, dy = X.shape[-1], E.shape[-1], y.shape[-1]
    pairs = mask[:, :, None] & mask[:, None]
    film = lambda add, scale: (dense(dx, name=add)(y), dense(dx, name=scale)(y))
    q, k, v = (masked(dense(dx, name=name)(X), mask) for name in ("query", "key", "value"))
    Y = q[:, :, None] * k[:, None] * head_width(dx, self.heads) ** -0.5
    Y = Y * (masked(dense(dx, name="edge_scale")(E), pairs) + 1) + masked(dense(dx, name="edge_add")(E), pairs)

    add, scale = film("graph_edge_add", "graph_edge_scale")
    new_E = masked(dense(de, name="edge_out")(add[:, None, None] + (scale[:, None, None] + 1) * Y), pairs)

    attention = jax.nn.softmax(jnp.where(mask[:, None, :, None], Y, jnp.finfo(Y.dtype).min), axis=2)
    add, scale = film("graph_node_add", "graph_node_scale")
    X_mixed = jnp.sum(attention * v[:, None], axis=2)
    new_X = masked(dense(dx, name="node_out")(add[:, None] + (scale[:, None] + 1) * X_mixed), mask)

    of_X, of_E = (mask, pairs) if self.masked_statistics else (jnp.ones_like(mask), jnp.ones_like(pairs))
    new_y = dense(dy, name="graph")(y)
    new_y += dense(dy, name="node_statistics")(statistics(X, of_X))
    new_y += dense(dy, name="edge_statistics")(statistics(E, of_E))
    new_y = dense(dy, name="graph_out_2")(nn.relu(dense(dy, name="graph_out_1")(new_y)))
    return new_X, new_E, new_y


class Layer(nn.Module):
  """Mixing, and a network of each node, pair and graph, with layer norms after the sums.

  Attributes:
    wide: hidden features of the networks of nodes, pairs and the graph.
  """

  heads: int
  wide: tuple[int, int, int]
  dropout: float
  masked_statistics: bool
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, X: Nodes, E: Pairs, y: Graph, mask: Mask, index: Index) -> tuple[Nodes, Pairs, Graph]:
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    drop = lambda x: Dropout(self.dropout)(x, index)
    mixed = Mixing(self.heads, self.masked_statistics, name="mixing", **dtypes)(X, E, y, mask)
    done = []
    for name, before, new, wide in zip(("node", "edge", "graph"), (X, E, y), mixed, self.wide, strict=True):
      x = LayerNorm(1e-5, name=f"{name}_norm_1", **dtypes)(before + drop(new))
      hidden = drop(nn.relu(Dense(wide, name=f"{name}_1", **dtypes)(x)))
      x = x + drop(Dense(x.shape[-1], name=f"{name}_2", **dtypes)(hidden))
      done.append(LayerNorm(1e-5, name=f"{name}_norm_2", **dtypes)(x))
    return tuple(done)


class GraphTransformer(nn.Module):
  """Logits of nodes and pairs, symmetric and 0 on the diagonal, of noisy nodes, pairs and the graph's features.

  The first values of X and E, as many as there are outputs, are added to the outputs.

  Attributes:
    node_types, edge_types: numbers of outputs.
    depth: number of layers.
    width: features of nodes, pairs and the graph in the layers.
    heads: of the attention; the width of nodes is divided by their number under the root alone.
    wide: hidden features of the layers' networks; the authors' code has 2048 for the graph.
    hidden: hidden features of the networks before the first layer and after the last one.
    dropout: rate within layers.
    masked_statistics: statistics are of what is there. False: of padding, too, as in the authors' code, so that outputs
      depend on how much there is.
    remat: keep only each layer's input for the backward pass, and compute the rest again.
  """

  node_types: int
  edge_types: int
  depth: int = 5
  width: tuple[int, int, int] = (256, 64, 64)
  heads: int = 8
  wide: tuple[int, int, int] = (256, 64, 2048)
  hidden: tuple[int, int, int] = (128, 64, 128)
  dropout: float = 0.1
  masked_statistics: bool = True
  remat: bool = False
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, X: Nodes, E: Pairs, y: Graph, index: Index = None, *, mask: Mask) -> tuple[Nodes, Pairs]:
    """(logits of nodes [B, N, node types], logits of pairs [B, N, N, edge types]).

    Args:
      X: features of nodes, the noisy types' one-hot first.
      E: features of pairs, symmetric, the noisy types' one-hot first.
      y: features of the graph.
      index: the examples' positions in the global batch, given in training: there is dropout then.
      mask: which nodes are there; for padding the output is 0.

    Raises:
      UserError: no layer, or fewer features than outputs.
    """
    check_sizes("GraphTransformer", depth=self.depth, width=self.width, wide=self.wide, hidden=self.hidden)
    if X.shape[-1] < self.node_types or E.shape[-1] < self.edge_types:
      raise UserError(
        f"the network predicts {self.node_types} types of nodes and {self.edge_types} of edges, and reads "
        f"{X.shape[-1]} and {E.shape[-1]} features: give it the one-hot types"
      )
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    dense = partial(Dense, **dtypes)
    pairs = mask[:, :, None] & mask[:, None]
    symmetric = lambda x: (x + x.swapaxes(1, 2)) / 2
    start_X, start_E = X[..., : self.node_types], E[..., : self.edge_types]
    x = []
    for name, given, hidden, width in zip(("node", "edge", "graph"), (X, E, y), self.hidden, self.width, strict=True):
      h = nn.relu(dense(hidden, name=f"{name}_in_1")(given.astype(self.dtype)))
      x.append(nn.relu(dense(width, name=f"{name}_in_2")(h)))
    X, E, y = masked(x[0], mask), masked(symmetric(x[1]), pairs), x[2]
    layer = nn.remat(Layer) if self.remat else Layer
    for i in range(self.depth):
      options = (self.heads, self.wide, self.dropout, self.masked_statistics)
      X, E, y = layer(*options, name=f"layer_{i}", **dtypes)(X, E, y, mask, index)
    X = dense(self.node_types, name="node_out_2")(nn.relu(dense(self.hidden[0], name="node_out_1")(X)))
    E = dense(self.edge_types, name="edge_out_2")(nn.relu(dense(self.hidden[1], name="edge_out_1")(E)))
    away = ~jnp.eye(E.shape[1], dtype=bool)
    return masked(X + start_X, mask), symmetric(masked(E + start_E, pairs & away))


class DiGress(nn.Module):
  """The graph Transformer of a noisy graph: one-hot types, `features.extra` and the time.

  Attributes:
    body: the Transformer.
    features: which features it is given, see `jaxgen.nn.graphs.features.extra`.
    published_cycles: cycles of 5 nodes are counted as the paper does, see `jaxgen.nn.graphs.features.cycles`.
  """

  body: GraphTransformer
  features: Kind = "all"
  published_cycles: bool = False

  @nn.compact
  def __call__(
    self,
    nodes: Int[Array, "batch nodes"],
    edges: Int[Array, "batch nodes nodes"],
    t: Float[Array, "batch"],
    index: Index = None,
    *,
    mask: Mask,
  ) -> tuple[Nodes, Pairs]:
    """Logits of the types of nodes and edges, see `GraphTransformer`.

    Args:
      nodes: types.
      edges: types, symmetric, 0 for no edge.
      t: times, 0 .. 1.
      index: the examples' positions in the global batch, given in training.
      mask: which nodes are there.
    """
    dtype = self.body.param_dtype
    pairs = mask[:, :, None] & mask[:, None] & ~jnp.eye(edges.shape[-1], dtype=bool)
    one_hot = lambda x, count: (x[..., None] == jnp.arange(count)).astype(dtype)
    X = masked(one_hot(nodes, self.body.node_types), mask)
    E = masked(one_hot(edges, self.body.edge_types), pairs)
    more = extra(self.features, masked(edges > 0, pairs).astype(dtype), mask, self.published_cycles)
    y = jnp.concatenate([more.graph, t[:, None].astype(dtype)], axis=-1)
    return self.body(jnp.concatenate([X, more.nodes], axis=-1), E, y, index, mask=mask)
