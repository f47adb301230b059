"""Sampling: a solver run over a time grid, in one scan."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from jaxgen.core.errors import UserError
from jaxgen.core.keys import fold_in
from jaxgen.discrete.draws import categorical
from jaxgen.discrete.predictions import Predict
from jaxgen.discrete.processes import Process

Tokens = Int[Array, "n ..."]
Step = Callable[[Predict, Tokens, Float[Array, ""], Float[Array, ""], Key[Array, " n"]], Tokens]
Grid = Callable[[int], Float[np.ndarray, " times"]]  # n -> times [n + 1], from 1 down to 0


class Solver(NamedTuple):
  """A step from x_t to x_s, s < t.

  Attributes:
    process: the solver's process.
    step: (predict, x [N, ...], t [], s [], keys [N]) -> x at s, with one call of the network.
    solve: (predict, x, keys) -> x, for a solver that chooses its own times and does not use `step`.
  """

  process: Process
  step: Step
  solve: Callable[[Predict, Tokens, Key[Array, " n"]], Tokens] | None = None


def uniform_grid(n: int) -> Float[np.ndarray, " times"]:
  """1, 1 - 1/n, .., 0."""
  return np.linspace(1, 0, n + 1)


def cosine_grid(n: int) -> Float[np.ndarray, " times"]:
  """cos(pi k / (2 n)): small steps near t = 1, where few tokens are known. Chang et al. 2022 (MaskGIT)."""
  return np.append(np.cos(np.pi / 2 * np.arange(n) / n), 0.0)


def start(process: Process, keys: Key[Array, " n"], shape: tuple[int, ...]) -> Tokens:
  """Draws from p(x_1)."""
  log_p = jnp.broadcast_to(jnp.asarray(process.log_prior, float), (len(keys), *shape, process.states))
  return categorical(keys, log_p)


def check(process: Process, times: Float[np.ndarray, " times"]) -> None:
  """Raises a UserError unless times fall from 1 or less to 0 and the process has such steps."""
  times = np.asarray(times)
  if len(times) < 2:
    raise UserError(f"sampling takes at least 1 step, not {len(times) - 1}: change the number of steps")
  if (np.diff(times) >= 0).any() or times[-1] != 0 or times[0] > 1:
    raise UserError("sampling goes from noise at t = 1 to data at t = 0, and these times do not: change the grid")
  if process.any_step:
    return
  if len(times) != process.steps + 1 or np.abs(times - uniform_grid(process.steps)).max() > 1e-6:
    raise UserError(
      f"a process of transition matrices is sampled in its own {process.steps} steps, not in {len(times) - 1}: take "
      "all of them"
    )


def sample(
  solver: Solver, predict: Predict, times: Float[np.ndarray, " times"], x: Tokens, keys: Key[Array, " n"]
) -> Tokens:
  """Solves from x, which is at times[0], to data. Step i of sample n draws from fold_in(keys[n], i).

  Raises:
    UserError: see `check`.
  """
  if solver.solve is not None:
    return solver.solve(predict, x, keys)
  check(solver.process, times)
  ends = jnp.asarray(times, float)

  def step(x: Tokens, now: tuple) -> tuple[Tokens, None]:
    i, t, s = now
    return solver.step(predict, x, t, s, fold_in(keys, i)), None

  return jax.lax.scan(step, x, (jnp.arange(len(times) - 1), ends[:-1], ends[1:]))[0]
