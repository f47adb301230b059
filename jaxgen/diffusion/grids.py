"""Time grids: the times that a solver visits.

A grid is a function (schedule, n) -> times [n + 1] for n steps: float64 numpy, strictly decreasing from the schedule's
last time T to times[n] = 0. `sampling.network_calls` gives the number of network calls of a solver on a grid.

`leading`, `trailing` and `linspace` are uniform in t. In discrete processes they choose among the T steps, are named as
in Lin et al. 2023, https://arxiv.org/abs/2305.08891, Table 2, and give what the `timestep_spacing` of the diffusers
library does. Its timesteps call the first noisy step 0; here 0 is the clean data, so that t = timestep + 1. The other
grids use times between the steps, too.

Most grids place n times from T to the schedule's t_min, the smallest time with noise; the last step leads from there to
clean data. If alpha_T = 0 (rectified flow, zero terminal SNR), sigma / alpha is infinite at T, and the first step of
grids in sigma / alpha leads from T to sigma / alpha = `HIGHEST`.

For a learned schedule times are JAX arrays, and end at t = 0, where sigma is positive.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats
from jaxtyping import Float

from jaxgen.core.errors import UserError
from jaxgen.diffusion.sampling import HIGHEST
from jaxgen.diffusion.schedules import Schedule

Times = Float[np.ndarray | jax.Array, " times"]
Grid = Callable[[Schedule, int], Times]


def leading(schedule: Schedule, n: int) -> Times:
  """Every (T // n)-th step, counted up from t = 1, then 0. It starts below T, where x_t still has a little signal.

  In continuous processes: n equidistant times that end at t_min and begin one such distance below T, then 0.
  """
  check(schedule, n)
  if not schedule.t_min:
    return trailing(schedule, n)
  if schedule.steps is None:
    return np.append(np.arange(n)[::-1] * ((schedule.T - schedule.t_min) / n) + schedule.t_min, 0.0)
  return np.append(np.arange(n)[::-1] * (schedule.steps // n) + 1, 0.0)


def trailing(schedule: Schedule, n: int) -> Times:
  """T, T - T/n, T - 2T/n, .., T/n, rounded in discrete processes, then 0. It starts at T."""
  check(schedule, n)
  return np.append(_whole(schedule, schedule.T - np.arange(n) * (schedule.T / n)), 0.0)


def leading_by_one(schedule: Schedule, n: int, last: float = 1.0) -> Times:
  """`leading`, each time one step later, and not 0 but t = 1 at the end: Stable Diffusion's.

  Their DDIM and PLMS end with alpha_1, and not with clean data: diffusers' steps_offset = 1 and set_alpha_to_one =
  False. Their other solvers end at 0.

  Args:
    last: the last time.

  Raises:
    UserError: a continuous process, or so many steps that the first time lies above T.
  """
  check(schedule, n)
  if schedule.steps is None or (n - 1) * (schedule.steps // n) + 2 > schedule.steps:
    most = "a discrete process" if schedule.steps is None else f"at most {schedule.steps // 2} steps"
    raise UserError(f"Stable Diffusion's own time grid is of {most}: choose the grid trailing, or change their number")
  return np.append(np.arange(n)[::-1] * (schedule.steps // n) + 2.0, last)


def linspace(schedule: Schedule, n: int) -> Times:
  """n equidistant times from T down to t_min (1 in discrete processes, rounded), then 0.

  A single step starts at t = 1 in discrete processes, as in diffusers, and at T in continuous ones.
  """
  check(schedule, n)
  if schedule.steps is None:
    return _down(schedule, n, lambda u: schedule.T + u * (schedule.t_min - schedule.T))
  return np.append(np.round(np.linspace(0, schedule.steps - 1, n))[::-1] + 1, 0.0)


def quadratic(schedule: Schedule, n: int) -> Times:
  """sqrt(t) equidistant from T down to t_min, then 0.

  Song et al. 2020, DDIM, https://arxiv.org/abs/2010.02502, Appendix D.2.
  """
  check(schedule, n)
  return _down(schedule, n, lambda u: (schedule.T**0.5 + u * (schedule.t_min**0.5 - schedule.T**0.5)) ** 2)


def beta(schedule: Schedule, n: int, a: float = 0.6, b: float = 0.6) -> Times:
  """Quantiles of Beta(a, b) stretched from T down to t_min, then 0: dense at both ends.

  Lee et al. 2024, https://arxiv.org/abs/2407.12173, section 4.

  Raises:
    UserError: a or b is not positive.
  """
  check(schedule, n)
  if min(a, b) <= 0:
    raise UserError(f"a beta distribution has positive parameters, not {a:g} and {b:g}: change them")
  quantile = lambda u: scipy.stats.beta.ppf(1 - u, a, b)
  return _down(schedule, n, lambda u: schedule.t_min + quantile(u) * (schedule.T - schedule.t_min))


def log_snr(schedule: Schedule, n: int) -> Times:
  """n times with log-SNR equidistant from T to t_min, then 0.

  Lu et al. 2022, https://arxiv.org/abs/2206.00927, section 3.3. It is k-diffusion's "exponential": sigma / alpha falls
  geometrically.
  """
  return _of_ratio(schedule, n, lambda high, low, u, xp: xp.exp(xp.log(high) + u * (xp.log(low) - xp.log(high))))


def karras(schedule: Schedule, n: int, rho: float = 7.0) -> Times:
  """(sigma / alpha)^(1/rho) equidistant from T to t_min, then 0; Karras et al. 2022, eq. 5.

  Raises:
    UserError: rho <= 0.
  """
  if rho <= 0:
    raise UserError(f"Karras's grid has a positive rho, not {rho:g}: change it")
  return _of_ratio(
    schedule, n, lambda high, low, u, xp: (high ** (1 / rho) + u * (low ** (1 / rho) - high ** (1 / rho))) ** rho
  )


def of_variances(betas: Sequence[float]) -> Grid:
  """The times at which a process of the variances beta_1 .. beta_n has as much noise as this schedule, then 0.

  The ancestral solver on them is the reverse process of these variances: Kong et al. 2020 (DiffWave),
  https://arxiv.org/abs/2009.09761, Appendix B.

  The grid itself raises:
    UserError: the number of steps is not n, or the variances end in more noise than the schedule.
  """
  if not betas or not all(0 < beta < 1 for beta in betas):
    raise UserError(f"the variances of a process lie between 0 and 1, not {tuple(betas)}: change them")

  def grid(schedule: Schedule, n: int) -> Times:
    if n != len(betas):
      raise UserError(f"{len(betas)} variances are as many sampling steps, not {n}: change one of them")
    log_alpha_bar = np.cumsum(np.log1p(-np.asarray(betas, np.float64)))[::-1]
    times = schedule.time(log_alpha_bar - np.log(-np.expm1(log_alpha_bar)))
    most = float(schedule.log_snr(np.array([schedule.T]))[0])
    if log_alpha_bar[0] - np.log(-np.expm1(log_alpha_bar[0])) < most - 1e-9:
      raise UserError(
        f"the variances leave alpha_bar = {np.exp(log_alpha_bar[0]):.3g}, less than the schedule's at its last time: "
        "make the last ones smaller"
      )
    return np.append(times, 0.0)

  return grid


def few_steps(schedule: Schedule, n: int) -> Times:
  """T, n - 1 times between T and t_min as Karras's grid of one time more has them, and 0.

  With 2 n steps it has every time of n steps, which distillation by halving needs. One step is from T to 0.
  """
  return np.append(karras(schedule, n + 1)[:n], 0.0)


def _down(schedule: Schedule, n: int, at: Callable[[np.ndarray], np.ndarray]) -> Times:
  """n times from T = at(0) to t_min = at(1), then 0. If t_min is 0, n + 1 times from T to 0."""
  times = at(np.linspace(0, 1, n if schedule.t_min else n + 1))
  times[0] = schedule.T  # without rounding
  return np.append(times, 0.0) if schedule.t_min else times


def _of_ratio(schedule: Schedule, n: int, between: Callable[..., Any]) -> Times:
  """A grid in sigma / alpha: `between(high, low, u, xp)` for u from 0 to 1."""
  check(schedule, n)
  if schedule.learned:
    ends = jnp.asarray([1.0, 0.0])
    high, low = jnp.exp(-schedule.log_snr(ends) / 2)
    inner = schedule.time(-2 * jnp.log(between(high, low, jnp.linspace(0, 1, n + 1)[1:-1], jnp)))
    return jnp.concatenate([ends[:1], inner, ends[1:]])
  ratio = lambda t: float(schedule.sigma(np.array([t]))[0] / schedule.alpha(np.array([t]))[0])
  if schedule.is_clean(schedule.t_min):
    raise UserError("a grid in sigma / alpha ends where there is noise, and this schedule's t_min is 0: raise it")
  noise = schedule.is_noise(schedule.T)
  points = n - 1 if noise else n
  u = np.linspace(0, 1, points) if points > 1 else np.zeros(points)
  inner = schedule.time(-2 * np.log(between(HIGHEST if noise else ratio(schedule.T), ratio(schedule.t_min), u, np)))
  if noise:
    inner = np.append(schedule.T, inner)
  else:
    inner[0] = schedule.T  # without the round trip's rounding
  return np.append(inner, 0.0)


def _whole(schedule: Schedule, times: Times) -> Times:
  return times if schedule.steps is None else np.round(times)


def check(schedule: Schedule, n: int) -> None:
  if n < 1:
    raise UserError(f"sampling takes at least 1 step, not {n}: change the number of steps")
  if schedule.steps is not None and n > schedule.steps:
    raise UserError(f"sampling takes 1 to {schedule.steps} steps on this schedule, not {n}: change the number of steps")
  if not 0 <= schedule.t_min < schedule.T and schedule.steps is None:
    raise UserError(
      f"a schedule's t_min lies between 0 and {schedule.T:g}, and this one's is {schedule.t_min:g}: change it"
    )
