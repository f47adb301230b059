"""DPM-Solver++(2S): Lu et al. 2022, https://arxiv.org/abs/2211.01095, Algorithm 1."""

import jax.numpy as jnp

from jaxgen.core.errors import UserError
from jaxgen.diffusion.sampling import Solver
from jaxgen.diffusion.schedules import Schedule


def dpmpp_2s(schedule: Schedule, r: float = 0.5) -> Solver:
  """Second order, two network calls a step: the data form (20), with a second prediction of x_0 inside the step.

  Args:
    r: the position of the second prediction between lambda_t (0) and lambda_s (1).

  Raises:
    UserError: not 0 < r <= 1.
  """
  if not 0 < r <= 1:
    raise UserError(f"DPM-Solver++(2S) has its inner point at 0 < r <= 1 of the step, not {r:g}: change it")

  def step(denoise, carry, x, t, s, keys):
    lambda_t, lambda_s = schedule.log_snr(t) / 2, schedule.log_snr(s) / 2
    h = lambda_s - lambda_t
    inner = schedule.time(2 * (lambda_t + r * h))
    x_0, eps = denoise(x, t)[:2]
    u = schedule.alpha(inner) * x_0 + schedule.sigma(inner) * eps
    D = (1 - 1 / (2 * r)) * x_0 + 1 / (2 * r) * denoise(u, inner)[0]
    return schedule.sigma(s) / schedule.sigma(t) * x - schedule.alpha(s) * jnp.expm1(-h) * D, carry

  return Solver(schedule, init=lambda x: (), step=step, calls=2)
