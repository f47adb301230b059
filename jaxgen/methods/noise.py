"""Distributions whose density is known and that are drawn from: what energies are contrasted with, where their chains
begin, and what their normalisers are estimated by.

    fitted_gaussian                      a Gaussian with the moments of the first batch
    of_method(flow(...), "x")            any method of an exact density, such as a flow or an autoregressive model

Their parameters are the entry "noise" of a state's `params`.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float, Key

from jaxgen.errors import UserError
from jaxgen.mcmc import run
from jaxgen.mcmc.langevin import Sampler
from jaxgen.method import Method, Params, State
from jaxgen.metrics.likelihood import Partition

Event = Float[Array, "batch *shape"]
PerExample = Float[Array, " batch"]
Energy = Callable[[Event], PerExample]


class Noise(NamedTuple):
  """A distribution of examples.

  init: (key, x [B, *shape]) -> its parameters, which may start from the values of the examples x.
  log_density: (parameters, x [B, *shape]) -> [B], nats, per unit of x.
  draw: (parameters, keys [N]) -> [N, *shape], draw i a function of keys[i] alone.
  """

  init: Callable[[Array, Event], Params]
  log_density: Callable[[Params, Event], PerExample]
  draw: Callable[[Params, Key[Array, " n"]], Event]


def _fit(key: Array, x: Event) -> dict[str, Array]:
  """Mean and Cholesky factor. The covariance is drawn towards a sphere, by D / (D + B), so that it has an inverse."""
  B, D = len(x), x[0].size
  mean = x.mean(axis=0)
  away = (x - mean).reshape(B, D)
  covariance = away.T @ away / B
  share = D / (D + B)
  sphere = (jnp.trace(covariance) / D + 1e-6) * jnp.eye(D, dtype=x.dtype)
  return {"mean": mean, "scale": jnp.linalg.cholesky((1 - share) * covariance + share * sphere)}


def _log_gaussian(params: Params, x: Event) -> PerExample:
  scale = jnp.tril(params["scale"])
  z = solve_triangular(scale, (x - params["mean"]).reshape(len(x), -1).T, lower=True)
  log_det = jnp.sum(jnp.log(jnp.abs(jnp.diag(scale))))
  return -0.5 * jnp.sum(z**2, axis=0) - log_det - 0.5 * len(z) * math.log(2 * math.pi)


def _draw_gaussian(params: Params, keys: Key[Array, " n"]) -> Event:
  mean = params["mean"]
  z = jax.vmap(lambda key: jax.random.normal(key, (mean.size,), mean.dtype))(keys)
  return mean + (z @ jnp.tril(params["scale"]).T).reshape(len(keys), *mean.shape)


fitted_gaussian = Noise(_fit, _log_gaussian, _draw_gaussian)


def of_method(method: Method, feature: str = "image") -> Noise:
  """The distribution that a method learns, such as `flow(...)` or `autoregressive(...)`, of real numbers: levels=None.

  feature: the name that examples have in the method's batches.

  Its `init` raises:
    UserError: the method does not give "nll_nats_density", an exact density, or draws no samples, or it has buffers,
      such as batch statistics.
  """

  def batch_of(x: Event) -> dict[str, Array]:
    return {feature: x, "index": jnp.arange(len(x), dtype=jnp.int32)}

  def state_of(params: Params) -> State:
    zero = jnp.zeros((), jnp.int32)
    return State(zero, zero, jax.random.key(0), {"network": params}, {}, {}, {})

  def log_density(params: Params, x: Event) -> PerExample:
    return -method.evaluate(state_of(params), batch_of(x), jax.random.key(0))["nll_nats_density"]

  def init(key: Array, x: Event) -> Params:
    state = method.init(key, batch_of(x))
    found = jax.eval_shape(method.evaluate, state, batch_of(x), key)
    if "nll_nats_density" not in found or method.sample is None:
      raise UserError(
        "noise has samples and a density that is known exactly, and this method gives "
        f"{', '.join(found) or 'no density'}: take a flow, an autoregressive model of real numbers with levels=None, "
        "or fitted_gaussian"
      )
    if state.buffers or set(state.params) != {"network"}:
      raise UserError("noise is a method of one network without batch statistics or other buffers: take ActNorm there")
    return state.params["network"]

  return Noise(init, log_density, lambda params, keys: method.sample(state_of(params), keys))


def check(noise: Noise) -> None:
  """Raises a UserError where a distribution cannot serve as noise."""
  if noise.log_density is None or noise.draw is None:
    lacks = "log-density" if noise.log_density is None else "way to draw from it"
    raise UserError(
      f"this noise distribution has no {lacks}, and one is needed: take fitted_gaussian, or of_method of a flow or an "
      "autoregressive model"
    )


def split(keys: Key[Array, " n"], count: int) -> Key[Array, "n count"]:
  return jax.vmap(lambda key: jax.random.split(key, count))(keys)


def draws(noise: Noise, params: Params, keys: Key[Array, " n"], count: int) -> Float[Array, "n count *shape"]:
  """So many draws for each key."""
  y = noise.draw(params, split(keys, count).reshape(-1))
  return y.reshape(len(keys), count, *y.shape[1:])


class Chains(NamedTuple):
  """How samples of an energy are made: one of so many draws of the noise, and from there a Markov chain.

  candidates: draws of the noise for each sample, of which one is chosen with a probability in proportion to
    exp(-E) / p_n: importance resampling (Rubin 1987), right for many candidates; 1 leaves the noise as it is.
  kernel: of the chains that begin there, such as partial(mala, step=0.01); None for none.
  steps: that each chain takes.
  """

  candidates: int = 1
  kernel: Sampler | None = None
  steps: int = 0


OF_THE_NOISE, RESAMPLED = Chains(), Chains(candidates=100)


def check_chains(chains: Chains) -> None:
  """Raises a UserError for fewer candidates than one, or a kernel without steps, or steps without a kernel."""
  if chains.candidates < 1:
    raise UserError(f"a sample is chosen among 1 or more candidates, not {chains.candidates}: change it")
  if (chains.kernel is None) != (chains.steps == 0) or chains.steps < 0:
    raise UserError(f"chains take a kernel and 1 or more steps, and these take {chains.steps}: set both or neither")


def sample(energy: Energy, noise: Noise, params: Params, keys: Key[Array, " n"], chains: Chains) -> Event:
  """Samples of p(x) in proportion to exp(-energy(x)), nearly; see `Chains`. params: the noise's."""
  start_keys, choice_keys, chain_keys = split(keys, 3).T
  y = draws(noise, params, start_keys, chains.candidates)
  if chains.candidates > 1:
    flat = y.reshape(-1, *y.shape[2:])
    log_weight = (-energy(flat) - noise.log_density(params, flat)).reshape(y.shape[:2])
    chosen = jax.vmap(jax.random.categorical)(choice_keys, log_weight)
    x = y[jnp.arange(len(keys)), chosen]
  else:
    x = y[:, 0]
  return x if chains.kernel is None else run(chains.kernel(energy), x, chain_keys, chains.steps)[0]


def importance(
  energy: Callable[[State, Event], PerExample],
  noise: Noise,
  *,
  levels: int | None = None,
  number: int = 100_000,
  chunk: int = 1_000,
) -> Partition:
  """log Z of exp(-energy(x)) by importance sampling, for `likelihood(partition=...)`.

  It is log mean_i exp(-E(y_i)) / p_n(y_i), y_i drawn from the noise, whose parameters are those of the state. The
  standard error is to first order; it can be trusted only where the noise covers what the energy does.

  Args:
    levels: of dequantized data, None for real numbers.
    number: of draws, a multiple of `chunk`; so many as that are computed at once.

  Raises:
    UserError: a number of draws that is not a multiple of the chunk.
  """
  check(noise)
  if chunk < 1 or number < 1 or number % chunk:
    raise UserError(f"{number} draws of noise do not come in chunks of {chunk}: take a multiple")
  how = ("_density" if levels is None else "_dequantized") + f"_importance_{number}"

  @jax.jit
  def estimate(state: State, key: Array) -> tuple[Array, Array]:
    params = state.averaged("noise")

    def some(key: Array) -> Array:
      y = noise.draw(params, jax.random.split(key, chunk))
      return -energy(state, y) - noise.log_density(params, y)

    log_weight = jax.lax.map(some, jax.random.split(key, number // chunk)).reshape(-1)
    log_z = jax.nn.logsumexp(log_weight) - math.log(number)
    return log_z, jnp.std(jnp.exp(log_weight - log_z)) / math.sqrt(number)

  return lambda state, key: (*estimate(state, key), how)
