"""Euler's method on the probability-flow ODE: Song et al. 2021, https://arxiv.org/abs/2011.13456, equation 13."""

from jaxgen.diffusion.sampling import Solver
from jaxgen.diffusion.schedules import Schedule


def probability_flow(schedule: Schedule) -> Solver:
  """Euler's method in t on (17), x_s = x + (s - t) (alpha' x_0 + sigma' eps): first order, one network call a step.

  The bracket is the velocity. If alpha and sigma are linear in t (rectified flow, EDM), this is DDIM; on rectified flow
  it is the sampler of flow matching: Lipman et al. 2022, https://arxiv.org/abs/2210.02747. On other schedules the
  curvature of alpha and sigma adds to the error. The step to clean data, where sigma' may be infinite, is DDIM's.
  """

  def step(denoise, carry, x, t, s, keys):
    x_0, eps = denoise(x, t)[:2]
    at = schedule.at(t)
    return x + (s - t) * (at.d_alpha * x_0 + at.d_sigma * eps), carry

  return Solver(schedule, init=lambda x: (), step=step, from_noise=True)
