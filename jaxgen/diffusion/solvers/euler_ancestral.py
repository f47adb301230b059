"""Euler's method with ancestral noise, from the k-diffusion library (https://github.com/crowsonkb/k-diffusion).

No paper has it under this name; it is `sample_euler_ancestral` there, and EulerAncestralDiscreteScheduler in diffusers.
"""

import jax.numpy as jnp

from jaxgen.core.errors import UserError
from jaxgen.core.keys import normal
from jaxgen.diffusion.sampling import Solver
from jaxgen.diffusion.schedules import Schedule


def euler_ancestral(schedule: Schedule, eta: float = 1.0) -> Solver:
  """Euler's step on (18) down to r_down < r_s, then noise of standard deviation r_up up to r_s.

    r_up = min(r_s, eta r_s sqrt(1 - r_s^2 / r_t^2)),   r_down = sqrt(r_s^2 - r_up^2)

  with r = sigma / alpha in place of their sigma, for any schedule. r_up / eta is the standard deviation of (5) for y =
  x / alpha, so that for eta <= 1 this is DDIM(eta), and for eta = 1 the ancestral sampler. Here eta may be above 1.

  Raises:
    UserError: eta < 0.
  """
  if eta < 0:
    raise UserError(f"the ancestral noise is multiplied by eta, 0 or more, and this is {eta:g}: change it")

  def step(denoise, carry, x, t, s, keys):
    x_0, eps = denoise(x, t)[:2]
    alpha_s, r_s = schedule.alpha(s), schedule.sigma(s) / schedule.alpha(s)
    ratio = r_s * schedule.alpha(t) / schedule.sigma(t)  # r_s / r_t, where alpha_t = 0 too
    r_up = jnp.minimum(r_s, eta * r_s * jnp.sqrt(jnp.maximum((1 - ratio) * (1 + ratio), 0)))
    # sqrt(r_s^2 - r_up^2), without the difference of near-equal numbers that it is about eta = 1
    r_down = r_s * jnp.sqrt(jnp.maximum(1 - eta**2 + (eta * ratio) ** 2, 0))
    # Euler's step y_t + (r_down - r_t) eps is x_0 + r_down eps, by (1).
    return alpha_s * (x_0 + r_down * eps + r_up * normal(keys, x.shape[1:], x.dtype)), carry

  return Solver(schedule, init=lambda x: (), step=step, to_clean="step", from_noise=True)
