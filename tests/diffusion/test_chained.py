"""Guidance by several conditions on a Gaussian, whose conditionals are Gaussians known in closed form."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.core.errors import UserError
from jaxgen.diffusion import vp
from jaxgen.diffusion.guidance import chained, classifier_free

SCHEDULE = vp()
DRAW = np.random.default_rng(0)
N = 5
ROOT = DRAW.normal(size=(4, 4))
COVARIANCE = ROOT @ ROOT.T + 0.1 * np.eye(4)  # of (x_1, x_2, a, b): x is a picture, a and b are what is told of it
MEAN = DRAW.normal(size=4)
TOLD = {"a": DRAW.normal(size=(N, 1)), "b": DRAW.normal(size=(N, 1))}
MISSING = 99.0  # stands for "not told"


def given(values):
  """(mean [2], covariance [2, 2]) of x given the entries of (a, b) that are told."""
  seen = [2 + i for i, value in enumerate(values) if value != MISSING]
  if not seen:
    return MEAN[:2], COVARIANCE[:2, :2]
  gain = COVARIANCE[:2, seen] @ np.linalg.inv(COVARIANCE[np.ix_(seen, seen)])
  away = np.array([value for value in values if value != MISSING]) - MEAN[seen]
  return MEAN[:2] + gain @ away, COVARIANCE[:2, :2] - gain @ COVARIANCE[seen, :2]


def noisy(values, t):
  """(mean, precision) of x_t given what is told."""
  mean, covariance = given(values)
  alpha, sigma = float(SCHEDULE.alpha(t)), float(SCHEDULE.sigma(t))
  return alpha * mean, np.linalg.inv(alpha**2 * covariance + sigma**2 * np.eye(2))


def predict(x, t, told):
  """The exact (x_0, eps), and which row was told what."""
  rows = np.concatenate([np.asarray(told["a"]), np.asarray(told["b"])], 1)
  each = [noisy(row, t) for row in rows]
  eps = jnp.stack([SCHEDULE.sigma(t) * precision @ (x[i] - mean) for i, (mean, precision) in enumerate(each)])
  return (x - SCHEDULE.sigma(t) * eps) / SCHEDULE.alpha(t), eps, jnp.asarray(rows)


def ways():
  none = np.full((N, 1), MISSING)
  return [{"a": none, "b": none}, {"a": TOLD["a"], "b": none}, TOLD]


X, T = DRAW.normal(size=(N, 2)), np.asarray(0.3)


def test_two_weights_give_the_score_of_a_product_of_densities(x64):
  """p(x) (p(x|a) / p(x))^w_1 (p(x|a, b) / p(x|a))^w_2 of x_t, a Gaussian again: Brooks et al. 2023, Appendix B."""
  weights = np.array([[1.5, 2.0], [1.0, 1.0], [0.0, 0.0], [1.2, 0.3], [2.0, 2.0]])
  x_0, eps, rows = chained(predict, SCHEDULE, ways(), jnp.asarray(weights))(jnp.asarray(X), jnp.asarray(T))
  np.testing.assert_array_equal(rows, np.concatenate([TOLD["a"], TOLD["b"]], 1))  # what follows is D_K's
  for i, (first, second) in enumerate(weights):
    a, b = TOLD["a"][i, 0], TOLD["b"][i, 0]
    powers = [1 - first, first - second, second]
    each = [noisy(values, T) for values in ((MISSING, MISSING), (a, MISSING), (a, b))]
    precision = sum(w * p for w, (_, p) in zip(powers, each, strict=True))
    mean = np.linalg.solve(precision, sum(w * p @ m for w, (m, p) in zip(powers, each, strict=True)))
    np.testing.assert_allclose(eps[i], SCHEDULE.sigma(T) * precision @ (X[i] - mean), rtol=1e-9)
  np.testing.assert_allclose(SCHEDULE.alpha(T) * x_0 + SCHEDULE.sigma(T) * eps, X, rtol=1e-9)


def test_equal_weights_are_classifier_free_guidance_and_ones_are_the_conditional_bit_for_bit(x64):
  weight = jnp.asarray([1.0, 0.0, 2.5, 7.5, 1.0])
  options = dict(rescale=0.6, interval=(0.01, 50.0))
  told = ways()
  both = chained(predict, SCHEDULE, told, jnp.stack([weight, weight], 1), **options)(jnp.asarray(X), jnp.asarray(T))
  one = classifier_free(predict, SCHEDULE, told[-1], told[0], weight, **options)(jnp.asarray(X), jnp.asarray(T))
  for a, b in zip(both, one, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)
  alone = predict(jnp.asarray(X), jnp.asarray(T), told[-1])
  for a, b in zip(both, alone, strict=True):
    np.testing.assert_array_equal(a[weight == 1], b[weight == 1])
  outside = chained(predict, SCHEDULE, told, jnp.full((N, 2), 3.0), interval=(50.0, 60.0))(
    jnp.asarray(X), jnp.asarray(T)
  )
  np.testing.assert_array_equal(outside[0], alone[0])


def test_says_how_many_weights_there_are():
  with pytest.raises(UserError, match=r"2 conditions are guided by as many weights of each sample, \[N, 2\], .* \[5\]"):
    chained(predict, SCHEDULE, ways(), jnp.ones(5))
