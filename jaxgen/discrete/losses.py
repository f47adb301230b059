"""The bound's terms, nats per example. Equations: `jaxgen.discrete`."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from jaxgen.core.arrays import per_example
from jaxgen.core.errors import UserError
from jaxgen.core.keys import fold_in, split
from jaxgen.discrete import logs
from jaxgen.discrete.draws import categorical
from jaxgen.discrete.predictions import Predict, Predicted
from jaxgen.discrete.processes import Process, check_interpolating

Tokens = Int[Array, "batch ..."]
Time = Float[Array, " batch"]
Nats = Float[Array, " batch"]
Mask = Bool[Array, "batch ..."] | None  # which tokens are there; None: all
FIRST = 1e-4  # the time at which the integral (8) begins; the step from there to 0 is a term of (7)
LAST = 1 - 2.0**-17  # where rates are taken at later times: at t = 1 they are infinite, where nothing is left to jump


def total(x: Float[Array, "batch ..."], mask: Mask = None) -> Nats:
  """The sum over an example's tokens, of those that are there."""
  return jnp.sum(x, axis=range(1, x.ndim), where=mask)


def diffuse(process: Process, x_0: Tokens, t: Time, keys: Key[Array, " batch"]) -> Tokens:
  """A draw of x_t given x_0."""
  return categorical(keys, process.log_q(x_0, t))


def prior(process: Process, x_0: Tokens, dtype: Any = jnp.float32, *, mask: Mask = None) -> Nats:
  """The first term of (7)."""
  log_q = logs.normalized(process.log_q(x_0, jnp.ones(len(x_0), dtype)))
  return total(logs.kl(log_q, logs.normalized(jnp.asarray(process.log_prior, dtype))), mask)


def term(
  process: Process, predicted: Predicted, x_0: Tokens, x_t: Tokens, s: Time, t: Time, *, mask: Mask = None
) -> Nats:
  """A term of the sum (7): KL(q(x_s | x_t, x_0) || p(x_s | x_t)); for s = 0 it is -log p(x_0 | x_t)."""
  log_q = process.log_posterior(logs.one_hot(x_0, process.states, t.dtype), x_t, s, t)
  return total(logs.kl(log_q, process.log_posterior(predicted.log_u, x_t, s, t)), mask)


def integrand(process: Process, predicted: Predicted, x_0: Tokens, x_t: Tokens, t: Time) -> Nats:
  """The integrand of (8), for interpolating processes.

  Raises:
    UserError: a process of matrices.
  """
  schedule = check_interpolating(process, "the bound in continuous time")
  t = jnp.minimum(t, LAST)
  log_q = process.log_q(x_0, t)
  log_r = log_q - logs.at(log_q, x_t)[..., None]
  log_beta = logs.log(schedule.slope(t)) - logs.log(schedule.alpha(t))
  log_rate = per_example(log_beta, x_t) + jnp.asarray(process.log_noise, t.dtype)[x_t]
  there = (log_rate[..., None] > logs.IMPOSSIBLE) & (jnp.arange(process.states) != x_t[..., None])
  log_s = jnp.where(there, predicted.log_ratios, 0)
  log_r, log_rate = jnp.where(there, log_r, 0), jnp.where(there, log_rate[..., None], logs.NEVER)
  rated = lambda log_x: jnp.exp(jnp.minimum(log_rate + log_x, 60.0))
  there_r = log_r > logs.IMPOSSIBLE  # r (log r - 1 - log s) is 0 where r is
  more = jnp.where(there_r, rated(log_r) * (log_r - 1 - log_s), 0)
  return total(jnp.sum(rated(log_s) + more, axis=-1))


def cross_entropy(process: Process, predicted: Predicted, x_0: Tokens, x_t: Tokens, t: Time) -> Nats:
  """-log p(x_0 | x_t), by (5): the term that the hybrid loss adds. It is 0 where an absorbing process shows the
  token."""
  return term(process, predicted, x_0, x_t, jnp.zeros_like(t), t)


def bound(
  process: Process,
  predict: Predict,
  x_0: Tokens,
  keys: Key[Array, " batch"],
  *,
  terms: int | None = None,
  dtype: Any = jnp.float32,
) -> Nats:
  """An unbiased estimate of the bound on -log p(x_0), nats per example: (7) for a process of T steps, else (8).

  Args:
    process: the process.
    predict: the model; it is called once a term, and once more in continuous time.
    x_0: the tokens.
    keys: of each example.
    terms: the number of draws of t, each from its own part of [0, 1]. None: all T steps, or 128 in continuous time.

  Raises:
    UserError: terms outside 1 .. T.
  """
  T = process.steps
  terms = (T or 128) if terms is None else terms
  if terms < 1 or (T is not None and terms > T):
    raise UserError(f"the bound takes 1 to {T or 'any number of'} terms, not {terms}: change their number")
  edges = np.arange(terms + 1) * (T or terms) // terms

  def add(so_far: Array, part: tuple) -> tuple[Array, None]:
    k, low, high = part
    t_keys, x_keys = split(fold_in(keys, k))
    if T is not None:
      count = jax.vmap(lambda key: jax.random.randint(key, (), low + 1, high + 1))(t_keys).astype(dtype)
      s, t = (count - 1) / T, count / T
    else:
      within = jax.vmap(lambda key: jax.random.uniform(key, (), dtype))(t_keys)
      s = t = FIRST + (1 - FIRST) * (k + within) / terms
    x_t = diffuse(process, x_0, t, x_keys)
    if T is not None:
      return so_far + (high - low) * term(process, predict(x_t, t), x_0, x_t, s, t), None
    t = jnp.minimum(t, LAST)
    return so_far + (1 - FIRST) / terms * integrand(process, predict(x_t, t), x_0, x_t, t), None

  start = prior(process, x_0, dtype)
  if T is None:
    t = jnp.full(len(x_0), FIRST, dtype)
    x_t = diffuse(process, x_0, t, fold_in(keys, terms))
    start += term(process, predict(x_t, t), x_0, x_t, jnp.zeros_like(t), t)
  parts = (jnp.arange(terms), jnp.asarray(edges[:-1], jnp.int32), jnp.asarray(edges[1:], jnp.int32))
  return jax.lax.scan(add, start, parts)[0]
