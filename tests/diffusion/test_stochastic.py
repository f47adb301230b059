"""Stochastic solvers draw from the right distribution: exactly, in mean and variance, where the data is Gaussian, and
within the Monte Carlo error where it is not."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from processes import EVERY

from jaxgen import diffusion
from jaxgen.core.errors import UserError
from jaxgen.diffusion import (
  ancestral,
  annealed_langevin,
  ddim,
  dpmpp_sde_2m,
  euler,
  euler_ancestral,
  euler_maruyama,
  heun,
  predictor_corrector,
  reverse_diffusion,
  sample,
)
from jaxgen.diffusion.closed_form import Mixture, gaussian

NOISY = ["ancestral", "annealed_langevin", "churn", "ddim", "dpmpp_sde_2m", "euler_ancestral", "euler_maruyama"]
MODULES = [importlib.import_module(f"jaxgen.diffusion.solvers.{name}") for name in [*NOISY, "reverse_diffusion"]]
SCHEDULES = {name: EVERY[name] for name in ("vp", "sub_vp", "ve", "rectified_flow")}
MIXTURE = Mixture(np.array([0.35, 0.65]), np.array([[-0.9], [0.6]]), np.array([[0.2], [0.35]]))


def grid(schedule, n, high, low=0.04):
  """n + 1 times with sigma / alpha geometric from high to low."""
  return schedule.time(-2 * np.linspace(np.log(high), np.log(low), n + 1))


def exact_moments(solver, data, times, monkeypatch, draws=1):
  """Mean and variance of what the solver makes of one-dimensional Gaussian data, without sampling error.

  The denoiser is affine then, and so is the sample in all the noise it draws: x = b + sum_e c_e z_e. One "sample" is
  run for each draw e, which is 1 there and 0 elsewhere; one for x at the start; and one without noise, which gives b.

  Args:
    draws: draws in one step; with 2 and more they are taken from fold_in(step's key, j).
  """
  key = jax.random.key(0)
  events = [jax.random.fold_in(key, i) for i in range(len(times) - 1)]
  if draws > 1:
    events = [jax.random.fold_in(event, j) for event in events for j in range(draws)]
  own = jax.random.key_data(jnp.stack([*events, key, key]))  # the last two, the step's key itself, are never drawn from
  one_hot = lambda keys, shape, dtype: jnp.all(jax.random.key_data(keys) == own, -1).astype(dtype)[:, None]
  for module in MODULES:
    monkeypatch.setattr(module, "normal", one_hot)
  start = data.at(solver.schedule, times[0])
  x = jnp.full((len(own), 1), start.means[0, 0]).at[-2].add(start.stds[0, 0])
  run = jax.jit(lambda x, keys: sample(solver, data.denoiser(solver.schedule), times, x, keys))
  got = run(x, jnp.stack([key] * len(own)))[:, 0]
  assert jnp.all(got[:-1] != got[-1])  # every draw has been met
  return float(got[-1]), float(jnp.sum((got[:-1] - got[-1]) ** 2))


@pytest.mark.parametrize("name", ["vp", "ve", "rectified_flow"])
@pytest.mark.parametrize(
  ("make", "order"),
  [
    (lambda schedule, n: ancestral(schedule, "posterior"), 1),
    (lambda schedule, n: ancestral(schedule, "beta"), 1),
    (lambda schedule, n: ddim(schedule, 0.5), 1),
    (lambda schedule, n: euler_ancestral(schedule, 1.3), 1),
    (lambda schedule, n: euler_maruyama(schedule), 1),
    (lambda schedule, n: reverse_diffusion(schedule), 1),
    (lambda schedule, n: dpmpp_sde_2m(schedule), 2),
    (lambda schedule, n: dpmpp_sde_2m(schedule, 0.5), 2),
    (lambda schedule, n: euler(schedule, churn=10 / n), 1),
    (lambda schedule, n: heun(schedule, churn=10 / n), 2),
  ],
  ids=[
    "ancestral",
    "ancestral-beta",
    "ddim-0.5",
    "euler_ancestral-1.3",
    "euler_maruyama",
    "reverse_diffusion",
    "dpmpp_sde_2m",
    "dpmpp_sde_2m-0.5",
    "euler-churn",
    "heun-churn",
  ],
)
def test_weak_order(make, order, name, monkeypatch, x64):
  # The bias of mean and variance, in the data's own standard deviation, where sigma / alpha falls from 50 to 0.04.
  schedule, data = SCHEDULES[name], gaussian(np.array([0.3]), 0.5)
  bias = []
  for n in (64, 128):
    times = grid(schedule, n, high=50.0)
    mean, variance = exact_moments(make(schedule, n), data, times, monkeypatch)
    end = data.at(schedule, times[-1])
    bias.append([(mean - end.means[0, 0]) / end.stds[0, 0], variance / end.stds[0, 0] ** 2 - 1])
  coarse, fine = np.abs(bias)
  assert np.all(fine < {1: 0.1, 2: 0.006}[order])
  assert fine[1] > 1e-6  # there is a bias to be seen
  seen = fine > 1e-9  # most means have no bias
  measured = np.log2(coarse[seen] / fine[seen])
  assert np.all(measured > order - 0.2)
  if not (name == "ve" and make(schedule, 64).step.__qualname__.startswith("euler_maruyama")):
    assert np.all(measured < order + 0.2)  # there its first-order term is nearly 0, and 1.8 is seen


@pytest.mark.parametrize("name", EVERY)
def test_a_step_with_the_exact_posterior(name, monkeypatch, x64):
  # Data that is one point: the network knows x_0, and every step of the ancestral solver is exact, on any grid.
  schedule, data = EVERY[name], gaussian(np.array([0.6]), 0.0)
  times = grid(schedule, 5, high=10.0)
  for solver in (ancestral(schedule), ddim(schedule, 0.6)):
    mean, variance = exact_moments(solver, data, times, monkeypatch)
    end = data.at(schedule, times[-1])
    np.testing.assert_allclose([mean, variance], [end.means[0, 0], end.stds[0, 0] ** 2], rtol=1e-6)


def independent(denoiser):
  """Of [N, D] numbers, each one an example of one-dimensional data: random keys are dear."""
  return lambda x, t: tuple(v.reshape(x.shape) for v in denoiser(x.reshape(-1, 1), t))


def draw(solver, times, shape, data=MIXTURE):
  schedule = solver.schedule
  start_keys, keys = jax.random.split(jax.random.key(1), (2, shape[0]))
  x = data.at(schedule, times[0]).sample(jax.random.split(start_keys[0], shape[0] * shape[1])).reshape(shape)
  return jax.jit(lambda x, keys: sample(solver, independent(data.denoiser(schedule)), times, x, keys))(x, keys)


def check_moments(x, end, bias=0.0):
  """Mean, variance and distribution function, within four standard errors."""
  x = np.float64(x).ravel()
  mean, variance = float(end.mean()[0]), float(end.variance()[0])
  np.testing.assert_allclose(x.mean(), mean, atol=4 * np.sqrt(variance / x.size) + bias * np.sqrt(variance))
  spread = (x - mean) ** 2
  np.testing.assert_allclose(spread.mean(), variance, atol=4 * spread.std() / np.sqrt(x.size) + bias * variance)
  for at in mean + np.sqrt(variance) * np.array([-1.5, -0.7, 0.0, 0.5, 1.0]):
    p = float(end.cdf(jnp.full((1, 1), at))[0, 0])
    np.testing.assert_allclose((x < at).mean(), p, atol=4 * np.sqrt(p * (1 - p) / x.size) + bias)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize(
  ("make", "n"),
  [
    (ancestral, 400),
    (euler_maruyama, 400),
    (reverse_diffusion, 400),
    (dpmpp_sde_2m, 100),
    (lambda schedule: heun(schedule, churn=10 / 100), 100),
  ],
  ids=["ancestral", "euler_maruyama", "reverse_diffusion", "dpmpp_sde_2m", "heun-churn"],
)
def test_samples_of_a_mixture(make, n, name):
  schedule = SCHEDULES[name]
  times = grid(schedule, n, high=20.0)
  x = draw(make(schedule), times, (500, 40))
  assert x.dtype == jnp.float32
  check_moments(x, MIXTURE.at(schedule, times[-1]))


@pytest.mark.parametrize(("make", "n"), [(ancestral, 400), (dpmpp_sde_2m, 100)], ids=["ancestral", "dpmpp_sde_2m"])
def test_covariance_in_two_dimensions(make, n):
  # Two components one beside and above the other: the dimensions are correlated.
  data = Mixture(np.array([0.35, 0.65]), np.array([[-0.9, -0.5], [0.6, 0.7]]), np.array([[0.2, 0.5], [0.35, 0.3]]))
  schedule = SCHEDULES["vp"]
  times = grid(schedule, n, high=20.0)
  start_keys, keys = jax.vmap(jax.random.split, out_axes=1)(jax.random.split(jax.random.key(2), 20_000))
  x = data.at(schedule, times[0]).sample(start_keys)
  x = np.array(jax.jit(lambda x, keys: sample(make(schedule), data.denoiser(schedule), times, x, keys))(x, keys))
  end = data.at(schedule, times[-1])
  between = np.array(end.means) - np.array(end.mean())
  expected = np.diag(end.weights @ np.array(end.stds) ** 2) + np.einsum("k,ki,kj->ij", end.weights, between, between)
  assert abs(expected[0, 1]) > 0.3
  away = x - x.mean(0)
  products = away[:, :, None] * away[:, None]
  np.testing.assert_array_less(np.abs(products.mean(0) - expected), 4 * products.std(0) / np.sqrt(len(x)))


@pytest.mark.parametrize("name", SCHEDULES)
def test_langevin_to_its_stationary_distribution(name, monkeypatch, x64):
  # x <- x + a/2 score + sqrt(a) z on N(m, V) has the stationary variance V / (1 - a / (4 V)): the fixed point of
  # v = (1 - a / (2 V))^2 v + a. With a = step_size sigma^2.
  schedule, data, step_size = SCHEDULES[name], gaussian(np.array([0.3]), 0.02), 0.3
  times = grid(schedule, 4, high=0.4)
  solver = annealed_langevin(schedule, corrections=120, step_size=step_size)
  mean, variance = exact_moments(solver, data, times, monkeypatch, draws=120)
  end, sigma = data.at(schedule, times[-1]), float(schedule.sigma(times[-1:])[0])
  V = float(end.stds[0, 0]) ** 2
  np.testing.assert_allclose(mean, end.means[0, 0], rtol=1e-4)
  np.testing.assert_allclose(variance, V / (1 - step_size * sigma**2 / (4 * V)), rtol=1e-4)


def test_annealed_langevin_on_a_mixture():
  # 20 levels, 30 steps at each. Where sigma is small no step crosses from one component to the other any more: what was
  # not quite stationary above stays.
  schedule = SCHEDULES["rectified_flow"]
  times = grid(schedule, 20, high=10.0)
  x = draw(annealed_langevin(schedule, corrections=30, step_size=0.3), times, (500, 40))
  check_moments(x, MIXTURE.at(schedule, times[-1]), bias=0.02)


@pytest.mark.parametrize("name", ["ve", "vp"])
def test_corrector_to_its_stationary_distribution(name):
  # The Langevin steps' size depends on ||score||. In many dimensions, on N(m, V), the fixed point of
  # v = (1 - epsilon / V)^2 v + 2 epsilon, epsilon = 2 alpha snr^2 V^2 / v, is v = V (1 + alpha snr^2).
  schedule, data, snr = SCHEDULES[name], gaussian(np.array([0.3]), 0.5), 0.4
  times = grid(schedule, 2, high=1.5, low=0.7)
  solver = predictor_corrector(schedule, predictor=ddim, snr=snr, corrections=20)
  x = draw(solver, times, (20, 2000), data)
  end, alpha = data.at(schedule, times[-1]), schedule.alpha(times)
  V, alpha_ts = float(end.stds[0, 0]) ** 2, alpha[1] / alpha[2]
  np.testing.assert_allclose(x.mean(), end.means[0, 0], atol=4 * np.sqrt(V / x.size) * 5)  # they are correlated in time
  np.testing.assert_allclose(x.var(), V * (1 + alpha_ts**2 * snr**2), rtol=4 * np.sqrt(2 / x.size) + 1e-3)


@pytest.mark.parametrize(
  ("predictor", "name"),
  [*((reverse_diffusion, name) for name in SCHEDULES), (ancestral, "sub_vp"), (euler_maruyama, "vp"), (heun, "ve")],
)
def test_predictor_corrector_on_a_mixture(predictor, name):
  # The corrector takes most of the predictor's bias away, and leaves its own, of snr^2.
  schedule = SCHEDULES[name]
  times = grid(schedule, 100, high=20.0)
  x = draw(predictor_corrector(schedule, predictor, snr=0.1, corrections=2), times, (100, 200))
  check_moments(x, MIXTURE.at(schedule, times[-1]), bias=0.02)


def test_corrector_takes_away_the_predictors_bias():
  # 30 steps alone leave a tenth of the variance out; corrected they do not.
  schedule, data = SCHEDULES["ve"], gaussian(np.array([0.3]), 0.5)
  times = grid(schedule, 30, high=20.0)
  variance = lambda solver: (
    float(draw(solver, times, (100, 200), data).var()) / float(data.at(schedule, times[-1]).variance()[0])
  )
  alone = variance(ancestral(schedule))
  corrected = variance(predictor_corrector(schedule, ancestral, snr=0.1, corrections=10))
  assert abs(corrected - 1) < 0.3 * abs(alone - 1)
  assert abs(alone - 1) > 0.1


@pytest.mark.parametrize(
  ("make", "names"),
  [
    (lambda s: euler(s, churn=-0.1), "churn"),
    (lambda s: heun(s, churn=-0.1), "churn"),
    (lambda s: euler_ancestral(s, eta=-1.0), "eta"),
    (lambda s: dpmpp_sde_2m(s, eta=-1.0), "eta"),
    (lambda s: annealed_langevin(s, corrections=0), "1 or more steps a level"),
    (lambda s: annealed_langevin(s, step_size=4.0), "between 0 and 4"),
    (lambda s: predictor_corrector(s, snr=0.0), "positive snr"),
    (lambda s: predictor_corrector(s, corrections=0), "1 or more corrections"),
    (lambda s: predictor_corrector(s, lambda s: ddim(s)._replace(solve=lambda *_: None)), "chooses its own steps"),
  ],
)
def test_bad_input(make, names):
  with pytest.raises(UserError, match=names):
    make(diffusion.vp())
