"""Continuous processes that do not explode: the VP and sub-VP SDEs, rectified flow, the cosine of log-SNR."""

from collections.abc import Callable

import numpy as np

from jaxgen.core.errors import UserError
from jaxgen.diffusion.schedules.base import Schedule, Times, circle, line, parabola, softplus


def vp(beta_min: float = 0.1, beta_max: float = 20.0, t_min: float = 1e-3) -> Schedule:
  """The variance-preserving SDE with beta(t) linear, t in [0, 1]; Song et al. 2021, https://arxiv.org/abs/2011.13456.

  Their eq. 32 and 33: log alpha = -t^2 (beta_max - beta_min) / 4 - t beta_min / 2, sigma^2 = 1 - alpha^2.
  """
  log_alpha, time = _linear_beta(beta_min, beta_max)
  exp = lambda t: t.__array_namespace__().exp(log_alpha(t))
  sigma = lambda t: t.__array_namespace__().sqrt(-t.__array_namespace__().expm1(2 * log_alpha(t)))
  return Schedule(exp, sigma, lambda log_snr: time(softplus(-log_snr) / 2), circle, 1.0, t_min)


def sub_vp(beta_min: float = 0.1, beta_max: float = 20.0, t_min: float = 1e-3) -> Schedule:
  """The sub-VP SDE: alpha as in `vp`, sigma = 1 - alpha^2, t in [0, 1]; Song et al. 2021, eq. 27 to 29."""
  log_alpha, time = _linear_beta(beta_min, beta_max)

  def of_log_snr(log_snr: Times) -> Times:
    xp = log_snr.__array_namespace__()
    _, sigma = parabola(xp.exp(log_snr / 2), xp.ones_like(log_snr))
    return time(-xp.log1p(-sigma) / 2)

  exp = lambda t: t.__array_namespace__().exp(log_alpha(t))
  sigma = lambda t: -t.__array_namespace__().expm1(2 * log_alpha(t))
  return Schedule(exp, sigma, of_log_snr, parabola, 1.0, t_min)


def _linear_beta(beta_min: float, beta_max: float) -> tuple[Callable[[Times], Times], Callable[[Times], Times]]:
  """(t -> log alpha, -log alpha -> t)."""
  if not 0 < beta_min <= beta_max:
    raise UserError(f"beta(t) grows from beta_min > 0 to beta_max, not from {beta_min:g} to {beta_max:g}: change them")
  slope = beta_max - beta_min
  time = lambda minus_log_alpha: 4 * minus_log_alpha / (beta_min + (beta_min**2 + 4 * slope * minus_log_alpha) ** 0.5)
  return lambda t: -(t * slope / 4 + beta_min / 2) * t, time


def rectified_flow(t_min: float = 1e-3) -> Schedule:
  """alpha = 1 - t, sigma = t, t in [0, 1]: the straight path, optimal transport between each x_0 and its noise.

  Liu et al. 2022, https://arxiv.org/abs/2209.03003; Lipman et al. 2022, https://arxiv.org/abs/2210.02747, with
  sigma_min = 0 (both count t from noise to data). alpha(1) = 0: predictions of eps and the score are refused there.
  """

  def time(log_snr: Times) -> Times:
    return 1 / (1 + log_snr.__array_namespace__().exp(log_snr / 2))

  return Schedule(lambda t: 1 - t, lambda t: t * 1, time, line, 1.0, t_min)


def trig_flow(sigma_data: float = 0.5, t_min: float = 1e-3) -> Schedule:
  """alpha = cos t, sigma = sigma_data sin t, t in [0, pi / 2]: Lu and Song 2024, https://arxiv.org/abs/2410.11081.

  Data of standard deviation sigma_data keep it at every t. alpha is 0 at the last time.

  Raises:
    UserError: sigma_data <= 0.
  """
  if sigma_data <= 0:
    raise UserError(f"sigma_data is the data's standard deviation, not {sigma_data:g}: give a positive number")

  def time(log_snr: Times) -> Times:
    xp = log_snr.__array_namespace__()
    return xp.arctan(xp.exp(-log_snr / 2) / sigma_data)

  def alpha(t: Times) -> Times:
    xp = t.__array_namespace__()
    return xp.where(t < np.pi / 2, xp.cos(t), np.pi / 2 - t)  # 0 at the last time, with cos's slope

  def ellipse(a: Times, b: Times) -> tuple[Times, Times]:
    cosine, sine = circle(a, b / sigma_data)
    return cosine, sigma_data * sine

  return Schedule(
    alpha,
    lambda t: sigma_data * t.__array_namespace__().sin(t),
    time,
    ellipse,
    np.pi / 2,
    t_min,
    prior_std=sigma_data,
  )


def continuous_cosine(log_snr_min: float = -15.0, log_snr_max: float = 15.0, t_min: float = 1e-3) -> Schedule:
  """log-SNR = -2 log tan(a t + b), t in [0, 1], with a and b such that it runs between the two ends given.

  Salimans and Ho 2022, https://arxiv.org/abs/2202.00512, section 4 and their code; alpha = cos(pi t / 2) but for the
  ends. t = 0 itself is clean data.
  """
  b = float(np.arctan(np.exp(-log_snr_max / 2)))
  a = float(np.arctan(np.exp(-log_snr_min / 2))) - b

  def sigma(t: Times) -> Times:
    xp = t.__array_namespace__()
    return xp.where(t > 0, xp.sin(a * t + b), 0 * t)

  def alpha(t: Times) -> Times:
    xp = t.__array_namespace__()
    return xp.where(t > 0, xp.sin(a * (1 - t) + (np.pi / 2 - a - b)), 0 * t + 1)  # cos, with its digits near pi / 2

  def time(log_snr: Times) -> Times:
    xp = log_snr.__array_namespace__()
    return (xp.arctan(xp.exp(-log_snr / 2)) - b) / a

  return Schedule(alpha, sigma, time, circle, 1.0, t_min)
