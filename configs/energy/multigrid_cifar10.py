"""Multi-grid contrastive divergence on CIFAR-10, resized to grids of 4x4, 16x16 and 64x64 as the paper's images.

Paper: Gao et al. 2018, Learning generative ConvNets via multi-grid modeling and sampling,
https://arxiv.org/abs/1709.08868: the convolutions of the authors' code, slope 0.2 below 0, and Langevin steps of size
0.3 on pixel values from 0 to 255, in whose range they stay. That code takes 90 steps at each grid without noise; here
they are the paper's 30 with noise. Its batch normalisation is left out: with it, chains would depend on each other.

    jaxgen prepare cifar10 --data-dir DIR     (once, with a network; see README)
    jaxgen train multigrid_cifar10 --tfds-dir DIR

Expect: not measured; the paper has an Inception score of 6.565; this config reports frechet_10000 in the features of a
judge that is trained here
Cost: not measured, and not for a CPU; a step has 3 x 30 gradients of energies of 0.4, 1.6 and 4.3 million parameters
"""

from functools import partial

from jaxgen import Experiment, data, optimizers
from jaxgen.core.wrappers import averaged, rollback
from jaxgen.data.transforms import resize, scale
from jaxgen.evaluation.evaluators import frechet
from jaxgen.mcmc.langevin import langevin
from jaxgen.methods.energy.ebm import diverged
from jaxgen.methods.energy.multigrid import multigrid
from jaxgen.nn.energy.ebm import EnergyConvNet, leaky_relu

LAYERS = {
  4: ((96, 5, 2), (128, 3, 1), (256, 3, 1)),
  16: ((96, 5, 2), (128, 3, 1), (256, 3, 1), (512, 3, 1)),
  64: ((64, 5, 2), (128, 5, 2), (256, 5, 2), (512, 5, 2)),
}


def experiment(
  steps: int = 350_000,
  batch_size: int = 100,
  learning_rate: float = 1e-4,
  chain_steps: int = 30,
  step_size: float = 0.3,
  ema: float = 0.999,
  frechet_samples: int = 10_000,
  limit: float = 1e4,
  tfds_dir: str | None = None,
) -> Experiment:
  """One energy for each grid.

  Args:
    chain_steps: that chains take at each grid.
    step_size: of Langevin dynamics on pixel values from 0 to 255.
    frechet_samples: whose distance from the test images is taken.
    limit: nats between the mean energies of data and samples, from which on training goes back to a snapshot.
  """
  cifar = data.images("tfds:cifar10", (32, 32, 3), classes=10, transforms=(scale(), resize(64)), data_dir=tfds_dir)
  method = multigrid(
    {side: EnergyConvNet(layers, activation=leaky_relu) for side, layers in LAYERS.items()},
    partial(langevin, step=(step_size / 127.5) ** 2, box=(-1.0, 1.0)),  # pixel values from -1 to 1 here
    chain_steps,
    spec=cifar.spec,
    optimizer=optimizers.adam(learning_rate, b1=0.5),
  )
  return Experiment(
    method=rollback(averaged(method, ema), diverged(limit), every=1_000),
    data=cifar,
    steps=steps,
    batch_size=batch_size,
    evaluators=(frechet(frechet_samples),),
    sample_every=10_000,
    evaluate_every=50_000,
    checkpoint_every=10_000,
    sample_chunk=100,
  )
