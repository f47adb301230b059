"""DPM-Solver++(3M): Lu et al. 2022, https://arxiv.org/abs/2211.01095; not in the paper but in their code,
https://github.com/LuChengTH/dpm-solver, `multistep_dpm_solver_third_update`."""

import jax.numpy as jnp

from jaxgen.diffusion.multistep import nothing, remember
from jaxgen.diffusion.sampling import Solver
from jaxgen.diffusion.schedules import Schedule


def dpmpp_3m(schedule: Schedule, exact_d2: bool = False) -> Solver:
  """The data form (20), x_0 expanded in lambda with two derivatives from the last three steps; one network call a step.

  **By default it has second order, as in the authors' code, diffusers and k-diffusion**: they use D2, the second
  divided difference, in place of the second derivative, which is twice as large. The first two steps are
  DPM-Solver++(2M)'s.

  Args:
    exact_d2: double D2, which makes it the second derivative. The solver then has third order and is UniP-3.
  """
  twice = 2 if exact_d2 else 1

  def step(denoise, carry, x, t, s, keys):
    lambda_t, lambda_s = schedule.log_snr(t) / 2, schedule.log_snr(s) / 2
    h = lambda_s - lambda_t
    x_0, _ = denoise(x, t)[:2]
    past = remember(carry, x_0, lambda_t)
    (m0, m1, m2), at = past
    _, one, two = jnp.isfinite(at)  # whether there was a step before, and another
    r0 = jnp.where(one, (at[0] - at[1]) / h, 1)
    r1 = jnp.where(two, (at[1] - at[2]) / h, 1)
    D1_0, D1_1 = (m0 - m1) / r0, (m1 - m2) / r1
    D1 = D1_0 + r0 / (r0 + r1) * (D1_0 - D1_1)
    D2 = twice * (D1_0 - D1_1) / (r0 + r1)
    phi_1 = jnp.expm1(-h)
    phi_2 = phi_1 / h + 1
    phi_3 = phi_2 / h - 0.5
    second = -0.5 * jnp.where(one & ~two, phi_1, 0) * D1_0
    third = jnp.where(two, phi_2, 0) * D1 - jnp.where(two, phi_3, 0) * D2
    x_s = schedule.sigma(s) / schedule.sigma(t) * x + schedule.alpha(s) * (-phi_1 * m0 + second + third)
    return x_s, past

  return Solver(schedule, init=lambda x: nothing(x, 3), step=step, order=3)
