"""Discrete diffusion of graphs: symmetric noise, any order of nodes, and a bound that is known."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from graphs_cases import Degrees

from jaxgen import data, discrete
from jaxgen.core.errors import UserError
from jaxgen.core.spec import Spec
from jaxgen.discrete.predictions import of_u
from jaxgen.methods.graphs import digress
from jaxgen.methods.graphs.digress import bound, diffuse, graph_diffusion, processes
from jaxgen.methods.graphs.graphs import Graphs, Tokens, decode, dense, encode

KIND = Graphs((0.6, 0.4), (0.7, 0.2, 0.1), {3: 1, 5: 3})
SPEC = Spec((6, 6), feature="graph", dtype=np.int32)


def graphs(count, seed=0):
  """Nodes and pairs that are independent of each other, and of the size."""
  rng = np.random.default_rng(seed)
  size = rng.choice([3, 5], count, p=[0.25, 0.75])
  x = np.triu(rng.choice(3, (count, 6, 6), p=KIND.pairs), 1)
  x += x.swapaxes(1, 2)
  x[:, range(6), range(6)] = 1 + rng.choice(2, (count, 6), p=KIND.nodes)
  there = np.arange(6) < size[:, None]
  return (x * there[:, :, None] * there[:, None]).astype(np.int32)


def test_noise_and_the_bound_of_independent_edges(x64):
  """Noise is symmetric with an empty diagonal, and at its end has the marginals. With the exact predictor the bound is
  -log p of each type and of the size, on average over what the estimate draws."""
  count, x = 300, graphs(301)
  x[-1] = 0
  process = processes(KIND, discrete.squared_cosine(), 30)
  u = Tokens(*(jnp.log(jnp.asarray(p)) for p in (KIND.nodes, KIND.pairs)))

  def predict(x_t, t):
    given = lambda process, u, x_t: of_u(process, jnp.broadcast_to(u, (*x_t.shape, len(u))), x_t, t)
    return Tokens(*map(given, process, u, x_t))

  @jax.jit
  def run(x, keys):
    tokens, mask = encode(x)
    noisy = diffuse(process, tokens, jnp.ones(len(x)), keys)
    nats = bound(KIND, process, predict, x, keys, dtype=jnp.float64)
    return decode(tokens, mask), decode(noisy, mask), mask, dense(noisy.pairs, 6), nats

  same, noisy, mask, edges, nats = jax.tree.map(np.asarray, run(x, jax.random.split(jax.random.key(0), len(x))))
  np.testing.assert_array_equal(same, x)
  np.testing.assert_array_equal(edges, edges.swapaxes(1, 2))
  assert not edges[:, range(6), range(6)].any()
  there = np.diagonal(x, axis1=1, axis2=2) > 0
  np.testing.assert_array_equal(np.diagonal(noisy, axis1=1, axis2=2) > 0, there)
  assert not (noisy * ~there[:, :, None]).any()
  pairs = noisy[:, *np.triu_indices(6, 1)][mask.pairs]
  assert np.abs(np.bincount(pairs, minlength=3) / len(pairs) - KIND.pairs).max() < 0.05

  exact = np.zeros(count)
  for i, one in enumerate(x[:count]):
    n = (np.diagonal(one) > 0).sum()
    exact[i] = -np.log({3: 0.25, 5: 0.75}[n]) - np.log(KIND.nodes)[np.diagonal(one)[:n] - 1].sum()
    exact[i] -= np.log(KIND.pairs)[one[:n, :n][np.triu_indices(n, 1)]].sum()
  away = nats[:count] - exact
  assert abs(away.mean()) < 4 * away.std() / np.sqrt(count), (away.mean(), away.std())
  assert away.std() < exact.std()
  assert np.isposinf(nats[count])  # no size of 0 nodes


def test_nodes_may_come_in_any_order(monkeypatch, x64):
  """Where noise moves with the nodes, loss and likelihood stay and a trajectory of samples moves, to 1e-10."""
  method = graph_diffusion(Degrees(), KIND._replace(sizes={6: 1}), SPEC, optax.sgd(0.1), steps=8, terms=3)
  rng = np.random.default_rng(0)
  x = np.triu(rng.choice(3, (4, 6, 6), p=(0.5, 0.3, 0.2)), 1)
  x = (x + x.swapaxes(1, 2) + np.eye(6) * (1 + rng.integers(0, 2, (4, 1, 6)))).astype(np.int32)
  batch = {"graph": jnp.asarray(x), "index": jnp.arange(4)}
  shapes = jax.eval_shape(method.init, jax.random.key(0), batch)
  state = jax.tree.map(
    lambda s: jnp.zeros(s.shape, s.dtype) if "key" not in str(s.dtype) else jax.random.key(1), shapes
  )
  draw = lambda s: jnp.asarray(rng.normal(size=s.shape) * 0.5)
  state = state.replace(params=jax.tree.map(draw, shapes.params))
  order, i, j = jnp.array([3, 1, 5, 0, 2, 4]), *np.triu_indices(6, 1)
  moving, plain = [None], discrete.categorical

  def categorical(keys, log_p):
    """The same clock for the same node or pair: log_p are put back into the first order, drawn and moved."""
    if moving[0] is None:
      return plain(keys, log_p)
    if log_p.shape[1] == 6:
      return plain(keys, log_p[:, jnp.argsort(moving[0])])[:, moving[0]]
    place = jnp.zeros((6, 6), int).at[i, j].set(jnp.arange(15))
    place = (place + place.T)[moving[0]][:, moving[0]][i, j]  # the first order's pair at each place
    return plain(keys, log_p[:, jnp.argsort(place)])[:, place]

  for module in (digress, digress.losses, discrete.sampling):
    monkeypatch.setattr(module, "categorical", categorical)

  @jax.jit
  def run(order):
    moving[0] = order
    moved = dict(batch, graph=batch["graph"][:, order][:, :, order])
    loss = method.step(state, moved)[1]["loss"]
    nll = method.evaluate(state, moved, jax.random.key(2))["nll_nats"]
    return loss, nll, method.sample(state, jax.random.split(jax.random.key(3), 16))

  before, after = run(jnp.arange(6)), run(order)
  np.testing.assert_allclose(after[0], before[0], rtol=1e-10)
  np.testing.assert_allclose(after[1], before[1], rtol=1e-10)
  np.testing.assert_array_equal(after[2], before[2][:, order][:, :, order])
  assert len(np.unique(np.asarray(before[2]).reshape(16, -1), axis=0)) > 8


class Known(nn.Module):
  """Logits that do not depend on the noise: independent types."""

  @nn.compact
  def __call__(self, nodes, edges, t, index=None, *, mask):
    bias = self.param("bias", nn.initializers.zeros, (1,))
    u = [jnp.log(jnp.asarray(p)) + 0 * bias for p in ((0.3, 0.7), (0.5, 0.4, 0.1))]
    return jnp.broadcast_to(u[0], (*nodes.shape, 2)), jnp.broadcast_to(u[1], (*edges.shape, 3))


def test_samples_have_the_sizes_and_types_of_the_model():
  """In one step from noise alone they are draws from the network's own probabilities."""
  method = graph_diffusion(Known(), KIND, SPEC, optax.sgd(0.1), steps=10, sampling_steps=1, terms=1)
  state = jax.jit(method.init)(jax.random.key(0), {"graph": jnp.asarray(graphs(2)), "index": jnp.arange(2)})
  x = np.asarray(jax.jit(method.sample)(state, jax.random.split(jax.random.key(1), 600)))
  size = (np.diagonal(x, axis1=1, axis2=2) > 0).sum(1)
  assert set(size) == {3, 5}
  assert abs((size == 5).mean() - 0.75) < 0.08
  np.testing.assert_array_equal(x, x.swapaxes(1, 2))
  types = np.diagonal(x, axis1=1, axis2=2)
  assert abs((types == 2).sum() / (types > 0).sum() - 0.7) < 0.05
  i, j = np.triu_indices(6, 1)
  there = (types[:, i] > 0) & (types[:, j] > 0)
  share = np.bincount(x[:, i, j][there], minlength=3) / there.sum()
  assert np.abs(share - (0.5, 0.4, 0.1)).max() < 0.03
  assert not x[:, i, j][~there].any()


class Triangles(nn.Module):
  """The exact p(x_0 | G_t) of graphs of three nodes that are a triangle or empty, equally likely, by Bayes' rule."""

  @nn.compact
  def __call__(self, nodes, edges, t, index=None, *, mask):
    self.param("unused", nn.initializers.zeros, (1,))
    stays = 0.5 + discrete.linear().alpha(t) / 2  # a pair's probability to be what it was
    count = jnp.sum(edges, axis=(1, 2)) / 2
    log_odds = (2 * count - 3) * (jnp.log(stays) - jnp.log1p(-stays))
    logits = jnp.stack([jnp.zeros_like(log_odds), log_odds], axis=-1)
    return jnp.zeros((*nodes.shape, 1)), jnp.broadcast_to(logits[:, None, None], (*edges.shape, 2))


def test_edges_that_depend_on_each_other():
  """With the exact network samples are triangles and empty graphs, half of each, and the bound is near log 2."""
  kind, spec = Graphs((1.0,), (0.5, 0.5), {3: 1}), SPEC._replace(shape=(3, 3))
  method = graph_diffusion(Triangles(), kind, spec, optax.sgd(0.1), schedule=discrete.linear(), steps=200)
  x = np.stack([np.eye(3), np.ones((3, 3))] * 100).astype(np.int32)
  batch = {"graph": jnp.asarray(x), "index": jnp.arange(200)}

  @jax.jit
  def run(keys):
    state = method.init(keys[0], batch)
    return method.sample(state, keys), method.evaluate(state, batch, keys[1])["nll_nats"]

  drawn, nats = run(jax.random.split(jax.random.key(0), 1000))
  edges = np.asarray(drawn).sum((1, 2)) / 2 - 1.5
  assert np.isin(edges, [0, 3]).mean() > 0.97
  assert abs((edges == 3).mean() - 0.5) < 0.06
  error = np.asarray(nats).std() / np.sqrt(200)
  assert np.log(2) - 4 * error < nats.mean() < np.log(2) + 0.03 + 4 * error
  assert error < 0.05


def test_wrong_choices_are_one_sentence(tmp_path):
  make = lambda kind=KIND, spec=SPEC, network=None, **more: graph_diffusion(
    network or Known(), kind, spec, optax.sgd(0.1), **more
  )
  large, wrong, unknown, small = (graphs(2) for _ in range(4))
  wrong[0, 0, 1] += 1
  unknown[0, 0, 1] = unknown[0, 1, 0] = 3
  small[0, 2:], small[0, :, 2:] = 0, 0
  (tmp_path / "empty").mkdir()
  (tmp_path / "edges.txt").write_text("a b c\n")
  init = lambda method: jax.eval_shape(method.init, jax.random.key(0), {"graph": large})
  source = lambda kind, nodes=64: data.graphs(kind, nodes).source("train")
  for do, words in [
    (lambda: make(KIND._replace(sizes={7: 1})), "7 nodes do not fit arrays of 6"),
    (lambda: make(KIND._replace(sizes={})), "1 node or more"),
    (lambda: make(KIND._replace(pairs=(0.5, 0.2))), "have the sum 1"),
    (lambda: make(spec=SPEC._replace(shape=(6, 5))), "square matrices"),
    (lambda: make(edge_weight=-1.0), "0 or more, not -1"),
    (lambda: make(terms=0), "1 to 1000 terms"),
    (lambda: make(sampling_steps=0), "at least 1 step"),
    (lambda: init(make(KIND._replace(nodes=(1.0,)))), "output of nodes"),
    (lambda: make().check({"graph": wrong}), "symmetric matrix"),
    (lambda: make().check({"graph": unknown}), "edges of type 3"),
    (lambda: make().check({"graph": small}), "graphs of 2 nodes, to which"),
    (lambda: source("planar", 40), "graphs of 64 nodes, and the config has room for 40"),
    (lambda: source("trees"), "after graphs: comes planar"),
    (lambda: source(f"enzymes:{tmp_path / 'empty'}"), r"0 files \*_A.txt"),
    (lambda: data.graphs("planar", 64).source("valid"), "train and validation and test"),
  ]:
    with pytest.raises(UserError, match=words) as found:
      do()
    assert "\n" not in str(found.value)
