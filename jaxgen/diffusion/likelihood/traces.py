"""Estimates of the trace (L4)."""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxgen.core.errors import UserError

Probes = Float[Array, "batch probes ..."]
Trace = Callable[[Float[Array, "batch ..."], Key[Array, " batch"]], Probes]  # (x, keys) -> the vectors v of (L4)
TraceName = Literal["exact", "hutchinson"]


def exact() -> Trace:
  """All D basis vectors: D backward passes of the network, and the memory of D batches. For small D."""

  def probes(x: Float[Array, "batch ..."], keys: Key[Array, " batch"]) -> Probes:
    basis = jnp.eye(x[0].size, dtype=x.dtype).reshape(-1, *x.shape[1:])
    return jnp.broadcast_to(basis, (len(x), *basis.shape))

  return probes


def hutchinson(probes: int = 1, noise: Literal["rademacher", "gaussian"] = "rademacher") -> Trace:
  """Random vectors, the same along the whole ODE; the estimate is unbiased.

  Args:
    probes: number of vectors for each example.
    noise: "rademacher" draws signs, which have the least variance, 0 for diagonal J; "gaussian" draws from N(0, I).

  Raises:
    UserError: probes < 1.
  """
  if probes < 1:
    raise UserError(f"Hutchinson's trace estimate takes 1 or more probes, not {probes}: change their number")
  draw = {"rademacher": jax.random.rademacher, "gaussian": jax.random.normal}[noise]

  def of_examples(x: Float[Array, "batch ..."], keys: Key[Array, " batch"]) -> Probes:
    one = lambda key: draw(key, (probes, *x.shape[1:]), x.dtype) / probes**0.5  # a mean over probes is this sum
    return jax.vmap(one)(keys)

  return of_examples


TRACES = {"exact": exact, "hutchinson": hutchinson}
