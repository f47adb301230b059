"""Discrete processes of T steps that preserve variance: DDPM's, given by betas or by alpha."""

import numpy as np
from jaxtyping import Float

from jaxgen.core.errors import UserError
from jaxgen.diffusion.schedules.base import Schedule, Times, circle, softplus


def linear(steps: int = 1000, first: float = 1e-4, last: float = 0.02) -> Schedule:
  """beta_t on a line from `first` to `last`; Ho et al. 2020, section 4.

  The defaults are the paper's for T = 1000 and give alpha_bar_T = 4e-5. With fewer steps they would leave signal at
  t = T, where sampling starts from noise: then scale both by 1000 / T.

  Raises:
    UserError: steps < 1, or a beta outside (0, 1).
  """
  return from_betas(np.linspace(first, last, checked(steps), dtype=np.float64))


def scaled_linear(steps: int = 1000, first: float = 0.00085, last: float = 0.012) -> Schedule:
  """sqrt(beta_t) on a line; Rombach et al. 2022 (latent diffusion), https://arxiv.org/abs/2112.10752, their code.

  The defaults are Stable Diffusion's, which leave alpha_bar_T = 0.0047.

  Raises:
    UserError: steps < 1, or a beta outside (0, 1).
  """
  return from_betas(np.linspace(first**0.5, last**0.5, checked(steps), dtype=np.float64) ** 2)


def constant(steps: int = 1000, beta: float = 0.01) -> Schedule:
  """The same beta at every step; Ho et al. 2020, section 4 and Appendix B, which give no value.

  The default leaves alpha_bar_T = 4e-5 at T = 1000, as `linear` does. With other T use beta = 10 / T.

  Raises:
    UserError: steps < 1, or a beta outside (0, 1).
  """
  return from_betas(np.full(checked(steps), beta, np.float64))


def sigmoid_betas(steps: int = 1000, first: float = 1e-4, last: float = 0.02, width: float = 6.0) -> Schedule:
  """beta_t = first + (last - first) * logistic(u), u on a line from -width to width.

  Xu et al. 2022 (GeoDiff), https://arxiv.org/abs/2203.02923, their code.

  Raises:
    UserError: steps < 1, or a beta outside (0, 1).
  """
  u = np.linspace(-width, width, checked(steps), dtype=np.float64)
  return from_betas(first + (last - first) / (1 + np.exp(-u)))


def cosine(steps: int = 1000, offset: float = 0.008, largest: float = 0.999) -> Schedule:
  """alpha_bar_t = f(t) / f(0), f(t) = cos^2(pi/2 (t/T + offset) / (1 + offset)), with each beta_t clipped to `largest`.

  Nichol and Dhariwal 2021, https://arxiv.org/abs/2102.09672, eq. 17 and the text below it. The clipping enters through
  the product (3), as in their code, so that alpha_bar_T is not 0.

  Raises:
    UserError: steps < 1, or a `largest` outside (0, 1).
  """
  u = np.arange(checked(steps) + 1, dtype=np.float64) / steps
  f = np.cos((u + offset) / (1 + offset) * np.pi / 2) ** 2
  return from_betas(np.minimum(1 - f[1:] / f[:-1], largest))


def sigmoid(steps: int = 1000, start: float = -3.0, end: float = 3.0, tau: float = 1.0, largest: float = 0.999):
  """alpha_bar_t = (g(1) - g(t/T)) / (g(1) - g(0)), g(u) = logistic((start + (end - start) u) / tau).

  Jabri et al. 2022, https://arxiv.org/abs/2212.11972, as given in Chen 2023, https://arxiv.org/abs/2301.10972,
  Algorithm 1. Each beta_t is clipped to `largest`, as in `cosine`, so that alpha_bar_T is not 0.

  Raises:
    UserError: steps < 1, or a `largest` outside (0, 1).
  """
  u = np.arange(checked(steps) + 1, dtype=np.float64) / steps
  g = 1 / (1 + np.exp(-(start + (end - start) * u) / tau))
  f = (g[-1] - g) / (g[-1] - g[0])
  return from_betas(np.minimum(1 - f[1:] / f[:-1], largest))


def from_betas(betas: Float[np.ndarray, " steps"]) -> Schedule:
  """The discrete process of (3) with the variances beta_1 .. beta_T.

  Raises:
    UserError: a beta outside (0, 1).
  """
  if not np.all((betas > 0) & (betas < 1)):
    wrong = betas[~((betas > 0) & (betas < 1))][0]
    raise UserError(f"every beta of a noise schedule lies between 0 and 1, and this one has {wrong:g}: change its ends")
  return from_log_alpha(np.concatenate([np.zeros(1), np.cumsum(np.log1p(-betas)) / 2]))


def from_log_alpha(table: Float[np.ndarray, " times"]) -> Schedule:
  """The discrete variance-preserving process with log alpha_t = table[t], t = 0 .. T, which decreases from 0.

  Between two steps log alpha is linear. The last entry may be -inf, alpha_T = 0: alpha itself is linear in that step.
  Logarithms keep sigma_t accurate if alpha_t is close to 1.
  """
  T = len(table) - 1
  ends_in_noise = bool(np.isneginf(table[-1]))
  finite = np.append(table[:-1], table[-2] - 1.0) if ends_in_noise else table

  def log_alpha(t: Times) -> tuple[Times, Times]:
    """(log alpha in the ordinary steps, the fraction of the last step before t)."""
    xp, t = t.__array_namespace__(), 1.0 * t  # of integer times, too
    low = xp.clip(xp.floor(t), 0, T - 1)
    i, w = low.astype(np.int32), t - low
    values = xp.asarray(finite, dtype=t.dtype)
    return values[i] * (1 - w) + values[i + 1] * w, xp.where(low == T - 1, w, 0 * w)

  def alpha(t: Times) -> Times:
    xp = t.__array_namespace__()
    log, w = log_alpha(t)
    # exp(log + w) undoes the last step's slope of -1, and 1 - w is the line.
    return xp.exp(log + w) * (1 - w) if ends_in_noise else xp.exp(log)

  def sigma(t: Times) -> Times:
    xp = t.__array_namespace__()
    if ends_in_noise:
      log, w = log_alpha(t)
      a = xp.exp(log + w) * (1 - w)
      return xp.where(w > 0, xp.sqrt((1 - a) * (1 + a)), xp.sqrt(-xp.expm1(2 * log)))
    return xp.sqrt(-xp.expm1(2 * log_alpha(t)[0]))

  def time(log_snr: Times) -> Times:
    xp = log_snr.__array_namespace__()
    log = -softplus(-log_snr) / 2
    t = xp.interp(-log, xp.asarray(-finite, dtype=log.dtype), xp.arange(T + 1, dtype=log.dtype))
    last = T - xp.exp(log - float(finite[-2]))
    return xp.where(log < finite[-2], last, t) if ends_in_noise else t

  return Schedule(alpha, sigma, time, circle, float(T), 1.0, T)


def zero_terminal_snr(schedule: Schedule) -> Schedule:
  """The discrete schedule with a linear map of its alphas, such that alpha_T = 0 and alpha_1 is not changed.

  Lin et al. 2023, https://arxiv.org/abs/2305.08891, Algorithm 1. At T the network's input is pure noise: predictions of
  eps and of the score do not determine x_0 there and are refused; predictions of x_0, v and EDM's F do.

  Raises:
    UserError: the schedule is not a discrete variance-preserving one of two or more steps.
  """
  if schedule.steps is None or schedule.steps < 2 or schedule.curve is not circle:
    raise UserError(
      "only a discrete variance-preserving schedule of 2 or more steps can be rescaled to zero terminal SNR"
    )
  alpha = schedule.alpha(np.arange(1, schedule.steps + 1, dtype=np.float64))
  alpha = (alpha - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1])
  with np.errstate(divide="ignore"):
    return from_log_alpha(np.append(0.0, np.log(alpha)))


def checked(steps: int) -> int:
  if steps < 1:
    raise UserError(f"a schedule has at least one step, not {steps}: set its number of steps to 1 or more")
  return steps
