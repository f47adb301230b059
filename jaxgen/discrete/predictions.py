"""Predictions: from a network's output to u and the ratios. Equations (4) to (6): `jaxgen.discrete`.

A prediction turns the output [B, ..., V] into a `Predicted`. Only data's states are predicted: the mask is never a
value of x_0, and tokens that are not masked keep their value by (4). Sahoo calls these zero masking probability and
carry-over unmasking.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxgen.core.arrays import per_example
from jaxgen.discrete import logs
from jaxgen.discrete.processes import Process

PredictionName = Literal["x_0", "posterior", "score"]
Tokens = Int[Array, "batch ..."]
Logs = Float[Array, "batch ... k"]
Time = Float[Array, " batch"]


class Predicted(NamedTuple):
  """The prediction of the tokens, given x_t.

  Attributes:
    log_u: log u, normalised; [B, ..., K].
    log_ratios: log p_t(y) / p_t(x_t) for all y, (6); 0 for y = x_t.
  """

  log_u: Logs
  log_ratios: Logs


Predict = Callable[[Tokens, Time], Predicted]  # (x_t [N, ...], t [N]) -> Predicted, one call of the network
Prediction = Callable[[Process, Logs, Tokens, Time], Predicted]


def of_u(process: Process, log_u: Logs, x_t: Tokens, t: Time) -> Predicted:
  """The ratios (6) of a given u."""
  marginal = process.forward(log_u, t)
  return Predicted(log_u, marginal - logs.at(marginal, x_t)[..., None])


def x_0(process: Process, output: Float[Array, "batch ... v"], x_t: Tokens, t: Time) -> Predicted:
  """The output is log u up to a constant: D3PM and multinomial diffusion. For the absorbing process it is MDLM's."""
  return of_u(process, _padded(process, logs.normalized(output)), x_t, t)


def posterior(process: Process, output: Float[Array, "batch ... v"], x_t: Tokens, t: Time) -> Predicted:
  """The output is log p(x_0 | x_t) up to a constant, as in Campbell and DiGress; u by (5)."""
  likelihood = process.backward(x_t, jnp.zeros_like(t), t)[..., : process.vocabulary]
  log_u = jnp.where(likelihood > logs.IMPOSSIBLE, output - likelihood, logs.NEVER)
  return of_u(process, _padded(process, logs.normalized(log_u)), x_t, t)


def score(process: Process, output: Float[Array, "batch ... v"], x_t: Tokens, t: Time) -> Predicted:
  """The output is log s, the ratios (6), for data's states other than x_t's: Lou et al. 2024.

  In an absorbing process the network's output is log s - log(alpha / (1 - alpha)), as Lou's code scales it.
  u follows from the ratios by (6), and is 0 if they are too small.
  """
  schedule, ratios = process.schedule, output
  if process.mask is not None:
    at = per_example(logs.log(schedule.alpha(t)) - logs.log(schedule.noise(t)), output)
    output = output + at
  log_s = jnp.where(logs.one_hot(x_t, process.states, t.dtype) == 0, 0.0, _padded(process, output))
  noise = per_example(logs.log(schedule.noise(t)), log_s) + jnp.asarray(process.log_noise, t.dtype)
  if process.mask is not None:  # at a mask the ratios are in proportion to u, also at alpha = 0, where they vanish
    return Predicted(_padded(process, logs.normalized(ratios)), log_s)
  signal = logs.log(jnp.exp(logs.normalized(log_s)) - jnp.exp(noise))
  return Predicted(logs.normalized(signal), log_s)


def _padded(process: Process, log_p: Float[Array, "batch ... v"]) -> Logs:
  """[B, ..., V] -> [B, ..., K], with log 0 for the states that data has not."""
  more = [(0, 0)] * (log_p.ndim - 1) + [(0, process.states - log_p.shape[-1])]
  return jnp.pad(log_p, more, constant_values=logs.NEVER)


PREDICTIONS = {"x_0": x_0, "posterior": posterior, "score": score}
