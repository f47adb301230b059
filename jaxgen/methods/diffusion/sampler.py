"""How samples are drawn: a solver over a time grid, guidance and clipping around the network."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from jaxgen.core import edits
from jaxgen.core.arrays import masked, per_example
from jaxgen.core.condition import Condition, check_names, negatives
from jaxgen.core.errors import UserError
from jaxgen.core.keys import normal, split
from jaxgen.core.method import State
from jaxgen.core.spec import Spec, check_output
from jaxgen.diffusion import Grid, Prediction, Schedule, Solver, ddim, editing, guidance, sampling, trailing
from jaxgen.methods.diffusion import prompt_to_prompt
from jaxgen.methods.diffusion.guides import FREE, Asked, Guidance
from jaxgen.methods.diffusion.objective import NOISE, Examples, Model


class Sampler(NamedTuple):
  """How samples are drawn from noise.

  Attributes:
    solver: schedule -> the solver.
    grid: the time grid.
    steps: number of steps.
    clip: clip the predicted x_0 to [-1, 1], the range of images, after guidance: static thresholding.
    guidance: the guidance of samples with a weight.
    jump, resampling: of `diffusion.editing.repaint`, where a part of a picture is filled.
    percentile: dynamic thresholding in place of `clip`: the predicted x_0 is clipped to the range of this many per cent
      of an example's |x_0|, at least [-1, 1], and scaled down to [-1, 1]; see `diffusion.guidance.thresholded`.
    reconstruction: the weight of `diffusion.editing.rebuilt`, which then fills it instead; None: RePaint.
  """

  solver: Callable[[Schedule], Solver] = ddim
  grid: Grid = trailing
  steps: int = 100
  clip: bool = True
  guidance: Guidance = FREE
  jump: int = 10
  resampling: int = 10
  percentile: float | None = None
  reconstruction: float | Callable[[Array], Array] | None = None


DDIM = Sampler()


def sampling_function(sampler: Sampler, model: Model, condition: Condition, spec: Spec) -> Callable[..., Examples]:
  """The `sample` of a Method: (state, keys [N], weight [N] or None, **conditions by name) -> [N, *shape].

  `negative_NAME` is the condition NAME that samples are led away from; see `guides.classifier_free`, also for weights
  of several conditions. Attention maps of another text's sample are asked for as in `prompt_to_prompt`.

  Padding is 0. Without a mask samples have no padding. "noise" [N, *shape], standard normal, takes the place of what
  the keys give at the start. A picture is changed by "start" with "strength", SDEdit, or with "keep", RePaint or
  reconstruction guidance: see `core.edits`.

  Raises:
    UserError: the choices do not fit each other. The function itself raises it for missing or unknown conditions, and
      for edits that this solver cannot do or of other sizes.
  """
  schedule = model.schedule
  solver = sampler.solver(schedule)
  visited = sampler.grid(schedule, sampler.steps)
  sampling.check(solver, sampler.steps)
  sampling.check_times(schedule, visited)
  check_noise(schedule)
  check_start(schedule, model.prediction, float(visited[0]))
  if sampler.percentile is not None:
    guidance.check_percentile(sampler.percentile)
  # The scale of x at the grid's first time. If that is below T, a variance-exploding process has less noise there, and
  # a variance-preserving one as much.
  spread = lambda t: float(np.hypot(schedule.alpha(np.array([t])), schedule.sigma(np.array([t])))[0])
  first, last = (float(schedule.sigma(np.array([t]))[0]) for t in (visited[0], schedule.T))
  start_std = schedule.prior_std * (1.0 if np.isclose(spread(visited[0]), 1) else first / last)

  def sample(
    state: State, keys: Key[Array, " n"], weight: Float[Array, "n ..."] | None = None, **given: Any
  ) -> Float[Array, "n ..."]:
    start_keys, solver_keys, told_keys = split(keys, 3)
    noise = given.pop(NOISE, None)
    mask = given.pop(spec.mask, jnp.ones((len(keys), *spec.shape[:1]), bool)) if spec.mask else None
    edit, given = edits.taken(given)
    prompts, given = prompt_to_prompt.taken(given, condition)
    negative, given = negatives(given, condition) if sampler.guidance.chained else ({}, given)
    check_names(given, condition, sampler.guidance.condition)
    if not sampler.guidance.chained and (np.ndim(weight) > 1 or (prompts is not None and weight is not None)):
      raise UserError("weights of several conditions, and attention maps, are for classifier-free guidance alone")
    if negative and weight is None:
      raise UserError("samples are led away from negative conditions by a weight: give one, 1 changes nothing")
    told = condition.asked(given, told_keys)
    noise = normal(start_keys, spec.shape) if noise is None else jnp.asarray(noise)
    check_output("the noise to start from", noise.shape[1:], spec.shape, "give one of that size")
    x = masked(start_std * noise, mask)
    told_as = condition
    if prompts is not None:
      if edit is not None:
        raise UserError("attention maps are taken from another sample, not from a picture: give no start with them")
      source = condition.asked({**given, **prompts.source}, told_keys)
      told, told_as = prompt_to_prompt.paired(
        prompts, source, told, condition, partial(prompt_to_prompt.above, model, visited)
      )
      of = jnp.arange(2 * len(keys)) // 2  # both texts' samples, side by side, have the same noise
      x, solver_keys, mask, negative, weight = jax.tree.map(lambda a: a[of], (x, solver_keys, mask, negative, weight))
    if weight is None:
      denoise = model.denoise(state.averaged(), told, mask)
    else:
      asked = Asked(told, sampler.guidance.condition.asked(given, told_keys), mask, negative)
      denoise = sampler.guidance.denoise(model, told_as, state, asked, weight)
    rebuilds = sampler.reconstruction is not None and edit is not None and edit.keep is not None
    if rebuilds:
      start, keep = masked(edit.start.astype(x.dtype), mask), edit.keep
      check_output("what is known of an example", start.shape[1:], spec.shape, "give one of that size")
      denoise = editing.rebuilt(denoise, schedule, start, keep, sampler.reconstruction)
    if sampler.percentile is not None:
      denoise = guidance.thresholded(denoise, schedule, sampler.percentile)
    elif sampler.clip:
      denoise = guidance.clipped(denoise, schedule)
    if rebuilds:
      keep, alpha = per_example(keep, x), schedule.alpha(jnp.asarray(visited[0], x.dtype))
      x = masked(jnp.where(keep, alpha * start, 0) + x, mask)
      return jnp.where(keep, start, masked(sampling.sample(solver, denoise, visited, x, solver_keys), mask))
    if edit is None:
      x = masked(sampling.sample(solver, denoise, visited, x, solver_keys), mask)
      return x if prompts is None else x[1::2]
    start = masked(edit.start.astype(x.dtype), mask)
    check_output("the picture to start from", start.shape[1:], spec.shape, "give one of that size")
    if edit.keep is not None:
      pace = sampler.jump, sampler.resampling
      return masked(editing.repaint(solver, denoise, visited, x, solver_keys, start, edit.keep, *pace), mask)
    begin = editing.beginning(sampler.steps, edit.strength.reshape(-1)[0])
    t = jnp.asarray(visited, x.dtype)[begin]
    x = masked(schedule.alpha(t) * start + schedule.sigma(t) * noise, mask)
    return masked(sampling.sample(solver, denoise, visited, x, solver_keys, begin=begin), mask)

  return sample


def cost(sampler: Sampler, schedule: Schedule, condition: Condition) -> tuple[dict[str, str], int | None]:
  """A method's facts, of its samples' cost and its process, and a sample's network calls (None: the solver chooses)."""
  calls = sampling.network_calls(sampler.solver(schedule), sampler.grid(schedule, sampler.steps))
  plain = "as many network calls as its ODE solver needs" if calls is None else f"{calls:,} network calls"
  guided = sampler.guidance.cost(condition)
  words = f"{plain}, guided {guided}" if guided else plain
  return {"A sample": words, "Process": described(schedule)}, calls


def described(schedule: Schedule) -> str:
  """A process in words, the same for the same process: alpha and sigma at three of its times."""
  if schedule.learned:
    return "learned"
  times = [t for t in (schedule.t_min, schedule.T / 2, schedule.T) if t > 0]
  at = lambda t: [float(f(np.array([t]))[0]) for f in (schedule.alpha, schedule.sigma)]
  points = [f"{alpha:.4g} and {sigma:.4g} at t = {t:.4g}" for t in times for alpha, sigma in [at(t)]]
  return f"alpha and sigma are {', '.join(points)}"


def check_noise(schedule: Schedule) -> None:
  """Raises a UserError if x_T is not close to the noise N(0, prior_std^2 I) from which sampling starts."""
  last = np.array([schedule.T])
  signal, noise = float(schedule.alpha(last)[0]), float(schedule.sigma(last)[0])
  if noise == 0 or signal > noise:
    snr = f"a signal-to-noise ratio of {(signal / noise) ** 2:.2g}" if noise else "no noise"
    raise UserError(
      f"sampling starts from noise, and this schedule has {snr} at its last time: let it end in more noise"
    )


def check_start(schedule: Schedule, prediction: Prediction, first: float) -> None:
  """Raises a UserError if sampling starts at alpha = 0 and the network's output does not determine x_0 there."""
  if schedule.is_noise(first) and not prediction.at_noise:
    raise UserError(
      "this schedule has no signal at its last time (alpha = 0), where eps and the score do not determine x_0: predict "
      "x_0, v, velocity or F, or choose a schedule that starts with some signal, or, only for sampling, such a "
      "time grid"
    )
