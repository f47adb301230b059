"""Deep energy-based model of points in the plane: eight normal clouds on a ring, by maximum likelihood with a replay
buffer of adjusted Langevin chains.

Paper: Du and Mordatch 2019, Implicit generation and modeling with energy-based models,
https://arxiv.org/abs/1903.08689, Algorithm 1, with chains that keep the density: Roberts and Tweedie 1996. In the plane
the normaliser is a sum over a fine grid, so that the likelihood is exact.

    jaxgen train ebm_rings
    jaxgen train ebm_rings --kernel langevin     (or underdamped)

Expect: 0.371 nats (standard error 0.009) per point; the clouds' entropy is ln 8 + ln(2 pi e 0.01) = 0.31. Chains of
1,000 steps from test points and from noise agree nearly (R-hat 1.08 of their energies: few change cloud). One seed
Cost: 3 minutes on 2 CPU cores that were busy with much other work, 40 seconds of one core's time
"""

from functools import partial
from typing import Literal

import jax
import numpy as np

from jaxgen import Experiment, data, optimizers
from jaxgen.core.wrappers import averaged, rollback
from jaxgen.data.sources import modes
from jaxgen.evaluation.likelihood import likelihood
from jaxgen.evaluation.long_run import long_run, long_runs
from jaxgen.evaluation.partition import quadrature
from jaxgen.mcmc.langevin import langevin, mala, underdamped
from jaxgen.methods.energy.ebm import Replay, diverged, ebm, energies, uniform
from jaxgen.nn.energy.ebm import EnergyMLP
from jaxgen.show import figures


def experiment(
  steps: int = 3_000,
  batch_size: int = 256,
  learning_rate: float = 2e-3,
  points: Literal["ring8", "grid25"] = "ring8",
  std: float = 0.1,
  widths: tuple[int, ...] = (128, 128),
  kernel: Literal["mala", "langevin", "underdamped"] = "mala",
  step_size: float = 0.01,
  chain_steps: int = 10,
  replay: int = 4_096,
  restart: float = 0.05,
  sampling_steps: int = 200,
  ema: float = 0.99,
  limit: float = 20.0,
) -> Experiment:
  """An energy of points, whose normaliser is computed by quadrature.

  Args:
    points: where the clouds lie.
    std: standard deviation of a cloud.
    widths: of the energy's hidden layers.
    kernel: of the Markov chains.
    step_size: of the chains, h of Langevin dynamics.
    chain_steps: that chains take in a training step.
    replay: size of the replay buffer, from which chains start.
    restart: probability with which a chain begins with noise all the same.
    sampling_steps: of the chains that make samples.
    limit: nats between the mean energies of data and samples, from which on training goes back to a snapshot.
  """
  cloud = data.Dataset(f"points:{points}:{std}", {"x": jax.ShapeDtypeStruct((2,), np.float32)})
  edge = float(np.abs(modes(points)).max()) + 6 * std
  network = EnergyMLP(widths, reference=edge)
  # In the underdamped kernel the step is a time, and a step of size h there goes as far as one of h^2 here.
  sampler = {
    "mala": partial(mala, step=step_size),
    "langevin": partial(langevin, step=step_size),
    "underdamped": partial(underdamped, step=step_size**0.5, friction=2.0),
  }[kernel]
  method = ebm(
    network,
    sampler,
    chain_steps,
    spec=cloud.spec,
    optimizer=optimizers.adam(learning_rate, steps),
    replay=Replay(replay, restart),
    start=uniform(-edge, edge),
    sampling_steps=sampling_steps,
  )
  U = energies(network)
  runs = long_runs(U, sampler, uniform(-edge, edge), steps=1_000, chains=64)
  return Experiment(
    method=rollback(averaged(method, ema), diverged(limit), every=100),
    data=cloud,
    steps=steps,
    batch_size=batch_size,
    evaluators=(likelihood(partition=quadrature(U, -2 * edge, 2 * edge)), long_run(runs)),
    render=figures.scatter(-edge, edge),
    figures=(
      figures.density(lambda state, x: -U(state, x), -edge, edge),
      figures.landscape(U, -edge, edge),
      figures.long_run(runs),
    ),
    samples=1024,
    sample_chunk=512,
    sample_every=3_000,
  )
