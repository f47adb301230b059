"""Euler's method: Karras et al. 2022 (EDM), https://arxiv.org/abs/2206.00364, Algorithm 2 without its correction."""

from jaxgen.diffusion.sampling import Solver, first_order
from jaxgen.diffusion.schedules import Schedule
from jaxgen.diffusion.solvers.churn import churning


def euler(
  schedule: Schedule, churn: float = 0.0, low: float = 0.0, high: float = float("inf"), noise: float = 1.0
) -> Solver:
  """EDM's churn, then Euler's method on y = x / alpha in r = sigma / alpha, (18): first order, one call a step.

  By (1), its step y_s = y_t + (r_s - r_t) eps is x_s = alpha_s (x_0 + r_s eps), in which alpha_t may be 0. Without
  churn this is DDIM.

  Args:
    churn, low, high, noise: as in `heun`.

  Raises:
    UserError: churn < 0.
  """
  stir, simple = churning(schedule, churn, low, high, noise), first_order(schedule)

  def step(denoise, carry, x, t, s, keys):
    x, t = stir(x, t, keys)
    return simple(denoise, carry, x, t, s, keys)

  return Solver(schedule, init=lambda x: (), step=step, to_clean="step", from_noise=not churn)
