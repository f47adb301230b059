"""Keys: no two purposes and no two seeds draw the same."""

import jax
import numpy as np
import pytest

from jaxgen.core.errors import UserError
from jaxgen.core.keys import root

data = lambda key: tuple(np.asarray(jax.random.key_data(key)).tolist())


def test_purposes_and_seeds_have_keys_of_their_own():
  seeds = [0, 1, 2**31, 2**32, 2**32 + 1, 2**63, 2**64 - 1]
  keys = {data(root(seed, purpose)) for seed in seeds for purpose in ("training", "sampling", "evaluation")}
  assert len(keys) == 3 * len(seeds)
  assert not keys & {data(jax.random.key(seed)) for seed in (0, 1, 2**31)}
  for seed in (-1, 2**64):
    with pytest.raises(UserError, match=f"--seed {seed}: a seed must be an integer from 0 to 18446744073709551615"):
      root(seed, "training")


def test_the_root_is_the_same_on_every_machine():
  """SHA-256 of "sampling 3", by `printf 'sampling 3' | sha256sum`: its first eight bytes."""
  digest = bytes.fromhex("4e88f13259795764")
  assert data(root(3, "sampling")) == tuple(np.frombuffer(digest, "<u4").tolist())


def test_the_fact_that_salts_are_for():
  key = jax.random.key(7)
  assert data(jax.random.split(key, 3)[2]) == data(jax.random.fold_in(key, 2))
