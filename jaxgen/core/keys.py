"""Keys and noise per example: all that an example draws is a function of its own key."""

from collections.abc import Sequence
from typing import Any

import jax
from jaxtyping import Array, Float, Int, Key


def example_keys(key: Key[Array, ""], index: Int[Array, "batch"]) -> Key[Array, "batch"]:
  """One key per example, a function of the key and of the example's position in the global batch alone."""
  return jax.vmap(jax.random.fold_in, (None, 0))(key, index)


def split(keys: Key[Array, "n"], count: int = 2) -> Key[Array, "{count} n"]:
  """`count` keys for each of these: `a_keys, b_keys = split(keys)`."""
  return jax.vmap(lambda key: jax.random.split(key, count), out_axes=1)(keys)


def fold_in(keys: Key[Array, "n"], data: Any) -> Key[Array, "n"]:
  """`jax.random.fold_in` of one number into each of the keys."""
  return jax.vmap(jax.random.fold_in, (0, None))(keys, data)


def normal(keys: Key[Array, "n"], shape: Sequence[int], dtype: Any = float) -> Float[Array, "n *shape"]:
  """Standard normal noise, each example's [*shape] from its own key."""
  return jax.vmap(lambda key: jax.random.normal(key, tuple(shape), dtype))(keys)
