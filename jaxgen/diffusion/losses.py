"""Losses per example: the simple one, and the variational bound's terms. Equations: `jaxgen.diffusion`, (7) to (12).

The bound's coefficients are tables over t, computed in float64 when the bound is built: they contain differences of
nearly equal numbers, which would be rounding noise in float32.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import log_ndtr
from jaxtyping import Array, Bool, Float, Key, Num

from jaxgen.core.arrays import per_example
from jaxgen.core.errors import UserError
from jaxgen.core.keys import fold_in, normal, split
from jaxgen.diffusion.sampling import Denoise
from jaxgen.diffusion.schedules import Schedule, Variance, lookup, posterior


def simple(
  output: Float[Array, "batch ..."], target: Float[Array, "batch ..."], mask: Bool[Array, "batch ..."] | None = None
) -> Float[Array, " batch"]:
  """(7): the squared error, a mean over each example's dimensions. Ho et al. 2020, eq. 14, if the target is eps.

  Args:
    mask: booleans over the example's leading axes. The mean is over entries with True; it is 0 if there are none.
  """
  return _mean((output - target) ** 2, mask)


def absolute(
  output: Float[Array, "batch ..."], target: Float[Array, "batch ..."], mask: Bool[Array, "batch ..."] | None = None
) -> Float[Array, " batch"]:
  """The absolute error, a mean over each example's dimensions, in place of `simple`.

  Chen et al. 2020 (WaveGrad), https://arxiv.org/abs/2009.00713, section 2. The best network's output is then the median
  of eps given x_t, and not its mean.
  """
  return _mean(jnp.abs(output - target), mask)


def _mean(each: Float[Array, "batch ..."], mask: Bool[Array, "batch ..."] | None) -> Float[Array, " batch"]:
  """Over the entries of an example that the mask has, 0 if there are none."""
  axes = range(1, each.ndim)
  if mask is None:
    return jnp.mean(each, axis=axes)
  there = jnp.broadcast_to(per_example(mask, each), each.shape)
  return jnp.sum(each, axis=axes, where=there) / jnp.maximum(jnp.sum(there, axis=axes), 1)


class Bound(NamedTuple):
  """The variational bound of -log p(x_0), (8), in nats per example: prior(x_0) + the sum over t of term(.., t).

  Attributes:
    prior: x_0 [B, ...] -> L_T [B], (9).
    term: (x_0 [B, ...], the network's x_0 [B, ...], t [B] in 1 .. T, fraction [B, ...] of a learned variance) -> [B]:
      L_0, (11), for t = 1, and L_{t-1}, (10), for larger t.
  """

  prior: Callable[[Float[Array, "batch ..."]], Float[Array, " batch"]]
  term: Callable[..., Float[Array, " batch"]]


def bound(schedule: Schedule, variance: Variance = "posterior", levels: int | None = 256) -> Bound:
  """The bound of Ho et al. 2020, eq. 5, with p_theta's variance (12).

  Args:
    schedule: a discrete schedule.
    variance: see (12).
    levels: number of values per dimension; None: the data is continuous.

  Raises:
    UserError: there are fewer than two levels, or the schedule is continuous.
  """
  if levels is not None and levels < 2:
    raise UserError(f"data of {levels} levels has no likelihood to bound: give 2 or more, or None for continuous data")
  if schedule.steps is None:
    raise UserError("a continuous process has no sum of steps to bound its likelihood by: use its ODE's likelihood")
  t = np.arange(1, schedule.steps + 1, dtype=np.float64)
  q = posterior(schedule, t, t - 1)
  c = np.append(q.c[1:2] if schedule.steps > 1 else q.beta, q.c[1:])  # c_1 = 0: see (12); T = 1 has beta_1 alone
  log_c = np.log(c)
  log_beta = {"posterior": log_c, "beta": np.append(log_c[:1], np.log(q.beta[1:])), "learned": np.log(q.beta)}[variance]
  last = np.array([float(schedule.steps)])
  alpha_T, sigma_T = schedule.alpha(last)[0] / schedule.prior_std, schedule.sigma(last)[0] / schedule.prior_std
  prior_constant = 0.5 * (sigma_T**2 - 1 - np.log(sigma_T**2))
  dims = lambda x: tuple(range(1, x.ndim))

  def prior(x_0: Float[Array, "batch ..."]) -> Float[Array, " batch"]:
    return jnp.sum(0.5 * float(alpha_T**2) * x_0**2 + float(prior_constant), axis=dims(x_0))

  def term(
    x_0: Float[Array, "batch ..."],
    predicted: Float[Array, "batch ..."],
    t: Num[Array, " batch"],
    fraction: Float[Array, "batch ..."] | float = 1.0,
  ) -> Float[Array, " batch"]:
    each = lambda table: per_example(lookup(table)(t - 1), x_0)
    log_ratio = fraction * each(log_beta - log_c)  # log v - log c, (12)
    constants = 0.5 * (jnp.expm1(-log_ratio) + log_ratio)
    kl = jnp.sum(constants + each(0.5 * q.b**2 / c) * jnp.exp(-log_ratio) * (x_0 - predicted) ** 2, axis=dims(x_0))
    # In the step to t = 0, a = 0 and b = 1: the mean is the predicted x_0. At other t the decoder's result is not used.
    mean = jnp.where(per_example(t == 1, x_0), predicted, x_0)
    std = jnp.exp(0.5 * (float(log_c[0]) + fraction * float(log_beta[0] - log_c[0])))
    return jnp.where(t == 1, jnp.sum(decoder_nll(x_0, mean, std, levels), axis=dims(x_0)), kl)

  return Bound(prior, term)


def bound_nll(
  denoise: Denoise,
  schedule: Schedule,
  x_0: Float[Array, "batch ..."],
  keys: Key[Array, " batch"],
  *,
  levels: int | None,
  variance: Variance = "posterior",
  terms: int | None = None,
  clip: bool = True,
) -> Float[Array, " batch"]:
  """An unbiased estimate of the bound (8) on -log p(x_0), nats per example; each term has one draw of x_t.

  Args:
    denoise: (x [B, ...], t [B]) -> (x_0, eps), and also the variance's fraction if it is learned.
    levels, variance: as in `bound`.
    terms: None evaluates all T terms with T network calls. A number K evaluates K terms per example with K calls: it
      cuts 1 .. T into K parts and draws one t from each, which is unbiased.
    clip: clip the predicted x_0 to [-1, 1], the range of images, as in the paper's code.

  Raises:
    UserError: terms lies outside 1 .. T; or see `bound`.
  """
  parts = bound(schedule, variance, levels)
  T, K = schedule.steps, schedule.steps if terms is None else terms
  if not 1 <= K <= T:
    raise UserError(f"the bound takes 1 to {T} terms on this schedule, or None for all of them, not {K}: change it")
  edges = np.arange(K + 1) * T // K  # the k-th of K strata is t = edges[k] + 1 .. edges[k + 1]

  def add(total, stratum):
    k, low, high = stratum
    t_keys, eps_keys = split(fold_in(keys, k))
    t = jax.vmap(lambda key: jax.random.randint(key, (), low + 1, high + 1))(t_keys).astype(x_0.dtype)
    x_t, _ = diffuse(schedule, x_0, t, eps_keys)
    predicted, _, *fraction = denoise(x_t, t)
    predicted = predicted.clip(-1, 1) if clip else predicted
    return total + (high - low) * parts.term(x_0, predicted, t, *fraction), None

  strata = (jnp.arange(K), jnp.asarray(edges[:-1], jnp.int32), jnp.asarray(edges[1:], jnp.int32))
  return jax.lax.scan(add, parts.prior(x_0), strata)[0]


def diffuse(
  schedule: Schedule,
  x_0: Float[Array, "batch ..."],
  t: Float[Array, " batch"],
  keys: Key[Array, " batch"],
  eps: Float[Array, "batch ..."] | None = None,
) -> tuple[Float[Array, "batch ..."], Float[Array, "batch ..."]]:
  """(x_t, eps) by (1), each example's noise from its own key, unless the noise is given."""
  eps = normal(keys, x_0.shape[1:], x_0.dtype) if eps is None else eps
  return per_example(schedule.alpha(t), x_0) * x_0 + per_example(schedule.sigma(t), x_0) * eps, eps


def decoder_nll(
  x_0: Float[Array, "..."], mean: Float[Array, "..."], std: float | Float[Array, "..."], levels: int | None
) -> Float[Array, "..."]:
  """(11): -log of N(mean, std^2)'s mass in the bin of x_0, in nats per dimension. Ho et al. 2020, eq. 13.

  The levels are -1, -1 + 2 / (levels - 1), .., 1 and each bin reaches half way to the next, the first and the last to
  infinity, so that the masses sum to 1. The result is exact far into the tails (the paper's code stops at log 1e-12 and
  approximates the normal distribution function).

  Args:
    levels: number of values per dimension; None for continuous data, for which the result is -log of the density.
  """
  z = (x_0 - mean) / std
  if levels is None:
    return 0.5 * z**2 + jnp.log(std) + 0.5 * float(np.log(2 * np.pi))
  half = 1 / (levels - 1)
  width = half / std
  first, last = x_0 < half - 1, x_0 > 1 - half
  # A bin in the upper tail has the mass of its mirror image in the lower tail, where log_ndtr is accurate.
  upper = log_ndtr(width + jnp.where(first, z, jnp.where(last, -z, -jnp.abs(z))))
  lower = log_ndtr(-width - jnp.abs(z))
  return -upper - jnp.where(first | last, 0, jnp.log(-jnp.expm1(lower - upper)))
