"""Linear multistep (Adams-Bashforth with steps of any size), like k-diffusion's `sample_lms`:
https://github.com/crowsonkb/k-diffusion; Katherine Crowson, after Karras et al. 2022, https://arxiv.org/abs/2206.00364."""

from jaxgen.core.errors import UserError
from jaxgen.diffusion.multistep import correction, nothing, remember, weights
from jaxgen.diffusion.sampling import Solver
from jaxgen.diffusion.schedules import Schedule


def lms(schedule: Schedule, order: int = 4) -> Solver:
  """Replaces eps in (18) by a polynomial in r = sigma / alpha through the last `order` steps; one network call a step.

  The solver has order `order`; the first steps have order 1, 2, .. The integrals are exact.

  Raises:
    UserError: the order is not 1 to 4.
  """
  if order not in (1, 2, 3, 4):
    raise UserError(f"the linear multistep solver has order 1 to 4, not {order}: choose one of them")

  def step(denoise, carry, x, t, s, keys):
    r_t, r_s = schedule.sigma(t) / schedule.alpha(t), schedule.sigma(s) / schedule.alpha(s)
    x_0, eps = denoise(x, t)[:2]
    past = remember(carry, eps, r_t)
    # y_s = y + sum_j w_j eps_j; with eps alone it is x_0 + r_s eps
    y_s = x_0 + r_s * eps + correction(weights(past.at, r_t, r_s), past.outputs)
    return schedule.alpha(s) * y_s, past

  return Solver(schedule, init=lambda x: nothing(x, order), step=step, to_clean="step", order=order)
