"""Noise schedules: alpha(t) and sigma(t), and what follows from them. Equations: `jaxgen.diffusion`, (1) to (5).

A schedule takes numpy arrays as well as JAX's. With numpy it computes in float64: tables of constants are made that way
when a method is built, before any device is touched. With JAX arrays it answers in their dtype.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from jaxgen.errors import UserError

Times = Float[jax.Array | np.ndarray, "..."]
Variance = Literal["posterior", "beta"]


class Schedule(NamedTuple):
  """x_t = alpha(t) x_0 + sigma(t) eps, (1).

  alpha, sigma: float array of times -> array of the same shape and dtype; alpha(0) = 1 and sigma(0) = 0.
  steps: T, for a process of discrete steps t = 0, 1, .., T. Times are floats that hold integers; others are rounded.
  """

  alpha: Callable[[Times], Times]
  sigma: Callable[[Times], Times]
  steps: int

  def log_snr(self, t: Times) -> Times:
    """log(alpha^2 / sigma^2), (2); +inf at t = 0."""
    xp = t.__array_namespace__()
    return 2 * (xp.log(self.alpha(t)) - xp.log(self.sigma(t)))


class Posterior(NamedTuple):
  """q(x_s | x_t, x_0) = N(x_t * a + x_0 * b, c I), (5), and sigma_ts^2, (4): the variance of q(x_t | x_s)."""

  a: Times
  b: Times
  c: Times
  beta: Times


def posterior(schedule: Schedule, t: Times, s: Times) -> Posterior:
  """Coefficients of (5) for any times t > s of any schedule; Ho et al. 2020, eq. 6 and 7, where s = t - 1.

  alpha_t may be 0 (no signal left at t) and sigma_s may be 0 (s is clean data); sigma_t and alpha_s may not.
  """
  alpha_t, sigma_t, alpha_s, sigma_s = schedule.alpha(t), schedule.sigma(t), schedule.alpha(s), schedule.sigma(s)
  alpha_ts = alpha_t / alpha_s
  beta = (sigma_t - alpha_ts * sigma_s) * (sigma_t + alpha_ts * sigma_s)  # as factors: squares would round once more
  ratio = (sigma_s / sigma_t) ** 2
  return Posterior(a=alpha_ts * ratio, b=alpha_s * beta / sigma_t**2, c=beta * ratio, beta=beta)


def linear(steps: int = 1000, first: float = 1e-4, last: float = 0.02) -> Schedule:
  """beta_t on a line from `first` to `last`; Ho et al. 2020, section 4.

  The defaults are the paper's for T = 1000. They leave alpha_bar_T = 4e-5; with fewer steps they would leave signal at
  t = T, where sampling starts from noise: scale both by 1000 / T then.

  Raises:
    UserError: steps < 1, or a beta outside (0, 1).
  """
  return from_betas(np.linspace(first, last, checked(steps), dtype=np.float64))


def constant(steps: int = 1000, beta: float = 0.01) -> Schedule:
  """The same beta at every step; Ho et al. 2020, section 4 and Appendix B, which give no value.

  The default leaves alpha_bar_T = 4e-5 at T = 1000, as `linear` does. With other T use beta = 10 / T.

  Raises:
    UserError: steps < 1, or a beta outside (0, 1).
  """
  return from_betas(np.full(checked(steps), beta, np.float64))


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


def from_betas(betas: Float[np.ndarray, " steps"]) -> Schedule:
  """The discrete process of (3) with the variances beta_1 .. beta_T.

  Raises:
    UserError: a beta outside (0, 1).
  """
  if not np.all((betas > 0) & (betas < 1)):
    wrong = betas[~((betas > 0) & (betas < 1))][0]
    raise UserError(f"every beta of a noise schedule lies between 0 and 1, and this one has {wrong:g}: change its ends")
  # By logarithms, so that sigma_t keeps its digits where alpha_bar_t is close to 1.
  log_alpha_bar = np.concatenate([np.zeros(1), np.cumsum(np.log1p(-betas))])
  return Schedule(lookup(np.exp(log_alpha_bar / 2)), lookup(np.sqrt(-np.expm1(log_alpha_bar))), len(betas))


def lookup(table: Float[np.ndarray, " times"]) -> Callable[[Times], Times]:
  """t -> table[t], in the dtype of t."""

  def at(t: Times) -> Times:
    xp = t.__array_namespace__()
    return xp.asarray(table, dtype=t.dtype)[xp.round(t).astype(np.int32)]

  return at


def checked(steps: int) -> int:
  if steps < 1:
    raise UserError(f"a schedule has at least one step, not {steps}: set its number of steps to 1 or more")
  return steps
