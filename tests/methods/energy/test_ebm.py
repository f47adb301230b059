import math
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from jaxgen import data
from jaxgen.core.errors import UserError
from jaxgen.core.spec import Spec
from jaxgen.core.wrappers import averaged, rollback
from jaxgen.evaluation.long_run import long_run, long_runs
from jaxgen.evaluation.partition import quadrature
from jaxgen.mcmc.langevin import langevin, mala, underdamped
from jaxgen.methods.energy.ebm import Replay, diverged, ebm, energies, uniform
from jaxgen.nn.energy.ebm import EnergyMLP
from jaxgen.show import figures


class Gaussian(nn.Module):
  """U(x) = sum_i exp(2 s_i) (x_i - m_i)^2 / 2: a Gaussian with mean m and standard deviation exp(-s)."""

  @nn.compact
  def __call__(self, x):
    m, s = (self.param(name, nn.initializers.zeros, x.shape[-1:], x.dtype) for name in "ms")
    return 0.5 * (jnp.exp(2 * s) * (x - m) ** 2).sum(-1)


still = partial(langevin, step=1e-12)  # chains that stay where they began


def points(n=32, seed=0, scale=1.0, mean=0.0):
  x = mean + scale * jax.random.normal(jax.random.key(seed), (n, 2))
  return {"x": x, "index": jnp.arange(n)}


PLANE = Spec((2,), feature="x")


def of_points(network=None, sampler=None, steps=3, **options):
  options = {"spec": PLANE, "optimizer": optax.sgd(0.0), **options}
  return ebm(network or Gaussian(), sampler or partial(langevin, step=0.1), steps, **options)


def started(method, batch=None, seed=0):
  return jax.jit(method.init)(jax.random.key(seed), batch or points())


def test_the_gradient_is_that_of_the_likelihood(x64):
  """With exact samples for chains, the mean gradient over data and samples is that of mean -log p of the data."""
  n, rate = 400_000, 1.0
  m, s = np.array([0.3, -0.5]), np.array([0.2, -0.1])
  batch = points(n, scale=0.7, mean=1.0)
  # Samples of the model: noise whose distribution is the model's own, and chains that do not move.
  start = lambda key, shape: m + np.exp(-s) * jax.random.normal(key, shape)
  method = of_points(sampler=still, steps=1, start=start, optimizer=optax.sgd(rate))
  state = started(method, batch)
  state = state.replace(params={"network": {"m": jnp.asarray(m), "s": jnp.asarray(s)}})
  after, metrics = jax.jit(method.step)(state, batch)
  found = jax.tree.map(lambda a, b: (a - b) / rate, state.params["network"], after.params["network"])

  def nll(p):
    return jnp.mean(0.5 * (jnp.exp(2 * p["s"]) * (batch["x"] - p["m"]) ** 2).sum(-1)) - p["s"].sum()

  expected = jax.grad(nll)(state.params["network"])
  for name in "ms":
    np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=4 * 1.5 / math.sqrt(n))
    assert np.abs(expected[name]).min() > 0.1
  assert metrics["movement"] < 1e-5


@pytest.mark.parametrize("how", ["short", "persistent", "replay"])
def test_it_learns_a_gaussian(how):
  """Adjusted chains, so that what is learned is the density and not the sampler."""
  n = 256
  replay = {"short": None, "persistent": Replay(n, 0.0), "replay": Replay(4 * n, 0.05)}[how]
  sampler, steps = partial(mala, step=0.4), {"short": 40, "persistent": 5, "replay": 15}[how]
  data_of = lambda key: jnp.array([0.5, -1.0]) + jnp.array([0.6, 1.4]) * jax.random.normal(key, (n, 2))
  rate = optax.cosine_decay_schedule(0.05, 400)
  method = of_points(sampler=sampler, steps=steps, replay=replay, optimizer=optax.adam(rate), start=uniform(-2.0, 2.0))
  state = started(method, points(n))

  @jax.jit
  def train(state):
    body = lambda k, state: method.step(state, {"x": data_of(jax.random.key(k)), "index": jnp.arange(n)})[0]
    return jax.lax.fori_loop(0, 400, body, state)

  found = train(state).params["network"]
  np.testing.assert_allclose(found["m"], [0.5, -1.0], atol=0.15)
  np.testing.assert_allclose(np.exp(-found["s"]), [0.6, 1.4], rtol=0.12)


def test_chains_go_on_where_they_ended():
  """What a step leaves in the buffer is where the next begins; a chain that is not chosen stays."""
  batch = points(8)
  method = of_points(sampler=partial(langevin, step=0.1, noise=0.0), steps=2, replay=Replay(8, 0.0))
  state = started(method, batch)
  first, step = state.buffers["chains"], jax.jit(method.step)
  for k in range(1, 4):  # x' = x - h/2 x on U = |x|^2 / 2
    state, metrics = step(state, batch)
    np.testing.assert_allclose(state.buffers["chains"], first * 0.95 ** (2 * k), rtol=1e-5)
  away = (1 - 0.95**2) * 0.95**4 * np.linalg.norm(first, axis=1) / math.sqrt(2)
  np.testing.assert_allclose(metrics["movement"], away.mean(), rtol=1e-4)
  np.testing.assert_allclose(metrics["energy_samples"], (np.square(first).sum(1) * 0.95**12 / 2).mean(), rtol=1e-4)
  np.testing.assert_allclose(metrics["slope"], np.linalg.norm(first, axis=1).mean() * 0.95**6, rtol=1e-4)

  many = of_points(sampler=partial(langevin, step=0.1, noise=0.0), steps=1, replay=Replay(20, 0.0))
  state = started(many, batch)
  before, seen, step = np.asarray(state.buffers["chains"]), np.zeros(20, int), jax.jit(many.step)
  for _ in range(12):
    state, _ = step(state, batch)
    now = np.asarray(state.buffers["chains"])
    moved = (now != before).any(1)
    assert moved.sum() == 8
    np.testing.assert_allclose(now[moved], 0.95 * before[moved], rtol=1e-5)
    before, seen = now, seen + moved
  assert seen.min() > 0
  assert len(set(seen)) > 1  # at random


def test_some_chains_restart():
  batch, n = points(2_000), 2_000
  for restart in (0.0, 0.05, 1.0):
    method = of_points(sampler=still, steps=1, replay=Replay(n, restart), start=uniform(5.0, 6.0))
    state = started(method, batch)
    assert state.buffers["chains"].min() >= 5
    state = state.replace(buffers={"chains": jnp.zeros((n, 2))})
    chains = jax.jit(method.step)(state, batch)[0].buffers["chains"]
    anew = np.asarray(chains[:, 0] > 4).mean()
    assert abs(anew - restart) <= 4 * math.sqrt(restart * (1 - restart) / n)


def test_a_buffer_smaller_than_the_batch():
  method = of_points(replay=Replay(5, 0.0))
  state, metrics = jax.jit(method.step)(started(method), points())
  assert state.buffers["chains"].shape == (5, 2)
  assert np.isfinite(metrics["loss"])


def test_the_penalty_and_the_datas_noise(x64):
  batch = points()
  plain = of_points(sampler=still, steps=1, alpha=0.0)
  penal = of_points(sampler=still, steps=1, alpha=0.3)
  state = started(plain, batch)
  _, a = jax.jit(plain.step)(state, batch)
  _, b = jax.jit(penal.step)(state, batch)
  U = lambda x: 0.5 * np.square(x).sum(1)
  np.testing.assert_allclose(a["energy_data"], U(batch["x"]).mean(), rtol=1e-9)
  np.testing.assert_allclose(a["loss"], a["energy_data"] - a["energy_samples"], rtol=1e-9)
  # Uniform noise in [-1, 1] in both entries: U has the mean 1/3, and U^2 (1/5 + 1/9) / 2.
  squares = (b["loss"] - a["loss"]) / 0.3 - np.square(U(batch["x"])).mean()
  assert abs(squares - (1 / 5 + 1 / 9) / 2) < 4 * 0.2 / math.sqrt(32)
  noisy = of_points(sampler=still, steps=1, data_noise=2.0)
  big = {"x": jnp.zeros((20_000, 2)), "index": jnp.arange(20_000)}
  _, c = jax.jit(noisy.step)(started(noisy, big), big)
  assert abs(c["energy_data"] - 4) < 4 * 4 / math.sqrt(20_000)


def test_samples_are_chains_from_noise():
  """Of the Gaussian energy the unadjusted chain's distribution after k steps is known."""
  h, k = 0.4, 6
  method = of_points(sampler=partial(langevin, step=h), steps=2, sampling_steps=k)
  state = started(method)
  x = np.asarray(jax.jit(method.sample)(state, jax.random.split(jax.random.key(1), 40_000)))
  shrunk = (1 - h / 2) ** 2
  variance = shrunk**k / 3 + h * (1 - shrunk**k) / (1 - shrunk)
  assert x.shape == (40_000, 2)
  np.testing.assert_allclose(x.var(0), variance, rtol=0.04)
  np.testing.assert_allclose(x.mean(0), 0, atol=4 * math.sqrt(variance / 40_000))
  assert "6 steps" in method.facts["A sample costs"]


def test_samples_are_denoised():
  """Data of variance 3 with noise of variance 1 have U = |x|^2 / 8, and the data's mean given x is 3/4 x."""
  options = dict(sampler=still, steps=1, data_noise=1.0)
  plain, method = of_points(**options), of_points(**options, denoised=True)
  state = started(plain)
  state = state.replace(params={"network": {"m": jnp.zeros(2), "s": jnp.full((2,), -math.log(2))}})
  keys = jax.random.split(jax.random.key(0), 5)
  np.testing.assert_allclose(method.sample(state, keys), 0.75 * plain.sample(state, keys), rtol=1e-5)


def test_the_averaged_energy_samples_and_evaluates():
  method = averaged(of_points(), 0.5)
  state = started(method)
  state = state.replace(ema={"network": {"m": jnp.ones(2), "s": jnp.zeros(2)}})
  found = method.evaluate(state, points(), jax.random.key(0))["unnormalised_nll_nats"]
  np.testing.assert_allclose(found, 0.5 * np.square(points()["x"] - 1).sum(1), rtol=1e-5)
  np.testing.assert_allclose(found, energies(Gaussian())(state, points()["x"]), rtol=1e-6)


@pytest.mark.parametrize("sampler", [partial(mala, step=0.3), partial(underdamped, step=0.3)])
def test_any_kernel(sampler):
  method = of_points(sampler=sampler, replay=Replay(32))
  state, metrics = jax.jit(method.step)(started(method), points())
  assert 0.5 < metrics["acceptance"] <= 1
  assert metrics["movement"] > 0.05


@pytest.mark.parametrize("wild", [1e4, np.nan])
def test_what_diverges_is_rolled_back(wild):
  """A step with wild data throws the energy away; it goes back to the older snapshot, chains and optimizer included."""
  network = EnergyMLP((8,))
  plain = of_points(network, replay=Replay(32), optimizer=optax.sgd(0.01))
  method = rollback(plain, diverged(20.0), every=2)
  state, states = started(method), []
  step = jax.jit(method.step)
  for k in range(8):
    state, metrics = step(state, points(seed=k, scale=wild if k == 6 else 1.0))
    assert int(metrics["rolled_back"]) == (k == 6)
    states.append(state)
  assert abs(float(metrics["energy_difference"])) < 20
  # Snapshots after steps 4 and 6, so that the 7th ends as the 4th did.
  kept = lambda state: (state.params, state.opt, state.buffers["chains"])
  jax.tree.map(np.testing.assert_array_equal, kept(states[6]), kept(states[3]))
  if np.isnan(wild):
    return  # without `rollback`, too, such a step changes nothing
  worse, bare = started(plain), jax.jit(plain.step)
  for k in range(8):
    worse, metrics = bare(worse, points(seed=k, scale=1e4 if k == 6 else 1.0))
  assert abs(float(metrics["energy_difference"])) > 20


def test_quadrature_is_the_gaussian_integral():
  U = lambda state, x: state * (jnp.square(x).sum(1)) / 2 - 3
  log_z, error, how = quadrature(U, -8.0, 8.0, 400)(2.0, jax.random.key(0))
  assert float(log_z) == pytest.approx(math.log(2 * math.pi / 2) + 3, abs=1e-5)
  assert error == 0
  assert how == "_density_quadrature"


def a_run(state):
  cloud = data.Dataset("points:ring8:0.1", {"x": jax.ShapeDtypeStruct((2,), np.float32)})
  return SimpleNamespace(data=cloud, state=state)


def test_long_runs_tell_chains_that_stay_from_chains_that_leave():
  """The density of data and of chains the same, a ring of radius 1; and one where chains leave for radius 3."""
  ring = lambda state, x: 50 * (jnp.linalg.norm(x, axis=1) - state) ** 2
  for radius in (1.0, 3.0):
    runs = long_runs(ring, partial(mala, step=0.02), uniform(-2.0, 2.0), steps=400, chains=16)
    run = a_run(radius)
    found = runs(run)
    assert runs(run) is found
    assert found.energy["data"].shape == (401, 16)
    np.testing.assert_allclose(np.linalg.norm(found.last["noise"], axis=1), radius, atol=0.6)
    numbers = long_run(runs)(run)
    contrast = numbers["long_run_400_contrast"]
    assert abs(contrast - radius) < 0.4
    assert (numbers["long_run_400_energy_data"] > 50) == (radius == 3)
    assert numbers["long_run_400_r_hat"] < 1.1
    assert 0.5 < numbers["long_run_400_acceptance"] < 1
    assert numbers["long_run_400_ess"] > 100
    assert set(figures.long_run(runs)(run)) == {"long_run_energy.png"}
  convex = lambda state, x: 5 * (x**2).sum(1)
  bowl = long_runs(convex, partial(langevin, step=0.05), uniform(-2.0, 2.0), steps=200, chains=16)
  found = bowl(a_run(0.0))
  assert np.abs(found.last["data"] - found.last["noise"]).max() > 0.1  # noise of their own: else they would meet
  apart = lambda state, x: 50 * (jnp.linalg.norm(x, axis=1) - state) ** 2 + jnp.where(x[:, 0] > 4, 5.0, 0)
  runs = long_runs(apart, still, uniform(5.0, 6.0), steps=40, chains=16)
  assert long_run(runs)(a_run(1.0))["long_run_40_r_hat"] > 1.5  # those from noise stay there


def test_bad_input():
  with pytest.raises(UserError, match="1 or more steps"):
    of_points(steps=0)
  with pytest.raises(UserError, match="1 or more steps, not -1"):
    of_points(sampling_steps=-1)
  with pytest.raises(UserError, match="1 or more chains"):
    of_points(replay=Replay(0))
  with pytest.raises(UserError, match="probability"):
    of_points(replay=Replay(8, 1.5))
  for options in ({"alpha": -1.0}, {"data_noise": -0.1}):
    with pytest.raises(UserError, match="at least 0"):
      of_points(**options)
  with pytest.raises(UserError, match="this data has x"):
    of_points(spec=Spec((2,))).init(jax.random.key(0), points())
  with pytest.raises(UserError, match="give it the data's own spec"):
    of_points(spec=Spec((3,), feature="x")).init(jax.random.key(0), points())
  with pytest.raises(UserError, match="one number per example"):
    of_points(nn.Dense(1)).init(jax.random.key(0), points())
  method = of_points(replay=Replay(8))
  state = started(method)
  with pytest.raises(ValueError, match="no microbatches"):
    method.step(state, points(), microbatches=2)
