"""The churn of EDM's stochastic sampler: Karras et al. 2022, https://arxiv.org/abs/2206.00364, Algorithm 2."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxgen.core.errors import UserError
from jaxgen.core.keys import normal
from jaxgen.diffusion.schedules import Schedule

MOST = 2**0.5 - 1  # the largest gamma


def churning(schedule: Schedule, churn: float, low: float, high: float, noise: float) -> Callable[..., tuple]:
  """(x at t, t, keys) -> (x at t_hat, t_hat), with a little more noise, from where a solver's step starts.

  The paper's sigma is r = sigma / alpha here, and its noise is added by (4), for any schedule. If low <= r <= high,
  t_hat is the time with r_hat = (1 + gamma) r, gamma = min(churn, sqrt(2) - 1); otherwise it is t. Unlike in the paper
  it is never above T, because the network was not trained there.

  Raises:
    UserError: churn < 0.
  """
  if churn < 0:
    raise UserError(
      f"EDM's churn is S_churn divided by the number of steps, 0 or more, and this is {churn:g}: change it"
    )
  if not churn:
    return lambda x, t, keys: (x, t)
  gamma = min(churn, MOST)

  def stir(x: jax.Array, t: jax.Array, keys: jax.Array) -> tuple[jax.Array, jax.Array]:
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    inside = (low <= sigma / alpha) & (sigma / alpha <= high)
    raised = jnp.minimum(schedule.time(-2 * jnp.log((1 + gamma) * sigma / alpha)), schedule.T)
    t_hat = jnp.where(inside, raised, t)
    scale = schedule.alpha(t_hat) / alpha  # alpha_ts of (4), with t_hat after t; and sigma_ts, as factors
    added = (schedule.sigma(t_hat) - scale * sigma) * (schedule.sigma(t_hat) + scale * sigma)
    return scale * x + noise * jnp.sqrt(jnp.maximum(added, 0)) * normal(keys, x.shape[1:], x.dtype), t_hat

  return stir
