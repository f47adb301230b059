"""Samples of an energy by importance resampling of draws from a known distribution, followed by a Markov chain."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from jaxgen.core.errors import UserError
from jaxgen.core.keys import split
from jaxgen.core.method import Params
from jaxgen.mcmc import run
from jaxgen.mcmc.langevin import Sampler
from jaxgen.probability.noise import Energy, Event, Noise, draws


class Chains(NamedTuple):
  """How samples of an energy are made: choose one of several draws of the noise, and start a Markov chain from it.

  Attributes:
    candidates: number of draws of the noise for each sample. One is chosen with probability proportional to
      exp(-E) / p_n: importance resampling (Rubin 1987), exact in the limit of many candidates. With 1 it is the draw.
    kernel: energy -> the chains' kernel, such as partial(mala, step=0.01); None: no chains.
    steps: number of steps of each chain.
  """

  candidates: int = 1
  kernel: Sampler | None = None
  steps: int = 0


OF_THE_NOISE, RESAMPLED = Chains(), Chains(candidates=100)


def check_chains(chains: Chains) -> None:
  """Raises a UserError if there are fewer candidates than one, a kernel without steps, or steps without a kernel."""
  if chains.candidates < 1:
    raise UserError(f"a sample is chosen among 1 or more candidates, not {chains.candidates}: change it")
  if (chains.kernel is None) != (chains.steps == 0) or chains.steps < 0:
    raise UserError(f"chains take a kernel and 1 or more steps, and these take {chains.steps}: set both or neither")


def sample(energy: Energy, noise: Noise, params: Params, keys: Key[Array, " n"], chains: Chains) -> Event:
  """Approximate samples of p(x), which is proportional to exp(-energy(x)); see `Chains`.

  Args:
    energy: the energy.
    noise: the distribution that the candidates are drawn from.
    params: the noise's parameters.
    keys: a key for each sample.
    chains: the number of candidates, and the kernel and steps that follow.
  """
  start_keys, choice_keys, chain_keys = split(keys, 3)
  y = draws(noise, params, start_keys, chains.candidates)
  if chains.candidates > 1:
    flat = y.reshape(-1, *y.shape[2:])
    log_weight = (-energy(flat) - noise.log_density(params, flat)).reshape(y.shape[:2])
    chosen = jax.vmap(jax.random.categorical)(choice_keys, log_weight)
    x = y[jnp.arange(len(keys)), chosen]
  else:
    x = y[:, 0]
  return x if chains.kernel is None else run(chains.kernel(energy), x, chain_keys, chains.steps)[0]
