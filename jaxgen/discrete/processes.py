"""Processes: forward processes of tokens. Equations: `jaxgen.discrete`."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jaxtyping import Array, Float, Int

from jaxgen.core.arrays import per_example
from jaxgen.core.errors import UserError
from jaxgen.discrete import logs
from jaxgen.discrete.schedules import Schedule

Tokens = Int[Array, "batch *tokens"]
Logs = Float[Array, "batch *tokens k"]
Time = Float[Array, " batch"]


class Process(NamedTuple):
  """The noise of one token. Times are [B], tokens [B, ...].

  Attributes:
    vocabulary: V, the number of data's states, 0 .. V - 1.
    states: K, the number of states.
    steps: T; None: continuous time, or steps of any size.
    mask: the absorbing state, V; None: there is none.
    log_prior: the logarithms of p(x_1), from which samples start, [K].
    forward: (log p(x_0) [B, ..., K], t) -> log p(x_t) [B, ..., K].
    backward: (x_t [B, ...], s, t) -> log q(x_t | x_s = i) for all i, [B, ..., K].
    schedule: of an interpolating process; None for matrices.
    log_noise: log pi of an interpolating process, [K]; None for matrices.
    any_step: `backward` accepts any s < t. If not, it accepts only s = 0 and s = t - 1 / steps.
  """

  vocabulary: int
  states: int
  steps: int | None
  mask: int | None
  log_prior: Float[np.ndarray, " k"]
  forward: Callable[[Logs, Time], Logs]
  backward: Callable[[Tokens, Time, Time], Logs]
  schedule: Schedule | None = None
  log_noise: Float[np.ndarray, " k"] | None = None
  any_step: bool = True

  def log_q(self, x_0: Tokens, t: Time) -> Logs:
    """log q(x_t = . | x_0)."""
    return self.forward(logs.one_hot(x_0, self.states, t.dtype), t)

  def log_posterior(self, log_u: Logs, x_t: Tokens, s: Time, t: Time) -> Logs:
    """(4): log p(x_s = . | x_t). With the one-hot of x_0 in place of u it is q(x_s | x_t, x_0)."""
    return logs.normalized(self.backward(x_t, s, t) + self.forward(log_u, s))


def interpolating(
  schedule: Schedule,
  noise: Float[np.ndarray, " k"] | Sequence[float],
  vocabulary: int,
  steps: int | None = None,
  mask: int | None = None,
) -> Process:
  """The process (1).

  Samples start from p(x_1), the noised uniform distribution of data's states, which is pi where alpha(1) = 0. So the
  first term of the bound is finite on schedules that end just above.

  Args:
    schedule: alpha(t).
    noise: pi, [K].
    vocabulary: V <= K.
    steps: T; None: continuous time.
    mask: the state that is not data's.

  Raises:
    UserError: fewer than two states of data or one step, or noise that is no distribution.
  """
  pi = np.asarray(noise, np.float64)
  _check_vocabulary(vocabulary)
  if pi.ndim != 1 or len(pi) < vocabulary or pi.min() < 0 or abs(pi.sum() - 1) > 1e-6:
    raise UserError(
      f"noise is a probability for each of {vocabulary} or more states, and these are {len(pi)} numbers with the sum "
      f"{pi.sum():g}: change them"
    )
  _check_steps(steps)
  with np.errstate(divide="ignore"):
    log_pi = np.maximum(np.log(pi), logs.NEVER)
  states = len(pi)

  def mixed(log_p: Logs, kept: Array, lost: Array) -> Logs:
    return jnp.logaddexp(logs.log(kept) + log_p, logs.log(lost) + jnp.asarray(log_pi, log_p.dtype))

  def forward(log_p: Logs, t: Time) -> Logs:
    t = per_example(t, log_p)
    return jnp.maximum(mixed(log_p, schedule.alpha(t), schedule.noise(t)), logs.NEVER)

  def backward(x_t: Tokens, s: Time, t: Time) -> Logs:
    here = logs.one_hot(x_t, states, t.dtype)
    s, t = per_example(s, here), per_example(t, here)
    top = schedule.alpha(s)
    lost = logs.log(jnp.maximum(schedule.noise(t) - schedule.noise(s), 0) / top)
    log_pi_x = jnp.asarray(log_pi, t.dtype)[x_t][..., None]
    return jnp.maximum(jnp.logaddexp(logs.log(schedule.alpha(t) / top) + here, lost + log_pi_x), logs.NEVER)

  data = np.where(np.arange(states) < vocabulary, 1 / vocabulary, 0)
  with np.errstate(divide="ignore"):
    prior = np.maximum(np.log(schedule.end * data + (1 - schedule.end) * pi), logs.NEVER)
  return Process(vocabulary, states, steps, mask, prior, forward, backward, schedule, log_pi)


def uniform(schedule: Schedule, vocabulary: int, steps: int | None = None) -> Process:
  """Noise that is uniform over data's states: multinomial diffusion, and Austin's A.2.1."""
  _check_vocabulary(vocabulary)
  return interpolating(schedule, np.full(vocabulary, 1 / vocabulary), vocabulary, steps)


def absorbing(schedule: Schedule, vocabulary: int, steps: int | None = None) -> Process:
  """Noise that is the state V, the mask, which no data has: Austin's A.2.2, MDLM."""
  _check_vocabulary(vocabulary)
  return interpolating(schedule, np.eye(vocabulary + 1)[vocabulary], vocabulary, steps, mask=vocabulary)


def marginal(schedule: Schedule, frequencies: Float[np.ndarray, " k"], steps: int | None = None) -> Process:
  """Noise with the data's frequencies: DiGress's.

  Args:
    frequencies: of each state, with sum 1.
  """
  return interpolating(schedule, frequencies, len(frequencies), steps)


def of_matrices(transitions: Float[np.ndarray, "steps k k"]) -> Process:
  """The process (2). Samples start from the uniform distribution, which doubly stochastic matrices leave as it is.

  Products are computed in float64 here, and kept: 2 T K^2 numbers, of 0.5 GB for T = 1000 and K = 256 in float32.

  Args:
    transitions: q(x_t = j | x_{t - 1/T} = i), [T, K, K]; rows have the sum 1.

  Raises:
    UserError: the rows are no distributions.
  """
  Q = np.asarray(transitions, np.float64)
  steps, states, _ = Q.shape
  _check_steps(steps)
  if Q.min() < 0 or np.abs(Q.sum(-1) - 1).max() > 1e-6:
    raise UserError("a row of a transition matrix is a distribution, and one of these is not: change the matrices")
  products = [np.eye(states)]
  for one in Q:
    products.append(products[-1] @ one)
  with np.errstate(divide="ignore"):
    log_cumulative, log_single = (np.maximum(np.log(x), logs.NEVER) for x in (np.stack(products), Q))

  def at_step(table: np.ndarray, t: Time) -> Array:
    return jnp.asarray(table, t.dtype)[jnp.round(t * steps).astype(jnp.int32)]

  def forward(log_p: Logs, t: Time) -> Logs:
    most = jnp.max(log_p, axis=-1, keepdims=True)
    q, one = jnp.exp(at_step(log_cumulative, t)), jnp.exp(log_p - most)
    product = jnp.einsum(
      "b...i,bij->b...j", one, q, precision="highest"
    )  # an accelerator's default precision has 3 digits
    return jnp.where(product > 0, logs.log(product) + most, logs.NEVER)

  def backward(x_t: Tokens, s: Time, t: Time) -> Logs:
    clean = jnp.round(s * steps)[:, None, None] == 0
    table = jnp.where(clean, at_step(log_cumulative, t), at_step(log_single, t - 1 / steps))  # [B, K from, K to]
    columns = jnp.moveaxis(table, 1, 2).reshape(len(x_t), *(1,) * (x_t.ndim - 1), states, states)
    return jnp.take_along_axis(columns, x_t[..., None, None], axis=-2)[..., 0, :]

  prior = np.full(states, -np.log(states))
  return Process(states, states, steps, None, prior, forward, backward, any_step=False)


def discretized_gaussian(vocabulary: int, steps: int = 1000, first: float = 1e-4, last: float = 0.02) -> Process:
  """Tokens that are numbers go mostly to near ones: Austin's A.2.3, with beta_t in equal steps.

  Args:
    vocabulary: K.
    steps: T.
    first, last: beta_1 and beta_T.

  Raises:
    UserError: 0 < first <= last does not hold, or fewer than 2 tokens or 1 step.
  """
  _check_vocabulary(vocabulary)
  _check_steps(steps)
  if not 0 < first <= last:
    raise UserError(f"the betas are positive and do not fall, and these go from {first:g} to {last:g}: change them")
  distance = np.arange(1 - vocabulary, vocabulary)
  i = np.arange(vocabulary)
  Q = []
  for beta in np.linspace(first, last, steps):
    weights = np.exp(-4 * distance**2 / ((vocabulary - 1) ** 2 * beta))
    one = (weights / weights.sum())[np.abs(i[:, None] - i) + vocabulary - 1]
    np.fill_diagonal(one, 0)
    Q.append(one + np.diag(1 - one.sum(1)))
  return of_matrices(np.stack(Q))


def nearest_neighbour(
  vectors: Float[np.ndarray, "k d"], neighbours: int, steps: int = 1000, total: float = 100.0
) -> Process:
  """Tokens go to those whose vectors are near: Austin's A.2.4, Q_t = exp(a_t R).

  The graph G joins each token to its k nearest, and R = (G + G^T) / (2 k) off its diagonal, with rows of sum 0. The
  sum of a_1 .. a_t rises geometrically from `total` / 10^5 to `total`; the paper fits it to the data.

  Args:
    vectors: of each token, [K, D]: embeddings.
    neighbours: k.
    steps: T.
    total: the sum of all a_t; the graph must have mixed after it.

  Raises:
    UserError: k is not between 1 and K - 1, or the graph's parts are not connected, so that no noise is reached.
  """
  vectors = np.asarray(vectors, np.float64)
  K = len(vectors)
  _check_vocabulary(K)
  _check_steps(steps)
  if not 1 <= neighbours < K:
    raise UserError(f"a token of {K} has 1 to {K - 1} neighbours, not {neighbours}: change their number")
  square = ((vectors[:, None] - vectors) ** 2).sum(-1)
  np.fill_diagonal(square, np.inf)
  G = np.zeros((K, K))
  np.put_along_axis(G, np.argsort(square, axis=1, kind="stable")[:, :neighbours], 1.0, axis=1)
  R = (G + G.T) / (2 * neighbours)
  R -= np.diag(R.sum(1))
  slow = -np.sort(np.linalg.eigvalsh(R))[-2]  # the rate at which the slowest difference goes
  if slow * total < 5:
    raise UserError(
      f"noise by {neighbours} neighbours is far from uniform after a total of {total:g} (its slowest part falls by "
      f"exp(-{max(slow, 0) * total:.2g})): take more neighbours or a larger total"
    )
  reached = total * 1e-5 ** np.linspace(1, 0, steps)
  return of_matrices(np.stack([_stochastic(scipy.linalg.expm(a * R)) for a in np.diff(reached, prepend=0.0)]))


def _stochastic(Q: np.ndarray) -> np.ndarray:
  """Without what rounding has left below 0."""
  Q = np.maximum(Q, 0)
  return Q / Q.sum(-1, keepdims=True)


def check_interpolating(process: Process, what: str) -> Schedule:
  """The schedule of an interpolating process. Raises a UserError for a process of matrices."""
  if process.schedule is None:
    raise UserError(f"{what} needs a process with rates, an interpolating one, not matrices: change either")
  return process.schedule


def check_mask(process: Process, what: str) -> int:
  """The mask of an absorbing process. Raises a UserError if there is none."""
  if process.mask is None:
    raise UserError(f"{what} needs a vocabulary with a mask token, and this process has none: take the absorbing one")
  return process.mask


def _check_vocabulary(vocabulary: int) -> None:
  if vocabulary < 2:
    raise UserError(f"tokens of discrete diffusion have 2 or more values, not {vocabulary}: change the vocabulary")


def _check_steps(steps: int | None) -> None:
  if steps is not None and steps < 1:
    raise UserError(f"a discrete process has 1 or more steps, not {steps}: change their number, or None")
