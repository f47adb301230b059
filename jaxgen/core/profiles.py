"""Power-function averages and their profiles: Karras et al. 2024, https://arxiv.org/abs/2312.02696, section 3, App. C.

The average with exponent gamma at step t weighs the parameters at step tau by the profile

    p(tau; t, gamma) = (gamma + 1) / t^(gamma + 1) tau^gamma,   0 <= tau <= t

whose standard deviation is sigma_rel t, sigma_rel^2 = (gamma + 1) / ((gamma + 2)^2 (gamma + 3)). Any profile is
approximately a linear combination of the profiles of stored averages. The same combination of the stored averages
approximates its average (`coefficients`).
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from jaxgen.core.errors import UserError

Real = float | np.ndarray


def gamma_of(sigma_rel: float) -> float:
  """gamma >= 0 for a relative width, the largest root of a cubic: 16.97 for 0.05, 6.94 for 0.10 (Algorithm 2).

  Raises:
    UserError: no profile has this width.
  """
  if not 0 < sigma_rel < 12**-0.5:  # the width for gamma = 0, equal weights
    raise UserError(f"a power-function average has a relative width between 0 and 0.288, not {sigma_rel:g}: change it")
  s = sigma_rel**-2
  return float(np.roots([1, 7, 16 - s, 12 - s]).real.max())


def inner(t: Real, gamma: Real, u: Real, delta: Real) -> Real:
  """The integral of p(tau; t, gamma) p(tau; u, delta) over 0 <= tau <= min(t, u) (Algorithm 3's "p_dot_p")."""
  first = t < u
  lower, upper = np.where(first, t, u), np.where(first, u, t)
  power = np.where(first, delta, gamma)  # the exponent of the profile that ends later
  return (gamma + 1) * (delta + 1) * (lower / upper) ** power / ((gamma + delta + 1) * upper)


def coefficients(
  steps: Sequence[int], gammas: Sequence[float], step: int, gamma: float
) -> Float[np.ndarray, " stored"]:
  """The factor of each stored average in the average of (step, gamma), by least squares of the profiles (Algorithm 3).

  Args:
    steps, gammas: of the stored averages; steps are 1 or more.
    step, gamma: of the average to compute.
  """
  t, g = np.asarray(steps, np.float64), np.asarray(gammas, np.float64)
  matrix = inner(t[:, None], g[:, None], t[None], g[None])
  wanted = inner(t, g, np.asarray(step), np.asarray(gamma))
  return np.linalg.lstsq(matrix, wanted, rcond=1e-14)[0]
