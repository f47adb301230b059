"""The path of the ODE (L2): its ends, its variable u, and sums over an example's dimensions."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgen.core.errors import UserError
from jaxgen.diffusion.schedules import Schedule


def time_range(schedule: Schedule, t_min: float | None, dtype: Any) -> tuple[Array, Array]:
  """(t_min, T)."""
  t_min = schedule.t_min if t_min is None else t_min
  if schedule.is_clean(t_min) or not t_min < schedule.T:
    raise UserError(f"a likelihood starts at a t_min above 0, with noise, and below {schedule.T:g}, not at {t_min:g}")
  return jnp.asarray(t_min, dtype), jnp.asarray(schedule.T, dtype)


def position(schedule: Schedule, t: Array) -> Array:
  """u of (L2)."""
  return -jnp.arcsinh(schedule.alpha(t) / schedule.sigma(t))


def time(schedule: Schedule, u: Array) -> Array:
  """The t at u; log-SNR is -inf at u = 0."""
  return schedule.time(2 * jnp.log(jnp.sinh(jnp.maximum(-u, 0))))  # a last step may round to u > 0


def sum_dims(x: Float[Array, "batch ..."]) -> Float[Array, " batch"]:
  return jnp.sum(x, axis=range(1, x.ndim))
