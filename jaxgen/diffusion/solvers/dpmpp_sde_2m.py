"""SDE-DPM-Solver++(2M): Lu et al. 2022, https://arxiv.org/abs/2211.01095, its solvers of diffusion SDEs."""

import jax.numpy as jnp

from jaxgen.core.errors import UserError
from jaxgen.core.keys import normal
from jaxgen.diffusion.sampling import Solver
from jaxgen.diffusion.schedules import Schedule
from jaxgen.diffusion.solvers.dpmpp_2m import Past


def dpmpp_sde_2m(schedule: Schedule, eta: float = 1.0) -> Solver:
  """DPM-Solver++(2M) for the reverse SDE (16), one network call a step: x_0 is extrapolated from the last two steps.

  The first step, without a past, is of first order: SDE-DPM-Solver++ 1, which is `ancestral` with the posterior's
  variance. The form is the "midpoint" one of the diffusers library.

  Args:
    eta: the noise's strength, as in k-diffusion's `sample_dpmpp_2m_sde`; 0 is the deterministic `dpmpp_2m`.

  Raises:
    UserError: eta < 0.
  """
  if eta < 0:
    raise UserError(f"the SDE solver's noise is multiplied by eta, 0 or more, and this is {eta:g}: change it")

  def step(denoise, carry, x, t, s, keys):
    alpha_s, sigma_s, sigma_t = schedule.alpha(s), schedule.sigma(s), schedule.sigma(t)
    lambda_t, lambda_s = schedule.log_snr(t) / 2, schedule.log_snr(s) / 2
    h = lambda_s - lambda_t
    x_0, _ = denoise(x, t)[:2]
    # The extrapolation factor 1 / (2 r), r = h_past / h, is 0 where there is no past: h_past is infinite then.
    half_r = h / (2 * (lambda_t - carry.lambda_))
    D = x_0 + half_r * (x_0 - carry.x_0)
    mean = sigma_s / sigma_t * jnp.exp(-eta * h) * x - alpha_s * jnp.expm1(-(1 + eta) * h) * D
    return mean + sigma_s * jnp.sqrt(-jnp.expm1(-2 * eta * h)) * normal(keys, x.shape[1:], x.dtype), Past(x_0, lambda_t)

  init = lambda x: Past(jnp.zeros_like(x), jnp.full((), -jnp.inf, x.dtype))
  return Solver(schedule, init, step, order=2)
