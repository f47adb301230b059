from functools import partial

import enumerated
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import special, stats

from jaxgen import data, mcmc
from jaxgen.core.errors import UserError
from jaxgen.core.spec import Spec
from jaxgen.evaluation import partition
from jaxgen.mcmc.rbm import kernel
from jaxgen.methods.energy.rbm import cd, filters, mean_field, persistent, rbm, tempered, walk
from jaxgen.nn.energy.rbm import RBM, gaussian

D, H, DRAWS = 3, 2, 400


def of_bits(machine, negative, rate=1.0, **options):
  """The method at a small machine, whose step of descent is minus the gradient, and its state."""
  network = RBM(*machine.W.shape, param_dtype=jnp.float64)
  spec = Spec((len(machine.b), 1, 1), levels=2)
  method = rbm(network, negative=negative, spec=spec, optimizer=optax.sgd(rate), **options)
  states = machine.visible[np.arange(4)]
  state = jax.jit(method.init)(jax.random.key(0), batch_of(states))
  return method, state.replace(params={"network": enumerated.params(machine)})


def batch_of(v):
  return {"image": jnp.asarray(2 * v - 1)[:, :, None, None], "index": jnp.arange(len(v))}


def gradients(method, state, batch):
  """The step's gradients, with many keys: {name: [DRAWS, ...]}."""

  def gradient(key):
    after, _ = method.step(state.replace(key=key), batch)
    return jax.tree.map(jnp.subtract, state.params["network"], after.params["network"])

  return jax.jit(jax.vmap(gradient))(jax.random.split(jax.random.key(1), DRAWS))


def the_data(machine, n=64):
  """Examples with the shares q of the states, and q."""
  q = np.random.default_rng(0).dirichlet(np.ones(len(machine.visible)))
  v = machine.visible[np.random.default_rng(1).choice(len(q), n, p=q)]
  return v, np.bincount(machine.index(v), minlength=len(q)) / n


def difference(machine, q, r):
  positive, negative = machine.gradient(q), machine.gradient(r)
  return {name: positive[name] - negative[name] for name in positive}


def assert_the_mean(found, expected):
  for name, values in found.items():
    values = np.asarray(values)
    error = values.std(0, ddof=1) / np.sqrt(len(values))
    assert (error > 0).any()
    assert (np.abs(values.mean(0) - expected[name]) <= 4 * error + 1e-12).all(), name


@pytest.mark.parametrize("k", [1, 5])
def test_the_expected_gradient_of_contrastive_divergence(k, x64):
  machine = enumerated.random(D, H, seed=8, scale=2.5)
  v, q = the_data(machine)
  found = gradients(*of_bits(machine, cd(k)), batch_of(v))
  expected = difference(machine, q, q @ np.linalg.matrix_power(machine.T, k))
  assert_the_mean(found, expected)
  # That of another k is told from it.
  other = difference(machine, q, q @ np.linalg.matrix_power(machine.T, {1: 5, 5: 1}[k]))
  with pytest.raises(AssertionError):
    assert_the_mean(found, other)


def test_it_goes_to_the_gradient_of_the_likelihood(x64):
  machine = enumerated.random(D, H, seed=8, scale=2.5)
  v, q = the_data(machine)
  exact = difference(machine, q, machine.p)

  # By differences it is that of -log p(v).
  def nll(W):
    other = enumerated.Enumerated(W, machine.b, machine.c)
    return -q @ np.log(other.p)

  step = 1e-5 * np.eye(D * H).reshape(-1, D, H)
  slopes = [(nll(machine.W + s) - nll(machine.W - s)) / 2e-5 for s in step]
  np.testing.assert_allclose(np.reshape(slopes, (D, H)), exact["W"], atol=1e-8)
  assert_the_mean(gradients(*of_bits(machine, cd(40)), batch_of(v)), exact)
  bias = lambda k: np.abs(difference(machine, q, q @ np.linalg.matrix_power(machine.T, k))["W"] - exact["W"]).max()
  assert bias(1) > 0.15
  assert 0.05 < bias(5) < 0.1
  assert bias(60) < 1e-5


@pytest.mark.parametrize("negative", [persistent(2, 64), tempered(2, 64, (0.0, 0.5, 1.0))], ids=["plain", "tempered"])
def test_persistent_chains_reach_the_models_distribution_and_stay(negative, x64):
  machine = enumerated.random(D, H, seed=8, scale=2.5)
  v, q = the_data(machine)
  method, state = of_bits(machine, negative, rate=0.0)
  step = jax.jit(jax.vmap(lambda state: method.step(state, batch_of(v))[0]))
  keys = jax.random.split(jax.random.key(3), 32)
  states = jax.vmap(lambda key: state.replace(key=key))(keys)
  for _ in range(40):
    states = step(states)
  x = np.asarray(states.buffers["chains"])
  x = x[:, :, -1] if x.ndim == 4 else x
  counts = np.bincount(machine.index(x).ravel(), minlength=8)
  assert stats.chisquare(counts, machine.p * counts.sum()).pvalue > 1e-3
  assert np.abs(counts / counts.sum() - q).max() > 0.05


def test_chains_go_on_from_where_they_were(x64):
  machine = enumerated.random(D, H)
  v, _ = the_data(machine)
  method, state = of_bits(machine, persistent(3, 8), rate=0.0)
  after, _ = jax.jit(method.step)(state, batch_of(v))
  # Every chain is where one run of three steps from the buffer ends, and nothing depends on the examples.
  other, _ = jax.jit(method.step)(state, batch_of(1 - v))
  np.testing.assert_array_equal(after.buffers["chains"], other.buffers["chains"])
  key = jax.random.fold_in(jax.random.fold_in(state.key, 0), 0)
  keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(8))
  step = kernel(RBM(D, H), state.params["network"])
  expected, *_ = jax.jit(lambda: mcmc.run(step, state.buffers["chains"], keys, 3))()
  np.testing.assert_array_equal(after.buffers["chains"], expected)


@pytest.mark.parametrize("k", [1, 4])
def test_mean_field_is_its_recursion(k, x64):
  machine = enumerated.random(5, 4, seed=8)
  v = machine.visible[[3, 17, 30, 8]]
  found = gradients(*of_bits(machine, mean_field(k)), batch_of(v))
  m = v
  for _ in range(k):
    up = 1 / (1 + np.exp(-(machine.c + m @ machine.W)))
    m = 1 / (1 + np.exp(-(machine.b + up @ machine.W.T)))
  up = 1 / (1 + np.exp(-(machine.c + v @ machine.W)))
  last = 1 / (1 + np.exp(-(machine.c + m @ machine.W)))
  expected = {"W": (m.T @ last - v.T @ up) / 4, "b": (m - v).mean(0), "c": (last - up).mean(0)}
  for name, each in found.items():
    np.testing.assert_allclose(each[0], expected[name], rtol=1e-10)
    np.testing.assert_array_equal(each[0], each[-1])


def test_sparsity_pulls_towards_its_target(x64):
  machine = enumerated.random(5, 4, seed=8)
  v = machine.visible[[3, 17, 30, 8]]
  plain, state = of_bits(machine, mean_field())
  sparse, _ = of_bits(machine, mean_field(), sparsity=0.7, target=0.1)
  step = lambda method: np.asarray(gradients(method, state, batch_of(v))["c"][0])
  up = lambda c: 1 / (1 + np.exp(-(c + v @ machine.W)))
  penalty = lambda c: 0.7 * ((0.1 - up(c).mean(0)) ** 2).sum()
  slopes = [(penalty(machine.c + s) - penalty(machine.c - s)) / 2e-5 for s in 1e-5 * np.eye(4)]
  np.testing.assert_allclose(step(sparse) - step(plain), slopes, atol=1e-8)
  assert plain.mean
  assert not sparse.mean


def test_evaluation_and_the_two_partition_functions(x64):
  machine = enumerated.random(4, 3, seed=9)
  network = RBM(4, 3, param_dtype=jnp.float64)
  method, state = of_bits(machine, cd())
  F = method.evaluate(state, batch_of(machine.visible), jax.random.key(0))["unnormalised_nll_nats"]
  log_z, error, how = partition.exact(network, Spec((4,), levels=2))(state, jax.random.key(0))
  np.testing.assert_allclose(F + log_z, -np.log(machine.p), rtol=1e-10)
  assert (error, how) == (0.0, "")
  arrays = {"image": machine.visible.astype(np.uint8).reshape(16, 4, 1, 1)}
  found = data.images("somewhere", (4, 1, 1), levels=2)
  found._sources["train"] = data.sources.Arrays(arrays)
  log_z, error, how = partition.ais(network, found, runs=40, steps=100)(state, jax.random.key(0))
  assert 0 < error < 0.3
  assert abs(log_z - machine.log_z) < 4 * error
  assert how == "_ais_40x100"


def test_samples_are_the_models(x64):
  machine = enumerated.random(D, H, seed=8, scale=2.5)
  method, state = of_bits(machine, cd(), sampling_steps=60)
  n = 4_000
  x = np.asarray(jax.jit(method.sample)(state, jax.random.split(jax.random.key(0), n)))
  assert x.shape == (n, D, 1, 1)
  assert set(np.unique(x)) == {-1, 1}
  counts = np.bincount(machine.index(x.reshape(n, D) > 0), minlength=8)
  assert stats.chisquare(counts, machine.p * n).pvalue > 1e-3
  means, _ = of_bits(machine, cd(), sampling_steps=60, drawn=False)
  y = np.asarray(jax.jit(means.sample)(state, jax.random.split(jax.random.key(0), n)))
  given_h = 2 * special.expit(machine.b + machine.hidden @ machine.W.T) - 1
  assert len(np.unique(y.round(9), axis=0)) == 2**H
  assert np.abs(y.reshape(n, 1, D) - given_h).max(2).min(1).max() < 1e-9
  v = machine.p @ machine.visible
  assert (np.abs((y.reshape(n, D).mean(0) + 1) / 2 - v) < 4 * 0.5 / np.sqrt(n)).all()


def test_the_first_batch_gives_the_visible_biases():
  x = np.where(np.random.default_rng(0).uniform(size=(50, 4, 4, 1)) < 0.3, 1.0, -1.0).astype(np.float32)
  x[:, 0] = -1
  how = dict(optimizer=optax.sgd(0.1), negative=cd())
  state = rbm(RBM(16, 5), spec=Spec((4, 4, 1), levels=2), **how).init(
    jax.random.key(0), {"image": jnp.asarray(x), "index": jnp.arange(50)}
  )
  expected = np.maximum((x.reshape(50, 16).mean(0) + 1) / 2, 0.01)
  np.testing.assert_allclose(special.expit(np.asarray(state.params["network"]["b"])), expected, rtol=1e-4)
  real = rbm(RBM(16, 5, gaussian(None)), spec=Spec((4, 4, 1)), **how)
  state = real.init(jax.random.key(0), {"image": jnp.asarray(x), "index": jnp.arange(50)})
  np.testing.assert_allclose(state.params["network"]["b"], x.reshape(50, 16).mean(0), atol=1e-6)
  expected = np.log(np.maximum(x.reshape(50, 16).var(0), 1e-4))
  np.testing.assert_allclose(state.params["network"]["z"], expected, atol=1e-5)


def test_gaussian_units_learn_the_plane_and_their_density_is_normalised(x64):
  rng = np.random.default_rng(0)
  x = jnp.asarray(np.where(rng.uniform(size=(500, 1)) < 0.5, 1.5, -1.5) + 0.5 * rng.normal(size=(500, 2)))
  network = RBM(2, 4, gaussian(None), jnp.float64)
  spec = Spec((2,), feature="x")
  method = rbm(network, spec=spec, negative=cd(5), optimizer=optax.adam(0.02), sampling_steps=200)
  batch = {"x": x, "index": jnp.arange(len(x))}
  state = jax.jit(method.init)(jax.random.key(0), batch)
  log_partition = partition.exact(network, spec)

  def nll(state):
    log_z, _, how = log_partition(state, jax.random.key(0))
    assert how == "_density"
    return method.evaluate(state, batch, jax.random.key(0))["unnormalised_nll_nats"].mean() + log_z

  before = nll(state)
  steps = jax.jit(lambda state: jax.lax.fori_loop(0, 300, lambda _, state: method.step(state, batch)[0], state))
  state = steps(state)
  # One Gaussian of the data's covariance has the entropy:
  single = np.log(2 * np.pi * np.e) + np.linalg.slogdet(np.cov(x.T))[1] / 2
  assert nll(state) < min(before - 0.5, single - 0.2)
  line = np.linspace(-8, 8, 321)
  grid = jnp.asarray(np.stack(np.meshgrid(line, line), -1).reshape(-1, 2))
  F = network.apply({"params": state.params["network"]}, grid)
  log_z, *_ = log_partition(state, jax.random.key(0))
  np.testing.assert_allclose(np.exp(-F - log_z).sum() * (line[1] - line[0]) ** 2, 1, rtol=1e-6)
  samples = np.asarray(jax.jit(method.sample)(state, jax.random.split(jax.random.key(1), 1_000)))
  expected = np.exp(-F - log_z) * (line[1] - line[0]) ** 2 @ (grid.sum(1) > 0)
  assert abs((samples.sum(1) > 0).mean() - expected) < 4 * 0.5 / np.sqrt(1_000)


def test_dequantized_values_cost_their_width():
  network = RBM(64, 3, gaussian())
  batch = {"image": jnp.zeros((2, 8, 8, 1)), "index": jnp.arange(2)}
  specs = {levels: Spec((8, 8, 1), levels) for levels in (None, 17)}
  of = {n: rbm(network, spec=spec, optimizer=optax.sgd(0.1), negative=cd()) for n, spec in specs.items()}
  state = of[None].init(jax.random.key(0), batch)
  nats = {n: m.evaluate(state, batch, jax.random.key(0))["unnormalised_nll_nats"] for n, m in of.items()}
  np.testing.assert_allclose(nats[17] - nats[None], 64 * np.log(17 / 2), rtol=1e-5)
  assert partition.exact(network, specs[17])(state, jax.random.key(0))[2] == "_dequantized"


def test_walks_and_filters(x64):
  machine = enumerated.random(4, 3, seed=9)
  network = RBM(4, 3, param_dtype=jnp.float64)
  _, state = of_bits(machine, cd())
  images = filters(network, Spec((2, 2, 1)))(state)
  np.testing.assert_array_equal(images[1, :, :, 0], machine.W[:, 1].reshape(2, 2))
  x = jnp.asarray(2 * machine.visible[:5] - 1).reshape(5, 2, 2, 1)
  keys = jax.random.split(jax.random.key(0), 5)
  frames = jax.jit(partial(walk(network, frames=3, every=2), state))(x, keys)
  assert frames.shape == (3, 5, 2, 2, 1)
  step = kernel(network, state.params["network"])
  v, *_ = jax.jit(lambda: mcmc.run(step, jnp.asarray(machine.visible[:5]), fold(keys, 0), 2))()
  up = 1 / (1 + np.exp(-(machine.c + v @ machine.W)))
  expected = 2 / (1 + np.exp(-(machine.b + up @ machine.W.T))) - 1
  np.testing.assert_allclose(frames[0].reshape(5, 4), expected, rtol=1e-10)


def fold(keys, number):
  return jax.vmap(jax.random.fold_in, (0, None))(keys, number)


@pytest.mark.parametrize("negative", [cd, persistent, mean_field, tempered])
def test_fewer_steps_than_one(negative):
  with pytest.raises(UserError, match=r"takes k >= 1 steps, and k is 0"):
    negative(k=0)


def test_bad_input():
  make = partial(rbm, optimizer=optax.sgd(0.1), negative=cd())
  bits = Spec((8, 8, 1), levels=2)
  for levels, found in ((17, "integers of 17 levels"), (None, "real numbers")):
    with pytest.raises(UserError, match=f"need binary data, and these are {found}"):
      make(RBM(64, 3), spec=Spec((8, 8, 1), levels))
  with pytest.raises(UserError, match="need real numbers, and these are binary"):
    make(RBM(64, 3, gaussian()), spec=bits)
  with pytest.raises(UserError, match="63 visible units, and an example 64 values"):
    make(RBM(63, 3), spec=bits)
  with pytest.raises(UserError, match="sparsity is the weight"):
    make(RBM(64, 3), spec=bits, sparsity=-1.0)
  with pytest.raises(UserError, match="1 or more steps of its chain"):
    make(RBM(64, 3), spec=bits, sampling_steps=0)
  batch = {"image": jnp.zeros((2, 4, 16, 1)), "index": jnp.arange(2)}
  with pytest.raises(UserError, match=r"shape \(8, 8, 1\) and the data has \(4, 16, 1\)"):
    make(RBM(64, 3), spec=bits).init(jax.random.key(0), batch)
  with pytest.raises(UserError, match="26 hidden units is too long"):
    partition.exact(RBM(64, 26), bits)
  for negative in (persistent, tempered):
    with pytest.raises(UserError, match="needs 1 or more chains, not 0"):
      negative(chains=0)
