"""The Fréchet distance between two sets of features.

Each set is replaced by a Gaussian with its mean and covariance. The distance is the squared 2-Wasserstein distance of
the two Gaussians (Dowson and Landau 1982; Heusel et al. 2017, https://arxiv.org/abs/1706.08500, equation 6):

    d = |mu_a - mu_b|^2 + tr C_a + tr C_b - 2 tr (C_a C_b)^{1/2}

The usual method, a matrix square root of C_a C_b, fails if a covariance does not have full rank: it returns complex
numbers, or needs a multiple of the identity. Here no covariance is formed. With R_a^T R_a = C_a and R_b^T R_b = C_b,
from a QR decomposition of the centred features, C_a C_b has the eigenvalues of (R_a R_b^T)^T (R_a R_b^T). The trace of
the root is therefore the sum of the singular values of R_a R_b^T, which is real and non-negative for any rank. It loses
half as many digits as a computation from covariances. Where there are only moments (a file of statistics, a stream too
long to keep), `of_moments` takes the roots from the eigenvalues of each covariance, and the rest is the same.

The distance of N samples is biased, by about c / N with a c that depends on the generator (Chong and Forsyth 2020,
https://arxiv.org/abs/1911.07023). `extrapolated` gives the value at 1 / N = 0, `jackknifed` a standard error.
"""

import functools
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from jaxgen.evaluation import moments
from jaxgen.evaluation.moments import Moments


def frechet_distance(a: Float[np.ndarray, "n features"], b: Float[np.ndarray, "m features"]) -> float:
  """Squared Fréchet distance of two sets of features, in the features' units squared; computed in float64.

  Covariances are the unbiased ones (divided by n - 1), as in the published FID implementations. The result is at least
  0; for equal sets it is 0 up to rounding, about 1e-15 of the features' variance.

  Raises:
    ValueError: a set has fewer than two members, or a feature is not finite.
  """
  a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
  for name, x in (("first", a), ("second", b)):
    if len(x) < 2:
      raise ValueError(f"the Fréchet distance needs at least 2 examples in each set; the {name} has {len(x)}")
    if not np.isfinite(x).all():
      raise ValueError(f"the {name} set has features that are not finite")
  origin = b.mean(0)  # a common offset, however large, costs no digits below
  a, b = a - origin, b - origin
  scale = max(np.abs(a).max(), np.abs(b).max())
  if scale == 0:
    return 0.0
  a, b = a / scale, b / scale  # squares of tiny or huge features neither vanish nor overflow
  (mu_a, root_a), (mu_b, root_b) = _gaussian(a), _gaussian(b)
  trace_of_root = np.linalg.svd(root_a @ root_b.T, compute_uv=False).sum()
  d = np.sum((mu_a - mu_b) ** 2) + np.sum(root_a**2) + np.sum(root_b**2) - 2 * trace_of_root
  return float(max(d, 0.0) * scale * scale)


def _gaussian(
  x: Float[np.ndarray, "n features"],
) -> tuple[Float[np.ndarray, " features"], Float[np.ndarray, "rows features"]]:
  """Mean and a root of the covariance, R^T R = C, with min(n, features) rows."""
  mu = x.mean(0)
  return mu, np.linalg.qr((x - mu) / np.sqrt(len(x) - 1), mode="r")


def of_moments(a: Moments, b: Moments) -> float:
  """The squared Fréchet distance of two Gaussians, from their means and covariances; at least 0.

  Raises:
    ValueError: they are of different numbers of features.
  """
  return _to(b)(a)


def _to(b: Moments) -> Callable[[Moments], float]:
  """The distance to b as a function; the root of b's covariance is taken once."""
  sigma_b = b.sigma
  root_b = _root(sigma_b)

  def distance(a: Moments) -> float:
    if a.mu.shape != b.mu.shape:
      raise ValueError(f"there are {len(a.mu)} features in one set and {len(b.mu)} in the other")
    sigma_a = a.sigma
    trace_of_root = np.linalg.svd(_root(sigma_a) @ root_b.T, compute_uv=False).sum()
    d = np.sum((a.mu - b.mu) ** 2) + np.trace(sigma_a) + np.trace(sigma_b) - 2 * trace_of_root
    return float(max(d, 0.0))

  return distance


def _root(sigma: Float[np.ndarray, "features features"]) -> Float[np.ndarray, "features features"]:
  """R with R^T R = C, of a covariance of any rank; eigenvalues that rounding makes negative are 0."""
  values, vectors = np.linalg.eigh((sigma + sigma.T) / 2)
  return np.sqrt(np.maximum(values, 0))[:, None] * vectors.T


def jackknifed(groups: Sequence[Moments], reference: Moments) -> tuple[float, float]:
  """(the distance of all groups' members together to the reference, its standard error).

  The error is the delete-one-group jackknife's (Efron and Stein 1981, equation 1.2), over the samples alone: the
  reference counts as exact.

  Raises:
    ValueError: there are fewer than two groups.
  """
  if len(groups) < 2:
    raise ValueError(f"a jackknife needs at least 2 groups, not {len(groups)}")
  distance, g = _to(reference), len(groups)
  without = [distance(functools.reduce(moments.merge, [*groups[:i], *groups[i + 1 :]])) for i in range(g)]
  error = np.sqrt((g - 1) / g * np.sum((np.array(without) - np.mean(without)) ** 2))
  return distance(functools.reduce(moments.merge, groups)), float(error)


def extrapolated(
  x: Float[np.ndarray, "n features"], reference: Moments, *, points: int = 15, least: int | None = None, seed: int = 0
) -> float:
  """The distance of infinitely many samples to the reference: Chong and Forsyth 2020, section 4.

  The distance is computed for `points` numbers N of samples, evenly spaced from `least` to all, each a random choice,
  and a line a + b / N is fitted by least squares; the result is a, which may be negative.

  Args:
    least: the smallest N; by default a tenth of all and at least 2. The authors take 5,000 of 50,000.

  Raises:
    ValueError: fewer than two points or samples.
  """
  n = len(x)
  least = max(2, n // 10) if least is None else least
  if points < 2 or not 2 <= least < n:
    raise ValueError(f"a line needs 2 points or more, between 2 and {n} samples: not {points} from {least} on")
  random = np.random.default_rng(seed)
  counts = np.unique(np.linspace(least, n, points).astype(int))
  distance = _to(reference)
  distances = [distance(moments.of(x[np.sort(random.choice(n, count, replace=False))])) for count in counts]
  return float(np.polynomial.Polynomial.fit(1 / counts, distances, 1).convert().coef[0])
