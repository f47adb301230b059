"""Features of a graph that a message-passing network cannot compute: its short cycles and its spectrum.

Vignac et al. 2023 (DiGress), https://arxiv.org/abs/2209.14734, and their code. Adjacency matrices are
A [B, N, N], symmetric with an empty diagonal, and 0 where a node is not there.
"""

import math
from typing import Literal, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxgen.core.arrays import masked

Adjacency = Float[Array, "batch nodes nodes"]
Mask = Bool[Array, "batch nodes"]
Kind = Literal["all", "eigenvalues", "cycles", "none"]


class Extra(NamedTuple):
  """Features of nodes and of the graph."""

  nodes: Float[Array, "batch nodes _x"]
  graph: Float[Array, "batch _y"]


class Spectrum(NamedTuple):
  """Of the Laplacian D - A.

  Attributes:
    components: the number of connected components.
    values: the first positive eigenvalues divided by the number of nodes; 2 where there are no more.
    outside: 1 for nodes that are in no largest component.
    vectors: the eigenvectors of the first positive eigenvalues; 0 where there are no more.
  """

  components: Float[Array, "batch 1"]
  values: Float[Array, "batch _values"]
  outside: Float[Array, "batch nodes 1"]
  vectors: Float[Array, "batch nodes _vectors"]


def cycles(A: Adjacency, published: bool = False) -> tuple[Float[Array, "batch nodes 3"], Float[Array, "batch 4"]]:
  """(cycles of 3, 4 and 5 nodes through each node, cycles of 3, 4, 5 and 6 nodes of the graph).

  Args:
    A: adjacency matrices.
    published: in place of cycles of 5 nodes what the paper's formula gives for them. It leaves in closed walks that
      go around a triangle and along an edge of another of its nodes and back.
  """
  trace = lambda x: jnp.sum(jnp.diagonal(x, axis1=1, axis2=2), axis=-1)
  diagonal = lambda x: jnp.diagonal(x, axis1=1, axis2=2)
  # An accelerator's own precision has three digits, and differences of large numbers follow.
  times = lambda x, y: jnp.matmul(x, y, precision="highest")
  A2 = times(A, A)
  A3 = times(A2, A)
  A4, A5 = times(A2, A2), times(A3, A2)
  A6 = times(A3, A3)
  d, t = diagonal(A2), diagonal(A3)  # degrees, twice the triangles
  near = lambda x: times(A, x[..., None])[..., 0]
  c3 = t
  c4 = diagonal(A4) - d * (d - 1) - near(d)
  c5 = diagonal(A5) - 2 * t * d - near(t) + t
  c5 -= 0 if published else 2 * jnp.sum(A * A2 * d[:, None], axis=-1) - 4 * t
  c6 = trace(A6) - 3 * jnp.sum(t**2, axis=-1) + 9 * jnp.sum(A * A2**2, axis=(1, 2))
  c6 += -6 * jnp.sum(d * diagonal(A4), axis=-1) + 6 * trace(A4) - 4 * trace(A3)
  c6 += (
    4 * jnp.sum(d**3, axis=-1) + 3 * jnp.sum(A3, axis=(1, 2)) - 12 * jnp.sum(d**2, axis=-1) + 4 * jnp.sum(d, axis=-1)
  )
  of_graph = [jnp.sum(c, axis=-1) / (2 * k) for c, k in ((c3, 3), (c4, 4), (c5, 5))]
  return jnp.stack([c3, c4, c5], axis=-1) / 2, jnp.stack([*of_graph, c6 / 12], axis=-1)


def spectrum(A: Adjacency, mask: Mask, values: int = 5, vectors: int = 2) -> Spectrum:
  """Eigenvalues and eigenvectors, and the connected components.

  An eigenvector has the sign with which the sum of its entries' cubes is positive. So it moves with the nodes, if its
  eigenvalue is simple and no symmetry of the graph reverses it; the authors keep what LAPACK gives. Components are
  those of the graph; the authors count eigenvalues below 1e-5 and compare entries of the first eigenvector.
  """
  n = A.shape[-1]
  there = mask.astype(A.dtype)
  size = jnp.sum(there, axis=1)
  eye = jnp.eye(n, dtype=A.dtype)
  # Nodes that are not there have eigenvalues above all others.
  L = eye * (jnp.sum(A, axis=-1) + 2 * n * (1 - there))[..., None] - A
  all_values, all_vectors = jnp.linalg.eigh(L)
  reached = A + eye
  for _ in range(max(1, math.ceil(math.log2(max(n, 2))))):
    reached = (jnp.matmul(reached, reached) > 0).astype(A.dtype)
  of_node = jnp.sum(reached, axis=-1)  # nodes of its component
  components = jnp.round(jnp.sum(there / of_node, axis=1))
  outside = there * (of_node < jnp.max(of_node * there, axis=1, keepdims=True))

  def first(count: int) -> Array:
    return components.astype(jnp.int32)[:, None] + jnp.arange(count)

  at, columns = first(values), first(vectors)
  found = jnp.take_along_axis(all_values, jnp.minimum(at, n - 1), axis=1) / jnp.maximum(size, 1)[:, None]
  found = jnp.where(at < size[:, None], found, 2)
  v = jnp.take_along_axis(all_vectors, jnp.minimum(columns, n - 1)[:, None], axis=2)
  v = masked(jnp.where((columns < size[:, None])[:, None], v, 0), mask)
  v = v * jnp.where(jnp.sum(v**3, axis=1, keepdims=True) < 0, -1, 1)
  return Spectrum(components[:, None], found, outside[..., None], v)


def extra(kind: Kind, A: Adjacency, mask: Mask, published: bool = False) -> Extra:
  """The features of DiGress; numbers of cycles are divided by 10 and at most 1.

  Args:
    kind: "cycles" has cycles and the share of nodes that are there, "eigenvalues" also the number of components and
      five eigenvalues, "all" also two eigenvectors and which nodes are outside the largest component.
    A: adjacency matrices.
    mask: which nodes are there.
    published: see `cycles`.
  """
  dtype = A.dtype
  if kind == "none":
    return Extra(jnp.zeros((*mask.shape, 0), dtype), jnp.zeros((len(mask), 0), dtype))
  of_nodes, of_graph = (jnp.clip(x / 10, 0, 1) for x in cycles(A, published))
  size = jnp.mean(mask.astype(dtype), axis=1, keepdims=True)
  nodes, graph = [masked(of_nodes, mask)], [size, of_graph]
  if kind != "cycles":
    known = spectrum(A, mask)
    graph += [known.components, known.values]
    nodes += [known.outside, known.vectors] if kind == "all" else []
  return Extra(jnp.concatenate(nodes, axis=-1), jnp.concatenate(graph, axis=-1))
