"""DPM2 of k-diffusion (https://github.com/crowsonkb/k-diffusion, `sample_dpm_2` without churn): Karras et al. 2022,
https://arxiv.org/abs/2206.00364, Algorithm 2, with a midpoint in place of the trapezoid."""

from jaxgen.diffusion.sampling import Solver
from jaxgen.diffusion.schedules import Schedule


def dpm2(schedule: Schedule) -> Solver:
  """The midpoint method on (18), the midpoint taken of log r: second order, two network calls a step.

  It is DPM-Solver-2 with r1 = 1/2, written as Karras et al. write. The step to clean data is of first order.
  """

  def step(denoise, carry, x, t, s, keys):
    x_0, d = denoise(x, t)[:2]
    r_t, r_s = schedule.sigma(t) / schedule.alpha(t), schedule.sigma(s) / schedule.alpha(s)
    u = schedule.time((schedule.log_snr(t) + schedule.log_snr(s)) / 2)  # where r = sqrt(r_t r_s)
    _, d_u = denoise(schedule.alpha(u) * x_0 + schedule.sigma(u) * d, u)[:2]
    # x_0 + r_s d = y + (r_s - r_t) d, without the difference of large numbers
    y_s = x_0 + r_s * d + (r_s - r_t) * (d_u - d)
    return schedule.alpha(s) * y_s, carry

  return Solver(schedule, init=lambda x: (), step=step, calls=2)
