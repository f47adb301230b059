"""Normalising flows: maximum likelihood of a bijection to a simple latent, and samples by its exact inverse.

With z = f(x) and a base density p_Z whose entries are independent,

    (F1)  -log p(x) = -sum_i log p_Z(z_i) - log |det df/dx|

Dinh et al. 2014, https://arxiv.org/abs/1410.8516, eq. 1 and 2. The bijections are `jaxgen.nn.flows.bijections`.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key, PyTree

from jaxgen.core.errors import UserError
from jaxgen.core.method import Batch, Method, Params, Player, State, compose
from jaxgen.probability.distributions import check_values, nll_name, to_values

Event = Float[Array, "batch *shape"]


class Base(NamedTuple):
  """A latent's distribution, the same for all of its entries, which are independent.

  log_density: of each entry, in nats.
  draw: (key, shape) -> an array of that shape.
  """

  log_density: Callable[[Array], Array]
  draw: Callable[[Array, tuple[int, ...]], Array]


gaussian = Base(lambda z: -0.5 * (z**2 + math.log(2 * math.pi)), jax.random.normal)
logistic = Base(lambda z: -jax.nn.softplus(z) - jax.nn.softplus(-z), jax.random.logistic)
BASES = {"gaussian": gaussian, "logistic": logistic}


def variables(state: State) -> PyTree:
  """What evaluation and sampling apply the bijection with: averaged parameters where there are any."""
  return {"params": state.averaged(), **state.buffers}


def encode(bijection: Any, state: State, x: Event) -> Event:
  """The latents of examples, of the same shape."""
  return bijection.apply(variables(state), x)[0]


def decode(bijection: Any, state: State, z: Event, levels: int | None = None) -> Event:
  """The examples of latents; with `levels` rounded to the 2 k / (levels - 1) - 1 whose interval [2 k / levels - 1,
  2 (k + 1) / levels - 1) they lie in."""
  x = bijection.apply(variables(state), z, inverse=True)[0]
  if levels is None:
    return x
  k = jnp.clip(jnp.floor((x + 1) * (levels / 2)), 0, levels - 1)
  return to_values(k, levels, x.dtype)


def log_density(bijection: Any, state: State, x: Event, base: Base = gaussian) -> Float[Array, " batch"]:
  """Minus (F1)."""
  return _log_density(base, *bijection.apply(variables(state), x))


def _log_density(base: Base, z: Event, log_det: Float[Array, " batch"]) -> Float[Array, " batch"]:
  return base.log_density(z).reshape(len(z), -1).sum(axis=1) + log_det


def flow(
  bijection: Any,
  *,
  shape: tuple[int, ...],
  optimizer: optax.GradientTransformation,
  levels: int | None = None,
  base: Base = gaussian,
  temperature: float = 1.0,
  feature: str = "image",
  ema: float | Callable[[Array], Array] | None = None,
  microbatches: int = 1,
  axis: str | None = None,
) -> Method:
  """A flow trained by (F1). Batch {feature: [B, *shape], "index": [B]}.

  Args:
    bijection: from examples to latents; a Flax module as in `jaxgen.nn.flows.bijections`.
    shape: of one example.
    levels: of the data's integers, which `data.transforms.dequantize(levels)` spread over [-1, 1); None for real
      numbers.
    base: of the latent: `gaussian` or `logistic`.
    temperature: latents are drawn and multiplied by it. Kingma and Dhariwal 2018, https://arxiv.org/abs/1807.03039,
      section 6, where 0.7 looks best.
    feature: the examples' name in a batch.
    ema, microbatches, axis: as in `compose`. A bijection with statistics or other buffers takes no microbatches.

  `init` uses the values of the batch that it is given: data-dependent initialisation.

  `evaluate` gives "nll_nats_dequantized", (F1) + D log(levels / 2), a bound on -log P of the integers; of real numbers
  "nll_nats_density", (F1). And "round_trip", the largest |x - f^-1(f(x))| of an example's entries.

  `sample(state, keys)` gives [N, *shape], of integers' values where there are levels.

  Raises:
    UserError: fewer than two levels, a negative temperature, or examples of another shape.
  """
  if levels is not None and levels < 2:
    raise UserError(f"dequantized data have 2 or more levels, not {levels}: change them, or say None for real numbers")
  if temperature < 0:
    raise UserError(f"a temperature is at least 0, and this is {temperature:g}: change it")
  size = math.prod(shape)
  name, integers = nll_name(None, levels, size)

  def init(key: Array, batch: Batch) -> tuple[dict[str, Params], dict]:
    if feature not in batch:
      raise UserError(f"the flow is of {feature!r} and this data has {', '.join(sorted(batch))}: change its feature")
    if batch[feature].shape[1:] != shape:
      raise UserError(
        f"the flow is of examples of shape {shape} and the data has {batch[feature].shape[1:]}: change one of them"
      )
    made = dict(bijection.init(key, batch[feature], train=True))
    return {"network": made.pop("params", {})}, made

  def loss(params: Params, state: State, batch: Batch, key: Array):
    """In nats per dimension."""
    (z, log_det), buffers = bijection.apply(
      {"params": params, **state.buffers}, batch[feature], train=True, mutable=list(state.buffers)
    )
    return jnp.mean(integers - _log_density(base, z, log_det)) / size, ({}, dict(buffers))

  def evaluate(state: State, batch: Batch, key: Array) -> dict[str, Float[Array, " batch"]]:
    x = batch[feature]
    z, log_det = bijection.apply(variables(state), x)
    away = jnp.abs(decode(bijection, state, z) - x)
    return {name: integers - _log_density(base, z, log_det), "round_trip": away.reshape(len(x), -1).max(axis=1)}

  def sample(state: State, keys: Key[Array, " n"]) -> Event:
    z = temperature * jax.vmap(lambda key: base.draw(key, shape))(keys)
    return decode(bijection, state, z, levels)

  averages = {} if ema is None else {"network": ema}
  players = [("network", Player(loss, optimizer))]
  how = dict(ema=averages, microbatches=microbatches, axis=axis, check=check_values(levels, True, feature))
  return compose(init, players, evaluate=evaluate, sample=sample, **how)
