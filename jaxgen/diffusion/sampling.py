"""Sampling: a solver run over a time grid, in one scan."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

Denoise = Callable[[Float[Array, "n ..."], Float[Array, ""]], tuple[Float[Array, "n ..."], Float[Array, "n ..."]]]


class Solver(NamedTuple):
  """How to go from x_t to x_s, s < t.

  init: x [N, ...] -> what the solver carries from step to step, () where it carries nothing.
  step: (denoise, carry, x [N, ...], t [], s [], keys [N]) -> (x at s, carry). denoise(x, t) -> (x_0, eps) is one call
    of the network; keys are this step's, one per sample, so that a sample does not depend on those beside it.
  """

  init: Callable[[Float[Array, "n ..."]], Any]
  step: Callable[..., tuple[Float[Array, "n ..."], Any]]


def sample(
  solver: Solver,
  denoise: Denoise,
  times: Float[np.ndarray, " times"],
  x: Float[Array, "n ..."],
  keys: Key[Array, " n"],
) -> Float[Array, "n ..."]:
  """Solves from x, which is at times[0], to times[-1]. Step i of sample n draws from fold_in(keys[n], i).

  x is float32 or float64, and so is all arithmetic outside the network.
  """
  times = jnp.asarray(times, x.dtype)

  def step(state, now):
    x, carry = state
    i, t, s = now
    return solver.step(denoise, carry, x, t, s, jax.vmap(jax.random.fold_in, (0, None))(keys, i)), None

  (x, _), _ = jax.lax.scan(step, (x, solver.init(x)), (jnp.arange(len(times) - 1), times[:-1], times[1:]))
  return x


def normal(keys: Key[Array, " n"], x: Float[Array, "n ..."]) -> Float[Array, "n ..."]:
  """Standard normal noise of x's shape and dtype, each sample's from its own key."""
  return jax.vmap(lambda key: jax.random.normal(key, x.shape[1:], x.dtype))(keys)
