import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from jaxgen.core.errors import UserError
from jaxgen.diffusion import cosine, linear
from jaxgen.diffusion.losses import bound, decoder_nll, simple


def kl(q, p):
  """KL of one-dimensional distributions, by numerical integration."""
  low, high = q.mean() - 12 * q.std(), q.mean() + 12 * q.std()
  integrand = lambda x: np.exp(q.logpdf(x)) * (q.logpdf(x) - p.logpdf(x))
  return integrate.quad(integrand, low, high, points=[q.mean()], epsabs=1e-13, epsrel=1e-12, limit=200)[0]


def normal(mean, variance):
  return stats.norm(mean, np.sqrt(variance))


def test_simple_is_a_mean_over_dimensions():
  output, target = jnp.arange(12.0).reshape(2, 3, 2, 1), jnp.zeros((2, 3, 2, 1))
  np.testing.assert_allclose(simple(output, target), [55 / 6, (36 + 49 + 64 + 81 + 100 + 121) / 6])


@pytest.mark.parametrize("variance", ["posterior", "beta"])
@pytest.mark.parametrize("schedule", [linear(20, 1e-3, 0.4), cosine(20)], ids=["linear", "cosine"])
def test_terms_are_divergences(schedule, variance, x64):
  # Each term in one dimension, against the integral that defines it. The betas here are those between the alpha_bars.
  terms = bound(schedule, variance, levels=None)
  alpha_bar = schedule.alpha(np.arange(21.0)) ** 2
  x_0, predicted = 0.7, -0.4
  one = lambda v: jnp.full((1, 1, 1, 1), v)
  got = lambda t: float(terms.term(one(x_0), one(predicted), jnp.full(1, float(t)))[0])
  for t in (2, 3, 11, 20):
    beta = 1 - alpha_bar[t] / alpha_bar[t - 1]
    posterior_variance = (1 - alpha_bar[t - 1]) / (1 - alpha_bar[t]) * beta  # Ho et al. 2020, eq. 7
    mean = lambda x_0, t=t, beta=beta: np.sqrt(alpha_bar[t - 1]) * beta / (1 - alpha_bar[t]) * x_0  # its part in x_0
    q = normal(mean(x_0), posterior_variance)
    p = normal(mean(predicted), {"posterior": posterior_variance, "beta": beta}[variance])
    np.testing.assert_allclose(got(t), kl(q, p), rtol=1e-8)
  q = normal(np.sqrt(alpha_bar[20]) * x_0, 1 - alpha_bar[20])
  np.testing.assert_allclose(terms.prior(one(x_0)), kl(q, normal(0, 1)), rtol=1e-8)
  # t = 1: p's variance is the posterior's at t = 2, whichever is asked for.
  beta_2 = 1 - alpha_bar[2] / alpha_bar[1]
  v_1 = (1 - alpha_bar[1]) / (1 - alpha_bar[2]) * beta_2
  np.testing.assert_allclose(got(1), -normal(predicted, v_1).logpdf(x_0), rtol=1e-9)
  discrete = bound(schedule, variance, levels=11).term(one(0.6), one(0.55), jnp.ones(1))
  np.testing.assert_allclose(discrete, -np.log(np.diff(normal(0.55, v_1).cdf([0.5, 0.7]))), rtol=1e-9)


def test_prior_keeps_its_digits_in_float32():
  # L_T of the paper's schedule is a difference of near-equal numbers.
  x_0 = jnp.zeros((1, 1, 1, 1))
  sigma = np.sqrt(1 - np.prod(1 - np.linspace(1e-4, 0.02, 1000)))
  np.testing.assert_allclose(bound(linear()).prior(x_0), kl(normal(0, sigma**2), normal(0, 1)), rtol=1e-3)
  np.testing.assert_allclose(bound(linear()).prior(x_0 + 1), 4.0358e-5 / 2, rtol=1e-4)


@pytest.mark.parametrize("levels", [2, 17, 256])
@pytest.mark.parametrize("std", [0.003, 0.05, 1.0])
def test_decoder_is_a_distribution(levels, std, x64):
  values = jnp.linspace(-1, 1, levels)
  means = jnp.asarray([-1.7, -1, -0.31, 0, 0.5, 1, 3])[:, None]
  nll = decoder_nll(values[None], means, std, levels)
  assert jnp.all(jnp.isfinite(nll))
  np.testing.assert_allclose(jnp.exp(-nll).sum(1), 1, rtol=1e-12)


def test_decoder_in_the_bins(x64):
  levels, std, mean = 5, 0.3, 0.2
  p = stats.norm(mean, std)
  edges = np.array([-np.inf, -0.75, -0.25, 0.25, 0.75, np.inf])  # half way between -1, -0.5, 0, 0.5, 1
  expected = -np.log(np.diff(p.cdf(edges)))
  np.testing.assert_allclose(decoder_nll(jnp.linspace(-1, 1, 5), jnp.asarray(mean), std, levels), expected, rtol=1e-10)
  np.testing.assert_allclose(decoder_nll(jnp.asarray(0.5), jnp.asarray(mean), std, None), -p.logpdf(0.5), rtol=1e-12)


def test_decoder_far_in_the_tail(x64):
  # 100 standard deviations away, where a difference of distribution functions is 0 - 0: the integral, by hand scaled.
  std, low, high = 0.01, 100.0, 120.0
  scaled = integrate.quad(lambda z: np.exp(-(z**2 - low**2) / 2), low, high, epsabs=0, limit=500, points=[low + 0.1])[0]
  expected = low**2 / 2 + np.log(2 * np.pi) / 2 - np.log(scaled)
  for sign in (1, -1):
    nll = decoder_nll(sign * jnp.asarray(0.1), sign * jnp.asarray(-1.0), std, 11)
    np.testing.assert_allclose(nll, expected, rtol=1e-10)


def test_decoder_in_float32():
  # Digits of float64 are the reference; the standard deviation is the one that the paper's schedule has at t = 1.
  values = np.linspace(-1, 1, 256)
  mean = np.array([-1.2, -0.5, 0.01, 0.9])[:, None]
  single = decoder_nll(jnp.float32(values), jnp.float32(mean), 0.0074, 256)
  gradient = jax.grad(lambda m: decoder_nll(jnp.float32(values), m, 0.0074, 256).sum())(jnp.float32(mean))
  jax.config.update("jax_enable_x64", True)
  try:
    double = decoder_nll(jnp.asarray(values), jnp.asarray(mean), 0.0074, 256)
  finally:
    jax.config.update("jax_enable_x64", False)
  np.testing.assert_allclose(single, double, rtol=2e-4, atol=2e-5)
  assert jnp.all(jnp.isfinite(gradient))


def test_a_wild_prediction_does_not_spoil_the_gradient():
  # An eps prediction at t = T has an x_0 of any size; the decoder, which only t = 1 has, must not turn it into NaN.
  terms = bound(linear(), levels=256)
  x_0 = jnp.zeros((2, 2, 2, 1))
  loss = lambda predicted: terms.term(x_0, predicted, jnp.asarray([1.0, 1000.0])).sum()
  value, gradient = jax.value_and_grad(loss)(jnp.stack([x_0[0] + 0.1, x_0[0] + 1e12]))
  assert jnp.isfinite(value)
  assert jnp.all(jnp.isfinite(gradient))


def test_bad_input():
  with pytest.raises(UserError, match="1 levels"):
    bound(linear(10), levels=1)


def test_times_may_be_integers():
  terms, one = bound(linear(20, 1e-3, 0.4), levels=17), jnp.full((3, 1, 1, 1), 0.5)
  t = jnp.asarray([1, 2, 20])
  np.testing.assert_array_equal(terms.term(one, one - 0.2, t), terms.term(one, one - 0.2, t.astype(float)))


def test_one_step_alone():
  # T = 1 has no second step to take v_1 from: beta_1.
  terms = bound(linear(1, 0.3, 0.3), levels=None)
  nll = terms.term(jnp.full((1, 1, 1, 1), 0.2), jnp.zeros((1, 1, 1, 1)), jnp.ones(1))
  np.testing.assert_allclose(nll, -stats.norm(0, np.sqrt(0.3)).logpdf(0.2), rtol=1e-6)
