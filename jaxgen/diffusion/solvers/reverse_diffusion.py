"""The reverse diffusion sampler: Song et al. 2021, https://arxiv.org/abs/2011.13456, section 4.1 and Appendix E."""

import jax.numpy as jnp

from jaxgen.core.keys import normal
from jaxgen.diffusion.sampling import Solver
from jaxgen.diffusion.schedules import Schedule


def reverse_diffusion(schedule: Schedule) -> Solver:
  """Discretises the reverse SDE (16) like the forward one, eq. 46: if x_t = x_s + F x_s + G z forwards,

    x_s = x_t - F x_t + G^2 score + G z.

  Here the forward steps are exact, (4): F = alpha_ts - 1 and G = sigma_ts. That is the paper's choice for discrete VP
  and for VE; it also works for schedules that the paper does not treat. A last step to clean data gives the predicted
  x_0.
  """

  def step(denoise, carry, x, t, s, keys):
    _, eps = denoise(x, t)[:2]
    alpha_ts, sigma_s, sigma_t = schedule.alpha(t) / schedule.alpha(s), schedule.sigma(s), schedule.sigma(t)
    G2 = (sigma_t - alpha_ts * sigma_s) * (sigma_t + alpha_ts * sigma_s)
    score = -eps / sigma_t
    return (2 - alpha_ts) * x + G2 * score + jnp.sqrt(G2) * normal(keys, x.shape[1:], x.dtype), carry

  return Solver(schedule, init=lambda x: (), step=step)
