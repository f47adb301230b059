"""The probability-flow ODE by an adaptive Runge-Kutta method: Song et al. 2021, https://arxiv.org/abs/2011.13456,
section 4.3 and Appendix D.4, who use Dormand and Prince's method with both tolerances at 1e-5."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Float

from jaxgen.core.arrays import per_example
from jaxgen.core.errors import UserError
from jaxgen.diffusion.sampling import Solver, apart, first_order
from jaxgen.diffusion.schedules import Schedule


def adaptive(schedule: Schedule, rtol: float = 1e-5, atol: float = 1e-5, max_steps: int = 4096) -> Solver:
  """Solves (17) with adaptive steps, separate ones for each sample, so that samples do not depend on each other.

  It uses two times of the grid: the first with alpha > 0 and the last with sigma > 0. First-order steps lead from
  alpha = 0 to the former and from the latter to clean data.

  The ODE is solved over the angle phi = arctan(sigma / alpha) for z = x / sqrt(alpha^2 + sigma^2), where it is

    dz / dphi = cos(phi) eps - sin(phi) x_0

  which is v of (6): Salimans and Ho 2022, https://arxiv.org/abs/2202.00512, Appendix D. Therefore tolerances mean the
  same on every schedule, and alpha' and sigma', which jump in discrete processes, are not needed.

  denoise is called with t [N], one time for each sample, until the slowest sample is done.

  Args:
    rtol, atol: relative and absolute tolerance of the error of a step of z.
    max_steps: the largest number of steps of one sample, including rejected ones. A sample that needs more is NaN.

  Raises:
    UserError: a tolerance is not positive, or max_steps < 1.
  """
  if min(rtol, atol) <= 0 or max_steps < 1:
    raise UserError(
      "an adaptive solver has tolerances above 0 and at least 1 step, "
      f"not rtol {rtol:g}, atol {atol:g} and {max_steps} steps: change them"
    )
  simple = first_order(schedule)

  def solve(denoise, times, x, keys):
    import diffrax  # takes a second

    if rtol < 10 * jnp.finfo(x.dtype).eps:
      raise UserError(f"{x.dtype} has no digits for a relative error of {rtol:g}: take a larger rtol, or float64")
    first, last = apart(solver, times)
    times = jnp.asarray(times, x.dtype)
    if first:
      x, _ = simple(denoise, (), x, times[0], times[1], keys)
    ends = times[int(first)], times[len(times) - 1 - int(last)]

    def v(z, phi):
      t = schedule.time(-2 * jnp.log(jnp.tan(phi)))
      x_0, eps = denoise(per_example(_norm(schedule, t), z) * z, t)[:2]
      return per_example(jnp.cos(phi), z) * eps - per_example(jnp.sin(phi), z) * x_0

    v_of_one, constants = one_by_one(v, x, jnp.broadcast_to(ends[0], x.shape[:1]))
    angle = lambda t: jnp.arctan2(schedule.sigma(t), schedule.alpha(t))

    def one(z):
      solution = diffrax.diffeqsolve(
        diffrax.ODETerm(lambda phi, z, constants: v_of_one(constants, z, phi)),
        diffrax.Dopri5(),
        t0=angle(ends[0]),
        t1=angle(ends[1]),
        dt0=None,
        y0=z,
        args=constants,
        stepsize_controller=diffrax.PIDController(rtol=rtol, atol=atol),
        max_steps=max_steps,
        throw=False,
      )
      return jnp.where(solution.result == diffrax.RESULTS.successful, solution.ys[0], jnp.nan)

    x = jax.vmap(one)(x / _norm(schedule, ends[0])) * _norm(schedule, ends[1])
    return simple(denoise, (), x, times[-2], times[-1], keys)[0] if last else x

  solver = Solver(schedule, init=lambda x: (), step=simple, solve=solve)
  return solver


def _norm(schedule: Schedule, t: Float[Array, "..."]) -> Float[Array, "..."]:
  return jnp.hypot(schedule.alpha(t), schedule.sigma(t))


def one_by_one(f: Callable[..., Any], *arguments: Any) -> tuple[Callable[..., Any], Any]:
  """Turns a function `f` of the whole batch into one of a single sample, for use under jax.vmap over all N samples.

  f may close over arrays of N conditions, which jax.vmap over batches of one would not match to their samples.

  Returns:
    A function of (constants, *arguments of one sample), and f's constants.
  """
  import equinox

  # Arrays that f closes over, including traced parameters, must enter the solver's loop as arguments.
  constants, rest = equinox.partition(equinox.filter_closure_convert(f, *arguments), equinox.is_array)
  shapes = jax.eval_shape(f, *arguments)

  @custom_vmap
  def one(constants, *arguments):
    return jax.tree.map(lambda a: jnp.zeros(a.shape[1:], a.dtype), shapes)  # only their shapes are ever seen

  @one.def_vmap
  def batch(n, mapped, constants, *arguments):
    spread = lambda a, mapped: a if mapped else jnp.broadcast_to(a, (n, *a.shape))
    out = equinox.combine(constants, rest)(*jax.tree.map(spread, list(arguments), list(mapped[1:])))
    return out, jax.tree.map(lambda _: True, shapes)

  return one, constants
