"""The most certain tokens first: Chang et al. 2022 (MaskGIT), https://arxiv.org/abs/2202.04200."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Key

from jaxgen.core.keys import split
from jaxgen.discrete import logs
from jaxgen.discrete.draws import categorical, log_exponential
from jaxgen.discrete.predictions import Predict
from jaxgen.discrete.processes import Process, check_mask
from jaxgen.discrete.sampling import Solver

Tokens = Int[Array, "n ..."]


def confidence(process: Process, temperature: float = 1.0) -> Solver:
  """Of the tokens drawn for all masks, keeps those with the highest log u plus Gumbel noise times temperature t.

  After a step to s, (1 - alpha_s) of an example's tokens are masks, rounded down, and at least one less than before.
  The samples do not have the model's distribution: their entropy is lower.

  Args:
    process: an absorbing one.
    temperature: of the choice, MaskGIT's 4.5 for ImageNet; a large one chooses at random.

  Raises:
    UserError: a process without a mask.
  """
  mask, schedule = check_mask(process, "sampling by confidence"), process.schedule

  def step(predict: Predict, x: Tokens, t: Array, s: Array, keys: Key[Array, " n"]) -> Tokens:
    draw_keys, order_keys = split(keys)
    log_u = predict(x, jnp.broadcast_to(t, len(x))).log_u
    drawn = categorical(draw_keys, log_u)
    masked = x == mask
    noise = jax.vmap(lambda key: -log_exponential(key, x.shape[1:]))(order_keys)
    score = jnp.where(masked, logs.at(log_u, drawn) + temperature * t * noise, jnp.inf)
    flat = score.reshape(len(x), -1)
    before = jnp.sum(masked.reshape(len(x), -1), axis=-1)
    left = jnp.minimum(jnp.floor(schedule.noise(s) * flat.shape[1]), jnp.maximum(before - 1, 0))
    rank = jnp.argsort(jnp.argsort(flat, axis=-1), axis=-1)  # 0 is the least certain
    stays = (rank < left[:, None]).reshape(x.shape)
    return jnp.where(masked & ~stays, drawn, x)

  return Solver(process, step)
