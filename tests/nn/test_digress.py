"""DiGress's network and its extra features against the authors' code, of tests/fixtures/make_digress.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from published import assert_gradients, load
from scipy.sparse.csgraph import connected_components

from jaxgen.core.errors import UserError
from jaxgen.interop import digress as digress_layout
from jaxgen.interop import layout
from jaxgen.nn.graphs import features
from jaxgen.nn.graphs.transformer import DiGress, GraphTransformer

FLOAT64 = dict(dtype="float64", param_dtype="float64")
SMALL = GraphTransformer(2, 3, 2, (6, 4, 3), 2, (5, 4, 4), (5, 4, 3), masked_statistics=False, **FLOAT64)


def read(name):
  arrays = load("digress.npz", name)
  given = {k: jnp.asarray(v) for k, v in arrays["argument"].items()}
  arguments = given["X"], given["E"].reshape(2, 5, 5, 3), given["y"]
  shapes = jax.eval_shape(lambda key: SMALL.init(key, *arguments, mask=given["mask"]), jax.random.key(0))
  return layout.read(digress_layout.authors(SMALL), arrays["weight"], shapes), arguments, given["mask"], arrays


def test_output_and_gradients_equal_the_authors(x64):
  @jax.jit
  def run(variables, arguments, mask, cotangent):
    def loss(variables):
      X, E = SMALL.apply(variables, *arguments, mask=mask)
      output = jnp.concatenate([X.reshape(len(X), -1), E.reshape(len(E), -1)], axis=1)
      return jnp.sum(output * cotangent), output

    return jax.value_and_grad(loss, has_aux=True)(variables)

  for name in ("full", "padded"):
    variables, arguments, mask, arrays = read(name)
    (_, output), gradients = run(variables, arguments, mask, arrays["cotangent"][""])
    np.testing.assert_allclose(output, arrays["output"][""], rtol=0, atol=1e-9)
    assert_gradients(layout.write(digress_layout.authors(SMALL), gradients), arrays["gradient"])


def asymmetric(count, n):
  """Adjacency matrices of graphs whose first eigenvectors have one sign that the graph gives."""
  rng, found = np.random.default_rng(1), []
  while len(found) < count:
    upper = np.triu(rng.random((n, n)) < 0.4, 1)
    A = upper | upper.T
    values, vectors = np.linalg.eigh(np.diag(A.sum(1)) - A)
    if np.diff(values).min() > 0.05 and abs((vectors[:, 1:3] ** 3).sum(0)).min() > 0.05:
      found.append(A)
  return np.stack(found)


def test_nodes_may_come_in_any_order(x64):
  """To 1e-10, with all features, wherever the padding is; logits of edges are
  symmetric. Graphs of one node, or of equal nodes, have a finite gradient: a deviation of 0 has no derivative."""
  network = DiGress(SMALL.clone(depth=1, masked_statistics=True))
  A = np.pad(asymmetric(5, 7), ((0, 0), (0, 1), (0, 1)))
  A[3:] = False
  mask = np.repeat(np.arange(8)[None] < 7, 5, 0)
  mask[3] = np.arange(8) < 1
  rng = np.random.default_rng(0)
  nodes = rng.integers(0, 2, (5, 8)) * np.array([1, 1, 1, 0, 0])[:, None]
  upper = np.triu(rng.integers(1, 3, (5, 8, 8)), 1)
  edges = (upper + upper.swapaxes(1, 2)) * A
  order = np.array([3, 0, 6, 1, 7, 5, 2, 4])
  both = lambda x, y: jnp.asarray(np.concatenate([x, y]))
  given = (
    both(nodes, nodes[:, order]),
    both(edges, edges[:, order][:, :, order]),
    jnp.linspace(0.1, 1, 10).at[5:].set(jnp.linspace(0.1, 1, 10)[:5]),
  )
  mask = both(mask, mask[:, order])
  shapes = jax.eval_shape(lambda key: network.init(key, *given, mask=mask), jax.random.key(0))
  variables = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape) * 0.5), shapes)

  @jax.jit
  def run(variables):
    def loss(variables):
      X, E = network.apply(variables, *given, mask=mask)
      return jnp.sum(X**2) + jnp.sum(E**2), (X, E)

    return jax.value_and_grad(loss, has_aux=True)(variables)

  (_, (X, E)), gradient = jax.tree.map(np.asarray, run(variables))
  assert np.abs(X).max() > 0.1
  np.testing.assert_array_equal(E, E.swapaxes(1, 2))
  assert not E[:, range(8), range(8)].any()
  assert not X[:3, 7].any()
  np.testing.assert_allclose(X[5:], X[:5, order], rtol=0, atol=1e-10)
  np.testing.assert_allclose(E[5:], E[:5, order][:, :, order], rtol=0, atol=1e-10)
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(gradient))


def test_features_equal_the_authors(x64):
  """With cycles as they count them. In a graph of two parts they look at a vector of which LAPACK finds any."""
  arrays = load("digress.npz", "features")
  A, expected = jnp.asarray(arrays["argument"]["A"], float), arrays["output"]
  found = jax.jit(lambda A: features.extra("all", A, jnp.ones(A.shape[:2], bool), published=True))(A)
  np.testing.assert_allclose(found.graph, expected["graph"], rtol=0, atol=1e-10)
  whole = np.asarray(found.graph[:, 5] == 1)
  assert whole.sum() == 5
  np.testing.assert_allclose(found.nodes[..., :3], expected["nodes"][..., :3], rtol=0, atol=1e-10)
  np.testing.assert_array_equal(found.nodes[whole][..., 3], expected["nodes"][whole][..., 3])
  ours, theirs = np.asarray(found.nodes[whole][..., 4:]), expected["nodes"][whole][..., 4:]
  sign = np.sign((ours * theirs).sum(1, keepdims=True))
  np.testing.assert_allclose(ours, sign * theirs, rtol=0, atol=1e-9)
  count, label = connected_components(np.asarray(A[5]))
  assert found.graph[5, 5] == count
  np.testing.assert_array_equal(found.nodes[5, :, 3], label != np.bincount(label).argmax())


def test_cycles_equal_those_of_networkx(x64):
  """All graphs of up to six nodes, and some of seven: every cycle is enumerated."""
  nx = pytest.importorskip("networkx")
  graphs = [g for g in nx.graph_atlas_g()[1:] if len(g) < 7] + nx.graph_atlas_g()[209::40]
  A, of_nodes, of_graph = np.zeros((len(graphs), 7, 7)), np.zeros((len(graphs), 7, 3)), np.zeros((len(graphs), 4))
  for i, graph in enumerate(graphs):
    n = len(graph)
    A[i, :n, :n] = nx.to_numpy_array(graph)
    for cycle in nx.simple_cycles(graph, length_bound=6):
      of_graph[i, len(cycle) - 3] += 1
      if len(cycle) < 6:
        of_nodes[i, cycle, len(cycle) - 3] += 1
  found = jax.jit(features.cycles)(jnp.asarray(A))
  np.testing.assert_allclose(found[0], of_nodes, rtol=0, atol=1e-9)
  np.testing.assert_allclose(found[1], of_graph, rtol=0, atol=1e-9)


def test_wrong_choices_are_one_sentence():
  X, E, y, mask = jnp.zeros((1, 2, 1)), jnp.zeros((1, 2, 2, 1)), jnp.zeros((1, 1)), jnp.ones((1, 2), bool)
  for network, words in [
    (GraphTransformer(1, 2), "reads 1 and 1 features"),
    (GraphTransformer(1, 1, depth=0), "depth=0"),
    (GraphTransformer(1, 1, heads=3), "do not divide into 3 heads"),
  ]:
    with pytest.raises(UserError, match=words):
      jax.eval_shape(lambda key, network=network: network.init(key, X, E, y, mask=mask), jax.random.key(0))
