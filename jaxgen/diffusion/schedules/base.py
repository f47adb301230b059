"""The type of a schedule, and functions of any schedule."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

from jaxgen.core.arrays import per_example
from jaxgen.core.errors import UserError

Times = Num[jax.Array | np.ndarray, "..."]
Variance = Literal["posterior", "beta", "learned"]


class Point(NamedTuple):
  """A schedule at time t: alpha, sigma and their derivatives with respect to t, all of one shape."""

  t: Array
  alpha: Array
  sigma: Array
  d_alpha: Array
  d_sigma: Array

  @property
  def log_snr(self) -> Array:
    return 2 * (jnp.log(self.alpha) - jnp.log(self.sigma))

  @property
  def d_log_snr(self) -> Array:
    """The derivative of log_snr by t; negative."""
    return 2 * (self.d_alpha / self.alpha - self.d_sigma / self.sigma)

  @property
  def drift(self) -> Array:
    """f of the forward SDE dx = f x dt + g dw, (15)."""
    return self.d_alpha / self.alpha

  @property
  def diffusion2(self) -> Array:
    """g^2 of the forward SDE, (15)."""
    return 2 * self.sigma * (self.d_sigma - self.drift * self.sigma)

  def like(self, x: Array) -> "Point":
    """The point with arrays [B] reshaped to [B, 1, .., 1], to broadcast against x [B, ...]. Scalars stay scalars."""
    return Point(*(per_example(v, x) for v in self))


class Schedule(NamedTuple):
  """x_t = alpha(t) x_0 + sigma(t) eps, (1).

  Attributes:
    alpha, sigma: float array of times -> array of the same shape and dtype; alpha(0) = 1 and sigma(0) = 0.
    time: log-SNR -> t, the inverse of `log_snr`.
    curve: (a, b) -> the schedule's (alpha, sigma) with alpha : sigma = a : b. The curve is alpha^2 + sigma^2 = 1 for
      variance-preserving schedules, alpha + sigma = 1 for rectified flow, alpha = 1 for VE.
    T: the last time, with the most noise.
    t_min: the smallest time above 0 at which samplers call the network, if they choose their times freely.
    steps: T as an int for a discrete process with t = 0, 1, .., T, whose losses draw integer t; None: continuous.
    prior_std: standard deviation of the prior N(0, prior_std^2 I), from which x_T is drawn.
    learned: whether the schedule's functions use traced parameters, so that its values are not known in advance.
  """

  alpha: Callable[[Times], Times]
  sigma: Callable[[Times], Times]
  time: Callable[[Times], Times]
  curve: Callable[[Times, Times], tuple[Times, Times]]
  T: float
  t_min: float
  steps: int | None = None
  prior_std: float = 1.0
  learned: bool = False

  def log_snr(self, t: Times) -> Times:
    """log(alpha^2 / sigma^2), (2); +inf at t = 0."""
    xp = t.__array_namespace__()
    return 2 * (xp.log(self.alpha(t)) - xp.log(self.sigma(t)))

  def at(self, t: Array) -> Point:
    """alpha, sigma and their derivatives at t (for discrete processes the derivative to the right of a step)."""
    t = 1.0 * jnp.asarray(t)
    one = jnp.ones_like(t)
    alpha, d_alpha = jax.jvp(self.alpha, (t,), (one,))
    sigma, d_sigma = jax.jvp(self.sigma, (t,), (one,))
    return Point(t, alpha, sigma, d_alpha, d_sigma)

  def drift(self, t: Array) -> Array:
    """f(t) of the forward SDE dx = f x dt + g dw, (15)."""
    return self.at(t).drift

  def diffusion(self, t: Array) -> Array:
    """g(t) of the forward SDE, (15)."""
    return jnp.sqrt(self.at(t).diffusion2)

  def is_clean(self, t: float) -> bool:
    """Whether x_t is data: sigma(t) = 0."""
    return not self.learned and float(self.sigma(np.array([t], np.float64))[0]) == 0

  def is_noise(self, t: float) -> bool:
    """Whether x_t is pure noise: alpha(t) = 0."""
    return not self.learned and float(self.alpha(np.array([t], np.float64))[0]) == 0


class Posterior(NamedTuple):
  """q(x_s | x_t, x_0) = N(x_t * a + x_0 * b, c I), (5), and sigma_ts^2, (4): the variance of q(x_t | x_s)."""

  a: Times
  b: Times
  c: Times
  beta: Times


def posterior(schedule: Schedule, t: Times, s: Times) -> Posterior:
  """Coefficients of (5) for any times t > s of any schedule; for s = t - 1, Ho et al. 2020, eq. 6 and 7.

  alpha_t may be 0 (no signal at t) and sigma_s may be 0 (clean data at s); sigma_t and alpha_s must not be 0.
  """
  alpha_t, sigma_t, alpha_s, sigma_s = schedule.alpha(t), schedule.sigma(t), schedule.alpha(s), schedule.sigma(s)
  alpha_ts = alpha_t / alpha_s
  beta = (sigma_t - alpha_ts * sigma_s) * (sigma_t + alpha_ts * sigma_s)  # as factors: squares would round once more
  ratio = (sigma_s / sigma_t) ** 2
  return Posterior(a=alpha_ts * ratio, b=alpha_s * beta / sigma_t**2, c=beta * ratio, beta=beta)


def shift(schedule: Schedule, factor: float) -> Schedule:
  """The schedule with sigma / alpha multiplied by `factor` at every time, on the same curve.

  For images with n times the pixels per side, factor n keeps the noise at the low resolution: Hoogeboom et al. 2023,
  https://arxiv.org/abs/2301.11093, eq. 4 (log-SNR - 2 log factor); for rectified flow it is Esser et al. 2024,
  https://arxiv.org/abs/2403.03206, eq. 23: t -> factor t / (1 + (factor - 1) t).

  Raises:
    UserError: factor <= 0.
  """
  if factor <= 0:
    raise UserError(f"a resolution shift multiplies sigma / alpha by a positive factor, not {factor:g}: change it")
  moved = lambda t: schedule.curve(schedule.alpha(t), factor * schedule.sigma(t))
  return schedule._replace(
    alpha=lambda t: moved(t)[0],
    sigma=lambda t: moved(t)[1],
    time=lambda log_snr: schedule.time(log_snr + 2 * float(np.log(factor))),
    prior_std=schedule.prior_std * factor if schedule.curve is unscaled else schedule.prior_std,
  )


def lookup(table: Float[np.ndarray, " times"]) -> Callable[[Times], Times]:
  """t -> table[t] for rounded t, in the dtype of t if that is a float."""

  def at(t: Times) -> Times:
    xp = t.__array_namespace__()
    return xp.asarray(table, dtype=(1.0 * t).dtype)[xp.round(t).astype(np.int32)]

  return at


# The curves of (alpha, sigma), and what several kinds share.


def circle(a: Times, b: Times) -> tuple[Times, Times]:
  """alpha^2 + sigma^2 = 1."""
  norm = a.__array_namespace__().hypot(a, b)
  return a / norm, b / norm


def line(a: Times, b: Times) -> tuple[Times, Times]:
  """alpha + sigma = 1."""
  return a / (a + b), b / (a + b)


def unscaled(a: Times, b: Times) -> tuple[Times, Times]:
  """alpha = 1."""
  return a / a, b / a


def parabola(a: Times, b: Times) -> tuple[Times, Times]:
  """sigma = 1 - alpha^2."""
  norm = (b + (b**2 + 4 * a**2) ** 0.5) / 2
  return a / norm, b / norm


def softplus(x: Times) -> Times:
  xp = x.__array_namespace__()
  return xp.logaddexp(xp.zeros_like(x), x)  # of infinite x, too
