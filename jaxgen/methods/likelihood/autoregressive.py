"""Autoregressive models of vectors and images: log p(x) = sum_k log p(x_k | x_<k), whatever network gives the terms.

A network maps all of x to the parameters of every conditional at once (`jaxgen.nn.autoregressive.made`, `.pixelcnn`,
`.pixelcnnpp`), and a distribution says what they are parameters of (`jaxgen.probability.distributions`).
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key

from jaxgen.core.errors import UserError
from jaxgen.core.method import Batch, Method, Params, Player, State, compose
from jaxgen.probability.distributions import Distribution, check_values, nll_name


def autoregressive(
  network: Any,
  distribution: Distribution,
  *,
  shape: tuple[int, ...],
  levels: int | None,
  optimizer: optax.GradientTransformation,
  members: int = 1,
  conditional: bool = False,
  ema: float | Callable[[Array], Array] | None = None,
  microbatches: int = 1,
  axis: str | None = None,
) -> Method:
  """Maximum likelihood. Batch {"image" or "x": [B, *shape], "index": [B]} and, if conditional, "label" [B].

  Args:
    network: a Flax module; `network.apply({"params": p}, x, index=index, rngs={"dropout": key})` -> [B, K, P], the
      parameters of x's K = D / V draws in turn, V being the distribution's number of values. A draw's parameters are
      functions of the draws before it. `network.stepper(p, x)` gives them one at a time (`nn.autoregressive.made`).
    distribution: of a draw. One of real numbers is of data as they are where `levels` is None, and of uniformly
      dequantized ones otherwise.
    shape: of one example.
    levels: how many values the data take, None where they are real numbers.
    members: where it is not 1, the network is so many models that share their weights, told apart by an argument
      `member`: `MADE`. Each update trains one of them in turn (every one once in so many updates), the likelihood is
      that of their mixture, log mean_m p_m(x), and a sample is of one that is drawn with its key.
    conditional: the network takes an argument `label`, and samples are given labels.
    ema: decay of the averaged parameters that evaluation and sampling then use; None keeps none.
    microbatches, axis: as in `compose`.

  `evaluate` gives -log p(x): "nll_nats" of integers; "nll_nats_dequantized", the bound on it by a density of
  dequantized values; or "nll_nats_density"; with "_given_label" behind it if conditional. `init` is given the batch's
  values, for networks that start from them, such as PixelCNN++. `sample(state, keys)` gives [N, *shape], value after
  value in one scan.

  Raises:
    UserError: a distribution of other levels than the data's, data of another shape or without labels, or a network
      with another number of parameters.
  """
  D, V = math.prod(shape), distribution.values
  if levels is not None and distribution.levels not in (None, levels):
    raise UserError(
      f"the distribution is of {distribution.levels} levels and the data has {levels}: "
      + ("binarize the data, or change it" if distribution.levels == 2 else "change one of them")
    )
  if levels is None and distribution.levels is not None:
    raise UserError(f"the distribution is of {distribution.levels} levels and the data of real numbers: change it")
  if D % V:
    raise UserError(f"a draw has {V} values, which do not divide the {D} values of shape {shape}: change one of them")
  name, integers = nll_name(distribution.levels, levels, D)
  name += "_given_label" * conditional

  def example(batch: Batch) -> Float[Array, "batch *shape"]:
    return batch["image"] if "image" in batch else batch["x"]

  def options(batch: Batch) -> dict[str, Array]:
    return {"label": batch["label"]} if conditional else {}

  def init(key: Array, batch: Batch) -> tuple[dict[str, Params], dict]:
    x = example(batch)
    if x.shape[1:] != tuple(shape):
      raise UserError(f"the model is of examples of shape {tuple(shape)} and the data has {x.shape[1:]}: change one")
    if conditional and "label" not in batch:
      raise UserError("a conditional model learns from labels and this data has none: use data with a 'label'")
    parameters, variables = network.init_with_output(key, x, **options(batch))
    if parameters.shape[1:] != (D // V, distribution.parameters):
      raise UserError(
        f"the network's output for one example is {parameters.shape[1:]}, and the distribution takes "
        f"({D // V}, {distribution.parameters}): change the network's outputs"
      )
    return {"network": variables["params"]}, {}

  def nats(params: Params, x: Array, **options) -> Float[Array, "batch"]:
    """-log p(x), of a density where the data were dequantized: per unit of their own scale."""
    parameters = network.apply({"params": params}, x, **options)
    return -jnp.sum(distribution.log_prob(parameters, x.reshape(len(x), D // V, V)), axis=1)

  def loss(params: Params, state: State, batch: Batch, key: Array):
    member = {} if members == 1 else {"member": state.step % members}
    each = nats(params, example(batch), **options(batch), **member, index=batch["index"], rngs={"dropout": key})
    return (jnp.mean(each) + integers) / D, ({}, state.buffers)

  def evaluate(state: State, batch: Batch, key: Array) -> dict[str, Float[Array, "batch"]]:
    params, x = state.averaged(), example(batch)
    if members == 1:
      return {name: nats(params, x, **options(batch)) + integers}
    each = jax.lax.map(lambda m: nats(params, x, **options(batch), member=m), jnp.arange(members))
    return {name: math.log(members) - jax.nn.logsumexp(-each, axis=0) + integers}

  def sample(state: State, keys: Key[Array, "n"], label: Int[Array, "n"] | None = None) -> Float[Array, "n *shape"]:
    params, n = state.averaged(), len(keys)
    x = jnp.zeros((n, *shape))
    more = {"label": label} if conditional else {}
    order = jnp.broadcast_to(jnp.arange(D // V), (n, D // V))
    if members > 1:
      more["member"] = jax.vmap(lambda key: jax.random.randint(jax.random.fold_in(key, D), (), 0, members))(keys)
      order = network.order(more["member"], D)
    step, carry = network.stepper(params, x, **more)

    def draw(state, k):
      x, carry = state
      parameters, carry = step(carry, x.reshape(n, D), k)
      values = jax.vmap(distribution.sample)(jax.vmap(jax.random.fold_in, (0, None))(keys, k), parameters)
      return (x.at[jnp.arange(n), order[:, k]].set(values.astype(x.dtype)), carry), None

    (x, _), _ = jax.lax.scan(draw, (x.reshape(n, D // V, V), carry), jnp.arange(D // V))
    return x.reshape(n, *shape)

  averages = {} if ema is None else {"network": ema}
  players = [("network", Player(loss, optimizer))]
  how = dict(
    ema=averages, microbatches=microbatches, axis=axis, check=check_values(levels, distribution.levels is None)
  )
  return compose(init, players, evaluate=evaluate, sample=sample, **how)
