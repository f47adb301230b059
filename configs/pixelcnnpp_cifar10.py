"""PixelCNN++ on CIFAR-10.

Paper: Salimans et al. 2017, PixelCNN++, https://arxiv.org/abs/1701.05517, Table 1:
2.92 bits/dim: 160 features, 5 blocks a stage, dropout 1/2, Adam at 1e-3 falling by 5e-6 of itself every step, an
average of the weights

    jaxgen prepare cifar10 --data-dir DIR     (once, with a network; see README)
    jaxgen train configs/pixelcnnpp_cifar10.py --tfds-dir DIR

Expect: not measured; the paper's is 2.92 bits/dim
Cost: not measured, and not for a CPU
"""

import optax

from jaxgen import Experiment, data
from jaxgen.engine.experiment import Published
from jaxgen.evaluation.likelihood import likelihood
from jaxgen.methods.likelihood.autoregressive import autoregressive
from jaxgen.nn.autoregressive.pixelcnnpp import PixelCNNpp
from jaxgen.probability.distributions import logistic_mixture


def experiment(
  steps: int = 500_000,
  batch_size: int = 96,
  learning_rate: float = 1e-3,
  features: int = 160,
  blocks: int = 5,
  components: int = 10,
  dropout: float = 0.5,
  ema: float = 0.9995,
  microbatches: int = 1,
  tfds_dir: str | None = None,
) -> Experiment:
  cifar10 = data.images("tfds:cifar10", (32, 32, 3), classes=10, data_dir=tfds_dir)
  distribution = logistic_mixture(components, 256, 3)
  rate = optax.exponential_decay(learning_rate, 1, 0.999995)
  method = autoregressive(
    PixelCNNpp(distribution.parameters, features, blocks, stages=3, dropout=dropout),
    distribution,
    shape=(32, 32, 3),
    levels=cifar10.levels,
    optimizer=optax.adam(rate, b1=0.95, b2=0.9995),  # as in the authors' code
    ema=ema,
    microbatches=microbatches,
  )
  published = Published(
    paper="Salimans et al. 2017",
    table="Table 1",
    metric="test_bits_per_dim_256_levels",
    number=2.92,
  )
  return Experiment(
    method=method,
    data=cifar10,
    steps=steps,
    batch_size=batch_size,
    evaluators=(likelihood(),),
    published=(published,),
    log_every=100,
    sample_every=10_000,
    evaluate_batch=100,
    checkpoint_every=2_000,
  )
