"""Keys and noise per example: all random numbers of an example are functions of its own key.

Code that draws from a seed starts from `root(seed, purpose)`, so that no two purposes draw the same numbers. After
that, note that `jax.random.split(key)[i]` and `jax.random.fold_in(key, i)` are the same key: use only one of the two
for a key, or indices that do not overlap.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Int, Key

from jaxgen.core.errors import UserError

SEEDS = 2**64


def check_seed(seed: int) -> None:
  """Raises a UserError unless the seed is an integer from 0 to 2^64 - 1."""
  if not 0 <= seed < SEEDS:
    raise UserError(f"--seed {seed}: a seed must be an integer from 0 to {SEEDS - 1}")


def root(seed: int, purpose: str) -> Key[Array, ""]:
  """The key for one purpose: the first words of SHA-256("purpose seed").

  Args:
    seed: the run's seed.
    purpose: "training" (which includes the initialisation), "sampling", "evaluation", ...

  Raises:
    UserError: a seed below 0 or of more than 64 bits.
  """
  check_seed(seed)
  words = np.frombuffer(hashlib.sha256(f"{purpose} {seed}".encode()).digest(), "<u4").astype(np.uint32)
  like = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0)))  # 2 words of threefry, 4 of rbg
  return jax.random.wrap_key_data(words[: like.size].reshape(like.shape))


def example_keys(key: Key[Array, ""], index: Int[Array, "batch"]) -> Key[Array, "batch"]:
  """One key per example. It depends only on `key` and the example's position in the global batch."""
  return jax.vmap(jax.random.fold_in, (None, 0))(key, index)


def split(keys: Key[Array, "n"], count: int = 2) -> Key[Array, "{count} n"]:
  """Splits each key into `count` keys: `a_keys, b_keys = split(keys)`."""
  return jax.vmap(lambda key: jax.random.split(key, count), out_axes=1)(keys)


def fold_in(keys: Key[Array, "n"], data: Any) -> Key[Array, "n"]:
  """Folds one number into each of the keys, by `jax.random.fold_in`."""
  return jax.vmap(jax.random.fold_in, (0, None))(keys, data)


def normal(keys: Key[Array, "n"], shape: Sequence[int], dtype: Any = float) -> Float[Array, "n *shape"]:
  """Standard normal noise, each example's [*shape] from its own key."""
  return jax.vmap(lambda key: jax.random.normal(key, tuple(shape), dtype))(keys)
