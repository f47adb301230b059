"""Estimators of an unnormalised model's log Z, for `likelihood(partition=...)`.

quadrature   in the plane, by the midpoint rule
importance   by importance sampling from a known distribution
exact        for a restricted Boltzmann machine, by a sum over all states of one side
ais          for a restricted Boltzmann machine, by annealed importance sampling
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxgen.core.errors import UserError
from jaxgen.core.method import Params, State
from jaxgen.core.spec import Spec
from jaxgen.data import real
from jaxgen.data.dataset import Dataset
from jaxgen.evaluation.likelihood import Partition
from jaxgen.mcmc.ais import ais as anneal
from jaxgen.mcmc.ais import schedule
from jaxgen.mcmc.rbm import kernel, to_visible
from jaxgen.nn.energy.rbm import RBM, Side, log_partition, summed_side
from jaxgen.probability.distributions import nll_name
from jaxgen.probability.noise import Event, Noise, PerExample, check


def quadrature(energy: Callable[[Any, Array], Array], low: float, high: float, side: int = 1_000) -> Partition:
  """log Z of an energy of points in the plane, by the midpoint rule, for `likelihood(partition=...)`.

  The rule has side x side cells on the square from low to high. Points outside of the square are not counted.

  Args:
    energy: (state, x [n, 2]) -> [n] nats.
  """
  width = (high - low) / side
  line = (low + width * (np.arange(side) + 0.5)).astype(np.float32)

  @jax.jit
  def log_z(state: Any) -> Array:
    row = lambda y: jax.nn.logsumexp(-energy(state, jnp.stack([jnp.asarray(line), jnp.full(side, y)], axis=1)))
    return jax.nn.logsumexp(jax.lax.map(row, jnp.asarray(line))) + 2 * np.log(width)

  return lambda state, key: (log_z(state), 0.0, "_density_quadrature")


def importance(
  energy: Callable[[State, Event], PerExample],
  noise: Noise,
  spec: Spec,
  *,
  number: int = 100_000,
  chunk: int = 1_000,
) -> Partition:
  """log Z of exp(-energy(x)) by importance sampling, for `likelihood(partition=...)`.

  It is log mean_i exp(-E(y_i)) / p_n(y_i) with y_i drawn from the noise, whose parameters are in the state. The
  standard error is to first order. It is reliable only if the noise covers the energy's density.

  Args:
    spec: the data's spec; integers are those that were dequantized.
    number: number of draws, a multiple of `chunk`.
    chunk: number of draws that are computed at once.

  Raises:
    UserError: the number of draws is not a multiple of the chunk.
  """
  check(noise)
  if chunk < 1 or number < 1 or number % chunk:
    raise UserError(f"{number} draws of noise do not come in chunks of {chunk}: take a multiple")
  suffix = ("_density" if spec.levels is None else "_dequantized") + f"_importance_{number}"

  @jax.jit
  def estimate(state: State, key: Array) -> tuple[Array, Array]:
    params = state.averaged("noise")

    def some(key: Array) -> Array:
      y = noise.draw(params, jax.random.split(key, chunk))
      return -energy(state, y) - noise.log_density(params, y)

    log_weight = jax.lax.map(some, jax.random.split(key, number // chunk)).reshape(-1)
    log_z = jax.nn.logsumexp(log_weight) - math.log(number)
    return log_z, jnp.std(jnp.exp(log_weight - log_z)) / math.sqrt(number)

  return lambda state, key: (*estimate(state, key), suffix)


def _suffix(network: RBM, levels: int | None) -> str:
  return nll_name(network.units.levels, levels, 1)[0].removeprefix("nll_nats")


def exact(network: RBM, spec: Spec, side: Side | None = None) -> Partition:
  """log Z by summing over all states of a side, for `evaluation.likelihood`; see `nn.energy.rbm.log_partition`.

  Args:
    spec: the data's.

  Raises:
    UserError: the side has too many states.
  """
  side = summed_side(network, side)
  log_z = jax.jit(partial(log_partition, network, side=side))
  return lambda state, key: (log_z(state.averaged()), 0.0, _suffix(network, spec.levels))


def ais(network: RBM, data: Dataset, runs: int = 100, steps: int = 14_500, examples: int = 10_000) -> Partition:
  """log Z by annealed importance sampling along (R7), for `evaluation.likelihood`.

  The base has independent units with the means of the training data: Salakhutdinov and Murray 2008, section 4.1, whose
  numbers of runs and steps are the defaults.

  Args:
    network: the machine.
    data: the data set that it was trained on.
    runs: number of annealing runs.
    steps: number of steps of each run, at the temperatures of `mcmc.ais.schedule`.
    examples: number of training examples whose mean is taken.
  """
  betas = schedule(steps)

  @jax.jit
  def estimated(params: Params, base: Float[Array, " D"], key: Array):
    apply = partial(network.apply, {"params": params})
    start, keys = jax.random.split(key, (2, runs))
    x = apply(start, base, method="draw_base")
    energy = lambda v, beta: apply(v, beta, base, method="free_energy")
    estimate = anneal(
      lambda beta: kernel(network, params, beta, base),
      energy,
      x,
      apply(base, method="log_partition_at_base"),
      betas,
      keys,
    )
    return estimate.log_z, estimate.error

  def partition(state: State, key: Array) -> tuple[Array, Array, str]:
    total, feature = len(data.source("train")), data.spec.feature
    chosen = np.unique(np.linspace(0, total - 1, min(examples, total)).round().astype(int))
    means = [to_visible(network, batch[feature]).sum(axis=0) for batch in real.batches(data, "train", chosen)]
    params = state.averaged()
    base = network.units.bias(jnp.asarray(np.sum(means, axis=0) / len(chosen), params["b"].dtype))
    return *estimated(params, base, key), f"{_suffix(network, data.levels)}_ais_{runs}x{steps}"

  return partition
