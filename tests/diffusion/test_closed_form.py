import jax
import jax.numpy as jnp
import numpy as np
import pytest
from processes import EVERY, spread
from scipy import integrate, stats

from jaxgen.diffusion import rectified_flow, vp
from jaxgen.diffusion.closed_form import Mixture, gaussian

WEIGHTS, MEANS, STDS = np.array([0.2, 0.5, 0.3]), np.array([-0.8, 0.1, 0.9]), np.array([0.1, 0.25, 0.15])
LINE = Mixture(WEIGHTS, MEANS[:, None], STDS[:, None])
rng = np.random.default_rng(0)
PLANE = Mixture(np.array([0.4, 0.6]), rng.normal(size=(2, 2, 3)), rng.uniform(0.2, 0.7, (2, 2, 3)))  # x is [N, 2, 3]


def density(x):
  """Of LINE, by scipy."""
  return sum(w * stats.norm(m, s).pdf(x) for w, m, s in zip(WEIGHTS, MEANS, STDS, strict=True))


GRID = np.linspace(-3, 3, 6001)
DENSITY = density(GRID)


def integral(values):
  """Of values [6001] on GRID, numerically: to many digits, since all that is integrated vanishes at both ends."""
  return integrate.simpson(values, x=GRID)


def numbers(schedule, t):
  return float(schedule.alpha(np.array([t]))[0]), float(schedule.sigma(np.array([t]))[0])


def test_density_and_moments(x64):
  x = jnp.linspace(-2, 2, 41)[:, None]
  np.testing.assert_allclose(LINE.log_density(x), np.log(density(np.array(x[:, 0]))), rtol=1e-10)
  np.testing.assert_allclose(LINE.mean(), [integral(GRID * DENSITY)], rtol=1e-9)
  np.testing.assert_allclose(LINE.variance(), [integral(GRID**2 * DENSITY) - integral(GRID * DENSITY) ** 2], rtol=1e-9)
  cdf = sum(w * stats.norm(m, s).cdf(x) for w, m, s in zip(WEIGHTS, MEANS, STDS, strict=True))
  np.testing.assert_allclose(LINE.cdf(x), cdf, rtol=1e-10)


def test_density_in_more_dimensions(x64):
  x = jax.random.normal(jax.random.key(0), (7, 2, 3))
  each = [
    w * stats.multivariate_normal(m.ravel(), np.diag(s.ravel() ** 2)).pdf(x.reshape(7, 6))
    for w, m, s in zip(*PLANE, strict=True)
  ]
  np.testing.assert_allclose(PLANE.log_density(x), np.log(sum(each)), rtol=1e-10)
  np.testing.assert_allclose(PLANE.score(x), jax.vmap(jax.grad(lambda x: PLANE.log_density(x[None])[0]))(x), rtol=1e-9)


def test_samples_have_this_distribution():
  keys = jax.random.split(jax.random.key(0), 20_000)
  x = np.array(LINE.sample(keys))[:, 0]
  cdf = lambda x: sum(w * stats.norm(m, s).cdf(x) for w, m, s in zip(WEIGHTS, MEANS, STDS, strict=True))
  assert stats.kstest(x, cdf).pvalue > 0.01
  x = PLANE.sample(keys)
  assert x.shape == (20_000, 2, 3)
  se = np.sqrt(PLANE.variance() / 20_000)
  assert jnp.all(jnp.abs(x.mean(0) - PLANE.mean()) < 4 * se)
  np.testing.assert_allclose(x.var(0), PLANE.variance(), rtol=0.05)


@pytest.mark.parametrize("name", EVERY)
def test_denoiser_is_the_conditional_mean(name, x64):
  # E[x_0 | x_t] and E[eps | x_t] by Bayes' rule and numerical integration.
  schedule = EVERY[name]
  for t in spread(schedule, 3, low=0.1, high=10.0):
    alpha, sigma = numbers(schedule, t)
    x = np.array([-1.1, 0.3, 1.5]) * np.sqrt(alpha**2 + sigma**2)
    x_0, eps = LINE.denoiser(schedule)(jnp.asarray(x)[:, None], jnp.asarray(t))
    for i in range(3):
      residual = (x[i] - alpha * GRID) / sigma
      posterior = np.exp(-0.5 * residual**2) * DENSITY
      evidence = integral(posterior)
      np.testing.assert_allclose(x_0[i, 0], integral(GRID * posterior) / evidence, rtol=1e-7)
      np.testing.assert_allclose(eps[i, 0], integral(residual * posterior) / evidence, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", EVERY)
def test_denoiser_is_the_marginal_score(name, x64):
  # eps = -sigma grad log q(x_t), here in six dimensions and by autodiff; at one time, and at one per example.
  schedule = EVERY[name]
  times = spread(schedule, 7, low=0.1, high=10.0)
  x = jax.random.normal(jax.random.key(0), (7, 2, 3))
  x_0, eps = PLANE.denoiser(schedule)(x, jnp.asarray(times))
  for i, t in enumerate(times):
    alpha, sigma = numbers(schedule, t)
    score = jax.grad(lambda x, t=t: PLANE.at(schedule, t).log_density(x[None])[0])(x[i])
    np.testing.assert_allclose(eps[i], -sigma * score, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(alpha * x_0[i] + sigma * eps[i], x[i], rtol=1e-8, atol=1e-10)
    alone = PLANE.denoiser(schedule)(x, jnp.asarray(t))
    np.testing.assert_allclose(alone[0][i], x_0[i], rtol=1e-9)


def test_denoiser_where_there_is_no_signal(x64):
  # Rectified flow at t = 1: x is noise, the best guess of x_0 the mean.
  x = jax.random.normal(jax.random.key(0), (5, 2, 3))
  x_0, eps = PLANE.denoiser(rectified_flow())(x, jnp.asarray(1.0))
  np.testing.assert_allclose(x_0, np.broadcast_to(PLANE.mean(), x.shape), rtol=1e-9)
  np.testing.assert_allclose(eps, x, rtol=1e-12)


def test_denoiser_in_single_precision():
  schedule = vp()
  t = jnp.asarray(spread(schedule, 30, low=0.001), jnp.float32)
  x = jnp.linspace(-5, 5, 30)[:, None]  # far from all components too
  single = LINE.denoiser(schedule)(x, t)
  jax.config.update("jax_enable_x64", True)
  try:
    double = LINE.denoiser(schedule)(jnp.asarray(np.float64(x)), jnp.asarray(np.float64(t)))
  finally:
    jax.config.update("jax_enable_x64", False)
  for a, b in zip(single, double, strict=True):
    assert a.dtype == jnp.float32
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", EVERY)
def test_transport_solves_the_ode(name, x64):
  # dx/dt = f x - g^2 score / 2, (17), solved by scipy with the score of the density alone; in r = sigma / alpha, (18),
  # since discrete schedules have kinks in t.
  schedule = EVERY[name]
  t, s = spread(schedule, 2, low=0.2, high=3.0)
  (alpha_t, sigma_t), (alpha_s, sigma_s) = numbers(schedule, t), numbers(schedule, s)
  x = alpha_t * np.array([-26.0, -1.0, 0.3, 2.0, 26.0])  # far in both tails, too, where F is 1e-17 or has no digits

  def slope(r, y):  # y = x / alpha has the density of LINE convolved with N(0, r^2)
    std = np.sqrt(STDS**2 + r**2)
    parts = WEIGHTS / std * np.exp(-(((y[:, None] - MEANS) / std) ** 2) / 2)
    return -r * (parts * (MEANS - y[:, None]) / std**2).sum(1) / parts.sum(1)

  ends = sigma_t / alpha_t, sigma_s / alpha_s
  expected = alpha_s * integrate.solve_ivp(slope, ends, x / alpha_t, rtol=1e-11, atol=1e-13, method="DOP853").y[:, -1]
  got = LINE.transport(schedule, jnp.asarray(x)[:, None], t, s)[:, 0]
  np.testing.assert_allclose(got, expected, rtol=1e-8, atol=1e-9)
  back = LINE.transport(schedule, got[:, None], s, t)[:, 0]
  np.testing.assert_allclose(back, x, rtol=1e-8, atol=1e-9)


def test_transport_in_t(x64):
  # The same in t, by the drift and diffusion of the SDE.
  schedule = vp()
  drift, diffusion = jax.jit(schedule.drift), jax.jit(schedule.diffusion)
  score = jax.jit(lambda x, t: LINE.at(schedule, t).score(x[:, None])[:, 0])
  slope = lambda t, x: np.array(drift(t) * x - diffusion(t) ** 2 / 2 * score(x, t))
  x = np.array([-1.3, 0.2, 0.9])
  expected = integrate.solve_ivp(slope, (0.9, 0.2), x, rtol=1e-9, atol=1e-11).y[:, -1]
  np.testing.assert_allclose(LINE.transport(schedule, jnp.asarray(x)[:, None], 0.9, 0.2)[:, 0], expected, rtol=1e-7)


def test_transport_of_a_gaussian_in_more_dimensions(x64):
  schedule, x = vp(), jax.random.normal(jax.random.key(0), (4, 2))
  mean, std = np.array([0.5, -1.0]), np.array([0.2, 1.5])
  expected = np.empty((4, 2))
  for j in range(2):
    # Along y = x / alpha: dy / dr = r (y - mean) / (std^2 + r^2).
    slope = lambda r, y, j=j: r * (y - mean[j]) / (std[j] ** 2 + r**2)
    (alpha_t, sigma_t), (alpha_s, sigma_s) = numbers(schedule, 0.8), numbers(schedule, 0.1)
    ends = sigma_t / alpha_t, sigma_s / alpha_s
    expected[:, j] = alpha_s * integrate.solve_ivp(slope, ends, x[:, j] / alpha_t, rtol=1e-10, atol=1e-12).y[:, -1]
  np.testing.assert_allclose(gaussian(mean, std).transport(schedule, x, 0.8, 0.1), expected, rtol=1e-7)


def test_what_has_no_closed_form():
  with pytest.raises(ValueError, match="one dimension"):
    PLANE.transport(vp(), jnp.zeros((1, 2, 3)), 0.5, 0.1)
  with pytest.raises(ValueError, match="one dimension"):
    PLANE.cdf(jnp.zeros((1, 2, 3)))
