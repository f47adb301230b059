"""Markov chains: a kernel is a pair of pure functions over many chains at once, and `run` is one `lax.scan`.

An energy U gives one number of nats per chain, [chains], and the chains' stationary density is proportional to
exp(-U(x)). Every kernel draws for chain i from keys[i] only, so that a chain does not depend on the other chains.

    kernel = langevin(energy, step=0.1)
    x, accepted, _ = run(kernel, x, keys, 1_000)

`langevin.py` has kernels for smooth energies, `gibbs.py` one for two conditionals, and `tempering.py` lets chains at
several temperatures exchange positions; `ais.py` estimates a partition function, and `diagnostics.py` measures how well
chains mix.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from jaxgen.core.errors import UserError
from jaxgen.core.keys import fold_in

Energy = Callable[[Array], Float[Array, " chains"]]
Carry = Any  # a NamedTuple with the chains' positions as its `x`, and values that a kernel reuses in the next step


class Kernel(NamedTuple):
  """A Markov transition.

  Attributes:
    init: x [chains, ...] -> carry.
    step: (carry, keys [chains]) -> (carry, each chain's probability of acceptance [chains]). The probability is 1 for
      kernels that reject nothing.
  """

  init: Callable[[PyTree], Carry]
  step: Callable[[Carry, Key[Array, " chains"]], tuple[Carry, Float[Array, " chains"]]]


def run(
  kernel: Kernel,
  x: PyTree,
  keys: Key[Array, " chains"],
  steps: int,
  keep: Callable[[Carry], PyTree] = lambda carry: None,
) -> tuple[PyTree, Float[Array, " chains"], PyTree]:
  """Runs a kernel for `steps` steps. Step k of chain i draws from fold_in(keys[i], k).

  Args:
    x: the first positions, [chains, ...].
    keep: carry -> the part of it to keep at every step; by default nothing.

  Returns:
    (x after the last step, each chain's mean probability of acceptance, the kept parts [steps, ...])

  Raises:
    UserError: there are fewer steps than one.
  """
  if steps < 1:
    raise UserError(f"a chain takes 1 or more steps, not {steps}: change it")

  def step(carry: Carry, k: Array):
    carry, accepted = kernel.step(carry, fold_in(keys, k))
    return carry, (accepted, keep(carry))

  carry, (accepted, kept) = jax.lax.scan(step, kernel.init(x), jnp.arange(steps))
  return carry.x, accepted.mean(axis=0), kept


def one_per_chain(energy: Energy, x: Array) -> Float[Array, " chains"]:
  """The energies of chains.

  Raises:
    UserError: they are not one number per chain.
  """
  U = energy(x)
  if U.shape != x.shape[:1]:
    raise UserError(
      f"an energy is one number per example, and {len(x)} examples of shape {x.shape[1:]} have energies of shape "
      f"{U.shape}: sum over all but the first axis"
    )
  return U
