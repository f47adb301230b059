"""Metrics of features against torch-fidelity and prdc (make_metrics.py), closed forms, and counting pair by pair."""

import pathlib

import numpy as np
import pytest
import scipy.linalg
import scipy.stats

from jaxgen.core.errors import UserError
from jaxgen.evaluation import frechet, kernel, manifold, moments
from jaxgen.evaluation.inception_score import inception_score

KNOWN = dict(np.load(pathlib.Path(__file__).parent.parent / "fixtures" / "metrics.npz"))


def features(seed, n, d=12):
  """As in the script that made the fixture."""
  random = np.random.default_rng(seed)
  return random.standard_normal((n, d)) @ (np.eye(d) + 0.3 * random.standard_normal((d, d))) + 0.2 * seed


def in_chunks(x, *sizes):
  return np.split(x, np.cumsum(sizes))


X, Y = features(1, 230), features(2, 310)


def test_fid_equals_torch_fidelity_however_the_stream_is_cut():
  a, b = moments.sum_of(in_chunks(X, 1, 64, 100)), moments.sum_of(in_chunks(Y, 200))
  np.testing.assert_allclose(a.mu, KNOWN["mu"], rtol=1e-12)
  np.testing.assert_allclose(a.sigma, KNOWN["sigma"], rtol=1e-10, atol=1e-12)
  assert frechet.of_moments(a, b) == pytest.approx(float(KNOWN["fid"]), rel=1e-9)
  assert frechet.of_moments(a, b) == pytest.approx(frechet.frechet_distance(X, Y), rel=1e-9)


def test_fid_of_gaussians_has_its_closed_form_at_any_rank():
  """Commuting covariances: |mu_a - mu_b|^2 + sum (s_a - s_b)^2 over their common axes, some of them 0."""
  rotation = scipy.stats.special_ortho_group.rvs(6, random_state=0)
  s_a, s_b = np.array([2, 1, 0, 3, 0, 0.5]), np.array([1, 1, 2, 0, 0, 4])
  gaussian = lambda mu, s: moments.Moments(9, mu, 8 * (rotation * s**2) @ rotation.T)
  a, b = gaussian(np.zeros(6), s_a), gaussian(np.arange(6.0), s_b)
  expected = np.sum(np.arange(6.0) ** 2) + np.sum((s_a - s_b) ** 2)
  assert frechet.of_moments(a, b) == pytest.approx(expected, rel=1e-7)
  assert frechet.of_moments(b, a) == pytest.approx(expected, rel=1e-7)
  assert frechet.of_moments(a, a) == pytest.approx(0, abs=1e-7)


def test_fid_at_infinity_is_nearer_to_the_distributions_own():
  """Two Gaussians of 20 features: the distance of 1,000 samples is too large by about tr C / N, its limit is not."""
  random = np.random.default_rng(0)
  reference = moments.Moments(2, np.zeros(20), np.eye(20))
  plain, limits = [], []
  for _ in range(10):
    x = 1.1 * random.standard_normal((1000, 20))
    plain.append(frechet.of_moments(moments.of(x), reference))
    limits.append(frechet.extrapolated(x, reference, points=8, least=200))
  true = 20 * 0.1**2
  assert np.mean(plain) - true > 0.03
  assert abs(np.mean(limits) - true) < 0.015


def test_the_jackknife_tells_the_spread_over_sets_of_samples():
  random = np.random.default_rng(0)
  reference = moments.Moments(2, np.full(4, 0.3), np.eye(4))
  found = [
    frechet.jackknifed([moments.of(random.standard_normal((50, 4))) for _ in range(10)], reference) for _ in range(60)
  ]
  values, errors = np.array(found).T
  assert np.mean(errors) == pytest.approx(np.std(values, ddof=1), rel=0.3)


def test_statistics_files_are_as_others_write_and_read_them(tmp_path):
  theirs = tmp_path / "theirs.npz"
  np.savez_compressed(theirs, mu=KNOWN["mu"], sigma=KNOWN["sigma"])  # what pytorch-fid --save-stats writes
  found, said = moments.read(theirs, features="inception")
  assert said == {}
  assert frechet.of_moments(found, moments.of(Y)) == pytest.approx(float(KNOWN["fid"]), rel=1e-9)
  ours = tmp_path / "ours.npz"
  moments.write(ours, moments.of(X), features="inception_tf1", weights="a5", data="x train")
  with np.load(ours, allow_pickle=False) as arrays:
    np.testing.assert_allclose(arrays["mu"], KNOWN["mu"], rtol=1e-12)
    np.testing.assert_allclose(arrays["sigma"], KNOWN["sigma"], rtol=1e-10, atol=1e-12)
  found, said = moments.read(ours, features="inception_tf1", weights="a5")
  assert (found.n, said["data"]) == (230, "x train")
  with pytest.raises(UserError, match="is of the features inception_tf1, and the samples' are inception_clean"):
    moments.read(ours, features="inception_clean")
  np.savez(theirs, mu=np.zeros(3), sigma=np.eye(4))
  for file, words in ((theirs, r"mu is \[3\] and sigma \[4, 4\]"), (tmp_path / "none.npz", "there is no file")):
    with pytest.raises(UserError, match=words):
      moments.read(file)
  np.savez(theirs, mean=np.zeros(3))
  with pytest.raises(UserError, match="has no mu"):
    moments.read(theirs)
  theirs.write_bytes(b"PK\x03\x04 and no more")
  with pytest.raises(UserError, match="cannot be read as statistics"):
    moments.read(theirs)


def test_kid_equals_torch_fidelity():
  assert kernel.kid_of_subsets(X, Y, subsets=7, size=50) == pytest.approx(KNOWN["kid"], rel=1e-9)


def test_kid_of_all_pairs_and_its_error_equal_leaving_each_out(monkeypatch):
  """By the definition: sums over pairs, and the jackknife by computing it anew without each member."""
  monkeypatch.setattr(kernel, "BLOCK", 7)
  x, y = X[:20], Y[:15]

  def by_pairs(x, y):
    k = lambda a, b: (a @ b / 12 + 1) ** 3
    mean = lambda values: sum(values) / len(values)
    within = lambda z: mean([k(a, b) for i, a in enumerate(z) for j, b in enumerate(z) if i != j])
    return within(x) + within(y) - 2 * mean([k(a, b) for a in x for b in y])

  value, error = kernel.kid(x, y)
  assert value == pytest.approx(by_pairs(x, y), rel=1e-10)
  variance = 0
  for z, left in ((x, lambda i: (np.delete(x, i, 0), y)), (y, lambda i: (x, np.delete(y, i, 0)))):
    without = np.array([by_pairs(*left(i)) for i in range(len(z))])
    variance += (len(z) - 1) / len(z) * np.sum((without - without.mean()) ** 2)
  assert error == pytest.approx(np.sqrt(variance), rel=1e-10)


def test_kid_of_equal_distributions_has_mean_zero_within_its_error():
  random = np.random.default_rng(0)
  found = np.array([kernel.kid(*random.standard_normal((2, 80, 8))) for _ in range(80)])
  values, errors = found.T
  assert abs(values.mean()) < 3 * values.std() / np.sqrt(80)
  assert (values < 0).any()
  assert np.mean(np.abs(values) < 2 * errors) > 0.9
  away, error = kernel.kid(random.standard_normal((80, 8)), random.standard_normal((80, 8)) + 1)
  assert away > 5 * error


def test_cmmd_equals_the_authors_formula_and_the_gaussians_closed_form():
  assert kernel.cmmd(X / 4, Y / 4) == pytest.approx(float(KNOWN["cmmd"]), rel=1e-9)
  # Of two standard normals d apart, E exp(-(x - y)^2 / 2 s^2) = s / sqrt(s^2 + 2) exp(-d^2 / 2 (s^2 + 2)).
  x = scipy.stats.norm.ppf((np.arange(3000) + 0.5) / 3000)[:, None]
  expected = 2 * 1000 * 10 / np.sqrt(102) * (1 - np.exp(-16 / 204))
  assert kernel.cmmd(x, x + 4) == pytest.approx(expected, rel=1e-3)


def test_precision_and_recall_equal_torch_fidelity_and_prdc(monkeypatch):
  monkeypatch.setattr(manifold, "BLOCK", 37)
  for k in (3, 5):
    found = manifold.manifold(X, Y, k=k)
    assert [found.precision.mean(), found.recall.mean()] == pytest.approx(KNOWN[f"precision_recall_{k}"], abs=1e-6)
  shares = [part.mean() for part in (found.precision, found.recall, found.density, found.coverage)]
  assert shares == pytest.approx(KNOWN["prdc"], abs=1e-9)


def test_authentic_samples_are_those_farther_than_the_real_neighbours_are():
  real = features(3, 40)
  samples = np.concatenate([features(4, 30), real[:5] + 1e-3, real[5:8]])
  distance = lambda a, b: np.linalg.norm(a - b)
  expected = []
  for x in samples:
    j = min(range(40), key=lambda j: distance(x, real[j]))
    expected.append(distance(x, real[j]) > min(distance(real[j], real[i]) for i in range(40) if i != j))
  found = manifold.manifold(samples, real).authentic
  assert found.tolist() == expected
  assert not found[30:].any()
  assert found[:30].any()


def test_a_copy_of_an_example_that_is_twice_in_the_data_is_not_authentic():
  for seed in range(20):
    random = np.random.default_rng(seed)
    real = 5 + 30 * random.normal(size=(40, 64))
    real[1] = real[0]
    assert not manifold.manifold(np.concatenate([real[:1], random.normal(size=(9, 64))]), real).authentic[0]


def test_metrics_are_blind_to_rotations_and_shifts_where_they_should_be():
  rotation = scipy.stats.special_ortho_group.rvs(12, random_state=1)
  turned = X @ rotation + 5, Y @ rotation + 5
  before, after = manifold.manifold(X, Y), manifold.manifold(*turned)
  for a, b in zip(before, after, strict=True):
    np.testing.assert_array_equal(a, b)
  assert kernel.cmmd(*turned) == pytest.approx(kernel.cmmd(X, Y), rel=1e-9)
  distances = [frechet.of_moments(moments.of(a), moments.of(b)) for a, b in ((X, Y), turned)]
  assert distances[0] == pytest.approx(distances[1], rel=1e-9)
  assert kernel.kid(X @ rotation, Y @ rotation) == pytest.approx(kernel.kid(X, Y), rel=1e-9)  # a shift changes it


def test_inception_score_equals_torch_fidelity_however_the_stream_is_cut():
  for chunks in ([X], in_chunks(X, 1, 30, 31, 100)):
    assert inception_score(chunks, 230, 7) == pytest.approx(KNOWN["isc"], rel=1e-9)
  certain = 500 * np.eye(5)[np.arange(100) % 5]
  assert inception_score([certain], 100, 4) == pytest.approx((5, 0), abs=1e-9)
  assert inception_score([np.zeros((10, 5))], 10, 2) == pytest.approx((1, 0), abs=1e-9)


def test_bad_features():
  bad = X.copy()
  bad[3, 2] = np.nan
  with pytest.raises(ValueError, match="first set has features that are not finite"):
    kernel.kid(bad, Y)
  with pytest.raises(ValueError, match="samples have features that are not finite"):
    manifold.manifold(bad, Y)
  with pytest.raises(ValueError, match="not finite"):
    moments.of(bad)
  with pytest.raises(ValueError, match="no moments"):
    moments.sum_of([])
  with pytest.raises(ValueError, match="more than 5 samples, and there are 5"):
    manifold.manifold(X[:5], Y)
  with pytest.raises(ValueError, match="11 features in one set and 12"):
    kernel.cmmd(X[:, :11], Y)
  with pytest.raises(ValueError, match="subsets of 500"):
    kernel.kid_of_subsets(X, Y, size=500)
  with pytest.raises(ValueError, match="of 230 samples, not of 231"):
    inception_score([X], 231)
  with pytest.raises(ValueError, match="5 samples do not make 10 parts"):
    inception_score([X[:5]], 5)
