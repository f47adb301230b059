"""DDIM: Song et al. 2020, https://arxiv.org/abs/2010.02502, equations 12 and 16."""

import jax.numpy as jnp

from jaxgen.core.errors import UserError
from jaxgen.core.keys import normal
from jaxgen.diffusion.sampling import Solver, first_order
from jaxgen.diffusion.schedules import Schedule


def ddim(schedule: Schedule, eta: float = 0.0) -> Solver:
  """Equation (14) of `jaxgen.diffusion`, for any times t > s of any schedule.

  With eta = 0 it is also DPM-Solver-1, DPM-Solver++ 1 and Euler's method on (18).

  Args:
    eta: the factor of the noise's standard deviation. 0 is deterministic, 1 is the ancestral sampler with the posterior
      variance.

  Raises:
    UserError: eta lies outside [0, 1].
  """
  if not 0 <= eta <= 1:
    raise UserError(f"DDIM's eta lies between 0 (deterministic) and 1 (ancestral), and this is {eta:g}: change it")

  def noisy(denoise, carry, x, t, s, keys):
    x_0, eps = denoise(x, t)[:2]
    sigma_s = schedule.sigma(s)
    ratio = sigma_s / schedule.alpha(s) * schedule.alpha(t) / schedule.sigma(t)  # r_s / r_t, where alpha_t = 0 too
    # In (5), c = sigma_s^2 (1 - ratio^2). Written so, sigma_s^2 - eta^2 c is not a difference of nearly equal numbers.
    direction = sigma_s * jnp.sqrt(1 - eta**2 + (eta * ratio) ** 2)
    noise = eta * sigma_s * jnp.sqrt(jnp.maximum((1 - ratio) * (1 + ratio), 0))
    return schedule.alpha(s) * x_0 + direction * eps + noise * normal(keys, x.shape[1:], x.dtype), carry

  step = noisy if eta else first_order(schedule)
  return Solver(schedule, init=lambda x: (), step=step, to_clean="step", from_noise=True)
