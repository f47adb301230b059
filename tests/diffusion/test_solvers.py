import importlib
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.diffusion import PREDICTIONS, SOLVERS, Schedule, ancestral, cosine, ddim, leading, linear, sample, trailing
from jaxgen.diffusion.predictions import to_x0_eps
from jaxgen.errors import UserError

FIXTURE = np.load(pathlib.Path(__file__).parents[1] / "fixtures/schedulers.npz")
SHORT = {"linear": linear(100, 1e-3, 0.2), "cosine": cosine(100)}
MODULES = [importlib.import_module(f"jaxgen.diffusion.solvers.{name}") for name in SOLVERS]


def stub(schedule, clip=False):
  """A network that no data explains, so that nothing holds by luck; samples leave [-1, 1] with it."""

  def denoise(x, t):
    output = jnp.sin(3 * x) + 0.3 * jnp.cos(t) * x**2 / (1 + x**2)
    return to_x0_eps(PREDICTIONS["eps"], output, x, schedule.alpha(t), schedule.sigma(t), clip)

  return denoise


def start(n, shape=(3, 2, 1), seed=0):
  keys = jax.random.split(jax.random.key(seed), n)
  return jax.vmap(lambda key: jax.random.normal(key, shape))(keys), keys


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", [key for key in FIXTURE if key.startswith("step/")])
def test_diffusers_agrees_step_by_step(case, dtype, monkeypatch, x64):
  _, schedule_name, prediction, clip, solver_name = case.split("/")
  schedule = SHORT[schedule_name]
  name, option = solver_name.split("-")
  solver = {"ddim": ddim, "ancestral": ancestral}[name](schedule, float(option) if name == "ddim" else option)
  x, output, noise = (jnp.asarray(FIXTURE[k], dtype) for k in ("x", "output", "noise"))
  for module in MODULES:
    monkeypatch.setattr(module, "normal", lambda keys, x: noise)

  def denoise(x, t):
    return to_x0_eps(PREDICTIONS[prediction], output, x, schedule.alpha(t), schedule.sigma(t), clip == "clip")

  for timestep, expected in zip((90, 40, 10, 0), FIXTURE[case], strict=True):
    t, s = jnp.asarray(timestep + 1, dtype), jnp.asarray(max(timestep - 9, 0), dtype)
    got, carry = solver.step(denoise, solver.init(x), x, t, s, jax.random.split(jax.random.key(0), 2))
    assert got.dtype == dtype
    tolerance = 1e-10 if (dtype, schedule_name) == ("float64", "linear") else 1e-5  # its cosine betas are float32
    np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance * max(1, np.abs(expected).max()))


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("schedule", SHORT.values(), ids=SHORT)
@pytest.mark.parametrize("n", [100, 13])
def test_ddim_with_eta_one_is_ancestral(schedule, clip, n, x64):
  times = trailing(schedule, n)
  x, keys = start(4)
  run = lambda solver: sample(solver, stub(schedule, clip), times, x, keys)
  a, b = run(ancestral(schedule, "posterior")), run(ddim(schedule, 1.0))
  np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9 * float(jnp.abs(a).max()))
  assert jnp.abs(run(ddim(schedule, 0.0)) - a).max() > 0.1  # the noise matters


def test_posterior_variance_is_exact_for_one_point(x64):
  # Data that is one point y: the network is exact, every step exact, and x_s has mean alpha_s y and variance sigma_s^2.
  schedule, y, n = SHORT["linear"], 0.6, 20_000
  denoise = lambda x, t: (jnp.full_like(x, y), (x - schedule.alpha(t) * y) / schedule.sigma(t))
  times = np.array([100.0, 60, 25, 10])
  z, keys = start(n, (1, 1, 1))
  x = schedule.alpha(times[:1]) * y + schedule.sigma(times[:1]) * z
  for solver in (ancestral(schedule), ddim(schedule, 0.0), ddim(schedule, 0.6)):
    x_s = sample(solver, denoise, times, x, keys)
    alpha, sigma = schedule.alpha(times[-1:]), schedule.sigma(times[-1:])
    np.testing.assert_allclose(x_s.mean(), alpha * y, atol=4 * sigma[0] / n**0.5)
    np.testing.assert_allclose(x_s.var(), sigma**2, rtol=4 * (2 / n) ** 0.5)
    np.testing.assert_allclose(sample(solver, denoise, np.append(times, 0), x, keys), y, rtol=1e-9)


def test_beta_variance_is_exact_for_normal_data(x64):
  # Data that is N(0, I): so is every x_t, whatever the grid, as long as it does not end in clean data.
  schedule, n = SHORT["linear"], 20_000
  denoise = lambda x, t: (schedule.alpha(t) * x, schedule.sigma(t) * x)
  x, keys = start(n, (1, 1, 1))
  x_s = sample(ancestral(schedule, "beta"), denoise, np.array([100.0, 80, 30, 5]), x, keys)
  np.testing.assert_allclose(x_s.var(), 1, rtol=4 * (2 / n) ** 0.5)
  assert sample(ancestral(schedule, "posterior"), denoise, np.array([100.0, 80, 30, 5]), x, keys).var() < 0.9


def test_ddim_converges_to_the_ode_at_first_order(x64):
  # Data N(0, s^2): the probability-flow ODE scales x_T by std(x_0) / std(x_T). Here t is continuous.
  s = 0.5
  schedule = Schedule(alpha=lambda t: jnp.cos(t * jnp.pi / 2), sigma=lambda t: jnp.sin(t * jnp.pi / 2), steps=1)
  variance = lambda t: schedule.alpha(t) ** 2 * s**2 + schedule.sigma(t) ** 2
  x_0 = lambda x, t: schedule.alpha(t) * s**2 / variance(t) * x
  denoise = lambda x, t: (x_0(x, t), schedule.sigma(t) / variance(t) * x)
  x, keys = start(1)
  exact = x * s / jnp.sqrt(variance(0.9))
  error = [
    float(jnp.abs(sample(ddim(schedule), denoise, np.linspace(0.9, 0, n + 1), x, keys) - exact).max())
    for n in (64, 128)
  ]
  assert 1.9 < error[0] / error[1] < 2.1


@pytest.mark.parametrize("make", SOLVERS.values(), ids=SOLVERS)
@pytest.mark.parametrize("n", [1, 7, 100])
def test_network_calls_and_traces(make, n):
  schedule = SHORT["linear"]
  traced, called = [], []

  def denoise(x, t):
    traced.append(x.shape)
    jax.debug.callback(lambda t: called.append(float(t)), t, ordered=True)
    return stub(schedule)(x, t)

  times = trailing(schedule, n)
  run = jax.jit(lambda x, keys: sample(make(schedule), denoise, times, x, keys))
  run(*start(2, seed=0))
  jax.effects_barrier()
  assert called == list(times[:-1])
  assert len(traced) == 1
  run(*start(2, seed=1))  # another key and another input: the same program
  jax.effects_barrier()
  assert len(called) == 2 * n
  assert len(traced) == 1


@pytest.mark.parametrize("solver", [ancestral, lambda schedule: ddim(schedule, 0.5)], ids=["ancestral", "ddim"])
def test_a_sample_depends_on_its_own_key_alone(solver):
  schedule = SHORT["linear"]
  times = leading(schedule, 10)
  x, keys = start(6)
  run = jax.jit(lambda x, keys: sample(solver(schedule), stub(schedule, clip=True), times, x, keys))
  together = run(x, keys)
  np.testing.assert_allclose(run(x[2:4], keys[2:4]), together[2:4], rtol=1e-5, atol=1e-6)
  same = run(jnp.stack([x[0], x[0]]), jnp.stack([keys[0], keys[1]]))
  assert jnp.abs(same[0] - same[1]).max() > 0.01


@pytest.mark.parametrize("eta", [-0.1, 1.5])
def test_bad_input(eta):
  with pytest.raises(UserError, match="eta lies between 0"):
    ddim(SHORT["linear"], eta)
