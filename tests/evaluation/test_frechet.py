"""The Fréchet distance against scipy's matrix square root, and against cases with a known answer."""

import numpy as np
import pytest
import scipy.linalg
import scipy.stats

from jaxgen.evaluation.frechet import frechet_distance


def by_matrix_root(a, b):
  """The formula as published, with scipy's square root; good for covariances of full rank."""
  ca, cb = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
  root = scipy.linalg.sqrtm(ca @ cb)
  return np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(ca + cb - 2 * root.real)


@pytest.fixture
def rng():
  return np.random.default_rng(0)


def correlated(rng, n, features, offset=0.0):
  return rng.normal(size=(n, features)) @ rng.normal(size=(features, features)) + offset


@pytest.mark.parametrize(("n", "m", "features"), [(50, 70, 3), (500, 300, 16), (40, 40, 1)])
def test_equals_the_published_formula(rng, n, m, features):
  a, b = correlated(rng, n, features), correlated(rng, m, features, offset=0.5)
  if features == 1:  # np.cov gives a scalar there, so the closed form in one dimension
    expected = (a.mean() - b.mean()) ** 2 + (a.std(ddof=1) - b.std(ddof=1)) ** 2
  else:
    expected = by_matrix_root(a, b)
  assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_scaling_and_shifting_has_a_closed_form_at_any_rank(rng, rank):
  """b = s a + m is an optimal transport map, so d = |mean(b) - mean(a)|^2 + (s - 1)^2 tr C_a."""
  a = rng.normal(size=(60, rank)) @ rng.normal(size=(rank, 8))
  b = 3 * a + rng.normal(size=8)
  expected = np.sum((a.mean(0) - b.mean(0)) ** 2) + 4 * np.var(a, axis=0, ddof=1).sum()
  assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-12)


def test_fewer_examples_than_features(rng):
  a = rng.normal(size=(5, 64))
  assert frechet_distance(a, 2 * a) == pytest.approx(
    np.sum(a.mean(0) ** 2) + np.var(a, axis=0, ddof=1).sum(), rel=1e-12
  )
  assert frechet_distance(a[:2], rng.normal(size=(3, 64))) > 0


def test_orthogonal_subspaces_share_nothing(rng):
  a, b = np.zeros((30, 4)), np.zeros((20, 4))
  a[:, :2], b[:, 2:] = rng.normal(size=(30, 2)), rng.normal(size=(20, 2))
  variances = np.var(a, axis=0, ddof=1).sum() + np.var(b, axis=0, ddof=1).sum()
  assert frechet_distance(a, b) == pytest.approx(variances + np.sum((a.mean(0) - b.mean(0)) ** 2), rel=1e-12)


def test_one_dimension_is_the_wasserstein_distance_of_large_gaussian_samples():
  """scipy's own transport distance, on quantiles, where Gaussian features make both the same number."""
  q = scipy.stats.norm.ppf((np.arange(20_000) + 0.5) / 20_000)
  a, b = 1 + 2 * q, -1 + 0.5 * q
  expected = np.mean((np.sort(a) - np.sort(b)) ** 2)
  assert frechet_distance(a[:, None], b[:, None]) == pytest.approx(expected, rel=1e-3)
  assert expected == pytest.approx(2**2 + 1.5**2, rel=1e-3)


def test_equal_sets_are_at_zero_and_never_below(rng):
  for features, n in ((4, 100), (64, 20), (64, 1000)):
    a = correlated(rng, n, features)
    d = frechet_distance(a, rng.permutation(a))
    assert 0 <= d < 1e-12 * np.var(a, axis=0).sum()
  assert frechet_distance(np.ones((3, 2)), np.ones((5, 2))) == 0
  assert frechet_distance(np.zeros((3, 2)), np.ones((5, 2))) == pytest.approx(2, rel=1e-12)


@pytest.mark.parametrize("unit", [1e-150, 1e-20, 1e20, 1e150])
def test_scales_with_the_square_of_the_unit(rng, unit):
  a, b = correlated(rng, 30, 5), correlated(rng, 30, 5)
  assert frechet_distance(a * unit, b * unit) / unit / unit == pytest.approx(frechet_distance(a, b), rel=1e-9)


def test_a_large_common_offset_costs_only_the_digits_it_must(rng):
  a, b = correlated(rng, 100, 6), correlated(rng, 100, 6)
  exact = frechet_distance(a, b)
  assert frechet_distance(a + 1e6, b + 1e6) == pytest.approx(exact, rel=1e-8)


def test_symmetric_and_blind_to_rotations(rng):
  a, b = correlated(rng, 80, 7), correlated(rng, 90, 7, offset=1.0)
  rotation = scipy.stats.special_ortho_group.rvs(7, random_state=0)
  assert frechet_distance(b, a) == pytest.approx(frechet_distance(a, b), rel=1e-10)
  assert frechet_distance(a @ rotation, b @ rotation) == pytest.approx(frechet_distance(a, b), rel=1e-10)


def test_float32_features_are_taken_in_float64(rng):
  a, b = correlated(rng, 200, 8).astype(np.float32), correlated(rng, 200, 8).astype(np.float32)
  result = frechet_distance(a, b)
  assert type(result) is float
  assert result == frechet_distance(a.astype(np.float64), b.astype(np.float64))


def test_bad_input(rng):
  good = rng.normal(size=(5, 3))
  with pytest.raises(ValueError, match="first has 1"):
    frechet_distance(good[:1], good)
  bad = good.copy()
  bad[2, 1] = np.nan
  with pytest.raises(ValueError, match="second set has features that are not finite"):
    frechet_distance(good, bad)
