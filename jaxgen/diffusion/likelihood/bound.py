"""The bound in continuous time."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxgen.core.arrays import per_example
from jaxgen.core.errors import UserError
from jaxgen.core.keys import fold_in
from jaxgen.diffusion.likelihood.path import position, sum_dims, time, time_range
from jaxgen.diffusion.losses import decoder_nll, diffuse
from jaxgen.diffusion.sampling import Denoise
from jaxgen.diffusion.schedules import Schedule


def continuous_bound(
  denoise: Denoise,
  schedule: Schedule,
  x_0: Float[Array, "batch ..."],
  keys: Key[Array, " batch"],
  *,
  levels: int | None,
  terms: int = 128,
  t_min: float | None = None,
) -> Float[Array, " batch"]:
  """An unbiased estimate of the bound (L7) on -log p(x_0), nats per example, for any schedule, discrete ones too.

  p(x_0 | x_s) is (11) with the network's x_0 at s as its mean and the standard deviation sigma / alpha.

  Args:
    denoise: (x [B, ...], t [B]) -> (x_0, eps); called terms + 1 times.
    levels: number of values per dimension, equidistant in [-1, 1]; None for continuous data.
    terms: number of draws of t for each example, each from its own part of the integral.
    t_min: s; by default the schedule's.

  Raises:
    UserError: terms < 1, or t_min is 0, where there is no noise, or is not below T.
  """
  if terms < 1:
    raise UserError(f"the bound's integral takes 1 or more terms, not {terms}: change their number")
  t_min, T = time_range(schedule, t_min, x_0.dtype)
  first, last = position(schedule, t_min), position(schedule, T)

  def add(total: Array, k: Array) -> tuple[Array, None]:
    u_keys, eps_keys = jax.vmap(lambda key: jax.random.split(jax.random.fold_in(key, k)), out_axes=1)(keys)
    within = jax.vmap(lambda key: jax.random.uniform(key, (), x_0.dtype))(u_keys)
    t = jnp.clip(time(schedule, first + (last - first) * (k + within) / terms), t_min, T)
    phi = jnp.arctan2(schedule.sigma(t), schedule.alpha(t))
    x_t, eps = diffuse(schedule, x_0, t, eps_keys)
    x_0_hat, eps_hat = denoise(x_t, t)[:2]
    cos, sin = (per_example(value, x_0) for value in (jnp.cos(phi), jnp.sin(phi)))
    error = cos * (eps - eps_hat) - sin * (x_0 - x_0_hat)  # v - v_hat
    return total + (last - first) / terms * jnp.cos(phi) * sum_dims(error**2), None

  integral = jax.lax.scan(add, jnp.zeros(len(x_0), x_0.dtype), jnp.arange(terms))[0]

  x_s, _ = diffuse(schedule, x_0, jnp.full(len(x_0), t_min), fold_in(keys, terms))
  mean = denoise(x_s, jnp.full(len(x_0), t_min))[0]
  decoder = sum_dims(decoder_nll(x_0, mean, schedule.sigma(t_min) / schedule.alpha(t_min), levels))

  alpha_T, sigma_T = schedule.alpha(T) / schedule.prior_std, schedule.sigma(T) / schedule.prior_std
  log_variance = 2 * jnp.log(sigma_T)
  prior = 0.5 * sum_dims((alpha_T * x_0) ** 2 + jnp.expm1(log_variance) - log_variance)  # (9) with the prior's variance
  return prior + decoder + integral
