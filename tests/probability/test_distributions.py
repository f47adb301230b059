"""Every distribution: its probabilities sum to 1, its samples follow them, and its density integrates to 1."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, special, stats

from jaxgen.core.errors import UserError
from jaxgen.probability import distributions
from jaxgen.probability.distributions import (
  bernoulli,
  categorical,
  check_values,
  gaussian_mixture,
  logistic,
  logistic_mixture,
)

SMALL = {
  "Bernoulli": bernoulli(),
  "categorical": categorical(5),
  "logistic": logistic(5),
  "logistics": logistic_mixture(3, 5),
  "logistics, 3 channels": logistic_mixture(2, 3, 3),
}


def all_values(d):
  """Every draw there is, [n, values]."""
  return np.array(list(itertools.product(np.linspace(-1, 1, d.levels), repeat=d.values)))


def probabilities(d, parameters):
  x = all_values(d)
  return np.exp(d.log_prob(jnp.broadcast_to(parameters, (len(x), d.parameters)), jnp.asarray(x)))


@pytest.mark.parametrize("name", SMALL)
def test_probabilities_sum_to_one_and_samples_follow_them(name, x64):
  d = SMALL[name]
  parameters = jnp.asarray(np.random.default_rng(0).normal(size=d.parameters))
  p = probabilities(d, parameters)
  assert p.shape == (d.levels**d.values,)
  np.testing.assert_allclose(p.sum(), 1, atol=1e-12)
  n = 20_000
  samples = np.asarray(jax.vmap(d.sample, (0, None))(jax.random.split(jax.random.key(1), n), parameters))
  digits = np.rint((samples + 1) * (d.levels - 1) / 2).astype(int)
  np.testing.assert_allclose(samples, digits * 2 / (d.levels - 1) - 1, atol=1e-12)
  counts = np.bincount(np.ravel_multi_index(digits.T, (d.levels,) * d.values), minlength=len(p))
  assert stats.chisquare(counts, n * p / p.sum()).pvalue > 1e-4


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("log_scale", [-50.0, -7.0, -3.0, 0.0, 4.2, 30.0, 200.0])
@pytest.mark.parametrize("mean", [-40.0, -1.0, 0.1234, 1.0, 40.0])
def test_256_levels_sum_to_one_at_extreme_scales(mean, log_scale, dtype, x64):
  d = logistic_mixture(1, 256)
  x = np.linspace(-1, 1, 256, dtype=dtype)[:, None]
  parameters = jnp.broadcast_to(jnp.asarray([0.3, mean, log_scale], dtype), (256, 3))
  log_p = np.asarray(d.log_prob(parameters, jnp.asarray(x)))
  assert log_p.dtype == dtype
  np.testing.assert_allclose(np.exp(log_p).sum(), 1, rtol=0, atol=2e-6 if dtype == np.float32 else 1e-12)
  gradients = jax.grad(lambda p: d.log_prob(p, jnp.asarray(x)).sum())(parameters)
  assert np.isfinite(gradients).all()


def test_the_middle_levels_keep_their_log_probability_where_a_difference_would_be_zero():
  # At 300 scales from the mean both ends' distribution functions are 1 in float32; the logistic tail is exp(-|x|/s).
  scale, x, mean = np.exp(-5.0), 1 - 2 / 255, -1.0
  exact = np.log(-np.expm1(-2 / 255 / scale)) - (x - 1 / 255 - mean) / scale
  found = distributions.discretized_logistic(*(jnp.asarray([v]) for v in (x, mean, -5.0)), 256)
  np.testing.assert_allclose(found, exact, rtol=1e-4)
  assert exact < -250


def test_channels_of_a_pixel_depend_by_their_coefficients(x64):
  # One component, red at -1 or 1: the mean of green moves by tanh(c) times red, that of blue by both.
  d = logistic_mixture(1, 256, 3)
  assert logistic_mixture(10, 256, 3).parameters == 100
  m, s, c = np.array([0.1, -0.2, 0.3]), np.array([-1.0, -1.5, -2.0]), np.array([0.4, -0.6, 0.9])
  x = np.array([-1.0, 1 / 255, 1.0])
  t = np.tanh(c)
  means = [m[0], m[1] + t[0] * x[0], m[2] + t[1] * x[0] + t[2] * x[1]]
  cdf = lambda v, i: special.expit((v - means[i]) * np.exp(-s[i]))
  h = 1 / 255
  exact = np.log(cdf(x[0] + h, 0)) + np.log(cdf(x[1] + h, 1) - cdf(x[1] - h, 1)) + np.log(1 - cdf(x[2] - h, 2))
  found = d.log_prob(jnp.concatenate([jnp.zeros(1), m, s, c]), jnp.asarray(x))
  np.testing.assert_allclose(found, exact, rtol=1e-10)


def test_gaussian_mixture_is_a_density_and_its_samples_follow_it(x64):
  d = gaussian_mixture(2)
  logits, mean, std = np.array([0.5, -0.5]), np.array([-1.0, 2.0]), np.array([0.3, 1.5])
  parameters = jnp.concatenate([logits, mean, np.log(std)])
  density = lambda x: float(np.exp(d.log_prob(parameters, jnp.asarray([x]))))
  np.testing.assert_allclose(integrate.quad(density, -12, 12, points=[-1, 2])[0], 1, atol=1e-7)
  cdf = lambda x: special.softmax(logits) @ stats.norm.cdf(x, mean[:, None], std[:, None])
  samples = jax.vmap(d.sample, (0, None))(jax.random.split(jax.random.key(2), 5000), parameters)
  assert stats.kstest(np.asarray(samples[:, 0]), cdf).pvalue > 1e-4


def test_bad_input():
  with pytest.raises(UserError, match="levels=1"):
    categorical(1)
  with pytest.raises(UserError, match="components=0"):
    logistic_mixture(0)
  with pytest.raises(UserError, match="components=0"):
    gaussian_mixture(0)


def test_values_that_are_not_what_the_model_is_of():
  """Asked of a run's first batch; numbers as digits' pixels have them."""
  rng = np.random.default_rng(0)
  integers = rng.integers(0, 17, (5, 4, 4, 1))
  scaled, spread = 2 * integers / 16 - 1, 2 * (integers + rng.uniform(size=integers.shape)) / 17 - 1
  batch = lambda x: {"image": np.asarray(x, np.float32)}
  check_values(17, False)(batch(scaled))
  check_values(17, True)(batch(spread))
  check_values(None, True)(batch(100 * spread))
  check_values(2, False, "v")({"v": np.where(scaled > 0, 1.0, -1.0)})
  for check, x, sentence in (
    (check_values(2, False), scaled, "of 2 levels, and the data has others, such as .*: binarize them"),
    (check_values(17, False), spread, "change the levels, or leave out dequantization"),
    (check_values(17, True), scaled, "integers of 17 levels: put data.transforms.dequantize"),
    (check_values(17, False), integers, r"values in \[-1, 1\], and the data has 16: scale them"),
    (check_values(17, False), scaled * np.nan, "scale them"),
  ):
    with pytest.raises(UserError, match=sentence):
      check(batch(x))
