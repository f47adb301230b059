"""Steps of a flow map, a network that is told where its step leads: MeanFlow, shortcut models."""

from jaxgen.diffusion.sampling import Solver
from jaxgen.diffusion.schedules import Schedule


def flow_map(schedule: Schedule) -> Solver:
  """x_s = alpha_s x_0 + sigma_s eps with (x_0, eps) = denoise(x_t, t, s), where denoise is told s.

  On the straight path, with the average velocity u(x_t, s, t) taken for the velocity, it is x_t - (t - s) u: Geng et
  al. 2025, https://arxiv.org/abs/2505.13447, eq. 12. One network call a step.
  """

  def step(denoise, carry, x, t, s, keys):
    x_0, eps = denoise(x, t, s)[:2]
    return schedule.alpha(s) * x_0 + schedule.sigma(s) * eps, carry

  return Solver(schedule, init=lambda x: (), step=step, to_clean="step", from_noise=True)
