"""EDM's solver: Karras et al. 2022, https://arxiv.org/abs/2206.00364, Algorithm 2 (and 1, without churn)."""

from jaxgen.diffusion.sampling import Solver
from jaxgen.diffusion.schedules import Schedule
from jaxgen.diffusion.solvers.churn import churning


def heun(
  schedule: Schedule, churn: float = 0.0, low: float = 0.0, high: float = float("inf"), noise: float = 1.0
) -> Solver:
  """Heun's method on y = x / alpha in r = sigma / alpha, (18): second order, two network calls a step.

  The paper's x and sigma are y and r here. The step to sigma = 0 is the paper's Euler step, with one call and without
  churn.

  Args:
    churn: S_churn / N, the paper's S_churn divided by the number of steps. Before each step with low <= r <= high, r is
      multiplied by 1 + gamma, gamma = min(churn, sqrt(2) - 1). 0 gives Algorithm 1.
    low, high: S_tmin and S_tmax.
    noise: S_noise, the standard deviation of the noise that raises r.

  Raises:
    UserError: churn < 0.
  """
  stir = churning(schedule, churn, low, high, noise)

  def step(denoise, carry, x, t, s, keys):
    x, t = stir(x, t, keys)
    r_t, r_s = schedule.sigma(t) / schedule.alpha(t), schedule.sigma(s) / schedule.alpha(s)
    x_0, d = denoise(x, t)[:2]
    y_s = x_0 + r_s * d  # y + (r_s - r_t) d, without the difference of large numbers
    _, d_s = denoise(schedule.alpha(s) * y_s, s)[:2]
    return schedule.alpha(s) * (y_s + (r_s - r_t) * (d_s - d) / 2), carry

  return Solver(schedule, init=lambda x: (), step=step, calls=2, averages=True)
