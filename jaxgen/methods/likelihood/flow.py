"""Normalising flows: maximum likelihood of a bijection to a simple latent, and samples by its exact inverse.

With z = f(x) and a base density p_Z whose entries are independent,

    (F1)  -log p(x) = -sum_i log p_Z(z_i) - log |det df/dx|

Dinh et al. 2014, https://arxiv.org/abs/1410.8516, eq. 1 and 2. The bijections are `jaxgen.nn.flows.bijections`, the
base densities `jaxgen.probability.bases`.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key, PyTree

from jaxgen.core.errors import UserError
from jaxgen.core.method import Batch, Method, Params, Player, State, compose
from jaxgen.core.spec import Spec, check_batch
from jaxgen.probability.bases import Base, gaussian
from jaxgen.probability.distributions import check_values, nll_name, to_values

Event = Float[Array, "batch *shape"]


def flow(
  bijection: Any,
  *,
  spec: Spec,
  optimizer: optax.GradientTransformation,
  base: Base = gaussian,
  temperature: float = 1.0,
) -> Method:
  """A flow trained by (F1). Batch {spec.feature: [B, *spec.shape], "index": [B]}.

  Args:
    bijection: from examples to latents; a Flax module as in `jaxgen.nn.flows.bijections`. One with batch statistics
      takes no microbatches.
    spec: of the data. Its levels are of integers that `data.transforms.dequantize(levels)` spread over [-1, 1); None
      for real numbers.
    base: of the latent: `gaussian` or `logistic`.
    temperature: latents are drawn and multiplied by it. Kingma and Dhariwal 2018, https://arxiv.org/abs/1807.03039,
      section 6, where 0.7 looks best.

  The loss is (F1), plus D log(levels / 2) where there are levels, over D: in nats per value, of which there are D.

  `init` uses the values of the batch that it is given: data-dependent initialisation.

  `evaluate` gives "nll_nats_dequantized", (F1) + D log(levels / 2), a bound on -log P of the integers; of real numbers
  "nll_nats_density", (F1). And "round_trip", the largest |x - f^-1(f(x))| of an example's entries.

  `sample(state, keys)` gives [N, *shape], of integers' values where there are levels.

  Raises:
    UserError: fewer than two levels, a negative temperature; in `init`, examples of another shape.
  """
  if spec.levels is not None and spec.levels < 2:
    raise UserError(f"dequantized data have 2 or more levels, not {spec.levels}: use None for real numbers")
  if temperature < 0:
    raise UserError(f"a temperature is at least 0, and this is {temperature:g}: change it")
  name, integers = nll_name(None, spec.levels, spec.size)

  def init(key: Array, batch: Batch) -> tuple[dict[str, Params], dict]:
    check_batch(spec, batch)
    made = dict(bijection.init(key, batch[spec.feature], train=True))
    return {"network": made.pop("params", {})}, made

  def loss(params: Params, state: State, batch: Batch, key: Array):
    both, x = {"params": params, **state.buffers}, batch[spec.feature]
    (z, log_det), buffers = bijection.apply(both, x, train=True, mutable=list(state.buffers))
    return jnp.mean(integers - _log_density(base, z, log_det)) / spec.size, ({}, dict(buffers))

  def evaluate(state: State, batch: Batch, key: Array) -> dict[str, Float[Array, " batch"]]:
    x = batch[spec.feature]
    z, log_det = bijection.apply(variables(state), x)
    away = jnp.abs(decode(bijection, state, z) - x)
    return {name: integers - _log_density(base, z, log_det), "round_trip": away.reshape(len(x), -1).max(axis=1)}

  def sample(state: State, keys: Key[Array, " n"]) -> Event:
    z = temperature * jax.vmap(lambda key: base.draw(key, tuple(spec.shape)))(keys)
    return decode(bijection, state, z, spec.levels)

  players = [("network", Player(loss, optimizer))]
  check = check_values(spec.levels, True, spec.feature)
  return compose(init, players, evaluate=evaluate, sample=sample, check=check)


def variables(state: State) -> PyTree:
  """The parameters of the bijection in evaluation and sampling: averaged ones, if there are any."""
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
