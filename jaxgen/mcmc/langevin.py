"""Kernels for smooth energies: Langevin dynamics unadjusted, adjusted and underdamped, and Hamiltonian Monte Carlo.

In all of them U is the energy in nats, one number per chain that depends only on that chain; h is the step and z is
standard normal.

    (L1)  x' = x - h/2 grad U(x) + sqrt(h) z                       unadjusted: the stationary density is near exp(-U)
    (L2)  log a = U(x) - U(x') + log q(x | x') - log q(x' | x)     adjusted: a move is kept with probability min(1, a)
    (L3)  q(x' | x) is the density of (L1)

For a unit Gaussian, (L1) has the stationary variance 1 / (1 - h/4), and diverges from h = 4 on.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxgen.core.arrays import per_example
from jaxgen.core.errors import UserError
from jaxgen.core.keys import normal, split
from jaxgen.mcmc import Energy, Kernel, one_per_chain

Positions = Float[Array, "chains *shape"]
PerChain = Float[Array, " chains"]


class Unadjusted(NamedTuple):
  """The state of unadjusted chains.

  Attributes:
    x: positions, [chains, ...].
  """

  x: Array


class Adjusted(NamedTuple):
  """The state of adjusted chains.

  Attributes:
    x: positions, [chains, ...].
    U: their energies, [chains].
    gradient: the gradient of U, of x's shape.
  """

  x: Array
  U: Array
  gradient: Array


class Underdamped(NamedTuple):
  """The state of underdamped chains.

  Attributes:
    x: positions, [chains, ...].
    v: momenta, of mass 1, of x's shape.
    gradient: the gradient of the energy at x, of x's shape.
  """

  x: Array
  v: Array
  gradient: Array


def value_and_gradient(energy: Energy, x: Positions) -> tuple[PerChain, Positions]:
  """Energies and their gradients in x.

  Raises:
    UserError: energies are not one number per chain.
  """

  def total(x: Array) -> tuple[Array, Array]:
    U = one_per_chain(energy, x)
    return U.sum(), U

  (_, U), gradient = jax.value_and_grad(total, has_aux=True)(x)
  return U, gradient


def langevin(
  energy: Energy,
  step: float,
  *,
  noise: float | None = None,
  clip: float | None = None,
  box: tuple[float, float] | None = None,
) -> Kernel:
  """Unadjusted Langevin dynamics, (L1). One gradient a step; nothing is rejected.

  Without options the stationary density tends to exp(-U) as the step goes to 0. Each option changes that density. Deep
  energy-based models are often trained and sampled with such options; their U is then not minus the logarithm of the
  sampler's density.

  Args:
    step: h.
    noise: standard deviation of the noise instead of sqrt(h). The stationary density is near exp(-U / T) with T =
      noise^2 / h. Du and Mordatch 2019, https://arxiv.org/abs/1903.08689, use gradient steps of h/2 = 10 with noise
      0.005.
    clip: entries of the gradient are clipped to [-clip, clip].
    box: (low, high); values of x are clipped to it after every step.

  Raises:
    UserError: step <= 0, noise < 0, clip <= 0, low >= high, or energies are not one number per chain.
  """
  check_step(step)
  noise = math.sqrt(step) if noise is None else noise
  if noise < 0:
    raise UserError(f"the noise of a chain has a standard deviation of at least 0, and this is {noise:g}: change it")
  if clip is not None and not clip > 0:
    raise UserError(f"gradients are clipped to more than 0, and this is {clip:g}: change it, or leave it out")
  if box is not None and not box[0] < box[1]:
    raise UserError(f"a box reaches from a lower to a higher value, not from {box[0]:g} to {box[1]:g}: change it")

  def advance(carry: Unadjusted, keys: Key[Array, " chains"]) -> tuple[Unadjusted, PerChain]:
    x = carry.x
    _, gradient = value_and_gradient(energy, x)
    if clip is not None:
      gradient = jnp.clip(gradient, -clip, clip)
    x = x - step / 2 * gradient + noise * normal(keys, x.shape[1:], x.dtype)
    if box is not None:
      x = jnp.clip(x, *box)
    return Unadjusted(x), _ones(x)

  return Kernel(Unadjusted, advance)


def mala(energy: Energy, step: float) -> Kernel:
  """Metropolis-adjusted Langevin, (L1) to (L3): its density is exp(-U) at every step size. One gradient a step.

  Roberts and Tweedie 1996, Exponential convergence of Langevin distributions and their discrete approximations,
  Bernoulli 2(4). A proposal whose energy is not a number is rejected.

  Raises:
    UserError: step <= 0; energies that are not one number per chain.
  """
  check_step(step)

  def init(x: Positions) -> Adjusted:
    return Adjusted(x, *value_and_gradient(energy, x))

  def advance(carry: Adjusted, keys: Key[Array, " chains"]) -> tuple[Adjusted, PerChain]:
    normal_keys, uniform_keys = split(keys)
    x = carry.x
    y = x - step / 2 * carry.gradient + math.sqrt(step) * normal(normal_keys, x.shape[1:], x.dtype)
    proposal = init(y)
    ratio = carry.U - proposal.U + log_proposal(y, proposal.gradient, x, step)
    return _accept(ratio - log_proposal(x, carry.gradient, y, step), uniform_keys, proposal, carry)

  return Kernel(init, advance)


def log_proposal(x: Positions, gradient: Positions, y: Positions, step: float) -> PerChain:
  """log q(y | x) of (L3) up to a constant, from the gradient of U at x."""
  away = (y - x + step / 2 * gradient).reshape(len(x), -1)
  return -jnp.square(away).sum(axis=1) / (2 * step)


def underdamped(energy: Energy, step: float, friction: float = 1.0) -> Kernel:
  """Underdamped Langevin dynamics of mass 1, unadjusted, by the splitting BAOAB. One gradient a step.

      B  v <- v - h/2 grad U(x)
      A  x <- x + h/2 v
      O  v <- c v + sqrt(1 - c^2) z    with c = exp(-friction h)
      A, B again

  Leimkuhler and Matthews 2013, https://arxiv.org/abs/1203.5428. For a Gaussian its positions have the exact variance at
  every step size up to 2; momenta have the variance 1 - h^2 / 4 instead of 1. `init` starts with momenta 0.

  Args:
    step: h, in time. It moves about as far as a step of (L1) of size h^2.
    friction: the friction per unit of time.

  Raises:
    UserError: step <= 0 or friction <= 0; energies that are not one number per chain.
  """
  check_step(step)
  if not friction > 0:
    raise UserError(f"friction is more than 0, and this is {friction:g}: change it")
  c = math.exp(-friction * step)

  def init(x: Positions) -> Underdamped:
    return Underdamped(x, jnp.zeros_like(x), value_and_gradient(energy, x)[1])

  def advance(carry: Underdamped, keys: Key[Array, " chains"]) -> tuple[Underdamped, PerChain]:
    x, v, gradient = carry
    v = v - step / 2 * gradient
    x = x + step / 2 * v
    v = c * v + math.sqrt(1 - c**2) * normal(keys, x.shape[1:], x.dtype)
    x = x + step / 2 * v
    _, gradient = value_and_gradient(energy, x)
    return Underdamped(x, v - step / 2 * gradient, gradient), _ones(x)

  return Kernel(init, advance)


def hmc(energy: Energy, step: float, leapfrogs: int) -> Kernel:
  """Hamiltonian Monte Carlo with mass 1: Neal 2011, https://arxiv.org/abs/1206.1901, section 5.3.2.

  A step draws momenta, takes `leapfrogs` leapfrog steps, and accepts their end by the change of U(x) + |v|^2 / 2. With
  one leapfrog step it is `mala` with step^2.

  Raises:
    UserError: step <= 0, there are fewer leapfrogs than one, or energies are not one number per chain.
  """
  check_step(step)
  if leapfrogs < 1:
    raise UserError(f"Hamiltonian Monte Carlo takes 1 or more leapfrog steps, not {leapfrogs}: change it")

  def init(x: Positions) -> Adjusted:
    return Adjusted(x, *value_and_gradient(energy, x))

  def advance(carry: Adjusted, keys: Key[Array, " chains"]) -> tuple[Adjusted, PerChain]:
    normal_keys, uniform_keys = split(keys)
    v = normal(normal_keys, carry.x.shape[1:], carry.x.dtype)

    def leapfrog(_, both: tuple[Adjusted, Array]) -> tuple[Adjusted, Array]:
      at, v = both
      v = v - step / 2 * at.gradient
      at = init(at.x + step * v)
      return at, v - step / 2 * at.gradient

    proposal, last = jax.lax.fori_loop(0, leapfrogs, leapfrog, (carry, v))
    kinetic = lambda v: jnp.square(v.reshape(len(v), -1)).sum(axis=1) / 2
    return _accept(carry.U + kinetic(v) - proposal.U - kinetic(last), uniform_keys, proposal, carry)

  return Kernel(init, advance)


def check_step(step: float) -> None:
  """Raises a UserError for a step that is not larger than 0."""
  if not step > 0:
    raise UserError(f"a chain's step is larger than 0, and this is {step:g}: change it")


def _accept(log_ratio: PerChain, keys: Key[Array, " chains"], new: Adjusted, old: Adjusted):
  """(the new state with probability min(1, exp(log_ratio)) in each chain, otherwise the old; that probability)."""
  log_ratio = jnp.where(jnp.isnan(log_ratio), -jnp.inf, log_ratio)
  u = jax.vmap(lambda key: jax.random.uniform(key, (), log_ratio.dtype))(keys)
  accepted = jnp.log(u) < log_ratio
  choose = lambda a, b: jnp.where(per_example(accepted, a), a, b)
  return jax.tree.map(choose, new, old), jnp.exp(jnp.minimum(log_ratio, 0))


def _ones(x: Positions) -> PerChain:
  return jnp.ones(len(x), x.dtype)


Sampler = Callable[[Energy], Kernel]  # energy -> a kernel for it, such as partial(langevin, step=0.1)
