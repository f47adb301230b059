"""Integrators of the ODE and of the trace along it."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgen.core.errors import UserError
from jaxgen.diffusion.likelihood.traces import Probes
from jaxgen.diffusion.solvers.adaptive import one_by_one

Flow = tuple[Float[Array, "batch ..."], Float[Array, " batch"]]  # z, and the integral of the trace so far
Derivative = Callable[[Array, Flow, Probes], Flow]  # (u [] or [B], flow, probes) -> d flow / du
Integrator = Callable[[Derivative, Array, Array, Flow, Probes], Flow]  # the second and third are u's first and last
IntegratorName = Literal["heun", "rk4", "dopri5"]


def rk4(steps: int = 48) -> Integrator:
  """The classical Runge-Kutta method, equal steps of u: fourth order, 4 network calls a step.

  Raises:
    UserError: steps < 1.
  """
  return _runge_kutta([0.0, 1 / 2, 1 / 2, 1.0], [1 / 6, 1 / 3, 1 / 3, 1 / 6], steps)


def heun(steps: int = 96) -> Integrator:
  """Heun's method, equal steps of u: second order, 2 network calls a step.

  Raises:
    UserError: steps < 1.
  """
  return _runge_kutta([0.0, 1.0], [1 / 2, 1 / 2], steps)


def _runge_kutta(nodes: list[float], weights: list[float], steps: int) -> Integrator:
  """Runge-Kutta methods in which each stage uses only the derivative of the stage before.

  The network is compiled once, as the body of a scan over stages inside a scan over steps.
  """
  if steps < 1:
    raise UserError(f"the ODE's likelihood takes at least 1 step, not {steps}: change the number of steps")

  def integrate(derivative: Derivative, start: Array, end: Array, flow: Flow, probes: Probes) -> Flow:
    h = (end - start) / steps
    ahead = lambda flow, h, k: jax.tree.map(lambda a, b: a + h * b, flow, k)
    tableau = jnp.asarray(nodes, h.dtype), jnp.asarray(weights, h.dtype)

    def step(flow: Flow, i: Array) -> tuple[Flow, None]:
      def stage(carry: tuple[Flow, Flow], now: tuple[Array, Array]) -> tuple[tuple[Flow, Flow], None]:
        k, total = carry
        node, weight = now
        k = derivative(start + (i + node) * h, ahead(flow, node * h, k), probes)
        return (k, ahead(total, weight * h, k)), None

      nothing = jax.tree.map(jnp.zeros_like, flow)
      return jax.lax.scan(stage, (nothing, flow), tableau)[0][1], None

    return jax.lax.scan(step, flow, jnp.arange(steps, dtype=h.dtype))[0]

  return integrate


def dopri5(rtol: float = 1e-5, atol: float = 1e-5, max_steps: int = 4096) -> Integrator:
  """Dormand and Prince's 5(4) pair, by diffrax, with separate steps for each example: 6 network calls a step.

  The network is called with the whole batch, t [B], until the last example is done. The result of an example that would
  take more than max_steps is NaN.

  Args:
    rtol, atol: relative and absolute tolerance of a step's error, for the root mean square of z and the log-density.
    max_steps: the largest number of steps of one example.

  Raises:
    UserError: a tolerance that is not positive.
  """
  if min(rtol, atol) <= 0:
    raise UserError(f"an adaptive solver's tolerances are positive, not rtol={rtol:g} and atol={atol:g}: change them")

  def norm(error: Any) -> Array:
    z, log_density = error
    return jnp.maximum(jnp.sqrt(jnp.mean(z**2)), jnp.abs(log_density))

  def integrate(derivative: Derivative, start: Array, end: Array, flow: Flow, probes: Probes) -> Flow:
    import diffrax  # takes a second

    of_one, constants = one_by_one(derivative, jnp.broadcast_to(start, flow[1].shape), flow, probes)

    def one(flow: Any, probes: Array) -> Any:  # of one example, without the batch's axis
      solution = diffrax.diffeqsolve(
        diffrax.ODETerm(lambda u, flow, given: of_one(given[0], u, flow, given[1])),
        diffrax.Dopri5(),
        t0=start,
        t1=end,
        dt0=None,
        y0=flow,
        args=(constants, probes),
        stepsize_controller=diffrax.PIDController(rtol, atol, norm=norm),
        max_steps=max_steps,
        throw=False,
      )
      solved = solution.result == diffrax.RESULTS.successful
      return jax.tree.map(lambda a: jnp.where(solved, a[0], jnp.nan), solution.ys)

    return jax.vmap(one)(flow, probes)

  return integrate


INTEGRATORS = {"heun": heun, "rk4": rk4, "dopri5": dopri5}
