"""The ancestral sampler of DDPM: Ho et al. 2020, https://arxiv.org/abs/2006.11239, Algorithm 2."""

import jax.numpy as jnp

from jaxgen.core.keys import normal
from jaxgen.diffusion.sampling import Solver
from jaxgen.diffusion.schedules import Schedule, Variance, posterior


def ancestral(schedule: Schedule, variance: Variance = "posterior") -> Solver:
  """Draws x_s from p_theta(x_s | x_t), equation (13) of `jaxgen.diffusion`, for any times t > s of any schedule.

  Args:
    variance: "posterior" is c of (5), exact if the data is a single point; "beta" is sigma_ts^2 of (4), exact if the
      data is N(0, I); Ho et al. 2020, section 3.2. "learned" lies between them, by the fraction that is the third
      result of denoise; Nichol and Dhariwal 2021, https://arxiv.org/abs/2102.09672, eq. 15. A step to clean data
      (sigma_s = 0) always returns the mean.
  """

  def step(denoise, carry, x, t, s, keys):
    x_0, _, *fraction = denoise(x, t)
    q = posterior(schedule, t, s)
    if variance == "learned":
      v = q.c ** (1 - fraction[0]) * q.beta ** fraction[0]
    else:
      v = {"posterior": q.c, "beta": q.beta}[variance]
    std = jnp.sqrt(jnp.where(schedule.sigma(s) > 0, v, 0))
    return q.a * x + q.b * x_0 + std * normal(keys, x.shape[1:], x.dtype), carry

  return Solver(schedule, init=lambda x: (), step=step, to_clean="step", from_noise=True)
