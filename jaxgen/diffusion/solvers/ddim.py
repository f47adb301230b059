"""DDIM: Song et al. 2020, https://arxiv.org/abs/2010.02502, equations 12 and 16."""

import jax.numpy as jnp

from jaxgen.diffusion.sampling import Solver, normal
from jaxgen.diffusion.schedules import Schedule, posterior
from jaxgen.errors import UserError


def ddim(schedule: Schedule, eta: float = 0.0) -> Solver:
  """Equation (14) of `jaxgen.diffusion`, for any times t > s of any schedule.

  eta: 0 is deterministic, 1 the ancestral sampler with the posterior variance; between them, the noise's standard
    deviation is eta times the latter's.

  Raises:
    UserError: eta outside [0, 1].
  """
  if not 0 <= eta <= 1:
    raise UserError(f"DDIM's eta lies between 0 (deterministic) and 1 (ancestral), and this is {eta:g}: change it")

  def step(denoise, carry, x, t, s, keys):
    x_0, eps = denoise(x, t)
    alpha_s, sigma_s = schedule.alpha(s), schedule.sigma(s)
    if eta == 0:  # no noise is drawn then
      return alpha_s * x_0 + sigma_s * eps, carry
    c = posterior(schedule, t, s).c
    direction = jnp.sqrt(jnp.maximum(sigma_s**2 - eta**2 * c, 0))  # rounding can leave it below 0
    return alpha_s * x_0 + direction * eps + eta * jnp.sqrt(c) * normal(keys, x), carry

  return Solver(init=lambda x: (), step=step)
