"""Deep energy-based model of scikit-learn's 8x8 digits by maximum likelihood, with a replay buffer of Langevin chains.

Paper: Du and Mordatch 2019, Implicit generation and modeling with energy-based models,
https://arxiv.org/abs/1903.08689, Algorithm 1: 5 % of the chains restart from uniform noise, and energies are kept near
0. Unlike theirs, the chains have the full noise of Langevin dynamics, so that they approximately sample the energy's
density: Nijkamp et al. 2020, https://arxiv.org/abs/1903.12370. With `--replay 0` all chains begin with noise at every
step: Nijkamp et al. 2019, https://arxiv.org/abs/1904.09770.

    jaxgen train ebm_digits
    jaxgen train ebm_digits --replay 0 --chain-steps 60
    jaxgen train ebm_digits --kernel mala        (or underdamped)

Expect: frechet_1437 4.28, 3.6 times its floor. Chains of 2,000 steps from test digits and from noise stay in one
distribution of energies (R-hat 1.07, when both kinds still had the same noise) and move from digit to digit; one seed
Cost: 5 minutes on 2 CPU cores that were busy with much other work, 2 of them of one core's time
"""

from functools import partial
from typing import Literal

from jaxgen import Experiment, data, optimizers
from jaxgen.core.wrappers import averaged, rollback
from jaxgen.evaluation.evaluators import frechet
from jaxgen.evaluation.long_run import long_run, long_runs
from jaxgen.mcmc.langevin import langevin, mala, underdamped
from jaxgen.methods.energy.ebm import Replay, diverged, ebm, energies, uniform
from jaxgen.nn.energy.ebm import EnergyMLP
from jaxgen.show import figures


def experiment(
  steps: int = 4_000,
  batch_size: int = 128,
  learning_rate: float = 1e-3,
  widths: tuple[int, ...] = (256, 256),
  kernel: Literal["langevin", "mala", "underdamped"] = "langevin",
  step_size: float = 0.01,
  chain_steps: int = 20,
  replay: int = 2_048,
  restart: float = 0.05,
  data_noise: float = 0.15,
  alpha: float = 0.0,
  sampling_steps: int = 400,
  ema: float = 0.99,
  limit: float = 50.0,
) -> Experiment:
  """Without a replay buffer samples are chains of `chain_steps`, as in training.

  Args:
    widths: of the energy's hidden layers.
    kernel: of the Markov chains.
    step_size: of the chains, h of Langevin dynamics.
    chain_steps: that chains take in a training step.
    replay: size of the replay buffer, from which chains start; 0: all start from noise.
    restart: probability with which a chain begins with noise all the same.
    data_noise: standard deviation of noise that is added to the data, and taken off the samples.
    alpha: of the penalty that keeps energies near 0.
    sampling_steps: of the chains that make samples.
    limit: nats between the mean energies of data and samples, from which on training goes back to a snapshot.
  """
  digits = data.digits()
  network = EnergyMLP(widths, reference=1.0)
  # In the underdamped kernel the step is a time, and a step of size h there goes as far as one of h^2 here.
  sampler = {
    "langevin": partial(langevin, step=step_size),
    "mala": partial(mala, step=step_size),
    "underdamped": partial(underdamped, step=step_size**0.5, friction=2.0),
  }[kernel]
  method = ebm(
    network,
    sampler,
    chain_steps,
    spec=digits.spec,
    optimizer=optimizers.adam(learning_rate, steps, clip=10.0),
    replay=Replay(replay, restart) if replay else None,
    data_noise=data_noise,
    alpha=alpha,
    sampling_steps=sampling_steps if replay else chain_steps,
    denoised=True,
  )
  runs = long_runs(energies(network), sampler, uniform(), steps=2_000, chains=64)
  return Experiment(
    method=rollback(averaged(method, ema), diverged(limit), every=100),
    data=digits,
    steps=steps,
    batch_size=batch_size,
    evaluators=(frechet(), long_run(runs)),
    figures=(figures.long_run(runs),),
    sample_every=1_000,
    sample_chunk=256,
  )
