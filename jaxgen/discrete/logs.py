"""Logarithms of probabilities, of which some are 0."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

# log 0. It is finite, so that differences, products with 0 and derivatives are finite; its exp is exactly 0.
NEVER = -1e30
IMPOSSIBLE = NEVER / 2  # values below this stand for log 0, after any additions


def log(x: Float[Array, "..."]) -> Float[Array, "..."]:
  """log x, and `NEVER` where x <= 0; its derivative is finite there, too."""
  positive = x > 0
  return jnp.where(positive, jnp.log(jnp.where(positive, x, 1)), NEVER)


def normalized(log_p: Float[Array, "... k"]) -> Float[Array, "... k"]:
  """Logarithms of probabilities with sum 1."""
  return jnp.maximum(jax.nn.log_softmax(log_p, axis=-1), NEVER)


def one_hot(x: Int[Array, "..."], states: int, dtype: Any) -> Float[Array, "... k"]:
  """The logarithm of a token's one-hot probabilities."""
  return jnp.where(x[..., None] == jnp.arange(states), 0.0, NEVER).astype(dtype)


def at(values: Float[Array, "... k"], x: Int[Array, "..."]) -> Float[Array, "..."]:
  """Each token's entry, values[.., x]."""
  return jnp.take_along_axis(values, x[..., None], axis=-1)[..., 0]


def kl(log_q: Float[Array, "... k"], log_p: Float[Array, "... k"]) -> Float[Array, "..."]:
  """KL(q || p) of normalised logarithms, nats; about 1e30 where q has what p never has."""
  return jnp.sum(jnp.exp(log_q) * jnp.where(log_q > IMPOSSIBLE, log_q - log_p, 0), axis=-1)
