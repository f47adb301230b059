"""The methods of graphs that `test_every_method.py` tests, on graphs that need no library."""

import atexit
import pathlib
import shutil
import tempfile
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
from cases import Case
from flax import linen as nn

from jaxgen import data
from jaxgen.core.wrappers import averaged
from jaxgen.diffusion.schedules import ve
from jaxgen.methods.graphs.digress import graph_diffusion
from jaxgen.methods.graphs.gdss import Part, Sampler, graph_score_sde
from jaxgen.methods.graphs.graphs import Graphs

NODES = 11


def write(folder):
  """Random graphs of 10 or 11 nodes of two types in the files that `graphs:enzymes:DIR` reads."""
  rng, edges, owner, label = np.random.default_rng(0), [], [], []
  for i in range(100):
    first, n = len(owner), 10 + i % 2
    ring = [(first + a, first + (a + 1) % n) for a in range(n)]
    edges += ring + [(first + a, first + b) for a, b in np.argwhere(np.triu(rng.random((n, n)) < 0.2, 2))]
    owner += [i + 1] * n
    label += rng.integers(1, 3, n).tolist()
  for name, rows in (("A", np.array(edges) + 1), ("graph_indicator", owner), ("node_labels", label)):
    np.savetxt(pathlib.Path(folder) / f"TINY_{name}.txt", rows, fmt="%d", delimiter=", ")


FOLDER = tempfile.mkdtemp(prefix="jaxgen-graphs-")
atexit.register(shutil.rmtree, FOLDER, ignore_errors=True)
write(FOLDER)
DATA = data.graphs(f"enzymes:{FOLDER}", NODES)
KIND = Graphs((0.5, 0.5), (0.67, 0.33), {10: 1, 11: 1})


class Degrees(nn.Module):
  """An equivariant network that compiles in a second: a node's and a pair's own types and degrees."""

  node_types: int = 2
  edge_types: int = 3
  dtype: Any = float

  @nn.compact
  def __call__(self, nodes, edges, t, index=None, *, mask):
    dense = lambda count, name: nn.Dense(count, name=name, dtype=self.dtype, param_dtype=self.dtype)
    one_hot = lambda x, count: (x[..., None] == jnp.arange(count)).astype(self.dtype)
    degree = jnp.sum(edges > 0, axis=2).astype(self.dtype)[..., None]
    X = jnp.tanh(
      dense(4, "in")(
        jnp.concatenate(
          [one_hot(nodes, self.node_types), degree, degree * t[:, None, None].astype(self.dtype)], axis=-1
        )
      )
    )
    E = X[:, :, None] * X[:, None] + dense(4, "edge")(one_hot(edges, self.edge_types))
    return dense(self.node_types, "nodes")(X), dense(self.edge_types, "edges")(E)


def digress(dtype):
  options = dict(steps=20, sampling_steps=3, terms=2)
  return averaged(graph_diffusion(Degrees(2, 2, dtype), KIND, DATA.spec, optax.adam(5e-3), **options), 0.9)


class Scores(nn.Module):
  """Equivariant scores of features or weights that compile in a second."""

  of_features: bool
  dtype: Any = float

  @nn.compact
  def __call__(self, X, A, t, index=None, *, mask):
    dense = lambda count, name: nn.Dense(count, name=name, dtype=self.dtype, param_dtype=self.dtype)
    told = jnp.concatenate([X, jnp.sum(A, axis=2, keepdims=True), 0 * X[..., :1] + t[:, None, None]], axis=-1)
    h = jnp.tanh(dense(4, "in")(told.astype(self.dtype)))
    if self.of_features:
      return dense(X.shape[-1], "out")(h)
    return dense(1, "out")(h[:, :, None] * h[:, None] + dense(4, "edge")(A[..., None].astype(self.dtype)))[..., 0]


def gdss(dtype):
  nodes, edges = Part(Scores(True, dtype)), Part(Scores(False, dtype), ve(0.1, 2.0), "score")
  options = dict(features="type", sampler=Sampler(steps=4))
  return averaged(graph_score_sde(nodes, edges, KIND, DATA.spec, optax.adam(5e-3), **options), 0.9)


CASES = {"DiGress": Case(digress, DATA), "GDSS": Case(gdss, DATA)}
