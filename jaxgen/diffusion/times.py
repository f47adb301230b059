"""Distributions of t for losses, and the number that tells a network the time.

A distribution of t is a NamedTuple of pure functions. Each example's t comes from the example's key or its position in
the batch, so that microbatches and meshes see the same times. If a distribution only reduces the variance
(low-discrepancy, importance sampling), weights correct for it. If it is part of the loss, as in EDM and SD3, the
weights are 1.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, Num

from jaxgen.core.errors import UserError
from jaxgen.core.keys import split
from jaxgen.diffusion.schedules import Point, Schedule

TimesName = Literal["uniform", "log_normal", "logit_normal"]


class Drawn(NamedTuple):
  t: Float[Array, " batch"]
  weight: Float[
    Array, " batch"
  ]  # by which a loss at t is multiplied; 1 where t is as likely as the loss means it to be


class Times(NamedTuple):
  """A distribution of t.

  Attributes:
    draw: (buffers, key [], keys [B], index [B]) -> Drawn. `key` belongs to the step, keys and index to the examples.
    init: () -> buffers that training updates; {} if there are none.
    update: (buffers, t [B], loss [B] before the weight) -> buffers.
    mean: whether an example's t depends only on its key and index. If not, the loss allows neither microbatches nor
      pmap.
  """

  draw: Callable[[Any, Array, Array, Array], Drawn]
  init: Callable[[], Any] = dict
  update: Callable[..., Any] = lambda buffers, t, loss: buffers
  mean: bool = True


def _from_unit(schedule: Schedule, u: Array, first: float) -> Array:
  """Maps u in [0, 1] to a time, uniform over the steps 1 .. T or on [first, T]. u = 1 occurs by rounding."""
  if schedule.steps is None:
    return jnp.maximum(schedule.T - u * (schedule.T - first), first)
  return schedule.steps - jnp.minimum(jnp.floor(u * schedule.steps), schedule.steps - 1)


def _each(keys: Key[Array, " batch"], draw: Callable[..., Array]) -> Num[Array, " batch"]:
  return jax.vmap(lambda key: draw(key, ()))(keys)


def uniform(schedule: Schedule, first: float | None = None) -> Times:
  """t uniform on the steps 1 .. T, or on (first, T] in continuous processes; by default first is t_min.

  Ho et al. 2020, Algorithm 1; Song et al. 2021, eq. 7, where first = 1e-5.
  """
  first = schedule.t_min if first is None else first

  def draw(buffers: Any, key: Array, keys: Key[Array, " batch"], index: Int[Array, " batch"]) -> Drawn:
    if schedule.steps is None:
      t = _from_unit(schedule, _each(keys, jax.random.uniform), first)
    else:
      t = _each(keys, lambda key, shape: jax.random.randint(key, shape, 1, schedule.steps + 1)).astype(float)
    return Drawn(t, jnp.ones_like(t))

  return Times(draw)


def last(schedule: Schedule) -> Times:
  """t = T for every example: the one time of a model of one step."""

  def draw(buffers: Any, key: Array, keys: Key[Array, " batch"], index: Int[Array, " batch"]) -> Drawn:
    t = jnp.full(index.shape, schedule.T, float)
    return Drawn(t, jnp.ones_like(t))

  return Times(draw)


def low_discrepancy(schedule: Schedule, batch_size: int, first: float | None = None) -> Times:
  """One uniform draw u for the whole batch; example i of B uses u + i / B, modulo 1.

  Kingma et al. 2021 (VDM), https://arxiv.org/abs/2107.00630, Appendix I.1. Each t is uniform as in `uniform`, and the
  batch's mean has less variance.

  Args:
    batch_size: B, the size of the global batch in which `index` counts.

  Raises:
    UserError: batch_size < 1.
  """
  if batch_size < 1:
    raise UserError(f"low-discrepancy times need the batch's size, not {batch_size}: give 1 or more")
  first = schedule.t_min if first is None else first

  def draw(buffers: Any, key: Array, keys: Key[Array, " batch"], index: Int[Array, " batch"]) -> Drawn:
    u = (jax.random.uniform(key) + index.astype(jnp.float32) / batch_size) % 1.0
    t = _from_unit(schedule, u, first)
    return Drawn(t, jnp.ones_like(t))

  return Times(draw)


def log_normal(schedule: Schedule, mean: float = -1.2, std: float = 1.2) -> Times:
  """log(sigma / alpha) ~ N(mean, std^2), rounded to steps in discrete processes; Karras et al. 2022 (EDM), Table 1.

  Raises:
    UserError: std <= 0.
  """
  _positive("std", std)

  def draw(buffers: Any, key: Array, keys: Key[Array, " batch"], index: Int[Array, " batch"]) -> Drawn:
    t = schedule.time(-2 * (mean + std * _each(keys, jax.random.normal)))
    t = t if schedule.steps is None else jnp.round(t)
    t = jnp.clip(t, 1.0 if schedule.steps else 1e-3 * schedule.t_min, schedule.T)
    return Drawn(t, jnp.ones_like(t))

  return Times(draw)


def logit_normal(schedule: Schedule, mean: float = 0.0, std: float = 1.0) -> Times:
  """t / T = sigmoid(u), u ~ N(mean, std^2), rounded up to steps in discrete processes; Esser et al. 2024 (SD3), eq. 19.

  Raises:
    UserError: std <= 0.
  """
  _positive("std", std)

  def draw(buffers: Any, key: Array, keys: Key[Array, " batch"], index: Int[Array, " batch"]) -> Drawn:
    t = schedule.T * jax.nn.sigmoid(mean + std * _each(keys, jax.random.normal))
    t = jnp.maximum(t, 1e-3 * schedule.t_min) if schedule.steps is None else jnp.clip(jnp.ceil(t), 1, schedule.T)
    return Drawn(t, jnp.ones_like(t))

  return Times(draw)


class History(NamedTuple):
  losses: Float[Array, "bins last"]
  count: Int[Array, " bins"]


def by_loss(schedule: Schedule, bins: int | None = None, last: int = 10, uniform_part: float = 1e-3) -> Times:
  """p(t) proportional to sqrt(E[loss_t^2]), a mean over the last losses at t. Weights 1 / (T p) keep the mean loss.

  Nichol and Dhariwal 2021, https://arxiv.org/abs/2102.09672, eq. 18, and their code: p is uniform until every t has
  been drawn `last` times, and a small part of it stays uniform.

  Args:
    bins: number of equal intervals of t, in each of which t is uniform. By default the steps of a discrete process, or
      100 for a continuous one.
    last: number of losses that are kept for each bin.
    uniform_part: the share of p that stays uniform.

  Raises:
    UserError: there is no bin, or the bins do not divide a discrete process's steps.
  """
  bins = bins or schedule.steps or 100
  if bins < 1 or (schedule.steps and schedule.steps % bins):
    raise UserError(f"the times' {bins} parts must divide the schedule's {schedule.steps} steps: change them")

  def init() -> History:
    return History(jnp.zeros((bins, last)), jnp.zeros(bins, jnp.int32))

  def draw(buffers: History, key: Array, keys: Key[Array, " batch"], index: Int[Array, " batch"]) -> Drawn:
    p = jnp.sqrt(jnp.mean(buffers.losses**2, axis=1))
    p = jnp.where(jnp.all(buffers.count >= last) & (p.sum() > 0), p / p.sum(), 1 / bins)
    p = (1 - uniform_part) * p + uniform_part / bins
    which, where = split(keys)
    bin_ = jax.vmap(lambda key: jax.random.categorical(key, jnp.log(p)))(which)
    # The bins count down from T, as `_from_unit` does.
    t = _from_unit(schedule, (bin_ + _each(where, jax.random.uniform)) / bins, schedule.t_min)
    return Drawn(t, 1 / (bins * p[bin_]))

  def update(buffers: History, t: Float[Array, " batch"], loss: Float[Array, " batch"]) -> History:
    low = schedule.t_min if schedule.steps is None else 0.0
    bin_ = jnp.clip(jnp.floor((schedule.T - t) / (schedule.T - low) * bins), 0, bins - 1).astype(jnp.int32)
    same = bin_[:, None] == bin_[None, :]
    before = jnp.sum(jnp.tril(same, -1), axis=1)
    after = jnp.sum(jnp.triu(same, 1), axis=1)
    slot = jnp.where(after < last, (buffers.count[bin_] + before) % last, last)  # those pushed out at once go nowhere
    losses = buffers.losses.at[bin_, slot].set(jax.lax.stop_gradient(loss).astype(jnp.float32), mode="drop")
    return History(losses, buffers.count.at[bin_].add(1))

  return Times(draw, init, update, mean=False)


def noise_levels(schedule: Schedule) -> Times:
  """alpha uniform between those of the steps t - 1 and t of a discrete process, and t uniform on 1 .. T.

  Chen et al. 2020 (WaveGrad), https://arxiv.org/abs/2009.00713, Algorithm 1, who write sqrt(alpha_bar) for alpha. The
  network is told the level, `noise_level`, and not a step, so that samples may take other steps than the process has.
  Saharia et al. 2021 (SR3), https://arxiv.org/abs/2104.07636, section 2.4, do so with alpha_bar itself.

  Raises:
    UserError: a continuous process, which has no steps.
  """
  if schedule.steps is None:
    raise UserError("noise levels are drawn between the steps of a discrete process: choose one, or uniform times")

  def draw(buffers: Any, key: Array, keys: Key[Array, " batch"], index: Int[Array, " batch"]) -> Drawn:
    which, where = split(keys)
    t = _each(which, lambda key, shape: jax.random.randint(key, shape, 1, schedule.steps + 1)).astype(float)
    less, more = schedule.alpha(t), schedule.alpha(t - 1)
    # u = 1 would be no noise at all in the first step.
    alpha = less + jnp.minimum(_each(where, jax.random.uniform), 1 - 1e-3) * (more - less)
    t = jnp.clip(schedule.time(2 * (jnp.log(alpha) - jnp.log1p(-(alpha**2)) / 2)), t - 1, t)
    return Drawn(t, jnp.ones_like(t))

  return Times(draw)


def _positive(name: str, value: float) -> None:
  if value <= 0:
    raise UserError(f"{name} of the times' distribution is positive, not {value:g}: change it")


TIMES = {"uniform": uniform, "log_normal": log_normal, "logit_normal": logit_normal}  # Schedule -> Times


# --- What the network is told ---------------------------------------------------------------------------------------

TimeInput = Callable[[Point], Array]  # the schedule at t -> a number for each t


def steps_from_zero(at: Point) -> Array:
  """t - 1: Ho et al. 2020, their code, which counts the steps of a discrete process from 0."""
  return at.t - 1


def thousandths(at: Point) -> Array:
  """999 t, for t in [0, 1]: Song et al. 2021, their code; a sinusoidal embedding is made for the range to 1000."""
  return 999 * at.t


def c_noise(at: Point) -> Array:
  """log(sigma / alpha) / 4: Karras et al. 2022 (EDM), Table 1. Log-SNR below -30 counts as -30."""
  return -jnp.maximum(at.log_snr, -30) / 8


def noise_level(at: Point) -> Array:
  """1000 alpha, which is 1000 sqrt(alpha_bar): WaveGrad's input in place of a step; SR3's is alpha_bar."""
  return 1000 * at.alpha


def aligned(schedule: Schedule) -> TimeInput:
  """The step t - 1 of a discrete process; between two steps their mean, by where alpha lies between theirs.

  Kong et al. 2020 (DiffWave), https://arxiv.org/abs/2009.09761, Appendix B: t_align, counted from 0 as in
  `steps_from_zero`.
  """

  def time_input(at: Point) -> Array:
    low = jnp.clip(jnp.floor(at.t), 0, schedule.T - 1)
    less, more = schedule.alpha(low), schedule.alpha(low + 1)
    return low - 1 + (less - at.alpha) / (less - more)

  return time_input


def itself(at: Point) -> Array:
  """t: Lu and Song 2024 (TrigFlow), who divide the embedding's range instead, section 4.1."""
  return at.t
