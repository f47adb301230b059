"""Editing on a correlated Gaussian with its exact denoiser, whose conditionals are known in closed form."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.core.errors import UserError
from jaxgen.diffusion import cosine, ddim, dpmpp_2m, linear, trailing
from jaxgen.diffusion.editing import beginning, inverted, noised, rebuilt, repaint, visits
from jaxgen.diffusion.sampling import sample

MEAN = np.array([0.3, -0.4, 0.1])
COVARIANCE = np.array([[1.0, 0.9, 0.5], [0.9, 1.0, 0.6], [0.5, 0.6, 1.0]])
LENGTHS, AXES = np.linalg.eigh(COVARIANCE)
SCHEDULE = linear(1000)


def exact(schedule):
  """(E[x_0 | x_t], E[eps | x_t]) of N(MEAN, COVARIANCE)."""

  def denoise(x, t):
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    away = (x - alpha * MEAN) @ AXES / (alpha**2 * LENGTHS + sigma**2) @ AXES.T  # by the covariance's axes
    return MEAN + alpha * away @ COVARIANCE, sigma * away

  return denoise


def moments(x):
  return np.asarray(x).mean(0), np.cov(np.asarray(x).T)


KEYS = jax.random.split(jax.random.key(1), 10_000)


def test_sdedit_is_what_its_noise_leaves_of_the_picture(x64):
  """With ancestral steps the result is x_0 ~ p(x_0 | x_t), of an x_t that is noised from one picture: a Gaussian."""
  times, picture = trailing(SCHEDULE, 1000), jnp.asarray([1.0, 0.5, -0.5])
  solver, n = ddim(SCHEDULE, eta=1.0), 1000

  @jax.jit
  def edited(strength):
    begin = beginning(n, strength)
    x = noised(SCHEDULE, jnp.broadcast_to(picture, (len(KEYS), 3)), jnp.asarray(times)[begin], KEYS)
    return sample(solver, exact(SCHEDULE), times, x, jax.vmap(partial(jax.random.fold_in, data=7))(KEYS), begin=begin)

  for strength in (0.1, 0.4):  # one program serves all
    t = jnp.asarray(times[n - round(strength * n)])
    alpha, sigma = float(SCHEDULE.alpha(t)), float(SCHEDULE.sigma(t))
    gain = alpha * COVARIANCE @ np.linalg.inv(alpha**2 * COVARIANCE + sigma**2 * np.eye(3))
    wanted = MEAN + alpha * gain @ (np.asarray(picture) - MEAN)
    spread = COVARIANCE - alpha * gain @ COVARIANCE + sigma**2 * gain @ gain.T
    mean, covariance = moments(edited(strength))
    np.testing.assert_allclose(mean, wanted, atol=0.04)
    np.testing.assert_allclose(covariance, spread, atol=0.04)


def test_a_sampler_that_begins_in_the_middle_takes_the_steps_that_are_left(x64):
  """Whatever the solver, as on the grid's rest; and from its start as it always does."""
  x, keys = jax.random.normal(jax.random.key(0), (4, 3)), KEYS[:4]
  for solver in (ddim(SCHEDULE), dpmpp_2m(SCHEDULE)):
    times = trailing(SCHEDULE, 10)
    run = partial(sample, solver, exact(SCHEDULE))
    np.testing.assert_allclose(run(times, x, keys, begin=jnp.asarray(4)), run(times[4:], x, keys), atol=1e-12)
    np.testing.assert_allclose(run(times, x, keys, begin=jnp.asarray(0)), run(times, x, keys), atol=1e-12)
  zero = cosine(1000)  # its first step is apart
  times, solver = trailing(zero, 10), dpmpp_2m(zero)
  run = partial(sample, solver, exact(zero))
  np.testing.assert_allclose(run(times, x, keys, begin=jnp.asarray(0)), run(times, x, keys), atol=1e-12)


def test_the_walk_is_diffusers():
  """`RePaintScheduler().set_timesteps(n, jump, resampling).timesteps` of diffusers 0.42.1, counted from the noise."""
  assert visits(6, 2, 2).tolist() == [0, 1, 2, 3, 2, 1, 2, 3, 4, 5, 4, 3, 4, 5, 6]
  assert visits(4, 1, 3).tolist() == [0, 1, 0, 1, 0, 1, 2, 1, 2, 1, 2, 3, 2, 3, 2, 3, 4]
  assert visits(3, 1, 1).tolist() == [0, 1, 2, 3]


def test_repaints_bias_falls_as_its_resampling_grows(x64):
  """The first entry is known: the others' mean and covariance given it are a regression's."""
  keys = KEYS[:3000]
  known = jnp.broadcast_to(jnp.asarray([1.2, 9.0, 9.0]), (len(keys), 3))
  keep = jnp.broadcast_to(jnp.asarray([True, False, False]), known.shape)
  slope = COVARIANCE[1:, 0] / COVARIANCE[0, 0]
  wanted = MEAN[1:] + slope * (1.2 - MEAN[0])
  spread = COVARIANCE[1:, 1:] - np.outer(slope, COVARIANCE[0, 1:])
  times, start = trailing(SCHEDULE, 200), jax.random.normal(jax.random.key(2), known.shape)
  errors = []
  for resampling in (1, 3, 9):
    run = partial(repaint, ddim(SCHEDULE, eta=1.0), exact(SCHEDULE), times, jump=1, resampling=resampling)
    x = np.asarray(jax.jit(run)(start, keys, known, keep))
    np.testing.assert_array_equal(x[:, 0], known[:, 0])
    mean, covariance = moments(x[:, 1:])
    errors.append((np.abs(mean - wanted).max(), np.abs(covariance - spread).max()))
  (mean_1, cov_1), (mean_3, cov_3), (mean_9, cov_9) = errors
  assert mean_3 < mean_1 / 1.3, errors
  assert mean_9 < mean_3 / 1.7, errors
  assert cov_3 < cov_1 / 2, errors
  assert cov_9 < cov_1 / 2, errors  # what is left is the ancestral steps' own: their variance is too small


def test_inversions_error_falls_with_slope_1_and_repeats_make_it_exact(x64):
  x = jax.random.normal(jax.random.key(3), (8, 3)) @ np.linalg.cholesky(COVARIANCE).T + MEAN
  # The ODE keeps whitened coordinates of each principal axis: x_T = sqrt(alpha^2 l + sigma^2) / sqrt(l) (x_0 - m) + ..
  t = jnp.asarray(trailing(SCHEDULE, 10)[0])
  alpha, sigma = SCHEDULE.alpha(t), SCHEDULE.sigma(t)
  whitened = (np.asarray(x) - MEAN) @ AXES / np.sqrt(LENGTHS)
  noise = whitened * np.sqrt(alpha**2 * LENGTHS + sigma**2) @ AXES.T + alpha * MEAN

  def errors(n, repeats=1):
    times = trailing(SCHEDULE, n)
    x_t = inverted(SCHEDULE, exact(SCHEDULE), times, x, repeats)
    again = sample(ddim(SCHEDULE), exact(SCHEDULE), times, x_t, KEYS[:8])
    return float(jnp.abs(x_t - noise).max()), float(jnp.abs(again - x).max())

  steps = [50, 100, 200]
  there, back = np.array([errors(n) for n in steps]).T
  for error in (there, back):
    assert np.polyfit(np.log(steps), np.log(error), 1)[0] == pytest.approx(-1, abs=0.15), error
  assert errors(50, repeats=3)[1] < back[0] / 20
  assert errors(50, repeats=12)[1] < 1e-6


def test_says_what_does_not_fit():
  refused = lambda sentence: pytest.raises(UserError, match=sentence)
  for strength in (0.0, 1.2):
    with refused("strength is the share of the way"):
      beginning(10, strength)
  assert [int(beginning(10, s)) for s in (0.04, 0.3, 0.6, 1.0)] == [9, 7, 4, 0]
  x, keys = jnp.zeros((2, 4, 4, 1)), KEYS[:2]
  go = lambda solver, keep: repaint(solver, exact(SCHEDULE), trailing(SCHEDULE, 4), x, keys, x, keep)
  with refused("a solver without a past"):
    go(dpmpp_2m(SCHEDULE), jnp.ones((2, 4, 4), bool))
  with refused(r"a mask of shape \(4, 5\) is of no picture of shape \(4, 4, 1\)"):
    go(ddim(SCHEDULE), jnp.ones((2, 4, 5), bool))
  with refused("RePaint takes 1 step or more"):
    visits(4, 0, 1)
  with refused("an inversion calls the network 1 time"):
    inverted(SCHEDULE, exact(SCHEDULE), trailing(SCHEDULE, 4), x, 0)


def test_reconstruction_guidance_is_the_exact_conditional_as_its_weight_says(x64):
  """E[x_0^b | x_t, x^a] by the normal law of (x_0, x_t), of one known entry; and with any weight its own formula."""
  a, b = [1], [0, 2]
  random = np.random.default_rng(0)
  x, known = random.normal(size=(5, 3)), jnp.asarray(random.normal(size=(5, 3)))
  keep = jnp.broadcast_to(jnp.asarray([False, True, False]), (5, 3))

  def posterior(t):
    """(gain, covariance) of x_0 given x_t."""
    alpha, sigma = float(SCHEDULE.alpha(jnp.asarray(t))), float(SCHEDULE.sigma(jnp.asarray(t)))
    gain = alpha * COVARIANCE @ np.linalg.inv(alpha**2 * COVARIANCE + sigma**2 * np.eye(3))
    return alpha, sigma, gain, COVARIANCE - alpha * gain @ COVARIANCE

  for t in (30.0, 400.0, 950.0):
    alpha, sigma, gain, left = posterior(t)
    mean = MEAN + (x - alpha * MEAN) @ gain.T
    missed = np.asarray(known)[:, a] - mean[:, a]
    exactly = mean[:, b] + missed @ np.linalg.solve(left[np.ix_(a, a)], left[np.ix_(a, b)])
    right = (sigma / alpha) ** 2 / left[1, 1]
    assert right > 1
    for weight, wanted in ((right, exactly), (2.5, mean[:, b] + 2.5 * alpha * missed @ gain[np.ix_(a, b)])):
      x_0, eps = rebuilt(exact(SCHEDULE), SCHEDULE, known, keep, weight)(jnp.asarray(x), jnp.asarray(t))
      np.testing.assert_allclose(x_0[:, np.array(b)], wanted, atol=1e-10)
      np.testing.assert_array_equal(x_0[:, 1], known[:, 1])
      np.testing.assert_allclose(alpha * x_0 + sigma * eps, x, atol=1e-10)
  with pytest.raises(UserError, match="give it the picture's size"):
    rebuilt(exact(SCHEDULE), SCHEDULE, known, keep[:, :2])
