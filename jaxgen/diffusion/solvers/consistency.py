"""Multistep sampling of a consistency model: Song et al. 2023, https://arxiv.org/abs/2303.01469, Algorithm 1."""

import jax.numpy as jnp
import numpy as np

from jaxgen.core.keys import normal
from jaxgen.diffusion.sampling import Solver
from jaxgen.diffusion.schedules import Schedule


def consistency(schedule: Schedule, r_min: float | None = None) -> Solver:
  """x_s = alpha_s f(x_t, t) + sqrt(sigma_s^2 - (alpha_s r_min)^2) z, z ~ N(0, I), with r_min = sigma / alpha at t_min.

  f is the x_0 of `denoise`: a sample with the noise r_min, which is why less is added. A step to clean data returns f.
  One step from T is one network call, to which nothing is added.

  Args:
    r_min: where f's paths start; None: at t_min. 0 where f is clean data.
  """
  t_min = np.array([schedule.t_min])
  r_min = float((schedule.sigma(t_min) / schedule.alpha(t_min))[0]) if r_min is None else r_min

  def step(denoise, carry, x, t, s, keys):
    f = denoise(x, t)[0]
    alpha, sigma = schedule.alpha(s), schedule.sigma(s)
    std = jnp.sqrt(jnp.maximum(sigma**2 - (alpha * r_min) ** 2, 0))
    return alpha * f + std * normal(keys, x.shape[1:], x.dtype), carry

  return Solver(schedule, init=lambda x: (), step=step, to_clean="step", from_noise=True)
