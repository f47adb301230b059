"""Diagnostics of chains: effective sample size and R-hat of draws [draws, chains, ...], in numpy.

Vehtari, Gelman, Simpson, Carpenter and Bürkner 2021, Rank-normalization, folding, and localization: an improved R-hat,
https://arxiv.org/abs/1903.08008. Each scalar of `...` is diagnosed separately. The caller leaves out the burn-in.
"""

import numpy as np
from jaxtyping import Float, Num
from scipy import special, stats

from jaxgen.core.errors import UserError

Draws = Num[np.ndarray, "draws chains *shape"]
PerScalar = Float[np.ndarray, "*shape"]


def effective_sample_size(x: Draws) -> PerScalar:
  """The number of independent draws that would estimate the mean as accurately, with each chain split in halves.

  With W the mean variance within half-chains, V = (N - 1)/N W + B/N, and rho_t = 1 - (W - mean autocovariance_t) / V,
  it is M N / tau, tau = -1 + 2 sum_k P_k over the pairs P_k = rho_2k + rho_2k+1, as long as they are positive, each
  capped by the one before (Geyer 1992's initial monotone sequence). The first rho after the last pair is added once if
  it is positive, for antithetic chains. For an x that never changes it is the number of draws.

  Raises:
    UserError: there are fewer than 10 draws.
  """
  x = _halves(x)
  n, m = x.shape[:2]
  centred = x - x.mean(axis=0)
  spectrum = np.fft.rfft(centred, 2 * n, axis=0)
  covariance = np.fft.irfft(np.abs(spectrum) ** 2, axis=0)[:n].mean(axis=1) / n
  W = covariance[0] * n / (n - 1)
  V = covariance[0] + (x.mean(axis=0).var(axis=0, ddof=1) if m > 1 else 0)
  with np.errstate(divide="ignore", invalid="ignore"):
    rho = 1 - (W - covariance) / V
  rho[0] = 1
  most = (n - 3) // 2  # pairs, as ArviZ: the last lags are known from too few draws
  pairs = rho[: 2 * most].reshape(most, 2, *rho.shape[1:]).sum(axis=1)
  kept = np.logical_and.accumulate(pairs > 0, axis=0)
  behind = np.take_along_axis(rho, 2 * kept.sum(axis=0)[None], axis=0)[0]
  pairs = np.where(kept, np.minimum.accumulate(pairs, axis=0), 0)
  tau = -1 + 2 * pairs.sum(axis=0) + np.maximum(behind, 0)
  # No more than log10 of the number of draws times as many as there are, as Stan and ArviZ do.
  tau = np.maximum(tau, 1 / np.log10(n * m))
  return np.where(V > 0, n * m / np.where(V > 0, tau, 1), n * m)


def r_hat(x: Draws) -> PerScalar:
  """The larger of the rank-normalised split R-hats of x and of its distances from its median.

  It is 1 for chains that agree with each other and in both halves. The paper recommends values below 1.01.

  Raises:
    UserError: there are fewer than 10 draws.
  """
  x = _halves(x)
  folded = np.abs(x - np.median(x, axis=(0, 1)))
  return np.asarray(np.maximum(split_r_hat(_normal_scores(x)), split_r_hat(_normal_scores(folded))))


def split_r_hat(x: Draws) -> PerScalar:
  """sqrt(V / W) of half-chains; NaN if they never change."""
  n = len(x)
  W = x.var(axis=0, ddof=1).mean(axis=0)
  with np.errstate(divide="ignore", invalid="ignore"):
    return np.asarray(np.sqrt((n - 1) / n + x.mean(axis=0).var(axis=0, ddof=1) / W))


def summary(x: Draws, accepted: Float[np.ndarray, "*chains"]) -> dict[str, float]:
  """{"acceptance": mean probability, "ess_min": the smallest of x's scalars, "r_hat_max": the largest}."""
  return {
    "acceptance": float(np.mean(accepted)),
    "ess_min": float(np.min(effective_sample_size(x))),
    "r_hat_max": float(np.max(r_hat(x))),
  }


def _halves(x: Draws) -> Float[np.ndarray, "half twice *shape"]:
  """Splits each chain into its first and its last half. A draw between them is left out."""
  if len(x) < 10:
    raise UserError(f"chains of {len(x)} draws are too short to be judged: keep 10 or more")
  x, half = np.asarray(x, np.float64), len(x) // 2
  return np.concatenate([x[:half], x[-half:]], axis=1)


def _normal_scores(x: Float[np.ndarray, "draws chains *shape"]) -> Float[np.ndarray, "draws chains *shape"]:
  """Quantiles of the normal distribution at (rank - 3/8) / (S + 1/4), the ranks among all S draws."""
  count = x.shape[0] * x.shape[1]
  ranks = stats.rankdata(x.reshape(count, -1), axis=0).reshape(x.shape)
  return special.ndtri((ranks - 0.375) / (count + 0.25))
