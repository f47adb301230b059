"""Schedules of interpolating processes (1): alpha falls from 1 at t = 0 to (about) 0 at t = 1.

1 - alpha has its own formula, because it is a small difference near t = 0 and is divided by there.
"""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgen.core.errors import UserError

ScheduleName = Literal["linear", "cosine", "squared_cosine", "geometric", "polynomial"]
Of = Callable[[Float[Array, "..."]], Float[Array, "..."]]


class Schedule(NamedTuple):
  """alpha(t) of (1).

  Attributes:
    alpha: t -> alpha.
    noise: t -> 1 - alpha.
    slope: t -> -alpha', positive.
    end: alpha(1).
  """

  alpha: Of
  noise: Of
  slope: Of
  end: float = 0.0


def linear() -> Schedule:
  """alpha = 1 - t: MDLM's log-linear schedule, and Austin's beta_t = 1 / (T - t + 1) for the absorbing process."""
  return Schedule(lambda t: 1 - t, lambda t: t, jnp.ones_like)


def polynomial(power: float = 2.0) -> Schedule:
  """alpha = 1 - t^power; Shi et al. 2024, https://arxiv.org/abs/2406.04329.

  Raises:
    UserError: the power is not positive.
  """
  if power <= 0:
    raise UserError(f"a polynomial schedule has a positive power, not {power:g}: change it")
  return Schedule(lambda t: 1 - t**power, lambda t: t**power, lambda t: power * t ** (power - 1))


def cosine(offset: float = 0.008) -> Schedule:
  """alpha = cos(a (t + o) / (1 + o)) / cos(a o / (1 + o)), a = pi / 2, o the offset: Hoogeboom et al. 2021.

  Their code has the square root of Nichol's alpha_bar, which is this.

  Raises:
    UserError: the offset is negative.
  """
  if offset < 0:
    raise UserError(f"a cosine schedule's offset is 0 or more, not {offset:g}: change it")
  a = math.pi / 2 / (1 + offset)
  first, top = a * offset, math.cos(a * offset)

  def noise(t):  # cos p - cos q = 2 sin((q + p) / 2) sin((q - p) / 2)
    return 2 * jnp.sin(first + a * t / 2) * jnp.sin(a * t / 2) / top

  # At t = 1 the angle is pi / 2, and the sine of what is left to it is exactly 0 there.
  return Schedule(lambda t: jnp.sin(a * (1 - t)) / top, noise, lambda t: a * jnp.sin(first + a * t) / top)


def squared_cosine(offset: float = 0.008) -> Schedule:
  """The square of `cosine`, which is Nichol's alpha_bar itself: Vignac et al. 2023 (DiGress).

  Raises:
    UserError: the offset is negative.
  """
  root = cosine(offset)
  noise = lambda t: root.noise(t) * (1 + root.alpha(t))
  return Schedule(lambda t: root.alpha(t) ** 2, noise, lambda t: 2 * root.alpha(t) * root.slope(t))


def geometric(low: float = 1e-4, high: float = 20.0) -> Schedule:
  """alpha = exp(-sigma), sigma = low^(1 - t) high^t, less sigma(0), so that alpha(0) = 1: Lou et al. 2024.

  Raises:
    UserError: 0 < low < high does not hold.
  """
  if not 0 < low < high:
    raise UserError(f"a geometric schedule goes from a positive rate to a higher one, not {low:g} to {high:g}")
  ratio = math.log(high / low)
  total = lambda t: low * jnp.expm1(t * ratio)
  slope = lambda t: jnp.exp(-total(t)) * low * ratio * jnp.exp(t * ratio)
  end = math.exp(low - high)
  return Schedule(lambda t: jnp.exp(-total(t)), lambda t: -jnp.expm1(-total(t)), slope, end)


SCHEDULES = {  # () -> Schedule
  "linear": linear,
  "cosine": cosine,
  "squared_cosine": squared_cosine,
  "geometric": geometric,
  "polynomial": polynomial,
}
