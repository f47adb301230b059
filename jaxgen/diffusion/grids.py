"""Time grids: which times a solver visits.

A grid is a function (schedule, n) -> times [n + 1], float64 numpy, strictly decreasing from the first to times[n] = 0:
n steps, n network calls.

The three here choose among the T discrete steps. They are named as in Lin et al. 2023,
https://arxiv.org/abs/2305.08891, Table 2, and give what the `timestep_spacing` of the diffusers library does. Its
timesteps call the first noisy step 0; here 0 is the clean data, so that t = timestep + 1.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from jaxgen.diffusion.schedules import Schedule
from jaxgen.errors import UserError

Times = Float[np.ndarray, " times"]
Grid = Callable[[Schedule, int], Times]


def leading(schedule: Schedule, n: int) -> Times:
  """Every (T // n)-th step, counted up from t = 1, then 0. It starts below T, where x_t is not quite noise yet."""
  return np.append(np.arange(checked(schedule, n))[::-1] * (schedule.steps // n) + 1, 0.0)


def trailing(schedule: Schedule, n: int) -> Times:
  """T, T - T/n, T - 2T/n, .., T/n, rounded, then 0. It starts at T, where sampling starts from noise."""
  return np.append(np.round(schedule.steps - np.arange(checked(schedule, n)) * (schedule.steps / n)), 0.0)


def linspace(schedule: Schedule, n: int) -> Times:
  """n equidistant times from T down to 1, rounded, then 0. One step alone goes from t = 1, as in diffusers."""
  return np.append(np.round(np.linspace(0, schedule.steps - 1, checked(schedule, n)))[::-1] + 1, 0.0)


def checked(schedule: Schedule, n: int) -> int:
  if not 1 <= n <= schedule.steps:
    raise UserError(f"sampling takes 1 to {schedule.steps} steps on this schedule, not {n}: change the number of steps")
  return n
