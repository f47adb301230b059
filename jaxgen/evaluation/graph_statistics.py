"""Statistics of graphs, and the maximum mean discrepancy of their distributions between two sets of graphs.

The discrepancies are those of Liao et al. 2019 (GRAN), https://arxiv.org/abs/1910.00760, as Martinkus et al. 2022
(SPECTRE), https://arxiv.org/abs/2204.01613, and Vignac et al. 2023 (DiGress) compute them, or those of You et al. 2018
(GraphRNN), https://arxiv.org/abs/1802.08773, and Jo et al. 2022 (GDSS). With k(x, y) = exp(-d(x, y)^2 / (2 sigma^2)),

    (1)  MMD^2 = mean k(x, x') + mean k(y, y') - 2 mean k(x, y),   pairs of a graph with itself included

and that is what papers print as MMD. Graphs are adjacency matrices of 0 and 1, symmetric, with an empty diagonal.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.spatial.distance import cdist

Matrix = Int[np.ndarray, "n n"]
Histogram = Float[np.ndarray, " bins"]
KernelName = Literal["tv", "emd"]


def degrees(A: Matrix) -> Histogram:
  """How many nodes have 0, 1, .. neighbours."""
  return np.bincount(A.sum(1)).astype(float)


def clustering(A: Matrix) -> Float[np.ndarray, " n"]:
  """Of each node the share of pairs of its neighbours that are joined; 0 for fewer than two neighbours."""
  d = A.sum(1)
  triangles = np.einsum("ij,ij->i", A @ A, A) / 2
  return np.divide(2 * triangles, d * (d - 1), out=np.zeros(len(A)), where=d > 1)


def clusterings(A: Matrix) -> Histogram:
  """How many nodes have their clustering in each hundredth of [0, 1]."""
  return np.histogram(clustering(A), bins=100, range=(0.0, 1.0))[0].astype(float)


def eigenvalues(A: Matrix) -> Float[np.ndarray, " n"]:
  """Of the normalised Laplacian I - D^-1/2 A D^-1/2; rows of nodes without neighbours are 0."""
  d = A.sum(1)
  root = np.divide(1, np.sqrt(d), out=np.zeros(len(A)), where=d > 0)
  return np.linalg.eigvalsh(np.diag((d > 0).astype(float)) - root[:, None] * A * root)


def spectrum(A: Matrix) -> Histogram:
  """The share of eigenvalues in each of 200 equal parts of [-1e-5, 2]."""
  found = np.histogram(eigenvalues(A), bins=200, range=(-1e-5, 2))[0]
  return found / max(found.sum(), 1)


def orbits(A: Matrix) -> Int[np.ndarray, "n 15"]:
  """How often each node is in each place of a connected induced subgraph of 2 to 4 nodes.

  The 15 orbits of Przulj 2007 in their order: 0 an edge; 1, 2 end and middle of a path of three; 3 a triangle; 4, 5 end
  and middle of a path of four; 6, 7 leaf and centre of a star; 8 a square; 9, 10, 11 tail, free corners and tied corner
  of a triangle with a tail; 12, 13 the corners of degree 2 and 3 of a square with a diagonal; 14 all four joined.

  Subgraphs that need not be induced are counted by products of matrices; those that lie within denser ones are
  subtracted, from the densest on.
  """
  A = np.asarray(A, np.int64)
  d, A2 = A.sum(1), A @ A
  C = A * A2  # common neighbours of joined nodes
  t = C.sum(1) // 2  # triangles
  two = lambda x: x * (x - 1) // 2
  o = np.zeros((len(A), 15), np.int64)
  o[:, 0], o[:, 3] = d, t
  o[:, 1], o[:, 2] = A @ (d - 1) - 2 * t, two(d) - t
  for i, row in enumerate(A):
    near = A[np.ix_(row > 0, row > 0)]
    o[i, 14] = np.einsum("ij,ij->", near @ near, near) // 6
  o[:, 13] = two(C).sum(1) - 3 * o[:, 14]
  o[:, 12] = np.einsum("ij,ij->i", A @ C, A) // 2 - t - 3 * o[:, 14]
  apart = A2 - np.diag(d)  # the diagonal has the walks back
  o[:, 8] = two(apart).sum(1) - o[:, 12] - o[:, 13] - 3 * o[:, 14]
  o[:, 9] = A @ t - C.sum(1) - 2 * o[:, 12] - 3 * o[:, 14]
  o[:, 10] = C @ (d - 2) - 2 * o[:, 12] - 2 * o[:, 13] - 6 * o[:, 14]
  o[:, 11] = t * (d - 2) - 2 * o[:, 13] - 3 * o[:, 14]
  o[:, 7] = d * (d - 1) * (d - 2) // 6 - o[:, 11] - o[:, 13] - o[:, 14]
  o[:, 6] = A @ two(d - 1) - o[:, 9] - o[:, 10] - 2 * o[:, 12] - o[:, 13] - 3 * o[:, 14]
  ends = A @ (A @ (d - 1)) - d * (d - 1) - 2 * t
  o[:, 4] = ends - 2 * o[:, 8] - 2 * o[:, 9] - o[:, 10] - 4 * o[:, 12] - 2 * o[:, 13] - 6 * o[:, 14]
  middles = (d - 1) * (A @ (d - 1)) - 2 * t
  o[:, 5] = middles - 2 * o[:, 8] - o[:, 10] - 2 * o[:, 11] - 2 * o[:, 12] - 4 * o[:, 13] - 6 * o[:, 14]
  return o


def mean_orbits(A: Matrix) -> Float[np.ndarray, "15"]:
  """The mean of `orbits` over nodes."""
  return orbits(A).mean(0)


class Statistic(NamedTuple):
  """The statistics of graphs that are compared.

  Attributes:
    of: a graph -> its histogram or vector.
    sigma: of the kernel.
    scale: of a bin's width, of the earth mover's distance.
    histogram: it is divided by its sum.
  """

  of: Callable[[Matrix], np.ndarray]
  sigma: float = 1.0
  scale: float = 1.0
  histogram: bool = True


STATISTICS = {
  "degree": Statistic(degrees),
  "clustering": Statistic(clusterings, 0.1, 100.0),
  "orbit": Statistic(mean_orbits, 30.0, histogram=False),
  "spectrum": Statistic(spectrum),
}


def mmd(
  graphs: Sequence[np.ndarray], others: Sequence[np.ndarray], statistic: Statistic, kernel: KernelName = "tv"
) -> float:
  """(1) of one statistic of two sets of graphs; NaN where one of the sets has no graph with nodes.

  Args:
    graphs, others: graphs; those without nodes are left out, as in the authors' code.
    statistic: one of STATISTICS.
    kernel: d is the total variation distance ("tv": GRAN, SPECTRE, DiGress), or the earth mover's distance ("emd":
      GraphRNN, GDSS) of histograms, and the Euclidean distance of other statistics.
  """
  sets = [[statistic.of(A) for A in some if len(A)] for some in (graphs, others)]
  if not all(sets):
    return math.nan
  width = max(len(x) for some in sets for x in some)
  x, y = (np.stack([np.pad(one, (0, width - len(one))) for one in some]).astype(float) for some in sets)
  if statistic.histogram:
    x, y = (a / (a.sum(1, keepdims=True) + 1e-6) for a in (x, y))
  if kernel == "emd" and statistic.histogram:  # on a line it is the distance of the sums up to each bin
    x, y = (np.cumsum(a, axis=1) / statistic.scale for a in (x, y))
  way = "euclidean" if kernel == "emd" and not statistic.histogram else "cityblock"
  factor = 0.5 if kernel == "tv" else 1.0
  k = lambda a, b: np.exp(-((factor * cdist(a, b, way)) ** 2) / (2 * statistic.sigma**2)).mean()
  return float(k(x, x) + k(y, y) - 2 * k(x, y))
