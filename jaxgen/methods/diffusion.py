"""Diffusion models as methods. The mathematics, with the numbers used here, is in `jaxgen.diffusion`."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key

from jaxgen.diffusion import PREDICTIONS, PredictionName, Schedule, Solver, Variance, losses
from jaxgen.diffusion import sample as solve
from jaxgen.diffusion.predictions import to_x0_eps
from jaxgen.diffusion.sampling import normal
from jaxgen.errors import UserError
from jaxgen.method import Batch, Method, Params, Player, State, compose, example_keys

Image = Float[Array, "batch height width channels"]
LossName = Literal["simple", "vlb"]


def ddpm(
  network: Any,
  schedule: Schedule,
  *,
  shape: tuple[int, int, int],
  optimizer: optax.GradientTransformation,
  levels: int | None,
  solver: Solver,
  times: Float[np.ndarray, " times"],
  prediction: PredictionName = "eps",
  loss: LossName = "simple",
  variance: Variance = "posterior",
  clip: bool = True,
  ema: float | Callable[[Array], Array] | None = None,
  classes: int | None = None,
  evaluation_terms: int | None = None,
  microbatches: int = 1,
  axis: str | None = None,
) -> Method:
  """DDPM: Ho et al. 2020, https://arxiv.org/abs/2006.11239. Batch {"image": [B, H, W, C] in [-1, 1], "index": [B]}.

  Args:
    network: a Flax module; `network.apply({"params": p}, x, t, label, index=index, rngs={"dropout": key})` -> [B, H, W,
      C], with t [B] float in 0 .. T - 1, the paper's t less one, as its code has it. label is None without classes.
      Without index there is no dropout.
    shape: (H, W, C) of one image.
    levels: how many values a pixel takes (256 for bytes), for the likelihood; None if it is continuous.
    solver, times: how `sample` goes from noise to images: say ddim(schedule) and trailing(schedule, 50).
    prediction: what the network outputs.
    loss: "simple", (7), the squared error of the network's output, or "vlb", (8), an unbiased estimate of the bound in
      nats per dimension with one t per example.
    variance: of p_theta in the bound, (12). An ancestral solver has its own.
    clip: the predicted x_0 is clipped to [-1, 1] in sampling and evaluation (not in training), as in the paper's code.
    ema: decay of the averaged parameters that sampling and evaluation then use; None keeps none.
    classes: condition on batch["label"], an int in 0 .. classes - 1. None: unconditional.
    evaluation_terms: None evaluates all T terms of the bound, T network calls a batch. A number K evaluates K of them
      per example, each drawn from its own K-th of 1 .. T: unbiased, at K calls.
    microbatches, axis: as in `compose`.

  `evaluate` gives "nll_nats", the upper bound (8) on -log p(x_0): each term has one draw of x_t, from the key and the
  example's index. `sample(state, keys, label=None)` gives [N, H, W, C]; a class-conditional model without labels draws
  them uniformly.

  Raises:
    UserError: evaluation_terms outside 1 .. T, images of another shape, labels that are missing or not asked for.
  """
  convert = PREDICTIONS[prediction]
  bound = losses.bound(schedule, variance, levels)
  T = schedule.steps
  K = T if evaluation_terms is None else evaluation_terms
  if not 1 <= K <= T:
    raise UserError(f"evaluation_terms is 1 to {T} on this schedule, or None for all of them, not {K}: change it")
  edges = np.arange(K + 1) * T // K  # the k-th of K strata is t = edges[k] + 1 .. edges[k + 1]

  def scales(t: Float[Array, " batch"]) -> tuple[Array, Array]:
    """(alpha, sigma) at t, [B, 1, 1, 1]."""
    return schedule.alpha(t)[:, None, None, None], schedule.sigma(t)[:, None, None, None]

  def noisy(x_0: Image, t: Float[Array, " batch"], keys: Key[Array, " batch"]) -> tuple[Image, Image]:
    """(x_t, eps) by (1), each example's noise from its own key."""
    alpha, sigma = scales(t)
    eps = normal(keys, x_0)
    return alpha * x_0 + sigma * eps, eps

  def call(params: Params, x: Image, t: Float[Array, " batch"], label, **options) -> Image:
    return network.apply({"params": params}, x, t - 1, label, **options).astype(x.dtype)

  def predict(params: Params, x: Image, t: Float[Array, " batch"], label) -> tuple[Image, Image]:
    """(x_0, eps) as sampling and evaluation take them."""
    return to_x0_eps(convert, call(params, x, t, label), x, *scales(t), clip=clip)

  def labels(batch: Batch) -> Int[Array, " batch"] | None:
    if classes is None:
      return None
    if "label" not in batch:
      raise UserError("a class-conditional model learns from labels and this data has none: use classes=None")
    return batch["label"]

  def init(key: Array, batch: Batch) -> tuple[dict[str, Params], dict]:
    image, label = batch["image"][:1], labels(batch)
    if image.shape[1:] != shape:
      raise UserError(f"the model makes images of shape {shape} and the data has {image.shape[1:]}: change one of them")
    t = jnp.zeros(1, image.dtype)
    return {"unet": network.init(key, image, t, None if label is None else label[:1])["params"]}, {}

  def simple(x_0, eps, x_t, t, output):
    return losses.simple(output, convert.target(x_0, eps, *scales(t)))

  def vlb(x_0, eps, x_t, t, output):
    predicted, _ = to_x0_eps(convert, output, x_t, *scales(t))
    return (bound.prior(x_0) + T * bound.term(x_0, predicted, t)) / x_0[0].size

  per_example = {"simple": simple, "vlb": vlb}[loss]

  def train(params: Params, state: State, batch: Batch, key: Array):
    """Ho et al. 2020, Algorithm 1."""
    noise_key, dropout_key = jax.random.split(key)
    x_0, index = batch["image"], batch["index"]
    t_keys, eps_keys = jax.vmap(jax.random.split, out_axes=1)(example_keys(noise_key, index))
    t = jax.vmap(lambda key: jax.random.randint(key, (), 1, T + 1))(t_keys).astype(x_0.dtype)
    x_t, eps = noisy(x_0, t, eps_keys)
    output = call(params, x_t, t, labels(batch), index=index, rngs={"dropout": dropout_key})
    return jnp.mean(per_example(x_0, eps, x_t, t, output)), ({}, state.buffers)

  def averaged(state: State) -> Params:
    return state.ema.get("unet", state.params["unet"])

  def evaluate(state: State, batch: Batch, key: Array) -> dict[str, Float[Array, " batch"]]:
    params, x_0, label = averaged(state), batch["image"], labels(batch)
    keys = example_keys(key, batch["index"])

    def add(total, stratum):
      k, low, high = stratum
      t_keys, eps_keys = jax.vmap(lambda key: jax.random.split(jax.random.fold_in(key, k)), out_axes=1)(keys)
      t = jax.vmap(lambda key: jax.random.randint(key, (), low + 1, high + 1))(t_keys).astype(x_0.dtype)
      predicted, _ = predict(params, noisy(x_0, t, eps_keys)[0], t, label)
      return total + (high - low) * bound.term(x_0, predicted, t), None

    strata = (jnp.arange(K), jnp.asarray(edges[:-1], jnp.int32), jnp.asarray(edges[1:], jnp.int32))
    return {"nll_nats": jax.lax.scan(add, bound.prior(x_0), strata)[0]}

  def sample(state: State, keys: Key[Array, " n"], label: Int[Array, " n"] | None = None) -> Image:
    """Ho et al. 2020, Algorithm 2, by the chosen solver."""
    params = averaged(state)
    start_keys, solver_keys, label_keys = jax.vmap(lambda key: jax.random.split(key, 3), out_axes=1)(keys)
    if label is not None and classes is None:
      raise UserError("this model is unconditional and takes no labels: sample without them")
    if label is None and classes is not None:
      label = jax.vmap(lambda key: jax.random.randint(key, (), 0, classes))(label_keys)

    def denoise(x: Image, t: Float[Array, ""]) -> tuple[Image, Image]:
      return predict(params, x, jnp.full(x.shape[0], t), label)

    x = jax.vmap(lambda key: jax.random.normal(key, shape))(start_keys)
    return solve(solver, denoise, times, x, solver_keys)

  averages = {} if ema is None else {"unet": ema}
  players = [("unet", Player(train, optimizer))]
  return compose(init, players, evaluate=evaluate, sample=sample, ema=averages, microbatches=microbatches, axis=axis)
