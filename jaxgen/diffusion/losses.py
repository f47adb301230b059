"""Losses per example: the simple one, and the variational bound's terms. Equations: `jaxgen.diffusion`, (7) to (12).

The bound's coefficients are tables over t, computed in float64 when the bound is built: in float32 the differences of
near-equal numbers in them would be rounding noise.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.scipy.special import log_ndtr
from jaxtyping import Array, Float

from jaxgen.diffusion.schedules import Schedule, Variance, lookup, posterior
from jaxgen.errors import UserError


def simple(output: Float[Array, "batch ..."], target: Float[Array, "batch ..."]) -> Float[Array, " batch"]:
  """(7): the squared error, a mean over each example's dimensions. Ho et al. 2020, eq. 14, where the target is eps."""
  return jnp.mean((output - target) ** 2, axis=range(1, output.ndim))


class Bound(NamedTuple):
  """The variational bound of -log p(x_0), (8), in nats per example: prior(x_0) + the sum over t of term(.., t).

  prior: x_0 [B, ...] -> L_T [B], (9).
  term: (x_0 [B, ...], the network's x_0 [B, ...], t [B] in 1 .. T) -> [B]: L_0, (11), where t = 1, else
    L_{t-1}, (10).
  """

  prior: Callable[[Float[Array, "batch ..."]], Float[Array, " batch"]]
  term: Callable[[Float[Array, "batch ..."], Float[Array, "batch ..."], Float[Array, " batch"]], Float[Array, " batch"]]


def bound(schedule: Schedule, variance: Variance = "posterior", levels: int | None = 256) -> Bound:
  """The bound of Ho et al. 2020, eq. 5, with p_theta's variance (12) and data of so many levels (None: continuous).

  Raises:
    UserError: fewer than two levels.
  """
  if levels is not None and levels < 2:
    raise UserError(f"data of {levels} levels has no likelihood to bound: give 2 or more, or None for continuous data")
  t = np.arange(1, schedule.steps + 1, dtype=np.float64)
  q = posterior(schedule, t, t - 1)
  c = np.append(q.c[1:2] if schedule.steps > 1 else q.beta, q.c[1:])  # c_1 = 0: see (12); T = 1 has beta_1 alone
  v = {"posterior": c, "beta": np.append(c[:1], q.beta[1:])}[variance]
  constants = 0.5 * (c / v - 1 - np.log(c / v))
  weights = 0.5 * q.b**2 / v
  first_std = float(np.sqrt(v[0]))
  last = np.array([float(schedule.steps)])
  (alpha_T,), (sigma_T,) = schedule.alpha(last), schedule.sigma(last)
  prior_constant = 0.5 * (sigma_T**2 - 1 - np.log(sigma_T**2))
  dims = lambda x: tuple(range(1, x.ndim))

  def prior(x_0: Float[Array, "batch ..."]) -> Float[Array, " batch"]:
    return jnp.sum(0.5 * float(alpha_T**2) * x_0**2 + float(prior_constant), axis=dims(x_0))

  def term(
    x_0: Float[Array, "batch ..."], predicted: Float[Array, "batch ..."], t: Float[Array, " batch"]
  ) -> Float[Array, " batch"]:
    each = lambda table: lookup(table)(t - 1).reshape(-1, *[1] * (x_0.ndim - 1))
    kl = jnp.sum(each(constants) + each(weights) * (x_0 - predicted) ** 2, axis=dims(x_0))
    # In the step to t = 0, a = 0 and b = 1: the mean is the predicted x_0. Elsewhere the decoder sees a harmless one.
    mean = jnp.where((t == 1).reshape(-1, *[1] * (x_0.ndim - 1)), predicted, x_0)
    return jnp.where(t == 1, jnp.sum(decoder_nll(x_0, mean, first_std, levels), axis=dims(x_0)), kl)

  return Bound(prior, term)


def decoder_nll(
  x_0: Float[Array, "..."], mean: Float[Array, "..."], std: float, levels: int | None
) -> Float[Array, "..."]:
  """(11): -log of N(mean, std^2)'s mass in the bin of x_0, in nats per dimension. Ho et al. 2020, eq. 13.

  The levels are -1, -1 + 2 / (levels - 1), .., 1 and each bin reaches half way to the next, the first and the last to
  infinity, so that the masses sum to 1. Exact far into the tails (the paper's code stops at log 1e-12 and approximates
  the normal distribution function).

  levels: None for continuous data, whose -log density it is.
  """
  z = (x_0 - mean) / std
  if levels is None:
    return 0.5 * z**2 + float(np.log(std) + 0.5 * np.log(2 * np.pi))
  half = 1 / (levels - 1)
  width = half / std
  first, last = x_0 < half - 1, x_0 > 1 - half
  # A bin in the upper tail weighs what its mirror image in the lower tail does, where log_ndtr has digits.
  upper = log_ndtr(width + jnp.where(first, z, jnp.where(last, -z, -jnp.abs(z))))
  lower = log_ndtr(-width - jnp.abs(z))
  return -upper - jnp.where(first | last, 0, jnp.log(-jnp.expm1(lower - upper)))
