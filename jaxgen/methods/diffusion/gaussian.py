"""Diffusion models and flows as one method. The mathematics, with the numbers used here, is in `jaxgen.diffusion`.

DDPM, improved DDPM, NCSN, score SDE, EDM, rectified flow and flow matching are choices of its arguments; `configs/` has
each as published.
"""

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key

from jaxgen.core.errors import UserError
from jaxgen.core.keys import example_keys
from jaxgen.core.method import Batch, Method, Params, Player, State, compose
from jaxgen.diffusion import (
  PREDICTIONS,
  Grid,
  Prediction,
  Schedule,
  Solver,
  Variance,
  ddim,
  guidance,
  losses,
  sampling,
  trailing,
)
from jaxgen.diffusion import times as time_distributions
from jaxgen.diffusion.losses import diffuse
from jaxgen.diffusion.predictions import to_x0_eps
from jaxgen.diffusion.sampling import Denoise
from jaxgen.diffusion.times import TimeInput, Times, steps_from_zero, thousandths
from jaxgen.diffusion.weightings import Weighting, simple

Image = Float[Array, "batch height width channels"]
Label = Int[Array, " batch"]
Likelihood = Callable[..., Float[Array, " batch"]]


class Guide(NamedTuple):
  """A second network that is trained beside the first and guides its samples, and its optimizer."""

  network: Any
  optimizer: optax.GradientTransformation


def gaussian_diffusion(
  network: Any,
  schedule: Schedule,
  *,
  shape: tuple[int, int, int],
  optimizer: optax.GradientTransformation,
  prediction: Prediction = PREDICTIONS["eps"],
  weighting: Weighting | None = simple,
  times: Times | None = None,
  time_input: TimeInput | None = None,
  solver: Callable[[Schedule], Solver] = ddim,
  grid: Grid = trailing,
  sampling_steps: int = 100,
  clip: bool = True,
  likelihoods: Mapping[str, Likelihood] = MappingProxyType({}),
  variance: Variance = "posterior",
  vlb: float = 0.0,
  levels: int | None = None,
  ema: float | Callable[[Array], Array] | None = None,
  classes: int | None = None,
  label_dropout: float = 0.0,
  guide: Guide | None = None,
  classifier: Guide | None = None,
  rescale: float = 0.0,
  interval: tuple[float, float] | None = None,
  microbatches: int = 1,
  axis: str | None = None,
) -> Method:
  """Learns x_0 from x_t by a weighted squared error. Batch {"image": [B, H, W, C] in [-1, 1], "index": [B]}.

  Args:
    network: a Flax module; `network.apply({"params": p}, x, time, label, index=index, rngs={"dropout": key})` -> [B, H,
      W, C], or [.., 2 C] with a learned variance. label is None without classes. Without index there is no dropout.
    shape: (H, W, C) of one image.
    prediction: what the network outputs.
    weighting: of its squared error over t; None leaves the bound, `vlb`, as the only loss.
    times: the distribution of t; default: uniform.
    time_input: what the network is told of t; default: t - 1 in discrete processes, 999 t in continuous ones.
    solver, grid, sampling_steps: how `sample` goes from noise to images.
    clip: the predicted x_0 is clipped to [-1, 1] in sampling.
    likelihoods: by the name that `evaluate` gives them, (denoise, schedule, x_0, keys) -> -log p(x_0) or a bound on it,
      nats [B]. Such as {"nll_nats": partial(losses.bound_nll, levels=256)}, `likelihood.continuous_bound`, or
      {"nll_nats_dequantized": partial(likelihood.ode_nll, levels=256)}.
    variance: of p_theta in `vlb`; "learned" is interpolated by the second half of the network's channels: (12).
    vlb: this many times the discrete variational bound, (8), in nats per dimension, estimated by one t per example, is
      added to the loss. With a weighting it trains the learned variance alone: Nichol and Dhariwal 2021, eq. 16.
    levels: how many values a pixel takes (256 for bytes), for `vlb`; None if it is continuous.
    ema: decay of the averaged parameters that sampling and evaluation then use; None keeps none.
    classes: condition on batch["label"], an int in 0 .. classes - 1. None: unconditional.
    label_dropout: the probability with which a label is replaced by `classes`, which then stands for "no label".
    guide: a worse network of the same kind, for autoguidance; it learns by the same loss.
    classifier: (x_t, time) -> logits [B, classes], for classifier guidance of an unconditional network; it learns to
      classify x_t by cross-entropy, t distributed as for the network.
    rescale, interval: of classifier-free guidance and autoguidance, see `jaxgen.diffusion.guidance`.
    microbatches, axis: as in `compose`.

  `sample(state, keys, label=None, weight=None)` gives [N, H, W, C]. label [N]: drawn uniformly by a model of classes
  that is given none. weight [N]: of the guidance, which is the classifier's or the guide's where there is one, and else
  classifier-free, which takes label_dropout; None: no guidance.

  Raises:
    UserError: choices that do not go together; images of another shape; labels that are missing or not asked for.
  """
  times = times or time_distributions.uniform(schedule)
  time_input = time_input or (thousandths if schedule.steps is None else steps_from_zero)
  solve = solver(schedule)
  visited = grid(schedule, sampling_steps)
  sampling.check(solve, sampling_steps)
  check_noise(schedule)
  check_start(schedule, prediction, float(visited[0]))
  if likelihoods or vlb:
    check_start(schedule, prediction, schedule.T)
  guidance.check(rescale, interval)
  if not 0 <= label_dropout < 1:
    raise UserError(f"label_dropout is a probability below 1, and this is {label_dropout:g}: change it")
  learned = variance == "learned"
  if weighting is None and not vlb:
    raise UserError("a loss without a weighting is the bound alone: set vlb to 1")
  if classes is None and (label_dropout or classifier):
    raise UserError("labels cannot be dropped, or classified, without classes: set their number")
  if classifier and (label_dropout or guide):
    raise UserError("classifier guidance is for an unconditional network: set label_dropout to 0, and guide to None")
  conditional = classes is not None and classifier is None
  bound = losses.bound(schedule, variance, levels) if vlb else None
  known = classes and classes + bool(label_dropout)
  if conditional and getattr(network, "classes", known) != known:
    raise UserError(
      f"the network knows {network.classes} classes and the method needs {known}"
      f"{', one of which is no label' if label_dropout else ''}: set the network's to that"
    )
  # What x is like at the grid's first time, where that is not T: there a process whose noise explodes has less of it.
  first, last = (float(schedule.sigma(np.array([t]))[0]) for t in (visited[0], schedule.T))
  start_std = schedule.prior_std * (first / last)

  def call(module: Any, params: Params, x: Image, t: Float[Array, " batch"], label: Label | None, **options) -> Array:
    at = schedule.at(t)
    output = module.apply({"params": params}, prediction.input(x, at.like(x)), time_input(at), label, **options)
    return output.astype(x.dtype)

  def fraction_of(output: Array) -> tuple[Image, list[Image]]:
    """The network's prediction, and the fraction of a learned variance."""
    if not learned:
      return output, []
    output, raw = jnp.split(output, 2, axis=-1)
    return output, [(raw + 1) / 2]

  def predict(module: Any, params: Params, x: Image, t: Array, label: Label | None) -> tuple[Image, ...]:
    """(x_0, eps), and the fraction of a learned variance."""
    t = jnp.broadcast_to(t, x.shape[:1])
    output, fraction = fraction_of(call(module, params, x, t, label))
    return *to_x0_eps(prediction, output, x, schedule.at(t).like(x)), *fraction

  def denoiser(state: State, label: Label | None, name: str = "network") -> Denoise:
    module = {"network": network, "guide": guide and guide.network}[name]
    return lambda x, t: predict(module, state.averaged(name), x, t, label)

  def guided(state: State, label: Label | None, weight: Float[Array, " batch"]) -> Denoise:
    main = denoiser(state, label if conditional else None)
    if guide:
      return guidance.autoguidance(main, denoiser(state, label, "guide"), schedule, weight, rescale, interval)
    if classifier:
      return guidance.classifier(main, schedule, partial(log_p, state.averaged("classifier"), label), weight)
    if label_dropout:
      pair = partial(predict, network, state.averaged())
      return guidance.classifier_free(pair, schedule, label, jnp.asarray(classes), weight, rescale, interval)
    raise UserError("this model has nothing to be guided by: train it with label_dropout, a guide or a classifier")

  def log_p(params: Params, label: Label, x: Image, t: Array) -> Float[Array, " batch"]:
    logits = call(classifier.network, params, x, jnp.broadcast_to(t, x.shape[:1]), None)
    return jnp.take_along_axis(jax.nn.log_softmax(logits), label[:, None], axis=1)[:, 0]

  def labels(batch: Batch) -> Label | None:
    if classes is None:
      return None
    if "label" not in batch:
      raise UserError("a class-conditional model learns from labels and this data has none: use classes=None")
    return batch["label"]

  def init(key: Array, batch: Batch) -> tuple[dict[str, Params], dict]:
    image, label = batch["image"][:1], labels(batch)
    if image.shape[1:] != shape:
      raise UserError(f"the model makes images of shape {shape} and the data has {image.shape[1:]}: change one of them")
    label = label[:1] if conditional else None
    buffers = times.init()
    params = {}
    for name, module in modules.items():
      given = None if name == "classifier" else label
      params[name] = module.init(key, image, jnp.zeros(1, image.dtype), given)["params"]
      key = jax.random.fold_in(key, 1)
    return params, {"times": buffers} if buffers else {}

  def train(module: Any, params: Params, state: State, batch: Batch, key: Array):
    """Ho et al. 2020, Algorithm 1, for any choice of the parts."""
    noise_key, dropout_key = jax.random.split(key)
    times_key = jax.random.fold_in(key, 2)
    x_0, index, label = batch["image"], batch["index"], labels(batch)
    t_keys, eps_keys = jax.vmap(jax.random.split, out_axes=1)(example_keys(noise_key, index))
    t, weight = times.draw(state.buffers.get("times"), times_key, t_keys, index)
    if label_dropout:
      label_keys = example_keys(jax.random.fold_in(key, 3), index)
      label = jnp.where(jax.vmap(lambda key: jax.random.bernoulli(key, label_dropout))(label_keys), classes, label)
    at = schedule.at(t)
    x_t, eps = diffuse(schedule, x_0, t, eps_keys)
    given = label if conditional else None
    output, fraction = fraction_of(call(module, params, x_t, t, given, index=index, rngs={"dropout": dropout_key}))
    loss = jnp.zeros(x_0.shape[0], x_0.dtype)
    if weighting is not None:
      loss += weighting(prediction, at) * losses.simple(output, prediction.target(x_0, eps, at.like(x_0)))
    if bound is not None:
      mean = output if weighting is None else jax.lax.stop_gradient(output)
      predicted, _ = to_x0_eps(prediction, mean, x_t, at.like(x_0))
      terms = bound.prior(x_0) + schedule.steps * bound.term(x_0, predicted, t, *fraction)
      loss += vlb * terms / x_0[0].size
    buffers = state.buffers
    if "times" in buffers and module is network:
      buffers = {**buffers, "times": times.update(buffers["times"], t, loss)}
    return jnp.mean(weight * loss), ({}, buffers)

  def classify(params: Params, state: State, batch: Batch, key: Array):
    """Cross-entropy of the classifier at x_t; Dhariwal and Nichol 2021, section 4."""
    t_keys, eps_keys = jax.vmap(jax.random.split, out_axes=1)(example_keys(key, batch["index"]))
    t, _ = times.draw(state.buffers.get("times"), key, t_keys, batch["index"])
    x_t, _ = diffuse(schedule, batch["image"], t, eps_keys)
    return -jnp.mean(log_p(params, labels(batch), x_t, t)), ({}, state.buffers)

  def evaluate(state: State, batch: Batch, key: Array) -> dict[str, Float[Array, " batch"]]:
    keys = example_keys(key, batch["index"])
    denoise = denoiser(state, labels(batch) if conditional else None)
    return {name: nll(denoise, schedule, batch["image"], keys) for name, nll in likelihoods.items()}

  def sample(
    state: State,
    keys: Key[Array, " n"],
    label: Int[Array, " n"] | None = None,
    weight: Float[Array, " n"] | None = None,
  ) -> Image:
    start_keys, solver_keys, label_keys = jax.vmap(lambda key: jax.random.split(key, 3), out_axes=1)(keys)
    if label is not None and classes is None:
      raise UserError("this model is unconditional and takes no labels: sample without them")
    if label is None and classes is not None:
      label = jax.vmap(lambda key: jax.random.randint(key, (), 0, classes))(label_keys)
    x = start_std * jax.vmap(lambda key: jax.random.normal(key, shape))(start_keys)
    denoise = denoiser(state, label if conditional else None) if weight is None else guided(state, label, weight)
    denoise = guidance.clipped(denoise, schedule) if clip else denoise
    return sampling.sample(solve, denoise, visited, x, solver_keys)

  modules, players = {"network": network}, [("network", Player(partial(train, network), optimizer, mean=times.mean))]
  if guide:
    modules["guide"] = guide.network
    players.append(("guide", Player(partial(train, guide.network), guide.optimizer, mean=times.mean)))
  if classifier:
    modules["classifier"] = classifier.network
    players.append(("classifier", Player(classify, classifier.optimizer, mean=times.mean)))
  averages = {} if ema is None else dict.fromkeys(modules, ema)
  calls = sampling.network_calls(solve, visited)
  cost = "as many network calls as its ODE solver needs" if calls is None else f"{calls:,} network calls"
  if guide or classifier or label_dropout:
    beside = "one more of the guide" if guide else "one of the classifier and its gradient" if classifier else ""
    cost += f", guided {beside} beside each" if beside else ", guided each on twice the batch"
  return compose(
    init,
    players,
    evaluate=evaluate,
    sample=sample,
    ema=averages,
    microbatches=microbatches,
    axis=axis,
    facts={"A sample": cost},
  )


def check_noise(schedule: Schedule) -> None:
  """Raises a UserError where x_T is not noise: sampling starts from N(0, prior_std^2 I) there."""
  last = np.array([schedule.T])
  signal, noise = float(schedule.alpha(last)[0]), float(schedule.sigma(last)[0])
  if noise == 0 or signal > noise:
    snr = f"a signal-to-noise ratio of {(signal / noise) ** 2:.2g}" if noise else "no noise"
    raise UserError(
      f"sampling starts from noise, and this schedule has {snr} at its last time: let it end in more noise"
    )


def check_start(schedule: Schedule, prediction: Prediction, first: float) -> None:
  """Raises a UserError where sampling starts with alpha = 0 and the network's output does not tell x_0 there."""
  if schedule.is_noise(first) and not prediction.at_noise:
    raise UserError(
      "this schedule has no signal at its last time (alpha = 0), where eps and the score do not determine x_0: predict "
      "x_0, v, velocity or F, or choose a schedule, or for sampling alone a time grid, that starts with some signal"
    )
