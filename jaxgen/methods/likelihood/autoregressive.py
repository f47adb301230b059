"""Autoregressive models of vectors and images: log p(x) = sum_k log p(x_k | x_<k), with any autoregressive network.

A network maps x to the parameters of all conditionals at once (`jaxgen.nn.autoregressive.made`, `.pixelcnn`,
`.pixelcnnpp`); they are the parameters of a distribution (`jaxgen.probability.distributions`).
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key

from jaxgen.core.errors import UserError
from jaxgen.core.keys import fold_in
from jaxgen.core.method import Batch, Method, Params, Player, State, compose
from jaxgen.core.spec import Spec, check_batch, check_output
from jaxgen.probability.distributions import Distribution, check_values, nll_name


class Model(NamedTuple):
  """A network, the distribution whose parameters it gives, and the data's spec."""

  network: Any
  distribution: Distribution
  spec: Spec

  @property
  def draws(self) -> int:
    """K, the number of draws of an example."""
    return self.spec.size // self.distribution.values

  @property
  def members(self) -> int:
    return getattr(self.network, "members", 1)

  @property
  def classes(self) -> int | None:
    return getattr(self.network, "classes", None)

  def labels(self, batch: Batch) -> dict[str, Array]:
    """The network's keyword arguments for a batch: its labels, if the network has classes."""
    return {} if self.classes is None else {"label": batch["label"]}


def autoregressive(
  network: Any, distribution: Distribution, *, spec: Spec, optimizer: optax.GradientTransformation
) -> Method:
  """Maximum likelihood. Batch {spec.feature: [B, *spec.shape], "index": [B]} and, for classes, "label" [B].

  Args:
    network: a Flax module; `network.apply({"params": p}, x, index=index, rngs={"dropout": key})` -> [B, K, P], the
      parameters of x's K = D / V draws in turn, V being the distribution's number of values. A draw's parameters are
      functions of the draws before it. `network.stepper(p, x)` gives them one at a time (`nn.autoregressive.made`).
      Where it has an attribute `classes` that is not None, it takes an argument `label`, and samples are given labels.
      Where it has an attribute `members` above 1 (`MADE`), it is so many models that share their weights, told apart by
      an argument `member`: each update trains one of them in turn, the likelihood is that of their mixture,
      log mean_m p_m(x), and a sample is of one that is drawn with its key.
    distribution: of a draw. A distribution of real numbers models the data themselves if they have no levels, and
      uniformly dequantized data otherwise.
    spec: of the data.

  The loss is -log p(x) in nats per value: `evaluate`'s number, with the dropout of training, over the example's size.

  `evaluate` gives -log p(x): "nll_nats" of integers; "nll_nats_dequantized", the bound on it by a density of
  dequantized values; or "nll_nats_density"; followed by "_given_label" if there are classes. `init` is given the
  batch's values, for networks that start from them, such as PixelCNN++. `sample(state, keys)` gives [N, *shape], value
  after value in one scan.

  Raises:
    UserError: a distribution of other levels than the data's, a network of other classes; in `init`, data of another
      shape or without labels, or a network with another number of parameters.
  """
  model = Model(network, distribution, spec)
  check_model(model)
  name, integers = nll_name(distribution.levels, spec.levels, spec.size)
  name += "_given_label" if model.classes is not None else ""

  def init(key: Array, batch: Batch) -> tuple[dict[str, Params], dict]:
    check_batch(spec, batch, labels=model.classes is not None)
    parameters, variables = network.init_with_output(key, batch[spec.feature], **model.labels(batch))
    expected = (model.draws, distribution.parameters)
    check_output("the network's output", parameters.shape[1:], expected, "change the network's outputs")
    return {"network": variables["params"]}, {}

  def loss(params: Params, state: State, batch: Batch, key: Array):
    options = model.labels(batch) | {"index": batch["index"], "rngs": {"dropout": key}}
    if model.members > 1:
      options["member"] = state.step % model.members
    each = nats(model, params, batch[spec.feature], **options) + integers
    return jnp.mean(each) / spec.size, ({}, state.buffers)

  def evaluate(state: State, batch: Batch, key: Array) -> dict[str, Float[Array, "batch"]]:
    return {name: nats_of_mixture(model, state.averaged(), batch[spec.feature], **model.labels(batch)) + integers}

  def sample(state: State, keys: Key[Array, "n"], label: Int[Array, "n"] | None = None) -> Float[Array, "n *shape"]:
    return draw(model, state.averaged(), keys, label)

  players = [("network", Player(loss, optimizer))]
  check = check_values(spec.levels, distribution.levels is None, spec.feature)
  return compose(init, players, evaluate=evaluate, sample=sample, check=check)


def check_model(model: Model) -> None:
  """Raises a UserError where network, distribution and data do not go together."""
  (_, distribution, spec), classes = model, model.classes
  if spec.levels is not None and distribution.levels not in (None, spec.levels):
    raise UserError(
      f"the distribution is of {distribution.levels} levels and the data has {spec.levels}: "
      + ("binarize the data, or change it" if distribution.levels == 2 else "change one of them")
    )
  if spec.levels is None and distribution.levels is not None:
    raise UserError(f"the distribution is of {distribution.levels} levels and the data of real numbers: change it")
  if spec.size % distribution.values:
    raise UserError(
      f"a draw has {distribution.values} values, which do not divide the {spec.size} values of shape {spec.shape}: "
      "change one of them"
    )
  if classes is not None and classes != spec.classes:
    has = "no labels" if spec.classes is None else f"{spec.classes}"
    raise UserError(f"the network has {classes} classes and the data {has}: give the network the data's classes")


def nats(model: Model, params: Params, x: Array, **options: Any) -> Float[Array, "batch"]:
  """-log p(x), of a density where the data were dequantized: per unit of their own scale."""
  parameters = model.network.apply({"params": params}, x, **options)
  values = x.reshape(len(x), model.draws, model.distribution.values)
  return -jnp.sum(model.distribution.log_prob(parameters, values), axis=1)


def nats_of_mixture(model: Model, params: Params, x: Array, **options: Any) -> Float[Array, "batch"]:
  """-log mean_m p_m(x) over all members."""
  if model.members == 1:
    return nats(model, params, x, **options)
  each = jax.lax.map(lambda m: nats(model, params, x, member=m, **options), jnp.arange(model.members))
  return math.log(model.members) - jax.nn.logsumexp(-each, axis=0)


def draw(
  model: Model, params: Params, keys: Key[Array, "n"], label: Int[Array, "n"] | None
) -> Float[Array, "n *shape"]:
  """Samples, draw after draw; draw k of a sample is a function of fold_in(its key, k)."""
  n, shape, size = len(keys), model.spec.shape, model.spec.size
  options = {} if model.classes is None else {"label": label}
  order = jnp.broadcast_to(jnp.arange(model.draws), (n, model.draws))
  if model.members > 1:
    options["member"] = jax.vmap(lambda key: jax.random.randint(key, (), 0, model.members))(fold_in(keys, size))
    order = model.network.order(options["member"], size)
  x = jnp.zeros((n, *shape))
  step, carry = model.network.stepper(params, x, **options)

  def one(state: tuple[Array, Any], k: Array) -> tuple[tuple[Array, Any], None]:
    x, carry = state
    parameters, carry = step(carry, x.reshape(n, size), k)
    values = jax.vmap(model.distribution.sample)(fold_in(keys, k), parameters)
    return (x.at[jnp.arange(n), order[:, k]].set(values.astype(x.dtype)), carry), None

  x = x.reshape(n, model.draws, model.distribution.values)
  (x, _), _ = jax.lax.scan(one, (x, carry), jnp.arange(model.draws))
  return x.reshape(n, *shape)
