"""Graphs as examples, and as types of their nodes and pairs of nodes: parts that the methods of graphs share."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Num

from jaxgen.core.errors import UserError
from jaxgen.core.spec import Spec

Examples = Int[Array, "batch nodes nodes"]


class Tokens(NamedTuple):
  """The types of nodes and of pairs, whose order is that of `jnp.triu_indices(N, 1)`; or what is said of each."""

  nodes: Any
  pairs: Any


Mask = Tokens  # of booleans: which are there


class Graphs(NamedTuple):
  """The types and sizes of graphs. An example is [N, N], symmetric: on its diagonal 1 + a node's type, and 0 for no
  node; elsewhere the type of an edge, and 0 for no edge.

  Attributes:
    nodes: the frequencies of the types of nodes.
    pairs: the frequencies of the types of pairs of nodes, that of no edge first.
    sizes: how many graphs have so many nodes: {number of nodes: graphs}; p(N) is in proportion.
  """

  nodes: tuple[float, ...]
  pairs: tuple[float, ...]
  sizes: Mapping[int, int]

  def log_sizes(self, most: int) -> Float[np.ndarray, " sizes"]:
    """log p(N) for N = 0 .. most; -inf for sizes that are not among `sizes`."""
    p = np.array([self.sizes.get(n, 0) for n in range(most + 1)], np.float64)
    with np.errstate(divide="ignore"):
      return np.log(p / p.sum())


def there(size: Int[Array, " batch"], most: int) -> Mask:
  """The masks of graphs of so many nodes, the first ones."""
  nodes = jnp.arange(most) < size[:, None]
  i, j = np.triu_indices(most, 1)
  return Mask(nodes, nodes[:, i] & nodes[:, j])


def encode(x: Examples) -> tuple[Tokens, Mask]:
  """(types of nodes [B, N] and pairs [B, N (N - 1) / 2], which are there)."""
  i, j = np.triu_indices(x.shape[1], 1)
  diagonal = jnp.diagonal(x, axis1=1, axis2=2)
  nodes = diagonal > 0
  mask = Mask(nodes, nodes[:, i] & nodes[:, j])
  return Tokens(jnp.maximum(diagonal - 1, 0), jnp.where(mask.pairs, x[:, i, j], 0)), mask


def dense(pairs: Num[Array, "batch m"], most: int) -> Num[Array, "batch {most} {most}"]:
  """Pairs as symmetric matrices with an empty diagonal."""
  i, j = np.triu_indices(most, 1)
  upper = jnp.zeros((len(pairs), most, most), pairs.dtype).at[:, i, j].set(pairs)
  return upper + upper.swapaxes(1, 2)


def decode(tokens: Tokens, mask: Mask) -> Examples:
  """Graphs as examples."""
  most = tokens.nodes.shape[1]
  types = jnp.where(mask.nodes, tokens.nodes + 1, 0)
  return dense(jnp.where(mask.pairs, tokens.pairs, 0), most) + types[:, :, None] * jnp.eye(most, dtype=types.dtype)


def check_graphs(kind: Graphs, x: Int[np.ndarray, "batch nodes nodes"]) -> None:
  """Raises a UserError if examples are not graphs of the method's types."""
  if (x != x.swapaxes(1, 2)).any() or x.min() < 0:
    raise UserError("a graph is a symmetric matrix of types from 0 on, and the data has another: repair it")
  diagonal = np.diagonal(x, axis1=1, axis2=2)
  absent = diagonal == 0
  edges = x * (1 - np.eye(x.shape[1], dtype=x.dtype))
  if (np.diff(absent.astype(int), axis=1) < 0).any() or (edges * absent[:, :, None]).any():
    raise UserError("the nodes of a graph are its matrix's first ones, and padding has no edges: repair the data")
  for what, found, known in (("nodes", diagonal.max() - 1, kind.nodes), ("edges", edges.max(), kind.pairs)):
    if found >= len(known):
      raise UserError(f"the data has {what} of type {found}, and the model knows types below {len(known)}: add it")
  missing = [int(n) for n in np.unique((~absent).sum(1)) if not kind.sizes.get(int(n))]
  if missing:
    raise UserError(f"the data has graphs of {missing[0]} nodes, to which the sizes give no probability: add them")


def check_kind(kind: Graphs, spec: Spec) -> None:
  """Raises a UserError if a method's graphs are invalid, or do not fit the data's arrays."""
  if len(spec.shape) != 2 or spec.shape[0] != spec.shape[1] or not np.issubdtype(spec.dtype, np.integer):
    raise UserError(f"graphs are square matrices of integers, and these are {spec.shape} of {np.dtype(spec.dtype)}")
  for what, p in (("nodes", kind.nodes), ("pairs", kind.pairs)):
    if not p or min(p) < 0 or abs(sum(p) - 1) > 1e-6:
      raise UserError(f"the frequencies of {what} are {p}, and they are at least 0 and have the sum 1: change them")
  if len(kind.pairs) < 2:
    raise UserError("pairs of nodes are of one type, so that there are no edges to learn: give two types or more")
  if not kind.sizes or min(kind.sizes) < 1 or min(kind.sizes.values()) < 0 or not sum(kind.sizes.values()):
    raise UserError("graphs have 1 node or more, and sizes that some of them have: give them")
  largest = max(n for n, count in kind.sizes.items() if count)
  if largest > spec.shape[0]:
    raise UserError(f"graphs of {largest} nodes do not fit arrays of {spec.shape[0]}: make those larger")
