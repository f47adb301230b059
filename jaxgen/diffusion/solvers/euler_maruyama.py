"""Euler-Maruyama on the reverse SDE: Song et al. 2021, https://arxiv.org/abs/2011.13456, section 4.1."""

import jax.numpy as jnp

from jaxgen.core.keys import normal
from jaxgen.diffusion.sampling import Solver
from jaxgen.diffusion.schedules import Schedule


def euler_maruyama(schedule: Schedule) -> Solver:
  """Euler-Maruyama steps in t on (16), one network call a step. The bias is of first order in the step size.

  The last step, to clean data, gives the predicted x_0; the paper's code leaves out the noise there. In discrete
  processes f and g jump at each step; their values are those of the step above t.

  It needs small steps, especially if f is large (rectified flow near t = 1). `ancestral` solves the same SDE by (5),
  and is exact if the prediction does not change over a step.
  """

  def step(denoise, carry, x, t, s, keys):
    _, eps = denoise(x, t)[:2]
    at, dt = schedule.at(t), s - t
    score, g2 = -eps / at.sigma, at.diffusion2
    mean = x + (at.drift * x - g2 * score) * dt
    return mean + jnp.sqrt(g2 * -dt) * normal(keys, x.shape[1:], x.dtype), carry

  return Solver(schedule, init=lambda x: (), step=step)
