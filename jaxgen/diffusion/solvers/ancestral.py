"""The ancestral sampler of DDPM: Ho et al. 2020, https://arxiv.org/abs/2006.11239, Algorithm 2."""

import jax.numpy as jnp

from jaxgen.diffusion.sampling import Solver, normal
from jaxgen.diffusion.schedules import Schedule, Variance, posterior


def ancestral(schedule: Schedule, variance: Variance = "posterior") -> Solver:
  """Draws x_s from p_theta(x_s | x_t), equation (13) of `jaxgen.diffusion`, for any times t > s of any schedule.

  variance: "posterior", c of (5), is right for data that is one point; "beta", sigma_ts^2 of (4), for data that is
    N(0, I); Ho et al. 2020, section 3.2. A step to clean data (sigma_s = 0) returns the mean in both.
  """

  def step(denoise, carry, x, t, s, keys):
    x_0, _ = denoise(x, t)
    q = posterior(schedule, t, s)
    v = {"posterior": q.c, "beta": jnp.where(schedule.sigma(s) > 0, q.beta, 0)}[variance]
    return q.a * x + q.b * x_0 + jnp.sqrt(v) * normal(keys, x), carry

  return Solver(init=lambda x: (), step=step)
