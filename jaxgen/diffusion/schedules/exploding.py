"""Variance-exploding processes, alpha = 1: NCSN's discrete one, the VE SDE, and EDM's."""

import numpy as np

from jaxgen.core.errors import UserError
from jaxgen.diffusion.schedules.base import Schedule, Times, unscaled


def geometric(steps: int = 10, smallest: float = 0.01, largest: float = 1.0) -> Schedule:
  """alpha = 1 and sigma_t on a geometric sequence, sigma_1 = smallest to sigma_T = largest; sigma_0 = 0.

  NCSN, Song and Ermon 2019, https://arxiv.org/abs/1907.05600, section 3 (who count from the largest). The defaults are
  theirs for images in [0, 1]; for images in [-1, 1] double both. Sampling starts from N(0, largest^2).

  Raises:
    UserError: steps < 2, or not 0 < smallest < largest.
  """
  if steps < 2 or not 0 < smallest < largest:
    raise UserError(
      f"a geometric schedule has 2 or more steps and 0 < smallest < largest, not {steps}, {smallest:g} and {largest:g}"
    )
  return exploding(smallest, largest, 1.0, float(steps), steps)


def ve(smallest: float = 0.01, largest: float = 50.0) -> Schedule:
  """The variance-exploding SDE: alpha = 1, sigma = smallest (largest / smallest)^t, t in [0, 1].

  Song et al. 2021, eq. 31. sigma(0) = 0: as the paper says (Appendix C), sigma jumps at 0, and `smallest` is its limit
  there. The defaults are for images in [0, 1]; for images in [-1, 1] double both. Sampling starts from N(0, largest^2).

  Raises:
    UserError: not 0 < smallest < largest.
  """
  if not 0 < smallest < largest:
    raise UserError(f"a VE schedule has 0 < smallest < largest, not {smallest:g} and {largest:g}: change them")
  return exploding(smallest, largest, 0.0, 1.0, None)


def edm(sigma_min: float = 0.002, sigma_max: float = 80.0) -> Schedule:
  """alpha = 1, sigma = t, t in [0, sigma_max]; Karras et al. 2022, https://arxiv.org/abs/2206.00364, Table 1.

  Raises:
    UserError: not 0 < sigma_min < sigma_max.
  """
  if not 0 < sigma_min < sigma_max:
    raise UserError(f"EDM's schedule has 0 < sigma_min < sigma_max, not {sigma_min:g} and {sigma_max:g}: change them")
  time = lambda log_snr: log_snr.__array_namespace__().exp(-log_snr / 2)
  return Schedule(lambda t: t * 0 + 1, lambda t: t * 1, time, unscaled, sigma_max, sigma_min, prior_std=sigma_max)


def exploding(smallest: float, largest: float, first: float, T: float, steps: int | None) -> Schedule:
  """alpha = 1, sigma = smallest at `first` and largest at T, geometric between them and before; sigma(0) = 0."""
  rate = float(np.log(largest / smallest)) / (T - first)

  def sigma(t: Times) -> Times:
    xp = t.__array_namespace__()
    return xp.where(t > 0, smallest * xp.exp(rate * (t - first)), 0 * t)

  def time(log_snr: Times) -> Times:
    return first + (-log_snr / 2 - float(np.log(smallest))) / rate

  t_min = first if steps else 1e-5
  return Schedule(lambda t: t * 0 + 1, sigma, time, unscaled, T, t_min, steps, prior_std=largest)
