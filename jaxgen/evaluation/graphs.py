"""Judges of graphs: discrepancies of their statistics, validity, uniqueness and novelty; and drawings.

As in Martinkus et al. 2022 (SPECTRE), https://arxiv.org/abs/2204.01613, and Vignac et al. 2023 (DiGress). A graph is
unique if no earlier sample is isomorphic to it, and novel if no training graph is, whatever types nodes and edges have.
"""

import io
import itertools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Int
from scipy.special import xlogy
from scipy.stats import chi2

from jaxgen.data.sources.graphs import networkx
from jaxgen.engine.experiment import AnyRun, Evaluator
from jaxgen.evaluation.graph_statistics import STATISTICS, KernelName, Matrix, mmd

Family = Literal["planar", "sbm"]


def adjacency(x: Int[np.ndarray, "nodes nodes"]) -> Matrix:
  """An example as an adjacency matrix of its nodes."""
  there = np.diagonal(x) > 0
  A = (x[np.ix_(there, there)] > 0).astype(int)
  np.fill_diagonal(A, 0)
  return A


def is_planar(A: Matrix) -> bool:
  """Whether a graph is connected and planar."""
  nx = networkx()
  graph = nx.from_numpy_array(A)
  return len(A) > 0 and nx.is_connected(graph) and bool(nx.check_planarity(graph)[0])


def is_sbm(A: Matrix, within: float = 0.3, between: float = 0.005) -> bool:
  """Whether a graph looks like one of the stochastic block model of the data set "sbm".

  It has 2 to 5 blocks of 20 to 40 nodes, and the mean of p over all pairs of blocks is above 0.9, p of Wald's test that
  their share of edges is `within` or `between`. The papers find the blocks by graph-tool; here `blocks` does.
  """
  if A.sum() == 0:
    return False
  block = blocks(A)
  sizes = np.bincount(block)
  if not 2 <= len(sizes) <= 5 or sizes.min() < 20 or sizes.max() > 40:
    return False
  edges, pairs = _between(A, block)
  share, expected = edges / (pairs + 1e-6), np.where(np.eye(len(sizes)), within, between)
  wald = (share - expected) ** 2 / (share * (1 - share) + 1e-6)
  return bool((1 - chi2.cdf(wald, 1)).mean() > 0.9)


def _between(A: Matrix, block: Int[np.ndarray, " n"]) -> tuple[np.ndarray, np.ndarray]:
  """(edges, pairs of nodes) of every two blocks, ordered pairs of nodes within a block."""
  member = np.eye(block.max() + 1, dtype=int)[block]
  sizes = member.sum(0)
  return member.T @ A @ member, np.multiply.outer(sizes, sizes) - np.diag(sizes)


def description_length(A: Matrix, block: Int[np.ndarray, " n"]) -> float:
  """Nats of a graph's blocks and edges: -log of the likelihood of a block model's best probabilities, and the price of
  the blocks, n log B and log(n (n - 1) / 2) / 2 for each of B (B + 1) / 2 probabilities."""
  edges, pairs = _between(A, block)
  n, B = len(block), len(pairs)
  half = np.where(np.eye(B), 0.5, 1.0)[np.triu_indices(B)]
  m, all_ = edges[np.triu_indices(B)] * half, pairs[np.triu_indices(B)] * half
  p = np.divide(m, all_, out=np.zeros(len(m)), where=all_ > 0)
  likelihood = (xlogy(m, p) + xlogy(all_ - m, 1 - p)).sum()
  return float(-likelihood + n * np.log(B) + len(m) / 2 * np.log(max(n * (n - 1) / 2, 2)))


def blocks(A: Matrix) -> Int[np.ndarray, " n"]:
  """Blocks of nodes with a small `description_length`: Louvain's communities, whose nodes move and which are merged as
  long as that makes it smaller."""
  nx = networkx()
  block = np.zeros(len(A), int)
  for i, members in enumerate(nx.community.louvain_communities(nx.from_numpy_array(A), seed=0)):
    block[list(members)] = i
  best = description_length(A, block)
  changed = True
  while changed:
    changed = False
    tries = itertools.chain(
      ((a, b, None) for a, b in itertools.combinations(range(block.max() + 1), 2)),
      ((block[i], b, i) for i in range(len(A)) for b in np.unique(block[A[i] > 0])),
    )
    for a, b, node in tries:
      if a == b or (node is not None and block[node] == b):
        continue
      new = block.copy()
      new[block == a if node is None else node] = b
      new = np.unique(new, return_inverse=True)[1]
      if (length := description_length(A, new)) < best - 1e-9:
        block, best, changed = new, length, True
        break
  return block


VALID: dict[str, Callable[[Matrix], bool]] = {"planar": is_planar, "sbm": is_sbm}


def _isomorphic(graph: Any, others: Sequence[Any]) -> bool:
  nx = networkx()
  return any(nx.faster_could_be_isomorphic(graph, other) and nx.is_isomorphic(graph, other) for other in others)


def quality(
  samples: Sequence[np.ndarray], train: Sequence[np.ndarray], family: Family | None = None
) -> dict[str, float]:
  """The shares of the samples that are "unique", "novel" and "valid", and that are all three, "vun".

  Args:
    samples: graphs.
    train: the training graphs.
    family: what is valid; None: validity is not reported.
  """
  nx = networkx()
  graphs, known = ([nx.from_numpy_array(A) for A in some] for some in (samples, train))
  unique = [not _isomorphic(graph, graphs[:i]) for i, graph in enumerate(graphs)]
  novel = [not _isomorphic(graph, known) for graph in graphs]
  found = {"unique": np.mean(unique), "novel": np.mean(novel)}
  if family is not None:
    valid = [VALID[family](A) for A in samples]
    found |= {"valid": np.mean(valid), "vun": np.mean(np.all([valid, unique, novel], axis=0))}
  return {name: float(value) for name, value in found.items()}


def likeness(
  num: int = 40, *, family: Family | None = None, kernel: KernelName = "tv", seed: int = 0, split: str = "test"
) -> Evaluator:
  """How like the data's graphs the samples are.

  Numbers: for each of degree, clustering, orbit and spectrum `mmd_STATISTIC_N` between N samples and a split,
  `mmd_STATISTIC_floor` between the training graphs and that split, and `mmd_STATISTIC_N_ratio`, 1 for samples that are
  as close as the training graphs; and `unique_N`, `novel_N` and, with a family, `valid_N` and `vun_N` of `quality`.

  Args:
    num: number of samples.
    family: what is valid: "planar" or "sbm".
    kernel: of `mmd`.
    seed: of the samples.
    split: the split.
  """
  if num < 1:
    raise ValueError(f"likeness(num={num}): give 1 or more samples")

  def all_of(run: AnyRun, split: str) -> list[np.ndarray]:
    source = run.data.source(split)
    return [adjacency(x) for x in source.gather(np.arange(len(source)))["graph"]]

  def evaluate(run: AnyRun) -> dict[str, float]:
    train, other = all_of(run, "train"), all_of(run, split)
    samples = [adjacency(x) for x in np.asarray(run.sample(num, seed=seed))]
    numbers = {}
    for name, statistic in STATISTICS.items():
      found, floor = (mmd(graphs, other, statistic, kernel) for graphs in (samples, train))
      numbers |= {f"mmd_{name}_{num}": found, f"mmd_{name}_floor": floor}
      numbers[f"mmd_{name}_{num}_ratio"] = found / floor if floor > 0 else float("nan")
    return numbers | {f"{name}_{num}": value for name, value in quality(samples, train, family).items()}

  return evaluate


def drawing(x: Int[np.ndarray, "n nodes nodes"], columns: int = 4, inches: float = 2.2) -> bytes:
  """A PNG of graphs side by side. Nodes lie so that springs along the edges are short; colours are nodes' types, and
  widths edges' types."""
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure

  nx = networkx()
  rows = -(-len(x) // columns)
  figure = Figure((columns * inches, rows * inches), dpi=100, layout="constrained")
  FigureCanvasAgg(figure)
  for i, one in enumerate(x):
    axes = figure.add_subplot(rows, columns, i + 1)
    axes.set_axis_off()
    axes.set_aspect("equal")
    A = adjacency(one)
    if not len(A):
      continue
    there = np.diagonal(one) > 0
    types, edge_types = np.diagonal(one)[there], one[np.ix_(there, there)]
    graph = nx.from_numpy_array(A)
    start = nx.spectral_layout(graph) if len(A) > 2 and nx.is_connected(graph) else None
    place = nx.spring_layout(graph, seed=0, pos=start, iterations=100)
    place = np.array([place[n] for n in range(len(A))])
    for a, b in graph.edges:
      axes.plot(*place[[a, b]].T, color="0.5", linewidth=0.4 + 0.4 * edge_types[a, b], zorder=1)
    axes.scatter(*place.T, s=600 / (len(A) + 10), c=types, cmap="tab10", vmin=1, vmax=10, zorder=2)
  file = io.BytesIO()
  figure.savefig(file, format="png")
  return file.getvalue()
