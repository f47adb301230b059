"""A diffusion network's prediction, its time input and its loss. Equations: `jaxgen.diffusion`."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxgen.core.arrays import masked
from jaxgen.core.condition import Condition, Told
from jaxgen.core.errors import UserError
from jaxgen.core.keys import example_keys, split
from jaxgen.core.method import Batch, Params, State
from jaxgen.core.spec import Spec
from jaxgen.diffusion import PREDICTIONS, Prediction, Schedule, Variance, losses
from jaxgen.diffusion.losses import diffuse
from jaxgen.diffusion.predictions import to_x0_eps
from jaxgen.diffusion.sampling import Denoise
from jaxgen.diffusion.times import TimeInput, Times, c_noise, steps_from_zero, thousandths, uniform
from jaxgen.diffusion.weightings import Weighting, simple

Examples = Float[Array, "batch ..."]
LOG_VARIANCE = "log_variance"  # an entry of the network's parameters, which its module does not use
PRIOR = "prior_"  # before the names of a batch's entries that preserve what a network knew
PRIOR_STREAM = 0x50000000  # fold_in data of the key of their times and noise
NOISE = "noise"  # a batch's noise of each example, where a stage has made pairs of both
Mask = Bool[Array, "batch ..."] | None  # over an example's leading axes: True for entries, False for padding


class Objective(NamedTuple):
  """The network's output and its loss.

  Attributes:
    prediction: the network's output.
    weighting: the weighting of its error over t; None: the loss is only the bound, `vlb`.
    times: the distribution of t; None: uniform.
    time_input: the number that tells the network t; None: t - 1 in discrete processes, 999 t in continuous ones with t
      in [0, 1], log(sigma / alpha) / 4 if t goes further, as EDM's to 80.
    variance: the variance of p_theta in the bound; "learned" is interpolated by the second half of the network's
      channels, (12).
    vlb: factor of the discrete variational bound (8), in nats per dimension, estimated by one t per example, which is
      added to the loss. With a weighting it trains only the learned variance: Nichol and Dhariwal 2021, eq. 16.
    uncertainty: a module of c_noise [B] -> u [B], such as `LogVariance`, the entry "log_variance" of the network's
      parameters; the loss at t is L / exp(u) + u, so that u learns log L: Karras et al. 2024 (EDM2), eq. 14 to 17.
    error: (output, target, mask) -> [B], `losses.simple`, the squared error, or `losses.absolute`.
  """

  prediction: Prediction = PREDICTIONS["eps"]
  weighting: Weighting | None = simple
  times: Times | None = None
  time_input: TimeInput | None = None
  variance: Variance = "posterior"
  vlb: float = 0.0
  uncertainty: Any = None
  error: Callable[..., Float[Array, " batch"]] = losses.simple

  def on(self, schedule: Schedule) -> "Objective":
    """The objective with the schedule's defaults for `times` and `time_input` that are None."""
    continuous = thousandths if schedule.T <= 1 else c_noise
    return self._replace(
      times=self.times or uniform(schedule),
      time_input=self.time_input or (continuous if schedule.steps is None else steps_from_zero),
    )


SIMPLE = Objective()  # Ho et al. 2020, eq. 14


class Model(NamedTuple):
  """A network of x_t, and the conversion of its output to x_0 and eps.

  Attributes:
    network: a Flax module; `network.apply({"params": p}, x, time [B], told, index=index, rngs={"dropout": key})` -> an
      array like x, or with twice the channels if a variance is learned. `told` is the condition's values, or None. If
      examples have padding, it also gets `mask=mask`. Without index there is no dropout. A flow map has two times as
      input, [B, 2]: those of t and of t - s, where s is where its step leads.
  """

  network: Any
  schedule: Schedule
  prediction: Prediction
  time_input: TimeInput
  learned_variance: bool = False

  def output(
    self,
    params: Params,
    x: Examples,
    t: Float[Array, " batch"],
    told: Told,
    mask: Mask = None,
    to: Float[Array, " batch"] | None = None,
    **options: Any,
  ) -> tuple[Array, ...]:
    """(the network's output,), followed by the fraction of a learned variance. `to` is a flow map's s."""
    at = self.schedule.at(t)
    time = self.time_input(at)
    if to is not None:
      time = jnp.stack([time, self.time_input(self.schedule.at(t - to))], axis=-1)
    options = options if mask is None else {"mask": mask, **options}
    seen = self.prediction.input(x, at.like(x))
    output = self.network.apply({"params": params}, seen, time, told, **options).astype(x.dtype)
    if not self.learned_variance:
      return (output,)
    output, raw = jnp.split(output, 2, axis=-1)
    return output, (raw + 1) / 2

  def predict(
    self, params: Params, x: Examples, t: Float[Array, "..."], told: Told, mask: Mask = None, *to: Float[Array, "..."]
  ) -> tuple[Examples, ...]:
    """(x_0, eps), followed by the fraction of a learned variance; t [] or [B]. Padding is 0 in input and output.

    A flow map is also given the time to which it leads, and its (x_0, eps) make one step of (14) there exact.
    """
    x, t = masked(x, mask), jnp.broadcast_to(t, x.shape[:1])
    output, *fraction = self.output(params, x, t, told, mask, *(jnp.broadcast_to(s, x.shape[:1]) for s in to))
    x_0, eps = to_x0_eps(self.prediction, output, x, self.schedule.at(t).like(x))
    return masked(x_0, mask), masked(eps, mask), *fraction

  def denoise(self, params: Params, told: Told, mask: Mask = None) -> Denoise:
    """`predict` as samplers and likelihoods call it."""
    return lambda x, t, *to: self.predict(params, x, t, told, mask, *to)


def weighed(
  uncertainty: Any, params: Params, c: Float[Array, " batch"], each: Float[Array, " batch"]
) -> Float[Array, " batch"]:
  """L / exp(u(c)) + u(c), with u of the network's parameters; see `Objective`."""
  u = uncertainty.apply({"params": params[LOG_VARIANCE]}, c)
  return each / jnp.exp(u) + u


def with_uncertainty(uncertainty: Any, params: Params, key: Array, dtype: Any) -> Params:
  """A network's parameters with those of its uncertainty, if it has one."""
  if uncertainty is None:
    return params
  return {**params, LOG_VARIANCE: uncertainty.init(key, jnp.zeros(1, dtype))["params"]}


Loss = Callable[[Params, State, Batch, Array], tuple[Array, tuple[dict, Any]]]


def training_loss(model: Model, objective: Objective, condition: Condition, spec: Spec) -> Loss:
  """Ho et al. 2020, Algorithm 1, for any choice of the parts: the loss of a `Player`.

  It is a mean over each example's entries, without its padding.

  Raises:
    UserError: there is neither a weighting nor `vlb`, or the schedule or the data has no bound.
  """
  prediction, weighting, vlb = objective.prediction, objective.weighting, objective.vlb
  schedule, times = model.schedule, objective.times
  if weighting is None and not vlb:
    raise UserError("a loss without a weighting is only the bound: set vlb to 1")
  if vlb and spec.mask is not None:
    raise UserError("the variational bound of examples with padding is not here: set vlb to 0")
  bound = losses.bound(schedule, objective.variance, spec.levels) if vlb else None

  def loss(params: Params, state: State, batch: Batch, key: Array):
    noise_key, dropout_key = jax.random.split(key)
    times_key, told_key = (jax.random.fold_in(key, stream) for stream in (2, 3))
    index, mask = batch["index"], batch[spec.mask] if spec.mask else None
    x_0 = masked(batch[spec.feature], mask)
    t_keys, eps_keys = split(example_keys(noise_key, index))
    t, likelier = times.draw(state.buffers.get("times"), times_key, t_keys, index)
    told = condition.dropped(condition.of(batch), example_keys(told_key, index))
    at = schedule.at(t)
    x_t, eps = diffuse(schedule, x_0, t, eps_keys, batch.get(NOISE))
    x_t = masked(x_t, mask)
    output, *fraction = model.output(params, x_t, t, told, mask, index=index, rngs={"dropout": dropout_key})
    each = jnp.zeros(x_0.shape[0], x_0.dtype)
    if weighting is not None:
      each += weighting(prediction, at) * objective.error(output, prediction.target(x_0, eps, at.like(x_0)), mask)
    if bound is not None:
      mean = output if weighting is None else jax.lax.stop_gradient(output)
      predicted, _ = to_x0_eps(prediction, mean, x_t, at.like(x_0))
      nats = bound.prior(x_0) + schedule.steps * bound.term(x_0, predicted, t, *fraction)
      each += vlb * nats / x_0[0].size
    if objective.uncertainty is not None:
      each = weighed(objective.uncertainty, params, c_noise(at), each)
    buffers = state.buffers
    if "times" in buffers:
      buffers = {**buffers, "times": times.update(buffers["times"], t, each)}
    return jnp.mean(likelier * each), ({}, buffers)

  return loss


def preserving(loss: Loss, weight: float, names: Sequence[str]) -> Loss:
  """L + weight L', with L' the same loss of a second row of examples, at times and noise of their own.

  It is prior preservation, DreamBooth's: Ruiz et al. 2022, https://arxiv.org/abs/2208.12242, eq. 2. The second row are
  samples of the network before it is tuned, of the class that it shall not forget, and what they were told.

  Args:
    loss: L.
    weight: lambda of the paper, where it is 1.
    names: entries of a batch that the loss reads; the second row's are prior_NAME.
  """

  def both(params: Params, state: State, batch: Batch, key: Array):
    value, (metrics, buffers) = loss(params, state, batch, key)
    prior = {**batch, **{name: batch[PRIOR + name] for name in names}}
    other_key = jax.random.fold_in(key, PRIOR_STREAM)
    kept, (_, buffers) = loss(params, state.replace(buffers=buffers), prior, other_key)
    return value + weight * kept, ({**metrics, "instance_loss": value, "prior_loss": kept}, buffers)

  return both


def check_prior(batch: Batch, names: Sequence[str]) -> None:
  """Raises a UserError where a batch has no second row of examples for `preserving`."""
  if missing := [PRIOR + name for name in names if PRIOR + name not in batch]:
    raise UserError(
      f"prior preservation learns from {', '.join(missing)} beside the examples, and this data has none: add samples "
      "of the network before it is tuned"
    )
