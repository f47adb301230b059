"""Power-function profiles: EDM2's numbers, integrals by quadrature, and averages made of others that were stored."""

import jax
import numpy as np
import pytest
from scipy import integrate

from jaxgen.core.profiles import coefficients, gamma_of, inner
from jaxgen.core.wrappers import power


def profile(tau, t, gamma):
  return np.where(tau <= t, (gamma + 1) / t * (tau / t) ** gamma, 0.0)


def test_the_papers_widths():
  assert gamma_of(0.05) == pytest.approx(16.97, abs=5e-3)
  assert gamma_of(0.10) == pytest.approx(6.94, abs=5e-3)


@pytest.mark.parametrize(
  ("a", "b"), [((3.0, 6.94), (5.0, 16.97)), ((5.0, 6.94), (3.0, 16.97)), ((4.0, 2.0), (4.0, 2.0))]
)
def test_inner_products_by_quadrature(a, b):
  expected = integrate.quad(lambda tau: float(profile(tau, *a) * profile(tau, *b)), 0, min(a[0], b[0]))[0]
  np.testing.assert_allclose(inner(*(np.asarray(v) for v in (*a, *b))), expected, rtol=1e-9)


def test_averages_made_afterwards_are_those_that_are_tracked(x64):
  """Of a trajectory that drifts and shakes: errors in parts of the weights' norm, 1e-3 and less, fewer with more
  snapshots; of a stored width and step the result is that average itself."""
  steps, dim = 4_000, 300
  random = np.random.default_rng(0)
  t = np.arange(1, steps + 1)[:, None]
  path = random.normal(size=dim) * np.log1p(t / 50) + 0.05 * np.cumsum(random.normal(size=(steps, dim)), axis=0) / 8
  path = path + 0.1 * random.normal(size=(steps, dim))
  widths = [0.05, 0.10, 0.03, 0.07, 0.15, 0.20]
  shares = np.stack([np.asarray(jax.jit(power(width).of)(np.arange(steps))) for width in widths])
  average, stored = np.zeros((len(widths), dim)), {}
  for step in range(steps):
    average = average + shares[:, step, None] * (path[step] - average)
    stored[step + 1] = average.copy()

  def error(width, count):
    at = np.linspace(steps / count, steps, count).astype(int)
    pairs = [(int(s), i) for s in at for i in (0, 1)]
    gammas = [gamma_of(widths[i]) for _, i in pairs]
    weights = coefficients([s for s, _ in pairs], gammas, steps, gamma_of(width))
    made = sum(w * stored[s][i] for w, (s, i) in zip(weights, pairs, strict=True))
    tracked = stored[steps][widths.index(width)]
    return np.linalg.norm(made - tracked) / np.linalg.norm(tracked)

  assert error(0.05, 8) < 1e-9
  assert error(0.10, 8) < 1e-9
  errors = {width: [error(width, count) for count in (8, 16, 32)] for width in widths[2:]}
  assert all(e[-1] < 1e-3 for e in errors.values()), errors
  assert all(e[-1] < e[0] for e in errors.values()), errors
