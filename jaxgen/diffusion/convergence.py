"""Orders of convergence, measured: a solver's error on data whose probability-flow ODE is solved exactly.

    errors(dpmpp_2m, vp())  # {48: 9.7e-4, 96: ...}: network calls -> error
    slope(errors(dpmpp_2m, vp()))  # 2.00

An order is a property of small steps on a smooth problem. It is therefore measured on a grid that is uniform in log-SNR
between sigma / alpha = `HIGH` and `LOW`, without a step to sigma = 0 and without a lower order at the end. A multistep
solver gets exact past outputs, from the same grid continued upwards. In float64 only.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats
from jaxtyping import Array

from jaxgen.core.errors import UserError
from jaxgen.diffusion.closed_form import Mixture
from jaxgen.diffusion.sampling import Solver
from jaxgen.diffusion.schedules import Schedule
from jaxgen.diffusion.solvers.ddim import ddim
from jaxgen.diffusion.solvers.deis import deis
from jaxgen.diffusion.solvers.dpm2 import dpm2
from jaxgen.diffusion.solvers.dpm_solver import dpm_solver
from jaxgen.diffusion.solvers.dpmpp_2m import dpmpp_2m
from jaxgen.diffusion.solvers.dpmpp_2s import dpmpp_2s
from jaxgen.diffusion.solvers.dpmpp_3m import dpmpp_3m
from jaxgen.diffusion.solvers.euler import euler
from jaxgen.diffusion.solvers.heun import heun
from jaxgen.diffusion.solvers.lms import lms
from jaxgen.diffusion.solvers.pndm import plms, pndm
from jaxgen.diffusion.solvers.probability_flow import probability_flow
from jaxgen.diffusion.solvers.unipc import unipc

HIGH, LOW = 150.0, 0.04
CALLS = (48, 96, 192, 384)
MIXTURE = Mixture(np.array([0.2, 0.5, 0.3]), np.array([[-0.8], [0.1], [0.9]]), np.array([[0.1], [0.25], [0.15]]))

unip = partial(unipc, corrector=False)
ORDERS = {  # every deterministic solver of fixed steps: how it is made, and its order
  "DDIM": (ddim, 1),
  "Euler": (euler, 1),
  "probability flow, Euler in t": (probability_flow, 1),
  "DPM-Solver-1": (partial(dpm_solver, order=1), 1),
  "UniP-1": (partial(unip, order=1), 1),
  "Heun": (heun, 2),
  "DPM2": (dpm2, 2),
  "DPM-Solver-2": (partial(dpm_solver, order=2), 2),
  "DPM-Solver-2, r1 = 0.8": (partial(dpm_solver, order=2, r1=0.8), 2),
  "DPM-Solver-3, r2 = 1": (partial(dpm_solver, r2=1.0), 2),
  "DPM-Solver++ 2S": (dpmpp_2s, 2),
  "DPM-Solver++ 2S, r = 1": (partial(dpmpp_2s, r=1.0), 2),
  "DPM-Solver++ 2M": (dpmpp_2m, 2),
  "DPM-Solver++ 3M": (dpmpp_3m, 2),
  "PNDM": (pndm, 2),
  "PLMS": (plms, 2),
  "LMS-2": (partial(lms, order=2), 2),
  "DEIS-2": (partial(deis, order=2), 2),
  "DEIS-2 in t": (partial(deis, order=2, variable="t"), 2),
  "UniP-2": (partial(unip, order=2), 2),
  "UniP-2, B1": (partial(unip, order=2, B="bh1"), 2),
  "UniPC-1": (partial(unipc, order=1), 2),
  "UniPC-1, B1": (partial(unipc, order=1, B="bh1"), 2),
  "DPM-Solver-3": (dpm_solver, 3),
  "DPM-Solver-3, r1 = 1/2": (partial(dpm_solver, r1=0.5), 3),
  "DPM-Solver++ 3M, exact D2": (partial(dpmpp_3m, exact_d2=True), 3),
  "LMS-3": (partial(lms, order=3), 3),
  "DEIS-3": (deis, 3),
  "DEIS-3 in t": (partial(deis, variable="t"), 3),
  "UniP-3": (unip, 3),
  "UniPC-2": (partial(unipc, order=2), 3),
  "UniPC-2, B1": (partial(unipc, order=2, B="bh1"), 3),
  "UniPC-2 in noise": (partial(unipc, order=2, form="noise"), 3),
  "LMS-4": (lms, 4),
  "UniPC-3": (unipc, 4),
  "UniPC-3 in noise": (partial(unipc, form="noise"), 4),
}


def errors(
  make: Callable[[Schedule], Solver],
  schedule: Schedule,
  calls: tuple[int, ...] = CALLS,
  exact_start: bool = True,
  data: Mixture = MIXTURE,
  n: int = 64,
) -> dict[int, float]:
  """Network calls -> the root mean square error of x / alpha at LOW, over n quantiles of x at HIGH.

  Args:
    exact_start: give a multistep solver exact past outputs, whose network calls are not counted; otherwise it starts by
      itself.

  Raises:
    UserError: float64 is not switched on.
  """
  if not jax.config.jax_enable_x64:
    raise UserError("convergence is measured in float64: switch it on by jax.config.update('jax_enable_x64', True)")
  solver, denoise = make(schedule), data.denoiser(schedule)
  keys = jax.random.split(jax.random.key(0), n)
  quantiles = jnp.asarray(scipy.stats.norm.ppf((np.arange(n) + 0.5) / n))[:, None]
  past = solver.order - 1 if exact_start else 0

  @jax.jit
  def run(points, times, steps):
    """Solves from points[past] at times[past]. Earlier steps start from exact points and only give past outputs."""

    def step(i, state):
      x, carry = state
      x = jnp.where(i <= past, points[jnp.minimum(i, past)], x)
      return solver.step(denoise, carry, x, times[i], times[i + 1], keys)

    return jax.lax.fori_loop(0, past + steps, step, (points[0], solver.init(points[0])))[0]

  def error(steps: int) -> float:
    log_r = np.log(HIGH) + np.arange(-past, steps + 1) * (np.log(LOW / HIGH) / steps)
    times = schedule.time(-2 * log_r)
    start = data.at(schedule, times[0])
    x = start.mean() + jnp.sqrt(start.variance()) * quantiles
    exact = partial(_transport, schedule, data, x, times[0])
    points = jnp.stack([exact(t) for t in times[: past + 1]])
    padded = np.pad(times, (0, max(calls) + solver.order - len(times)), mode="edge")  # one shape, one compilation
    difference = (run(points, padded, steps) - exact(times[-1])) / schedule.alpha(times[-1:])
    return float(jnp.sqrt(jnp.mean(difference**2)))

  extra = 0 if exact_start else solver.start[0] * (solver.start[1] - solver.calls)
  return {c // solver.calls * solver.calls + extra: error(c // solver.calls) for c in calls}


@partial(jax.jit, static_argnums=0)
def _transport(schedule: Schedule, data: Mixture, x: Array, t: Array, s: Array) -> Array:
  return data.transport(schedule, x, t, s)


def slope(errors: dict[int, float], last: int = 3) -> float:
  """The order: minus the slope of log error against log network calls, fitted to the last points."""
  calls, error = (np.log(list(values)[-last:]) for values in (errors.keys(), errors.values()))
  return -float(np.polyfit(calls, error, 1)[0])
