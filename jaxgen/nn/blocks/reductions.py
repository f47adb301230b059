"""Sums that XLA's CPU backend vectorises."""

from collections.abc import Sequence

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

# A reduction over more positions than these is not unrolled, and then not vectorised: [4, 56, 56, 256] took 7 to 15 ms
# where 0.6 suffice. See "What pays on a CPU" in benchmarks/README.md.
_STEP = 16


def sum_over_second(arrays: Sequence[Array]) -> tuple[Float[Array, "B *rest"], ...]:
  """Each of several arrays of one shape [B, N, *rest], summed over N; in steps of at most 16 terms where they divide N.

  The arrays are reduced at once: XLA's CPU backend turns a reduction of one array over many positions into windows and
  does not vectorise it.
  """
  arrays = tuple(arrays)
  zeros = tuple(jnp.zeros((), x.dtype) for x in arrays)
  while (n := arrays[0].shape[1]) != 1:
    step = max((k for k in range(2, min(n, _STEP) + 1) if n % k == 0), default=n)
    parts = tuple(x.reshape(x.shape[0], n // step if n else 1, step, *x.shape[2:]) for x in arrays)
    arrays = tuple(lax.reduce(parts, zeros, lambda a, b: tuple(map(jnp.add, a, b)), (2,)))
  return tuple(x[:, 0] for x in arrays)
