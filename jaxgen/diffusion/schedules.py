"""Noise schedules: alpha(t) and sigma(t), and what follows from them. Equations: `jaxgen.diffusion`, (1) to (5).

A schedule takes numpy arrays as well as JAX's. With numpy it computes in float64: tables of constants are made that way
when a method is built, before any device is touched. With JAX arrays it answers in their dtype.

Discrete processes (DDPM's, NCSN's) have times 0, 1, .., T and are defined between them too, so that every solver and
every time grid works with them: DDPM's by a beta that is constant within each step, log alpha piecewise linear, as in
Lu et al. 2022, https://arxiv.org/abs/2206.00927, Appendix D.4. Continuous ones have t in [0, T].

In all of them t = 0 is clean data, alpha = 1 and sigma = 0, even where sigma jumps there (VE).
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

from jaxgen.core.errors import UserError

Times = Num[jax.Array | np.ndarray, "..."]
Variance = Literal["posterior", "beta", "learned"]


class Point(NamedTuple):
  """A schedule at time t: alpha, sigma and their derivatives by t. All of one shape, which broadcasts against x."""

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
    """Its arrays [B] as [B, 1, .., 1], to broadcast against x [B, ...]; scalars stay."""
    return Point(*(v.reshape(v.shape + (1,) * (x.ndim - 1)) if v.ndim else v for v in self))


class Schedule(NamedTuple):
  """x_t = alpha(t) x_0 + sigma(t) eps, (1).

  alpha, sigma: float array of times -> array of the same shape and dtype; alpha(0) = 1 and sigma(0) = 0.
  time: log-SNR -> t, the inverse of `log_snr`.
  curve: (a, b) -> the (alpha, sigma) with alpha : sigma = a : b that the schedule passes through, at whatever time. The
    curve is alpha^2 + sigma^2 = 1 where variance is preserved, alpha + sigma = 1 in rectified flow, alpha = 1 in VE.
  T: the last time, the noisiest.
  t_min: the smallest time above 0 at which the network is called by samplers that choose their times freely.
  steps: T as an int for a process of discrete steps t = 0, 1, .., T, in whose losses t is an integer; None: continuous.
  prior_std: standard deviation of x_T where sampling starts, N(0, prior_std^2 I).
  learned: its functions close over parameters that are being traced, so that nothing about it is known beforehand.
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
    """Whether x_t has nothing of the data: alpha(t) = 0."""
    return not self.learned and float(self.alpha(np.array([t], np.float64))[0]) == 0


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


# --- Discrete variance-preserving processes: betas -----------------------------------------------------------------


def linear(steps: int = 1000, first: float = 1e-4, last: float = 0.02) -> Schedule:
  """beta_t on a line from `first` to `last`; Ho et al. 2020, section 4.

  The defaults are the paper's for T = 1000. They leave alpha_bar_T = 4e-5; with fewer steps they would leave signal at
  t = T, where sampling starts from noise: scale both by 1000 / T then.

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
  """The discrete variance-preserving process with log alpha_t = table[t], t = 0 .. T, falling from 0.

  Between two steps log alpha is linear. The last entry may be -inf, alpha_T = 0: alpha itself is linear in that step.
  Logarithms keep the digits of sigma_t where alpha_t is close to 1.
  """
  T = len(table) - 1
  ends_in_noise = bool(np.isneginf(table[-1]))
  finite = np.append(table[:-1], table[-2] - 1.0) if ends_in_noise else table

  def log_alpha(t: Times) -> tuple[Times, Times]:
    """(log alpha in the ordinary steps, the fraction of the last step that is behind t)."""
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
  """The discrete schedule with its alphas moved on a line so that alpha_T = 0 and alpha_1 stays.

  Lin et al. 2023, https://arxiv.org/abs/2305.08891, Algorithm 1. At T the network has nothing but noise: predictions of
  eps and of the score say nothing about x_0 there and are refused; x_0, v and EDM's F are well.

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


# --- Discrete variance-exploding process ----------------------------------------------------------------------------


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


# --- Continuous processes -------------------------------------------------------------------------------------------


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


def rectified_flow(t_min: float = 1e-3) -> Schedule:
  """alpha = 1 - t, sigma = t, t in [0, 1]: the straight path, optimal transport between each x_0 and its noise.

  Liu et al. 2022, https://arxiv.org/abs/2209.03003; Lipman et al. 2022, https://arxiv.org/abs/2210.02747, with
  sigma_min = 0 (both count t from noise to data). alpha(1) = 0: predictions of eps and the score are refused there.
  """

  def time(log_snr: Times) -> Times:
    return 1 / (1 + log_snr.__array_namespace__().exp(log_snr / 2))

  return Schedule(lambda t: 1 - t, lambda t: t * 1, time, line, 1.0, t_min)


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


def learned(gamma: Callable[[Array], Array]) -> Schedule:
  """VDM's schedule with log-SNR = -gamma(t), t in [0, 1], gamma an increasing function that closes over parameters.

  Kingma et al. 2021, https://arxiv.org/abs/2107.00630, eq. 2: sigma^2 = sigmoid(gamma). sigma(0) is not 0: x at t = 0
  is decoded, see `jaxgen.methods.diffusion.vdm`. `time` is a bisection.
  """

  def time(log_snr: Array) -> Array:
    def halve(_, ends):
      low, high = ends
      middle = (low + high) / 2
      below = gamma(middle) < -log_snr
      return jnp.where(below, middle, low), jnp.where(below, high, middle)

    low, high = jax.lax.fori_loop(0, 40, halve, (jnp.zeros_like(log_snr), jnp.ones_like(log_snr)))
    return (low + high) / 2

  alpha, sigma = (lambda t: jnp.exp(-softplus(gamma(t)) / 2)), (lambda t: jnp.exp(-softplus(-gamma(t)) / 2))
  return Schedule(alpha, sigma, time, circle, 1.0, 0.0, learned=True)


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


# --- Curves of (alpha, sigma), and small things ---------------------------------------------------------------------


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


def lookup(table: Float[np.ndarray, " times"]) -> Callable[[Times], Times]:
  """t -> table[t], t rounded, in the dtype of t where that is a float's."""

  def at(t: Times) -> Times:
    xp = t.__array_namespace__()
    return xp.asarray(table, dtype=(1.0 * t).dtype)[xp.round(t).astype(np.int32)]

  return at


def checked(steps: int) -> int:
  if steps < 1:
    raise UserError(f"a schedule has at least one step, not {steps}: set its number of steps to 1 or more")
  return steps
