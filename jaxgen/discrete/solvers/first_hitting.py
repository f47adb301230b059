"""One token at a time, at times without an error of discretisation: Zheng et al. 2024, https://arxiv.org/abs/2409.02908."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Key

from jaxgen.core.errors import UserError
from jaxgen.core.keys import fold_in, split
from jaxgen.discrete.draws import categorical, log_exponential
from jaxgen.discrete.predictions import Predict
from jaxgen.discrete.processes import Process, check_mask
from jaxgen.discrete.sampling import Solver

Tokens = Int[Array, "n ..."]


def first_hitting(process: Process) -> Solver:
  """Draws which mask appears next and when, and then the token from u at that time: as many network calls as tokens.

  With m masks left at t, the largest of m uniform numbers on [0, 1 - alpha_t] is 1 - alpha at the next time, found by
  bisection.

  Raises:
    UserError: a process without a mask, or one that does not end with only masks.
  """
  mask, schedule = check_mask(process, "the first-hitting sampler"), process.schedule
  if schedule.end > 0:
    raise UserError("the first-hitting sampler starts with only masks, but this schedule has alpha(1) > 0: change it")

  def time(noise: Array) -> Array:
    def halve(_, ends):
      low, high = ends
      middle = (low + high) / 2
      below = schedule.noise(middle) < noise
      return jnp.where(below, middle, low), jnp.where(below, high, middle)

    ends = jnp.zeros_like(noise), jnp.ones_like(noise)
    return jax.lax.fori_loop(0, 40, halve, ends)[1]

  def solve(predict: Predict, x: Tokens, keys: Key[Array, " n"]) -> Tokens:
    shape, count = x.shape, math.prod(x.shape[1:])

    def step(carry: tuple, i: Array) -> tuple[tuple, None]:
      x, noise = carry
      time_keys, which_keys, token_keys = split(fold_in(keys, i), 3)
      masked = (x == mask).reshape(len(x), count)
      left = jnp.sum(masked, axis=-1)
      # u^(1/m) = exp(-E / m), E an exponential.
      E = jax.vmap(lambda key: jnp.exp(log_exponential(key, ())))(time_keys).astype(noise.dtype)
      noise = noise * jnp.exp(-E / jnp.maximum(left, 1))
      which = categorical(which_keys, jnp.where(masked, 0.0, -jnp.inf))
      drawn = categorical(token_keys, predict(x, time(noise)).log_u)
      here = (jnp.arange(count) == which[:, None]) & masked
      return (jnp.where(here.reshape(shape), drawn, x), noise), None

    return jax.lax.scan(step, (x, jnp.ones(len(x), float)), jnp.arange(count))[0][0]

  def step(predict: Predict, x: Tokens, t: Array, s: Array, keys: Array) -> Tokens:
    raise UserError("the first-hitting sampler has no steps of a grid")

  return Solver(process, step, solve)
