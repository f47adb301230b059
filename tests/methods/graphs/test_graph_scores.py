"""GDSS: a Gaussian whose scores are known, any order of nodes, and what cannot be."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from graphs_cases import Scores
from scipy.stats import norm

from jaxgen.core.errors import UserError
from jaxgen.core.spec import Spec
from jaxgen.diffusion.schedules import linear, ve, vp
from jaxgen.diffusion.solvers import euler_maruyama
from jaxgen.diffusion.solvers.heun import heun
from jaxgen.methods.graphs import gdss
from jaxgen.methods.graphs.gdss import Part, Sampler, graph_score_sde
from jaxgen.methods.graphs.graphs import Graphs

KIND = Graphs((0.5, 0.5), (0.7, 0.2, 0.1), {3: 1, 5: 3})
SPEC = Spec((6, 6), feature="graph", dtype=np.int32)
OPTIMIZER = optax.sgd(0.1)


class Exact(nn.Module):
  """eps of X with the mean of a one-hot (1, 0) and of weights N(mean, std^2), on a schedule."""

  schedule: object
  of_features: bool
  mean: float = 0.9
  std: float = 0.6

  @nn.compact
  def __call__(self, X, A, t, index=None, *, mask):
    self.param("unused", nn.initializers.zeros, (1,))
    at = self.schedule.at(t).like(X)
    x, m, s = (X, jnp.array([1.0, 0.0]), 0.1) if self.of_features else (A, self.mean, self.std)
    return at.sigma / ((at.alpha * s) ** 2 + at.sigma**2) * (x - at.alpha * m)


@pytest.mark.parametrize("s4", [False, True])
def test_samples_of_a_gaussian(s4):
  """Exact scores of weights N(0.9, 0.6^2) give as many of each type as these weights rounded have. Graphs are symmetric
  and of the sizes that were asked for, and their nodes have the first type."""
  schedule = vp(0.1, 20.0)
  nodes, edges = (Part(Exact(schedule, of_features), schedule) for of_features in (True, False))
  sampler = Sampler(steps=100, snr=0.05, noise=1.0, s4=s4)
  method = graph_score_sde(nodes, edges, KIND, SPEC, OPTIMIZER, features="type", sampler=sampler)
  x = np.zeros((2, 6, 6), np.int32)
  x[:, range(3), range(3)] = 1
  state = jax.jit(method.init)(jax.random.key(0), {"graph": jnp.asarray(x), "index": jnp.arange(2)})
  found = np.asarray(jax.jit(method.sample)(state, jax.random.split(jax.random.key(1), 1500)))
  np.testing.assert_array_equal(found, found.swapaxes(1, 2))
  types = np.diagonal(found, axis1=1, axis2=2)
  assert set(np.unique(types)) == {0, 1}
  assert abs(((types > 0).sum(1) == 5).mean() - 0.75) < 0.05
  i, j = np.triu_indices(6, 1)
  pairs = (types[:, i] > 0) & (types[:, j] > 0)
  assert not found[:, i, j][~pairs].any()
  share = np.bincount(found[:, i, j][pairs], minlength=3) / pairs.sum()
  below = norm.cdf([0.5, 1.5], 0.9, 0.6)
  np.testing.assert_allclose(share, [below[0], below[1] - below[0], 1 - below[1]], atol=0.03)


def test_nodes_may_come_in_any_order(monkeypatch, x64):
  """Where noise moves with the nodes, the losses stay and a trajectory of samples moves; with the corrector."""
  kind = KIND._replace(sizes={6: 1})
  nodes, edges = Part(Scores(True)), Part(Scores(False), ve(0.1, 2.0), "score")
  options = dict(features="type", sampler=Sampler(steps=4))
  method = graph_score_sde(nodes, edges, kind, SPEC, OPTIMIZER, **options)
  rng = np.random.default_rng(0)
  x = np.triu(rng.choice(3, (4, 6, 6)), 1)
  x = (x + x.swapaxes(1, 2) + np.eye(6) * (1 + rng.integers(0, 2, (4, 1, 6)))).astype(np.int32)
  batch = {"graph": jnp.asarray(x), "index": jnp.arange(4)}
  state = jax.jit(method.init)(jax.random.key(0), batch)
  i, j, moving, plain = *np.triu_indices(6, 1), [None], gdss.normal

  def normal(keys, shape, dtype=float):
    """The same noise for the same node or pair."""
    noise, order = plain(keys, shape, dtype), moving[0]
    if shape[0] == 6:
      return noise[:, order]
    place = jnp.zeros((6, 6), int).at[i, j].set(jnp.arange(15))
    return noise[:, (place + place.T)[order][:, order][i, j]]

  for module in (gdss, euler_maruyama):
    monkeypatch.setattr(module, "normal", normal)

  @jax.jit
  def run(order):
    moving[0] = order
    moved = dict(batch, graph=batch["graph"][:, order][:, :, order])
    return method.evaluate(state, moved, jax.random.key(2)), method.sample(
      state, jax.random.split(jax.random.key(3), 16)
    )

  order = jnp.array([3, 1, 5, 0, 2, 4])
  (errors, before), (same, after) = run(jnp.arange(6)), run(order)
  for name, error in errors.items():
    np.testing.assert_allclose(same[name], error, rtol=1e-10)
  np.testing.assert_array_equal(after, before[:, order][:, :, order])
  assert len(np.unique(np.asarray(before).reshape(16, -1), axis=0)) > 8


def test_wrong_choices_are_one_sentence():
  make = lambda nodes=Part(Scores(True)), edges=Part(Scores(False)), kind=KIND, **more: graph_score_sde(  # noqa: B008
    nodes, edges, kind, SPEC, OPTIMIZER, **more
  )
  star = np.eye(6, dtype=np.int32)[None].repeat(2, 0)
  star[:, 0, 1:5] = star[:, 1:5, 0] = 1
  star[:, 5, 5] = 0
  batch = {"graph": jnp.asarray(star), "index": jnp.arange(2)}
  init = lambda method: jax.eval_shape(method.init, jax.random.key(0), batch)
  for do, words in [
    (lambda: make(kind=KIND._replace(sizes={7: 1})), "7 nodes do not fit"),
    (lambda: make(kind=KIND._replace(pairs=(1.0,))), "no edges to learn"),
    (lambda: make(width=0), "1 or more of them"),
    (lambda: make(sampler=Sampler(steps=0)), "1 or more steps"),
    (lambda: make(sampler=Sampler(predictor=heun)), "another predictor"),
    (lambda: make(edges=Part(Scores(False), linear(10))), "one continuous time"),
    (lambda: make(width=4).check(batch), "4 neighbours, and 4 degrees"),
    (lambda: init(make(edges=Part(Scores(True)), features="type")), "network of adjacency"),
  ]:
    with pytest.raises(UserError, match=words) as found:
      do()
    assert "\n" not in str(found.value)
