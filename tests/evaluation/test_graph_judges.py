"""Statistics of graphs against networkx, orbits against brute force on the whole atlas, and families that are known."""

import itertools
import types

import numpy as np
import pytest

from jaxgen.evaluation import graph_statistics as statistics
from jaxgen.evaluation import graphs as judges

nx = pytest.importorskip("networkx")
ATLAS = [nx.to_numpy_array(graph, dtype=int) for graph in nx.graph_atlas_g()[1:]]

# Sorted degrees of a connected graph of 2 to 4 nodes -> the orbit of its nodes by their degree; what networkx's
# isomorphism says of them is checked below.
PLACES = {
  (1, 1): {1: 0}, (1, 1, 2): {1: 1, 2: 2}, (2, 2, 2): {2: 3}, (1, 1, 2, 2): {1: 4, 2: 5}, (1, 1, 1, 3): {1: 6, 3: 7},
  (2, 2, 2, 2): {2: 8}, (1, 2, 2, 3): {1: 9, 2: 10, 3: 11}, (2, 2, 3, 3): {2: 12, 3: 13}, (3, 3, 3, 3): {3: 14},
}  # fmt: skip


def enumerated(A):
  """Orbits by looking at all sets of 2 to 4 nodes."""
  found = np.zeros((len(A), 15), int)
  for size in range(2, 1 + min(4, len(A))):
    nodes = np.array(list(itertools.combinations(range(len(A)), size)))
    degree = A[nodes[:, :, None], nodes[:, None]].sum(2)
    for key, places in PLACES.items():
      if len(key) == size:
        rows = (np.sort(degree, axis=1) == key).all(1)
        for d, place in places.items():
          found[:, place] += np.bincount(nodes[rows][degree[rows] == d], minlength=len(A))
  return found


def test_orbits_of_the_whole_atlas():
  small = [g for g in nx.graph_atlas_g()[1:] if 2 <= len(g) <= 4]
  degrees = [tuple(sorted(d for _, d in g.degree)) for g in small]
  assert [key for g, key in zip(small, degrees, strict=True) if nx.is_connected(g)] == [
    k for k in degrees if k in PLACES
  ]
  assert len(set(degrees)) == len(degrees)  # all of them are told apart by their degrees
  for graph, key in zip(small, degrees, strict=True):  # nodes of one degree are images of each other
    maps = list(nx.isomorphism.GraphMatcher(graph, graph).isomorphisms_iter())
    classes = {frozenset(m[node] for m in maps) for node in graph}
    assert key not in PLACES or len(classes) == len(PLACES[key])
  for A in ATLAS:
    np.testing.assert_array_equal(statistics.orbits(A), enumerated(A))


def test_statistics_equal_those_of_networkx():
  graphs = [*nx.graph_atlas_g()[20::97], nx.gnp_random_graph(30, 0.2, seed=0)]
  for graph in graphs:
    A = nx.to_numpy_array(graph, dtype=int)
    np.testing.assert_array_equal(statistics.degrees(A), nx.degree_histogram(graph))
    np.testing.assert_allclose(statistics.clustering(A), list(nx.clustering(graph).values()), atol=1e-12)
    laplacian = nx.normalized_laplacian_matrix(graph).toarray()
    np.testing.assert_allclose(statistics.eigenvalues(A), np.linalg.eigvalsh(laplacian), atol=1e-10)


def test_discrepancies_equal_sums_over_pairs():
  """Written out pair by pair, with scipy's earth mover's distance."""
  from scipy.stats import wasserstein_distance

  sets = [[nx.to_numpy_array(nx.gnp_random_graph(9 + i, p, seed=i), dtype=int) for i in range(4)] for p in (0.3, 0.5)]
  for name, statistic in statistics.STATISTICS.items():
    for kernel in ("tv", "emd"):
      total = 0.0
      for a, b, sign in [(0, 0, 1), (1, 1, 1), (0, 1, -2)]:
        for A, B in itertools.product(sets[a], sets[b]):
          x, y = statistic.of(A), statistic.of(B)
          x, y = (np.pad(v, (0, max(len(x), len(y)) - len(v))) for v in (x, y))
          x, y = (v / v.sum() if statistic.histogram else v for v in (x, y))
          if kernel == "tv":
            distance = abs(x - y).sum() / 2
          elif statistic.histogram:
            bins = np.arange(len(x))
            distance = wasserstein_distance(bins, bins, x, y) / (100 if name == "clustering" else 1)
          else:
            distance = np.linalg.norm(x - y)
          total += sign * np.exp(-(distance**2) / (2 * statistic.sigma**2)) / 16
      np.testing.assert_allclose(statistics.mmd(*sets, statistic, kernel), total, atol=1e-5)
    assert statistics.mmd(sets[0], sets[0], statistic) == pytest.approx(0, abs=1e-12)
  assert np.isnan(statistics.mmd([np.zeros((0, 0), int)], sets[0], statistics.STATISTICS["degree"]))


def planted(sizes, within=0.3, between=0.005, seed=0):
  p = np.where(np.eye(len(sizes)), within, between)
  return nx.to_numpy_array(nx.stochastic_block_model(sizes, p, seed=seed), dtype=int)


def test_families():
  grid = nx.to_numpy_array(nx.grid_2d_graph(4, 5), dtype=int)
  complete = np.ones((5, 5), int) - np.eye(5, dtype=int)
  apart = np.zeros((6, 6), int)
  assert [judges.is_planar(A) for A in (grid, complete, apart, apart[:0, :0])] == [True, False, False, False]
  A = planted([25, 30, 38])
  order = np.random.default_rng(0).permutation(93)
  block = judges.blocks(A[np.ix_(order, order)])
  parts = {tuple(sorted(order[block == b].tolist())) for b in range(block.max() + 1)}
  assert parts == {tuple(range(25)), tuple(range(25, 55)), tuple(range(55, 93))}
  wrong = planted([30, 30], 0.6), planted([30, 30], 0.3, 0.15), planted([12, 40]), planted([60])
  assert not any(map(judges.is_sbm, wrong))


def test_samples_are_judged():
  """The training graphs are valid and not novel; their copies in another order are not unique."""
  from jaxgen.data.sources.graphs import planar

  x = np.stack(planar()[:12])
  order = np.random.default_rng(0).permutation(64)
  found = np.concatenate([x[8:], x[8:9][:, order][:, :, order], x[:1]])
  splits = {"train": x[:6], "test": x[6:]}

  class Source:
    def __init__(self, x):
      self.x = x

    def __len__(self):
      return len(self.x)

    def gather(self, indices):
      return {"graph": self.x[indices]}

  run = types.SimpleNamespace(
    data=types.SimpleNamespace(source=lambda split: Source(splits[split])), sample=lambda num, seed: found
  )
  numbers = judges.likeness(6, family="planar")(run)
  assert numbers["valid_6"] == 1
  assert numbers["unique_6"] == pytest.approx(5 / 6)
  assert numbers["novel_6"] == pytest.approx(5 / 6)
  assert numbers["vun_6"] == pytest.approx(4 / 6)
  assert 0 < numbers["mmd_degree_6"] < 0.1
  assert numbers["mmd_degree_6_ratio"] == pytest.approx(numbers["mmd_degree_6"] / numbers["mmd_degree_floor"])
  picture = judges.drawing(x[:2])
  assert picture.startswith(b"\x89PNG")
  judges.drawing(np.zeros((1, 3, 3), int))
