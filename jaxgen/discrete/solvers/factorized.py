"""Solvers that take each token from x_t to x_s independently of the others: each is a law of x_s, of which tokens are
drawn.

Where all tokens go at once, their dependence is lost within a step: the error of any such solver falls as 1 / n with
the number n of steps.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxgen.core.arrays import per_example
from jaxgen.core.errors import UserError
from jaxgen.discrete import logs
from jaxgen.discrete.draws import categorical
from jaxgen.discrete.losses import LAST
from jaxgen.discrete.predictions import Predict, Predicted
from jaxgen.discrete.processes import Process, check_interpolating, check_mask
from jaxgen.discrete.sampling import Solver

Tokens = Int[Array, "n ..."]
Time = Float[Array, " n"]
# (x_t's Predicted, x_t, t, s) -> log p(x_s = . | x_t), [N, ..., K]
Law = Callable[[Predicted, Tokens, Time, Time], Float[Array, "n ... k"]]


def factorized(process: Process, law: Law, latest: float = 1.0) -> Solver:
  """The solver that draws each token from a distribution, with the prediction at t, or at `latest` if that is
  earlier."""

  def step(predict: Predict, x: Tokens, t: Array, s: Array, keys: Array) -> Tokens:
    t, s = jnp.broadcast_to(t, len(x)), jnp.broadcast_to(s, len(x))
    return categorical(keys, law(predict(x, jnp.minimum(t, latest)), x, t, s))

  return Solver(process, step)


def ancestral_law(process: Process) -> Law:
  """(4): Austin's p_theta; of ratios that are those of some law it is Lou's theorem 4.2."""
  return lambda predicted, x, t, s: process.log_posterior(predicted.log_u, x, s, t)


def _jumps(process: Process, predicted: Predicted, x: Tokens, t: Time, s: Time) -> Float[Array, "n ... k"]:
  """Expected numbers of jumps to each other state between t and s, by the rates (10) at t."""
  at = jnp.minimum(t, LAST)
  schedule = process.schedule
  beta = schedule.slope(at) / schedule.alpha(at) * (t - s)
  rate = per_example(beta, x) * jnp.exp(jnp.asarray(process.log_noise, t.dtype))[x]
  away = jnp.arange(process.states) != x[..., None]
  return jnp.where(away, rate[..., None] * jnp.exp(jnp.minimum(predicted.log_ratios, 60.0)), 0)


def _rate_law(process: Process, stay: Callable[[Array], Array], leave: Callable[[Array], Array]) -> Law:
  """Jumps with probabilities that their expected number makes, and (4) in the step to data.

  Args:
    stay: expected jumps of all kinds -> the probability to stay.
    leave: the same -> the factor of each kind's expected number.
  """
  check_interpolating(process, "a solver that jumps")

  def law(predicted: Predicted, x: Tokens, t: Time, s: Time) -> Float[Array, "n ... k"]:
    jumps = _jumps(process, predicted, x, t, s)
    every = jnp.sum(jumps, axis=-1, keepdims=True)
    here = jnp.arange(process.states) == x[..., None]
    log_p = logs.normalized(logs.log(jnp.where(here, stay(every), leave(every) * jumps)))
    clean = per_example(s, log_p) == 0
    return jnp.where(clean, process.log_posterior(predicted.log_u, x, s, t), log_p)

  return law


def euler_law(process: Process) -> Law:
  """Jumps with their expected number as probability, the rest stays: Lou's Euler steps."""
  return _rate_law(process, lambda every: jnp.maximum(1 - every, 0), jnp.ones_like)


def tau_leaping_law(process: Process) -> Law:
  """Poisson numbers of jumps: one is made, several are refused, as Campbell does for states without order."""
  return _rate_law(process, lambda every: 1 - every * jnp.exp(-every), lambda every: jnp.exp(-every))


def remasking_law(process: Process, eta: float = 0.1) -> Law:
  """Known tokens go back to the mask with probability sigma = min(eta, (1 - alpha_s) / alpha_t).

  Wang et al. 2025 (ReMDM), https://arxiv.org/abs/2503.00307, with its schedule "cap"; the marginals stay those of
  the process. eta = 0 is `ancestral`. With eta = c / n in n steps the error falls as 1 / n, with one eta more slowly.
  """
  mask, schedule = check_mask(process, "remasking"), process.schedule
  if not 0 <= eta <= 1:
    raise UserError(f"remasking's eta is a probability, not {eta:g}: change it")

  def law(predicted: Predicted, x: Tokens, t: Time, s: Time) -> Float[Array, "n ... k"]:
    alpha_s, alpha_t = schedule.alpha(s), schedule.alpha(t)
    sigma = jnp.minimum(eta, schedule.noise(s) / jnp.maximum(alpha_t, 1e-30))
    appear = per_example((alpha_s - (1 - sigma) * alpha_t) / schedule.noise(t), x)[..., None]
    stays = per_example((schedule.noise(s) - sigma * alpha_t) / schedule.noise(t), x)[..., None]
    sigma = per_example(sigma, x)[..., None]
    is_mask = jnp.arange(process.states) == mask
    of_mask = jnp.where(is_mask, logs.log(stays), logs.log(appear) + predicted.log_u)
    of_known = jnp.where(is_mask, logs.log(sigma), logs.log(1 - sigma) + logs.one_hot(x, process.states, t.dtype))
    return logs.normalized(jnp.where(x[..., None] == mask, of_mask, of_known))

  return law


def ancestral(process: Process) -> Solver:
  """Draws from (4)."""
  return factorized(process, ancestral_law(process))


def euler(process: Process) -> Solver:
  """Raises a UserError for a process of matrices."""
  return factorized(process, euler_law(process), LAST)


def tau_leaping(process: Process) -> Solver:
  """Raises a UserError for a process of matrices."""
  return factorized(process, tau_leaping_law(process), LAST)


def remasking(process: Process, eta: float = 0.1) -> Solver:
  """Raises a UserError for a process without a mask, or eta that is no probability."""
  return factorized(process, remasking_law(process, eta))
