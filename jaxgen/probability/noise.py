"""Distributions with known densities and samplers. They are the noise of noise-contrastive estimation. They also start
chains of energies, and are used to estimate normalisers of energies.

    fitted_gaussian              a Gaussian with the moments of the first batch
    of_method(flow(...), spec)   any method with an exact density, such as a flow or an autoregressive model

Their parameters are the entry "noise" of a state's `params`.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float, Key

from jaxgen.core.errors import UserError
from jaxgen.core.keys import normal, split
from jaxgen.core.method import Method, Params, State
from jaxgen.core.spec import Spec

Event = Float[Array, "batch *shape"]
PerExample = Float[Array, " batch"]
Energy = Callable[[Event], PerExample]


class Noise(NamedTuple):
  """A distribution of examples.

  Attributes:
    init: (key, x [B, *shape]) -> its parameters, which may start from the values of the examples x.
    log_density: (parameters, x [B, *shape]) -> [B], nats, per unit of x.
    draw: (parameters, keys [N]) -> [N, *shape], draw i a function of keys[i] alone.
  """

  init: Callable[[Array, Event], Params]
  log_density: Callable[[Params, Event], PerExample]
  draw: Callable[[Params, Key[Array, " n"]], Event]


def _fit(key: Array, x: Event) -> dict[str, Array]:
  """Mean and Cholesky factor. The covariance is shrunk towards a sphere, by D / (D + B), so that it is invertible."""
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
  z = normal(keys, (mean.size,), mean.dtype)
  return mean + (z @ jnp.tril(params["scale"]).T).reshape(len(keys), *mean.shape)


fitted_gaussian = Noise(_fit, _log_gaussian, _draw_gaussian)


def of_method(method: Method, spec: Spec) -> Noise:
  """The distribution of a method of real numbers, such as `flow(...)` or `autoregressive(...)`.

  Args:
    method: the method.
    spec: the spec that the method was made for, with levels=None.

  Its `init` raises:
    UserError: the method does not evaluate "nll_nats_density", an exact density, or does not sample, or has buffers
      such as batch statistics.
  """

  def batch_of(x: Event) -> dict[str, Array]:
    return {spec.feature: x, "index": jnp.arange(len(x), dtype=jnp.int32)}

  def state_of(params: Params) -> State:
    zero = jnp.zeros((), jnp.int32)
    return State(zero, zero, jax.random.key(0), {"network": params}, {}, {}, {})

  def log_density(params: Params, x: Event) -> PerExample:
    return -method.evaluate(state_of(params), batch_of(x), jax.random.key(0))["nll_nats_density"]

  def init(key: Array, x: Event) -> Params:
    state = method.init(key, batch_of(x))
    given = jax.eval_shape(method.evaluate, state, batch_of(x), key)
    if "nll_nats_density" not in given or method.sample is None:
      raise UserError(
        "noise has samples and a density that is known exactly, and this method gives "
        f"{', '.join(given) or 'no density'}: take a flow, an autoregressive model of real numbers with levels=None, "
        "or fitted_gaussian"
      )
    if state.buffers or set(state.params) != {"network"}:
      raise UserError("noise is a method of one network without batch statistics or other buffers: take ActNorm there")
    return state.params["network"]

  return Noise(init, log_density, lambda params, keys: method.sample(state_of(params), keys))


def check(noise: Noise) -> None:
  """Raises a UserError if a distribution has no log-density or cannot be drawn from."""
  if noise.log_density is None or noise.draw is None:
    lacks = "log-density" if noise.log_density is None else "way to draw from it"
    raise UserError(
      f"this noise distribution has no {lacks}, and one is needed: take fitted_gaussian, or of_method of a flow or an "
      "autoregressive model"
    )


def draws(noise: Noise, params: Params, keys: Key[Array, " n"], count: int) -> Float[Array, "n count *shape"]:
  """`count` draws for each key."""
  y = noise.draw(params, split(keys, count).T.ravel())
  return y.reshape(len(keys), count, *y.shape[1:])
