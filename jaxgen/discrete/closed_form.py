"""Data whose diffusion is known: all sequences are enumerated, to test losses and solvers.

(C1)  u_i(v) prop. to sum_{x_0: x_0^i = v} p(x_0) prod_{j != i} q(x_t^j | x_0^j)

table = markov(first=np.full((3, 3), 1 / 9), then=transitions, length=4)
x = sample(solver, table.predict(process), times, start(process, keys, (4,)), keys)
"""

import itertools
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxgen.discrete import logs
from jaxgen.discrete.predictions import Predict, Predicted, of_u
from jaxgen.discrete.processes import Process


class Table(NamedTuple):
  """A distribution of sequences.

  Attributes:
    p: [V, .., V], an axis for each of N tokens, with sum 1.
  """

  p: Float[np.ndarray, "..."]

  @property
  def sequences(self) -> Int[np.ndarray, "rows n"]:
    """All sequences, in the order of `p.ravel()`."""
    return np.array(list(itertools.product(*map(range, self.p.shape))), np.int32)

  def entropy(self) -> float:
    """Nats per sequence."""
    p = self.p[self.p > 0]
    return float(-(p * np.log(p)).sum())

  def predict(self, process: Process) -> Predict:
    """The perfect model, (C1)."""
    rows = jnp.asarray(self.sequences)
    with np.errstate(divide="ignore"):
      log_p = np.maximum(np.log(self.p.ravel()), logs.NEVER)
    member = rows[:, :, None] == jnp.arange(process.states)  # [R, N, K]: whether a row has this token there

    def predict(x_t: Int[Array, "batch n"], t: Float[Array, " batch"]) -> Predicted:
      like = process.backward(x_t, jnp.zeros_like(t), t)  # [B, N, K] over x_0
      each = jnp.take_along_axis(
        like[:, None], jnp.broadcast_to(rows[None, :, :, None], (len(x_t), *rows.shape, 1)), -1
      )
      each = each[..., 0]  # [B, R, N]: log q(x_t^j | x_0^j) of each row
      n = each.shape[-1]
      others = each @ (1 - jnp.eye(n, dtype=each.dtype))  # the sum without the token itself
      weights = jnp.maximum(others + jnp.asarray(log_p, t.dtype)[:, None], logs.NEVER)[..., None]
      table = jnp.where(member, weights, logs.NEVER)  # [B, R, N, K]
      most = jnp.max(table, axis=1)
      log_u = most + jnp.log(jnp.sum(jnp.exp(table - most[:, None]), axis=1))
      return of_u(process, logs.normalized(log_u), x_t, t)

    return predict


def independent(p: Float[np.ndarray, " v"], length: int) -> Table:
  """Independent tokens, all with the probabilities p."""
  joint = np.ones(())
  for _ in range(length):
    joint = np.multiply.outer(joint, p)
  return Table(joint)


def markov(first: Float[np.ndarray, "v v"], then: Float[np.ndarray, "v v v"], length: int) -> Table:
  """A Markov chain of the second order.

  Args:
    first: the probabilities of the first two tokens.
    then: then[i, j, k] = p(k after i, j).
    length: the number of tokens, 2 or more.
  """
  joint = np.asarray(first, np.float64)
  for _ in range(length - 2):
    joint = joint[..., None] * np.asarray(then)
  return Table(joint)
