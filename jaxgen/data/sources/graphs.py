"""The data sets `graphs:KIND`, {"graph": int32 [N, N]}: planar, sbm, community_small, grid; ego:FILE, enzymes:DIR.

A graph is a symmetric matrix: on the diagonal 1 + a node's type and 0 for no node, elsewhere the type of an edge and 0
for no edge. Here nodes and edges have one type each, those of enzymes excepted. The first nodes are there.

  planar           200 graphs: Delaunay triangulations of 64 uniform points; Martinkus et al. 2022 (SPECTRE)
  sbm              200 graphs of 2 to 5 blocks of 20 to 40 nodes, joined with probability 0.3 within and 0.005 between
                   blocks; Martinkus et al. 2022. Seeds of networkx are the authors'; they drew the sizes without one
  community_small  100 graphs of 12 to 20 nodes in two communities, as the code of You et al. 2018 (GraphRNN) and Jo et
                   al. 2022 (GDSS) makes them: it draws the communities of one size with the same seed for all graphs,
                   and new edges between them
  grid             100 grids of 10 to 19 rows and columns, drawn uniformly as in GDSS
  ego:FILE         the first 200 ego graphs of radius 1 with 4 to 18 nodes of a graph's largest component ("ego small"
                   is Citeseer's); FILE has two names of nodes a line
  enzymes:DIR      graphs of 10 or more nodes in the text format of TU Dortmund, DIR/NAME_A.txt and the files beside it

planar and sbm have 128 graphs to train, 32 for validation and 40 to test, as in DiGress; the first fifth of the others
is "test", and the rest "train", as in GDSS. Where the authors drew without a seed, it is 0 here.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int
from scipy.spatial import Delaunay

from jaxgen.core.errors import NoSplit, UserError
from jaxgen.data.sources.base import Arrays, Request, select, text_of

Matrix = Int[np.ndarray, "n n"]
FORMS = "planar, sbm, community_small, grid, ego:FILE or enzymes:DIR"


def networkx() -> Any:
  """The library. Raises a UserError if it is not installed."""
  try:
    import networkx
  except ImportError:
    raise UserError("graphs need networkx, which is not installed: pip install 'jaxgen[graphs]'") from None
  return networkx


def planar() -> list[np.ndarray]:
  """Two points of a triangle are joined."""
  rng, found = np.random.default_rng(0), []
  for _ in range(200):
    A = np.eye(64, dtype=np.int32)
    for corners in Delaunay(rng.random((64, 2))).simplices:
      A[np.ix_(corners, corners)] = 1
    found.append(A)
  return found


def sbm() -> list[np.ndarray]:
  nx, rng, found = networkx(), np.random.default_rng(0), []
  for seed in range(200):
    sizes = rng.integers(20, 41, rng.integers(2, 6)).tolist()
    p = np.where(np.eye(len(sizes)), 0.3, 0.005)
    found.append(matrix(nx.stochastic_block_model(sizes, p, seed=seed)))
  return found


def community_small() -> list[np.ndarray]:
  nx, rng, found = networkx(), np.random.default_rng(0), []
  for size in rng.integers(12, 21, 100) // 2:
    graph = nx.disjoint_union_all([nx.gnp_random_graph(int(size), 0.7, seed=i) for i in range(2)])
    parts = [sorted(part) for part in nx.connected_components(graph)]
    p = 0.05 * 2 / size
    for i, one in enumerate(parts):
      for other in parts[i + 1 :]:
        new = np.argwhere(rng.random((len(one), len(other))) < p)
        graph.add_edges_from((one[a], other[b]) for a, b in new) if len(new) else graph.add_edge(one[0], other[0])
    found.append(matrix(graph))
  return found


def grid() -> list[np.ndarray]:
  nx, rng = networkx(), np.random.default_rng(0)
  return [matrix(nx.grid_2d_graph(*map(int, sides))) for sides in rng.integers(10, 20, (100, 2))]


def ego(path: Path) -> list[np.ndarray]:
  """Raises a UserError where the file is no list of edges."""
  nx, graph = networkx(), None
  rows = [line.split() for line in text_of(path).splitlines() if line.strip()]
  wrong = [number for number, row in enumerate(rows, 1) if len(row) != 2]
  if wrong or not rows:
    where = f"line {wrong[0]} has another number of words" if wrong else "it is empty"
    raise UserError(f"{path} is not a list of edges, two names a line ({where}): repair it")
  graph = nx.Graph((a, b) for a, b in rows if a != b)
  graph = nx.convert_node_labels_to_integers(graph.subgraph(max(nx.connected_components(graph), key=len)))
  around = (nx.ego_graph(graph, i) for i in range(len(graph)))
  found = [matrix(one) for one in around if 4 <= len(one) <= 18][:200]
  if not found:
    raise UserError(f"{path} has no node with 3 to 17 neighbours: take another graph")
  return found


def enzymes(folder: Path) -> list[np.ndarray]:
  """Node types are the file's, if it has any, in their order.

  Raises:
    UserError: a file is missing, or the files do not fit together.
  """
  names = sorted(folder.glob("*_A.txt"))
  if len(names) != 1:
    raise UserError(f"{folder} has {len(names)} files *_A.txt, and one is needed: give the folder of one data set")
  name = str(names[0]).removesuffix("_A.txt")
  try:
    numbers = lambda what: np.loadtxt(f"{name}_{what}.txt", delimiter=",", dtype=int, ndmin=1)
    edges, owner = numbers("A").reshape(-1, 2) - 1, numbers("graph_indicator") - 1
    labels = numbers("node_labels") if Path(f"{name}_node_labels.txt").exists() else np.zeros(len(owner), int)
  except (OSError, ValueError) as error:
    raise UserError(f"{name}_*.txt cannot be read as numbers ({error}): fetch the data set anew") from error
  nodes = len(owner)
  if len(labels) != nodes or edges.min(initial=0) < 0 or edges.max(initial=0) >= nodes or owner.min(initial=0) < 0:
    raise UserError(f"{name}_*.txt do not fit each other, {nodes} nodes and {len(labels)} labels: fetch them anew")
  types = 1 + np.unique(labels, return_inverse=True)[1]
  edges = edges[(edges[:, 0] != edges[:, 1]) & (owner[edges[:, 0]] == owner[edges[:, 1]])]
  joined = np.bincount(edges.ravel(), minlength=nodes) > 0  # single nodes are left out, as GDSS does
  found = []
  for i in range(owner.max(initial=-1) + 1):
    members = np.flatnonzero((owner == i) & joined)
    if len(members) < 10:
      continue
    A = np.diag(types[members]).astype(np.int32)
    a, b = np.searchsorted(members, edges[owner[edges[:, 0]] == i]).T
    A[a, b] = A[b, a] = 1
    found.append(A)
  return found


def matrix(graph: Any) -> Matrix:
  """A graph of networkx."""
  A = networkx().to_numpy_array(graph, dtype=np.int32)
  return A + np.eye(len(A), dtype=np.int32)


MADE: dict[str, Callable[[], list[np.ndarray]]] = {
  "planar": planar,
  "sbm": sbm,
  "community_small": community_small,
  "grid": grid,
}
READ: dict[str, Callable[[Path], list[np.ndarray]]] = {"ego": ego, "enzymes": enzymes}


def splits(kind: str, count: int) -> dict[str, slice]:
  """Which graphs are whose."""
  if kind in ("planar", "sbm"):
    return {"train": slice(128), "validation": slice(128, 160), "test": slice(160, None)}
  return {"train": slice(count // 5, None), "test": slice(count // 5)}


def open_graphs(request: Request) -> Arrays:
  """Raises a UserError if there is no such kind, split, feature or file, or a graph is too large."""
  name, (kind, _, path) = request.name, request.rest.partition(":")
  if (kind in MADE and path) or (kind in READ and not path) or kind not in MADE | READ:
    raise UserError(f"{name} is no data set of graphs: after graphs: comes {FORMS}")
  if set(request.features) != {"graph"}:
    raise UserError(f"{name} has graphs, and no {min(set(request.features) - {'graph'}, default='other')!r}")
  graphs = MADE[kind]() if kind in MADE else READ[kind](Path(path).expanduser())
  known = splits(kind, len(graphs))
  if request.split not in known:
    raise NoSplit(f"{name} has no split {request.split!r}: it has {' and '.join(known)}")
  room, most = request.features["graph"].shape[0], max(map(len, graphs))
  if most > room:
    raise UserError(f"{name} has graphs of {most} nodes, and the config has room for {room}: give it more")
  chosen = graphs[known[request.split]]
  found = np.zeros((len(chosen), room, room), np.int32)
  for row, A in zip(found, chosen, strict=True):
    row[: len(A), : len(A)] = A
  return Arrays(select({"graph": found}, request.features, name))
