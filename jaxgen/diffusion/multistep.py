r"""What multistep solvers share: the network's past outputs, and integrals of the polynomial through them.

They replace eps in (18) or (19), or x_0 in (20), by the polynomial in some variable u through the last outputs:

    int weight(u) output(u) du  ->  sum_j w_j output_j,
    w_j = int weight(u) l_j(u) du,   l_j(u) = prod_{k != j} (u - u_k) / (u_j - u_k)

The integrals are Gauss-Legendre sums: exact for a polynomial, and exact up to rounding for a polynomial times an
exponential. The latter's closed forms are differences of nearly equal numbers, with few digits in float32 for small
steps.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

POINTS, WEIGHTS = np.polynomial.legendre.leggauss(10)  # exact for degrees up to 19


class Past(NamedTuple):
  """The network's outputs in the last k steps, the newest first, and the u of each; u is infinite for missing steps."""

  outputs: tuple[Float[Array, "n ..."], ...]
  at: Float[Array, " k"]


def nothing(x: Float[Array, "n ..."], k: int) -> Past:
  return Past((jnp.zeros_like(x),) * k, jnp.full(k, jnp.inf, x.dtype))


def remember(past: Past, output: Float[Array, "n ..."], at: Float[Array, ""]) -> Past:
  return Past((output, *past.outputs[:-1]), jnp.append(at, past.at[:-1]))


def weights(
  nodes: Float[Array, " k"],
  low: Float[Array, ""],
  high: Float[Array, ""],
  weight: Callable[[Array], Array] = jnp.ones_like,
  variable: Callable[[Array], Array] = lambda u: u,
) -> Float[Array, " k"]:
  """w_j, the integrals of weight(u) l_j(variable(u)) du from low to high. l_j are polynomials on the finite nodes."""
  half = (high - low) / 2
  u = low + half * (1 + jnp.asarray(POINTS, low.dtype))
  there = jnp.isfinite(nodes)
  pair = there[:, None] & there & ~np.eye(len(nodes), dtype=bool)  # [j, k]
  distance = jnp.where(pair, nodes[:, None] - nodes, 1)
  factors = jnp.where(pair, variable(u)[:, None, None] - nodes, 1) / distance  # [point, j, k]
  l = jnp.where(there, factors.prod(-1), 0)
  return half * ((jnp.asarray(WEIGHTS, low.dtype) * weight(u)) @ l)


def correction(w: Float[Array, " k"], outputs: tuple[Float[Array, "n ..."], ...]) -> Float[Array, "n ..."]:
  """sum_j w_j (output_j - output_0): what the polynomial adds to output_0 alone."""
  return sum((w_j * (output - outputs[0]) for w_j, output in zip(w[1:], outputs[1:], strict=True)), 0 * outputs[0])
