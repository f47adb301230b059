"""Fully visible sigmoid belief network on binarized MNIST.

Paper: Larochelle and Murray 2011, The neural autoregressive distribution estimator,
http://proceedings.mlr.press/v15/larochelle11a.html:
97.45 nats. Adam and an average of the weights in place of the paper's gradient descent and early stopping

    jaxgen prepare binarized_mnist --data-dir DIR     (once, with a network; see README)
    jaxgen train configs/fvsbn_mnist.py --tfds-dir DIR

Expect: 98.0 nats (standard error 0.2), where the paper's is 97.45; with --steps 10000 99.5. One seed each
Cost: 3 minutes on 2 CPU cores
"""

import optax

from jaxgen import Experiment, data
from jaxgen.engine.experiment import Published
from jaxgen.evaluation.likelihood import likelihood
from jaxgen.methods.likelihood.autoregressive import autoregressive
from jaxgen.nn.autoregressive.made import FVSBN
from jaxgen.probability.distributions import bernoulli


def experiment(
  steps: int = 30_000,
  batch_size: int = 100,
  learning_rate: float = 2e-3,
  ema: float = 0.999,
  microbatches: int = 1,
  tfds_dir: str | None = None,
) -> Experiment:
  mnist = data.images("tfds:binarized_mnist", (28, 28, 1), levels=2, data_dir=tfds_dir)
  rate = optax.cosine_decay_schedule(learning_rate, steps)
  method = autoregressive(
    FVSBN(),
    bernoulli(),
    shape=(28, 28, 1),
    levels=mnist.levels,
    optimizer=optax.adam(rate),
    ema=ema,
    microbatches=microbatches,
  )
  published = Published(
    paper="Larochelle and Murray 2011 (FVSBN)",
    table="test log-likelihood of binarized MNIST",
    metric="test_nll_nats_2_levels",
    number=97.45,
    note="" if steps >= 30_000 else f"{steps:,} steps are too few",
  )
  return Experiment(
    method=method,
    data=mnist,
    steps=steps,
    batch_size=batch_size,
    evaluators=(
      likelihood("validation"),
      likelihood(),
    ),
    published=(published,),
    log_every=100,
    sample_every=10_000,
    evaluate_batch=500,
    checkpoint_every=2_000,
  )
