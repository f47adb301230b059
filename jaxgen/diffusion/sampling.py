"""Sampling: a solver run over a time grid, in one scan."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from jaxgen.core.errors import UserError
from jaxgen.core.keys import fold_in
from jaxgen.diffusion.schedules import Schedule

HIGHEST = 150.0  # of sigma / alpha: beyond it x_t is noise to the eye; grids start there where alpha_T = 0

Denoise = Callable[[Float[Array, "n ..."], Float[Array, ""]], tuple]
Step = Callable[..., tuple[Float[Array, "n ..."], Any]]


class Solver(NamedTuple):
  """How to go from x_t to x_s, s < t.

  schedule: whose solver it is.
  init: x [N, ...] -> what the solver carries from step to step, () where it carries nothing.
  step: (denoise, carry, x [N, ...], t [], s [], keys [N]) -> (x at s, carry). denoise(x, t) -> (x_0, eps) is one call
    of the network; keys are this step's, one per sample, so that a sample does not depend on those beside it.
  calls: of the network in one step.
  to_clean: how it takes a last step to clean data (sigma_s = 0), where its formulas end: by its own `step` ("step"), or
    by the first-order step ("first order"), which gives the predicted x_0 and is one call.
  from_noise: whether its step can start where alpha_t = 0. If not, that point is left by the first-order step.
  averages: its step averages eps over t and s, which is far off where sigma / alpha falls by orders of magnitude from
    what is noise alone: such a point is left by the first-order step, too (`is_far`).
  order: a multistep solver's number of past outputs, this one's included: it takes so many steps at least.
  start: (n, calls) of a solver whose first n steps, if they do not lead to clean data, call the network that often.
  solve: (denoise, times, x, keys) -> x, of solvers that choose their own steps; `step` is not used then.
  """

  schedule: Schedule
  init: Callable[[Float[Array, "n ..."]], Any]
  step: Step
  calls: int = 1
  to_clean: str = "first order"
  from_noise: bool = False
  averages: bool = False
  order: int = 1
  start: tuple[int, int] = (0, 1)
  solve: Callable[..., Float[Array, "n ..."]] | None = None


def sample(
  solver: Solver,
  denoise: Denoise,
  times: Float[np.ndarray | Array, " times"],
  x: Float[Array, "n ..."],
  keys: Key[Array, " n"],
  carry: Any = None,
) -> Float[Array, "n ..."]:
  """Solves from x, which is at times[0], to times[-1]. Step i of sample n draws from fold_in(keys[n], i).

  x is float32 or float64, and so is all arithmetic outside the network. The network is called `network_calls(solver,
  times)` times.

  carry: what the solver carries already, for a multistep solver that starts with a known past, as its `step` gives it:
    `multistep.Past`, or the `Carry` of the solver's own module. A single step will do then. None: `solver.init(x)`.

  Raises:
    UserError: a multistep solver is given fewer steps than its order, or another's carry; times do not fall, or leave
      [0, T]; x is of half precision.
  """
  if jnp.finfo(x.dtype).bits < 32:
    raise UserError(f"samples are drawn in float32 or float64, not in {x.dtype}: cast x, and within denoise")
  n = len(times) - 1
  check(solver if carry is None else solver._replace(order=1), n)
  check_times(solver.schedule, times)
  if solver.solve is not None:
    return solver.solve(denoise, times, x, keys)
  first, last = apart(solver, times)
  times = jnp.asarray(times, x.dtype)
  step_keys = lambda i: fold_in(keys, i)
  simple = first_order(solver.schedule)

  if first:
    x, _ = simple(denoise, (), x, times[0], times[1], step_keys(0))
  nothing = solver.init(x)
  if carry is not None and jax.tree.structure(carry) != jax.tree.structure(nothing):
    raise UserError(
      f"this solver carries a {type(nothing).__name__}, and was given a {type(carry).__name__}: give what its own "
      "`step` returns"
    )
  state = x, nothing if carry is None else carry

  def step(state, now):
    x, carry = state
    i, t, s = now
    return solver.step(denoise, carry, x, t, s, step_keys(i)), None

  steps = jnp.arange(first, n - last)
  if len(steps):
    state, _ = jax.lax.scan(step, state, (steps, times[first : n - last], times[first + 1 : n - last + 1]))
  x, carry = state
  return simple(denoise, carry, x, times[-2], times[-1], step_keys(n - 1))[0] if last else x


def apart(solver: Solver, times: Float[np.ndarray | Array, " times"]) -> tuple[bool, bool]:
  """Whether the first and the last step are first-order steps outside the scan; see `Solver`."""
  if solver.schedule.learned:
    return False, False
  schedule, start = solver.schedule, [float(t) for t in times[:2]]
  first = not solver.from_noise and (schedule.is_noise(start[0]) or (solver.averages and is_far(schedule, *start)))
  last = solver.to_clean == "first order" and solver.schedule.is_clean(float(times[-1]))
  return first, last and not (first and len(times) == 2)


FAR = 10.0  # times, that sigma / alpha falls in one step


def is_far(schedule: Schedule, t: float, s: float) -> bool:
  """Whether t is noise to the eye (`HIGHEST`), and sigma / alpha falls by more than `FAR` times in the step to s.

  On the cosine schedule, where alpha_T is small and not 0, it falls from 20 thousand to 13 in the first of 20 steps.
  """
  at = np.array([t, s])
  ratio = schedule.sigma(at) / schedule.alpha(at)
  return bool(ratio[0] > HIGHEST and ratio[0] > FAR * ratio[1])


def network_calls(solver: Solver, times: Float[np.ndarray | Array, " times"]) -> int | None:
  """How often `sample` calls the network (guidance doubles the batch, not the calls); None: the solver chooses."""
  if solver.solve is not None:
    return None
  first, last = apart(solver, times)
  steps = len(times) - 1 - first - last
  to_clean = not last and not solver.schedule.learned and solver.schedule.is_clean(float(times[-1]))
  starting = max(0, min(solver.start[0], steps - to_clean))
  return first + last + steps * solver.calls + starting * (solver.start[1] - solver.calls)


def check(solver: Solver, n: int) -> None:
  """Raises a UserError where the solver cannot take n steps."""
  if n < 1:
    raise UserError(f"sampling takes at least 1 step, not {n}: change the number of steps")
  if n < solver.order:
    raise UserError(
      f"a multistep solver of {solver.order} past steps takes {solver.order} steps or more, not {n}: raise their number"
    )


def check_times(schedule: Schedule, times: Float[np.ndarray | Array, " times"]) -> None:
  """Raises a UserError where times do not fall, or leave [0, T]. Those of a learned schedule are not known yet."""
  if isinstance(times, jax.core.Tracer):
    return
  times = np.asarray(times)
  falls = bool((np.diff(times) < 0).all())
  if not falls or times[-1] < 0 or times[0] > schedule.T * (1 + 1e-6):
    shown = ", ".join(f"{t:g}" for t in (times if len(times) <= 6 else [*times[:3], *times[-3:]]))
    raise UserError(
      f"sampling goes from noise to data, at times that fall from {schedule.T:g} or less to 0 or more, and these are "
      f"{shown}: change the grid"
    )


def first_order(schedule: Schedule) -> Step:
  """x_s = alpha_s x_0 + sigma_s eps, (14) without noise: exact at both ends of t, whatever the schedule."""

  def step(denoise, carry, x, t, s, keys):
    x_0, eps = denoise(x, t)[:2]
    return schedule.alpha(s) * x_0 + schedule.sigma(s) * eps, carry

  return step
