"""DPM-Solver, single-step: Lu et al. 2022, https://arxiv.org/abs/2206.00927, equation 3.7 and Algorithms 1 and 2."""

import jax.numpy as jnp

from jaxgen.core.errors import UserError
from jaxgen.diffusion.sampling import Solver, first_order
from jaxgen.diffusion.schedules import Schedule


def dpm_solver(schedule: Schedule, order: int = 3, r1: float | None = None, r2: float = 2 / 3) -> Solver:
  """DPM-Solver-1, -2 or -3: the noise form (19) with eps expanded in lambda.

  In each line the terms with eps(x, t) are written as a first-order step: alpha x_0 + sigma eps equals the paper's
  alpha / alpha_t x - sigma (e^h - 1) eps, without a difference of large numbers.

  Args:
    order: the order, and the number of network calls a step; 1 is DDIM.
    r1, r2: the positions of the other calls between lambda_t (0) and lambda_s (1). By default r1 is 1/2, or 1/3 for
      order 3. Order 3 needs r2 = 2/3; with another r2 the solver has order 2.

  Raises:
    UserError: the order is not 1 to 3, or not 0 < r1 <= 1 and, for order 3, r1 < r2 <= 1.
  """
  if order not in (1, 2, 3):
    raise UserError(f"DPM-Solver has order 1, 2 or 3, not {order}: choose one of them")
  r1 = {2: 1 / 2}.get(order, 1 / 3) if r1 is None else r1
  if not 0 < r1 <= 1 or (order == 3 and not r1 < r2 <= 1):
    raise UserError(f"DPM-Solver's inner points have 0 < r1 < r2 <= 1, not {r1:g} and {r2:g}: change them")

  def second(denoise, carry, x, t, s, keys):
    lambda_t, lambda_s = schedule.log_snr(t) / 2, schedule.log_snr(s) / 2
    h = lambda_s - lambda_t
    s1 = schedule.time(2 * (lambda_t + r1 * h))
    x_0, eps = denoise(x, t)[:2]
    u = schedule.alpha(s1) * x_0 + schedule.sigma(s1) * eps
    D1 = denoise(u, s1)[1] - eps
    x_s = schedule.alpha(s) * x_0 + schedule.sigma(s) * eps - schedule.sigma(s) / (2 * r1) * jnp.expm1(h) * D1
    return x_s, carry

  def third(denoise, carry, x, t, s, keys):
    lambda_t, lambda_s = schedule.log_snr(t) / 2, schedule.log_snr(s) / 2
    h = lambda_s - lambda_t
    s1, s2 = schedule.time(2 * (lambda_t + r1 * h)), schedule.time(2 * (lambda_t + r2 * h))
    curvature = lambda h: jnp.expm1(h) / h - 1
    x_0, eps = denoise(x, t)[:2]
    u1 = schedule.alpha(s1) * x_0 + schedule.sigma(s1) * eps
    D1 = denoise(u1, s1)[1] - eps
    u2 = schedule.alpha(s2) * x_0 + schedule.sigma(s2) * eps - schedule.sigma(s2) * r2 / r1 * curvature(r2 * h) * D1
    D2 = denoise(u2, s2)[1] - eps
    x_s = schedule.alpha(s) * x_0 + schedule.sigma(s) * eps - schedule.sigma(s) / r2 * curvature(h) * D2
    return x_s, carry

  step = {1: first_order(schedule), 2: second, 3: third}[order]
  return Solver(schedule, init=lambda x: (), step=step, calls=order, from_noise=order == 1)
