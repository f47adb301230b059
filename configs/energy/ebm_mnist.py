"""Short-run energy-based model of MNIST: chains of 100 Langevin steps from noise, at every training step anew.

Paper: Nijkamp et al. 2019, Learning non-convergent non-persistent short-run MCMC toward energy-based model,
https://arxiv.org/abs/1904.09770, Algorithm 1 and its appendix: 100 steps of gradient 1 and noise 0.01, in training and
for samples; images with noise of 0.03; a 3x3 convolution, then 4x4 ones of stride 2 with twice as many features each.
The paper has no MNIST. With `--replay 10000` chains begin with Du and Mordatch's buffer instead.

    jaxgen prepare mnist --data-dir DIR     (once, with a network; see README)
    jaxgen train ebm_mnist --tfds-dir DIR

Expect: not measured
Cost: not measured, and not for a CPU
"""

from functools import partial

from jaxgen import Experiment, data, optimizers
from jaxgen.core.wrappers import averaged, rollback
from jaxgen.evaluation.evaluators import frechet
from jaxgen.evaluation.long_run import long_run, long_runs
from jaxgen.mcmc.langevin import langevin
from jaxgen.methods.energy.ebm import Replay, diverged, ebm, energies, uniform
from jaxgen.nn.energy.ebm import EnergyConvNet, leaky_relu
from jaxgen.show import figures


def experiment(
  steps: int = 50_000,
  batch_size: int = 100,
  learning_rate: float = 1e-4,
  features: int = 32,
  chain_steps: int = 100,
  gradient_step: float = 1.0,
  noise: float = 0.01,
  data_noise: float = 0.03,
  replay: int = 0,
  restart: float = 0.05,
  alpha: float = 0.0,
  ema: float = 0.999,
  frechet_samples: int = 10_000,
  limit: float = 1e3,
  tfds_dir: str | None = None,
) -> Experiment:
  """Without a replay buffer samples are chains of `chain_steps`, as in training.

  Args:
    features: of the first convolution.
    chain_steps: that chains take in a training step, and for a sample.
    gradient_step: the factor of the gradient in a chain's step.
    noise: standard deviation of a chain's noise.
    data_noise: standard deviation of noise that is added to the data.
    replay: size of the replay buffer, from which chains start; 0: all start from noise.
    restart: probability with which a chain begins with noise all the same.
    alpha: of the penalty that keeps energies near 0.
    frechet_samples: whose distance from the test images is taken.
    limit: nats between the mean energies of data and samples, from which on training goes back to a snapshot.
  """
  mnist = data.images("tfds:mnist", (28, 28, 1), classes=10, data_dir=tfds_dir)
  layers = ((features, 3, 1), (2 * features, 4, 2), (4 * features, 4, 2), (8 * features, 4, 2))
  network = EnergyConvNet(layers, activation=leaky_relu)
  sampler = partial(langevin, step=2 * gradient_step, noise=noise)
  method = ebm(
    network,
    sampler,
    chain_steps,
    spec=mnist.spec,
    optimizer=optimizers.adam(learning_rate),
    replay=Replay(replay, restart) if replay else None,
    data_noise=data_noise,
    alpha=alpha,
  )
  runs = long_runs(energies(network), sampler, uniform(), steps=2_000, chains=64)
  return Experiment(
    method=rollback(averaged(method, ema), diverged(limit), every=500),
    data=mnist,
    steps=steps,
    batch_size=batch_size,
    evaluators=(frechet(frechet_samples), long_run(runs)),
    figures=(figures.long_run(runs),),
    log_every=100,
    sample_every=5_000,
    evaluate_every=25_000,
    checkpoint_every=5_000,
    sample_chunk=100,
  )
