import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.diffusion import SCHEDULES, Schedule, constant, cosine, linear, posterior
from jaxgen.errors import UserError

FIXTURE = np.load(pathlib.Path(__file__).parents[1] / "fixtures/schedulers.npz")
VE = Schedule(alpha=lambda t: t * 0 + 1, sigma=lambda t: 0.1 * t, steps=50)
FLOW = Schedule(alpha=lambda t: (50 - t) / 50, sigma=lambda t: t / 50, steps=50)  # alpha = 0 at t = 50


def times(T):
  return np.arange(T + 1, dtype=np.float64)


@pytest.mark.parametrize(("name", "tolerance"), [("linear", 1e-12), ("cosine", 1e-4)])  # its cosine betas are float32
def test_diffusers_agrees(name, tolerance):
  schedule = {"linear": linear(100, 1e-3, 0.2), "cosine": cosine(100)}[name]
  np.testing.assert_allclose(schedule.alpha(times(100))[1:] ** 2, FIXTURE[f"alpha_bar/{name}"], rtol=tolerance)


def test_published_values():
  # Ho et al. 2020, section 4: beta from 1e-4 to 0.02, which is known to leave alpha_bar_T = 4.0358e-5.
  schedule = linear()
  np.testing.assert_allclose(1 - schedule.alpha(np.array([1.0])) ** 2, 1e-4, rtol=1e-12)
  np.testing.assert_allclose(schedule.alpha(np.array([1000.0])) ** 2, 4.0358e-5, rtol=1e-4)
  np.testing.assert_allclose(constant(10, 0.3).alpha(times(10)) ** 2, 0.7 ** times(10), rtol=1e-12)
  # Nichol and Dhariwal 2021, eq. 17: the product telescopes to f(t) / f(0) where no beta is clipped.
  f = lambda t: np.cos((t / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2
  t = times(999)
  np.testing.assert_allclose(cosine().alpha(t) ** 2, f(t) / f(0), rtol=1e-9)
  np.testing.assert_allclose(1 - (cosine().alpha(np.array([1000.0])) / cosine().alpha(np.array([999.0]))) ** 2, 0.999)


@pytest.mark.parametrize("make", SCHEDULES.values(), ids=SCHEDULES)
def test_a_schedule_goes_from_data_to_noise(make):
  schedule = make(1000)
  t = times(1000)
  alpha, sigma = schedule.alpha(t), schedule.sigma(t)
  assert schedule.steps == 1000
  assert alpha.dtype == sigma.dtype == np.float64
  assert (alpha[0], sigma[0]) == (1, 0)
  np.testing.assert_allclose(alpha**2 + sigma**2, 1, rtol=1e-14)
  assert np.all(np.diff(alpha) < 0)
  assert np.all(np.diff(sigma) > 0)
  assert alpha[-1] ** 2 < 1e-4
  with np.errstate(divide="ignore"):
    log_snr = schedule.log_snr(t)
  assert log_snr[0] == np.inf
  np.testing.assert_allclose(np.exp(log_snr[1:]), alpha[1:] ** 2 / (1 - alpha[1:] ** 2), rtol=1e-9)


def test_dtype_is_that_of_the_times():
  schedule = linear()
  t = jnp.asarray([0, 1, 500.0, 1000])
  got = jax.jit(lambda t: (schedule.alpha(t), schedule.sigma(t)))(t)
  for table, exact in zip(got, (schedule.alpha(np.float64(t)), schedule.sigma(np.float64(t))), strict=True):
    assert table.dtype == jnp.float32
    np.testing.assert_allclose(table, exact, rtol=6e-8)  # rounded once: sigma_1 has no fewer digits than the others
  assert schedule.sigma(jnp.float32(3)).shape == ()


def test_dtype_float64(x64):
  schedule = linear()
  t = times(1000)
  assert jnp.array_equal(jax.jit(schedule.sigma)(jnp.asarray(t)), schedule.sigma(t))


@pytest.mark.parametrize(
  "schedule", [linear(50, 1e-3, 0.3), cosine(50), VE, FLOW], ids=["linear", "cosine", "ve", "flow"]
)
@pytest.mark.parametrize(("t", "s"), [(50, 49), (50, 10), (20, 19), (20, 5), (2, 1), (1, 0), (30, 0)])
def test_posterior_is_gaussian_conditioning(schedule, t, s):
  t, s = np.array([float(t)]), np.array([float(s)])
  got = posterior(schedule, t, s)
  # The joint Gaussian of (x_s, x_t) given x_0, by its construction as a chain, conditioned by linear algebra.
  a_s, s_s, a_t, s_t = (f(u)[0] for u in (s, t) for f in (schedule.alpha, schedule.sigma))
  k = a_t / a_s
  noise = np.array([[s_s, 0], [k * s_s, np.sqrt(s_t**2 - k**2 * s_s**2)]])  # x_s, x_t by two independent normals
  mean, cov = np.array([a_s, a_t]), noise @ noise.T
  gain = cov[0, 1] / cov[1, 1]
  np.testing.assert_allclose(got.a, gain, rtol=1e-9, atol=1e-14)
  np.testing.assert_allclose(got.b, mean[0] - gain * mean[1], rtol=1e-9)
  np.testing.assert_allclose(got.c, cov[0, 0] - gain * cov[0, 1], rtol=1e-8, atol=1e-15)
  np.testing.assert_allclose(got.beta, noise[1, 1] ** 2, rtol=1e-9)
  single = jax.jit(lambda t, s: posterior(schedule, t, s))(jnp.float32(t), jnp.float32(s))
  for one, exact in zip(single, got, strict=True):
    np.testing.assert_allclose(one, exact, rtol=3e-5, atol=1e-8)


def test_single_step_variance_is_beta():
  t = times(1000)[1:]
  np.testing.assert_allclose(posterior(linear(), t, t - 1).beta, np.linspace(1e-4, 0.02, 1000), rtol=1e-9)


@pytest.mark.parametrize(
  ("make", "names"),
  [
    (lambda: linear(0), "at least one step"),
    (lambda: cosine(-3), "-3"),
    (lambda: linear(2, 0.1, 1.5), "1.5"),
    (lambda: constant(10, 0.0), "between 0 and 1"),
    (lambda: cosine(10, largest=1.0), "between 0 and 1"),
  ],
)
def test_bad_input(make, names):
  with pytest.raises(UserError, match=names):
    make()
