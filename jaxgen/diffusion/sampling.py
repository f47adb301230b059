"""Sampling: a solver run over a time grid, in one scan."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from jaxgen.core.errors import UserError
from jaxgen.core.keys import fold_in
from jaxgen.diffusion.schedules import Schedule

HIGHEST = 150.0  # sigma / alpha above which x_t looks like noise; grids in sigma / alpha start there if alpha_T = 0

Denoise = Callable[[Float[Array, "n ..."], Float[Array, ""]], tuple]
Step = Callable[..., tuple[Float[Array, "n ..."], Any]]


class Solver(NamedTuple):
  """A step from x_t to x_s, s < t, and what it needs.

  Attributes:
    schedule: the solver's schedule.
    init: x [N, ...] -> what the solver carries from step to step; () if nothing.
    step: (denoise, carry, x [N, ...], t [], s [], keys [N]) -> (x at s, carry). denoise(x, t) -> (x_0, eps) is one call
      of the network. The keys are for this step, one per sample, so that samples do not depend on each other.
    calls: network calls in one step.
    to_clean: the last step, to clean data (sigma_s = 0): the solver's own `step` ("step"), or, if its formulas have no
      value there, the first-order step ("first order"), which gives the predicted x_0 with one call.
    from_noise: whether `step` can start at alpha_t = 0. If not, the first step is the first-order step.
    averages: whether `step` averages eps over t and s. That is wrong if sigma / alpha falls by orders of magnitude from
      a point that is nearly noise, so the first step from such a point (`is_far`) is the first-order step.
    order: number of outputs that a multistep solver uses, including the current one. It takes at least so many steps.
    start: (n, calls): each of the first n steps makes this number of network calls, unless it leads to clean data.
    solve: (denoise, times, x, keys) -> x, for solvers that choose their own steps and do not use `step`.
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
  begin: Int[Array, ""] | None = None,
) -> Float[Array, "n ..."]:
  """Solves from x, which is at times[0], to times[-1]. Step i of sample n draws from fold_in(keys[n], i).

  All arithmetic outside the network is in x's dtype, float32 or float64. The network is called
  `network_calls(solver, times)` times.

  Args:
    carry: the carry to start with, for a multistep solver with a known past, as its `step` returns it:
      `multistep.Past`, or the `Carry` of the solver's module. A single step is then enough. None: `solver.init(x)`.
    begin: the number of the first step that is taken: x is at times[begin]. It may be traced, and the network is called
      for the steps that are left alone.

  Raises:
    UserError: a multistep solver is given fewer steps than its order, or another's carry; times do not decrease within
      [0, T]; or x has half precision.
  """
  if jnp.finfo(x.dtype).bits < 32:
    raise UserError(f"samples are drawn in float32 or float64, not in {x.dtype}: cast x, and within denoise")
  n = len(times) - 1
  check(solver if carry is None else solver._replace(order=1), n)
  check_times(solver.schedule, times)
  if solver.solve is not None:
    if begin is not None:
      raise UserError("this solver chooses its own steps and cannot begin with one of the grid's: choose another")
    return solver.solve(denoise, times, x, keys)
  first, last = apart(solver, times)
  times = jnp.asarray(times, x.dtype)
  step_keys = lambda i: fold_in(keys, i)
  simple = first_order(solver.schedule)

  if first:
    far = lambda x: simple(denoise, (), x, times[0], times[1], step_keys(0))[0]
    x = far(x) if begin is None else jax.lax.cond(begin == 0, far, lambda x: x, x)
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
  if begin is not None:
    one = lambda i, state: step(state, (i, times[i], times[i + 1]))[0]
    state = jax.lax.fori_loop(jnp.maximum(begin, int(first)), n - last, one, state)
  elif len(steps):
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


FAR = 10.0  # the factor by which sigma / alpha may fall in a step that averages eps


def is_far(schedule: Schedule, t: float, s: float) -> bool:
  """Whether x_t looks like noise (`HIGHEST`) and sigma / alpha falls by more than the factor `FAR` in the step to s.

  On the cosine schedule, whose alpha_T is small but not 0, it falls from 20,000 to 13 in the first of 20 steps.
  """
  at = np.array([t, s])
  ratio = schedule.sigma(at) / schedule.alpha(at)
  return bool(ratio[0] > HIGHEST and ratio[0] > FAR * ratio[1])


def network_calls(solver: Solver, times: Float[np.ndarray | Array, " times"]) -> int | None:
  """The number of network calls of `sample` (guidance doubles the batch, not the calls); None: the solver chooses."""
  if solver.solve is not None:
    return None
  first, last = apart(solver, times)
  steps = len(times) - 1 - first - last
  to_clean = not last and not solver.schedule.learned and solver.schedule.is_clean(float(times[-1]))
  starting = max(0, min(solver.start[0], steps - to_clean))
  return first + last + steps * solver.calls + starting * (solver.start[1] - solver.calls)


def check(solver: Solver, n: int) -> None:
  """Raises a UserError if the solver cannot take n steps."""
  if n < 1:
    raise UserError(f"sampling takes at least 1 step, not {n}: change the number of steps")
  if n < solver.order:
    raise UserError(
      f"a multistep solver of {solver.order} past steps takes {solver.order} steps or more, not {n}: raise their number"
    )


def check_times(schedule: Schedule, times: Float[np.ndarray | Array, " times"]) -> None:
  """Raises a UserError unless times decrease within [0, T]. Times of a learned schedule are traced and not checked."""
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
