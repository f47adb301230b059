"""The Fréchet distance between two sets of features.

Each set is replaced by a Gaussian with its mean and covariance. The distance is the squared 2-Wasserstein distance of
the two Gaussians (Dowson and Landau 1982; Heusel et al. 2017, https://arxiv.org/abs/1706.08500, equation 6):

    d = |mu_a - mu_b|^2 + tr C_a + tr C_b - 2 tr (C_a C_b)^{1/2}

The usual method, a matrix square root of C_a C_b, fails if a covariance does not have full rank: it returns complex
numbers, or needs a multiple of the identity. Here no covariance is formed. With R_a^T R_a = C_a and R_b^T R_b = C_b,
from a QR decomposition of the centred features, C_a C_b has the eigenvalues of (R_a R_b^T)^T (R_a R_b^T). The trace of
the root is therefore the sum of the singular values of R_a R_b^T, which is real and non-negative for any rank. It loses
half as many digits as a computation from covariances.
"""

import numpy as np
from jaxtyping import Float


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
