import conftest
import numpy as np
import pytest

from jaxgen.core.errors import UserError
from jaxgen.mcmc.diagnostics import effective_sample_size, r_hat, summary


@pytest.fixture(scope="module")
def judge():
  with np.load(conftest.REPOSITORY / "tests" / "fixtures" / "mcmc.npz") as file:
    return dict(file)


def autoregression(phi, draws, chains, seed=0):
  """x_t = phi x_{t-1} + sqrt(1 - phi^2) z from its stationary distribution, [draws, chains]."""
  rng = np.random.default_rng(seed)
  x = rng.normal(size=(draws, chains))
  for t in range(1, draws):
    x[t] = phi * x[t - 1] + np.sqrt(1 - phi**2) * x[t]
  return x


def test_they_are_arvizs(judge):
  np.testing.assert_allclose(effective_sample_size(judge["draws"]), judge["ess"], rtol=1e-9)
  np.testing.assert_allclose(r_hat(judge["draws"]), judge["r_hat"], rtol=1e-9)


@pytest.mark.parametrize("phi", [-0.4, 0.0, 0.5, 0.9])
def test_effective_sample_size_of_an_autoregression(phi):
  n, m = 4_000, 8
  expected = n * m * (1 - phi) / (1 + phi)
  assert abs(effective_sample_size(autoregression(phi, n, m)) / expected - 1) < 0.1


def test_scalars_are_judged_on_their_own():
  x = np.stack([autoregression(phi, 200, 4, seed) for seed, phi in enumerate((0.0, 0.5, 0.9, -0.3))], -1)
  x = x.reshape(200, 4, 2, 2)
  for judged in (effective_sample_size, r_hat):
    found = judged(x)
    assert found.shape == (2, 2)
    np.testing.assert_allclose(found[1, 0], judged(x[:, :, 1, 0]), rtol=1e-12)


def test_chains_that_do_not_mix_or_drift_are_seen():
  x = autoregression(0.3, 400, 4)
  assert r_hat(x) < 1.01
  assert r_hat(x + np.arange(4)) > 1.3
  assert r_hat(x * np.array([1, 1, 1, 3])) > 1.05  # folded: the means agree
  assert r_hat(x + np.linspace(0, 3, 400)[:, None]) > 1.2  # split: the chains agree with each other
  assert effective_sample_size(x + 3 * np.arange(4)) < 10


def test_what_never_changes():
  assert effective_sample_size(np.ones((20, 3))) == 60
  assert np.isnan(r_hat(np.ones((20, 3))))


def test_summary_is_of_the_worst():
  x = np.stack([autoregression(0.0, 300, 4), autoregression(0.95, 300, 4)], -1)
  found = summary(x, np.array([0.5, 0.7]))
  assert found["acceptance"] == pytest.approx(0.6)
  assert found["ess_min"] == pytest.approx(effective_sample_size(x)[1])
  assert found["r_hat_max"] == pytest.approx(r_hat(x)[1])


def test_too_few_draws():
  for judged in (effective_sample_size, r_hat):
    with pytest.raises(UserError, match="9 draws are too short"):
      judged(np.zeros((9, 2)))
