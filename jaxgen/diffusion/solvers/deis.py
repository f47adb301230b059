"""DEIS, tAB: Zhang and Chen 2022, https://arxiv.org/abs/2204.13902, equations 14 and 15."""

from typing import Literal

import jax.numpy as jnp

from jaxgen.core.errors import UserError
from jaxgen.diffusion.multistep import correction, nothing, remember, weights
from jaxgen.diffusion.sampling import Solver
from jaxgen.diffusion.schedules import Schedule


def deis(schedule: Schedule, order: int = 3, variable: Literal["log_rho", "t"] = "log_rho") -> Solver:
  """Replaces eps in (18) by a polynomial through the last `order` steps; one network call a step.

  The paper's rho is our r. The solver has order `order`; the first steps have order 1, 2, ..

  Args:
    order: the order. The paper counts the polynomial's degree, order - 1.
    variable: the polynomial's variable. "t" is the paper's tAB. "log_rho" is the choice of diffusers; it does not
      depend on the schedule's time variable. With rho itself, the paper's rhoAB, the solver is `lms`.

  Raises:
    UserError: the order is not 1 to 4.
  """
  if order not in (1, 2, 3, 4):
    raise UserError(f"DEIS has order 1 to 4, not {order}: choose one of them")
  of_log_rho = {"log_rho": lambda u: u, "t": lambda u: schedule.time(-2 * u)}[variable]

  def step(denoise, carry, x, t, s, keys):
    u_t, u_s = -schedule.log_snr(t) / 2, -schedule.log_snr(s) / 2  # log rho
    x_0, eps = denoise(x, t)[:2]
    past = remember(carry, eps, t if variable == "t" else u_t)
    C = weights(past.at, u_t, u_s, jnp.exp, of_log_rho)  # (15), over rho: d rho = exp(u) du
    # (14): with eps alone it is the first-order step
    x_s = schedule.alpha(s) * x_0 + schedule.sigma(s) * eps + schedule.alpha(s) * correction(C, past.outputs)
    return x_s, past

  return Solver(schedule, init=lambda x: nothing(x, order), step=step, order=order)
