"""DPM-Solver++(2M): Lu et al. 2022, https://arxiv.org/abs/2211.01095, Algorithm 2."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxgen.diffusion.sampling import Solver
from jaxgen.diffusion.schedules import Schedule


class Past(NamedTuple):
  x_0: jax.Array  # the last step's prediction of x_0
  lambda_: jax.Array  # log(alpha / sigma) of that prediction; -inf if there was none


def dpmpp_2m(schedule: Schedule) -> Solver:
  """Second order, one network call a step: x_0 is extrapolated from the predictions of the last two steps.

  The first step has no past and is of first order.
  """

  def step(denoise, carry, x, t, s, keys):
    lambda_t, lambda_s = schedule.log_snr(t) / 2, schedule.log_snr(s) / 2
    h = lambda_s - lambda_t
    x_0, _ = denoise(x, t)[:2]
    # The extrapolation factor 1 / (2 r), r = h_past / h, is 0 where there is no past: h_past is infinite then.
    half_r = h / (2 * (lambda_t - carry.lambda_))
    D = x_0 + half_r * (x_0 - carry.x_0)
    x_s = schedule.sigma(s) / schedule.sigma(t) * x - schedule.alpha(s) * jnp.expm1(-h) * D
    return x_s, Past(x_0, lambda_t)

  init = lambda x: Past(jnp.zeros_like(x), jnp.full((), -jnp.inf, x.dtype))
  return Solver(schedule, init, step, order=2)
