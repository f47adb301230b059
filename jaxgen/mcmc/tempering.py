"""Parallel tempering: copies of a chain at several inverse temperatures, which exchange their positions.

With energies U_beta, such as beta U, the copies' joint density is the product of exp(-U_beta_t(x_t)). Two neighbours
exchange their positions with probability min(1, a),

    (T1)  log a = U_s(x_s) + U_t(x_t) - U_s(x_t) - U_t(x_s)

which leaves the product invariant by detailed balance: Geyer 1991, Markov chain Monte Carlo maximum likelihood;
Desjardins et al. 2010, Tempered Markov chain Monte Carlo for training of restricted Boltzmann machines.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from jaxgen.core.arrays import per_example
from jaxgen.core.errors import UserError
from jaxgen.core.keys import fold_in, split
from jaxgen.mcmc import Kernel

Family = Callable[[Array, Float[Array, " rows"]], Float[Array, " rows"]]  # (x [rows, ...], beta [rows]) -> U_beta(x)


class Tempered(NamedTuple):
  """The state of the chains.

  Attributes:
    x: positions, [chains, temperatures, ...].
  """

  x: Array


def check_betas(betas: Sequence[float] | np.ndarray) -> None:
  """Raises a UserError for inverse temperatures that are fewer than two or do not rise to 1 from 0 or more."""
  if len(betas) < 2 or betas[0] < 0 or betas[-1] != 1 or any(s >= t for s, t in zip(betas, betas[1:], strict=False)):
    some = ", ".join(f"{beta:g}" for beta in betas[:3])
    raise UserError(
      f"inverse temperatures are two or more that rise from at least 0 to exactly 1, not {len(betas)} that begin with "
      f"{some}: change them"
    )


def tempering(
  inner: Callable[[Float[Array, " rows"]], Kernel], energy: Family, betas: Sequence[float] | np.ndarray
) -> Kernel:
  """A step of `inner` in every copy, and exchanges of neighbours.

  For each chain and step it is drawn whether the pairs are first and second, third and fourth, ... or second and third,
  ...; two copies are always a pair. The step's probability of acceptance is the mean over the pairs.

  Args:
    inner: inverse temperatures [rows] -> a kernel of as many chains, each at its own inverse temperature.
    energy: U_beta.
    betas: inverse temperatures, rising to 1; x[:, -1] has the density exp(-U_1).

  Raises:
    UserError: inverse temperatures that do not rise to 1 from 0 or more.
  """
  check_betas(betas)
  copies = len(betas)

  def step(carry: Tempered, keys: Key[Array, " chains"]) -> tuple[Tempered, Float[Array, " chains"]]:
    chains = len(carry.x)
    flat = carry.x.reshape(chains * copies, *carry.x.shape[2:])
    beta = jnp.tile(jnp.asarray(betas, carry.x.dtype), chains)
    inner_keys, parity_keys, swap_keys = (fold_in(keys, i) for i in range(3))
    kernel = inner(beta)
    moved, _ = kernel.step(kernel.init(flat), split(inner_keys, copies).T.ravel())
    x = moved.x.reshape(carry.x.shape)

    # Pairs begin with the first copy, or with the second; where there are two copies, they are always a pair.
    second = jax.vmap(jax.random.bernoulli)(parity_keys) & (copies > 2)
    t = jnp.arange(copies)[None]
    other = jnp.where((t - second[:, None].astype(int)) % 2 == 0, t + 1, t - 1)
    paired = (other >= 0) & (other < copies)
    other = jnp.where(paired, other, t)
    u = jax.vmap(lambda key: jax.random.uniform(key, (copies,), beta.dtype))(swap_keys)
    theirs = jnp.take_along_axis(x, per_example(other, x), axis=1)
    U_mine = energy(moved.x, beta).reshape(chains, copies)
    U_theirs = energy(theirs.reshape(flat.shape), beta).reshape(chains, copies)
    gain = U_mine - U_theirs
    log_a = gain + jnp.take_along_axis(gain, other, axis=1)
    # Both of a pair look at the same number.
    u = jnp.take_along_axis(u, jnp.minimum(t, other), axis=1)
    swap = paired & (jnp.log(u) < log_a)
    accepted = jnp.mean(jnp.exp(jnp.minimum(log_a, 0)), axis=1, where=paired)
    return Tempered(jnp.where(per_example(swap, x), theirs, x)), accepted

  return Kernel(Tempered, step)
