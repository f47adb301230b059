"""NADE with 500 hidden units on binarized MNIST.

Paper: Larochelle and Murray 2011, The neural autoregressive distribution estimator,
http://proceedings.mlr.press/v15/larochelle11a.html:
88.86 nats. Adam and an average of the weights in place of the paper's gradient descent and early stopping

    jaxgen prepare binarized_mnist --data-dir DIR     (once, with a network; see README)
    jaxgen train configs/nade_mnist.py --tfds-dir DIR

Expect: 87.4 nats (standard error 0.2), where the paper's is 88.86; one seed
Cost: 25 minutes on 1 CPU core
"""

import optax

from jaxgen import Experiment, data
from jaxgen.engine.experiment import Published
from jaxgen.evaluation.likelihood import likelihood
from jaxgen.methods.likelihood.autoregressive import autoregressive
from jaxgen.nn.autoregressive.made import NADE
from jaxgen.probability.distributions import bernoulli


def experiment(
  steps: int = 15_000,
  batch_size: int = 100,
  learning_rate: float = 2e-3,
  hidden: int = 500,
  tied: bool = False,
  ema: float = 0.999,
  microbatches: int = 1,
  tfds_dir: str | None = None,
) -> Experiment:
  mnist = data.images("tfds:binarized_mnist", (28, 28, 1), levels=2, data_dir=tfds_dir)
  rate = optax.cosine_decay_schedule(learning_rate, steps)
  method = autoregressive(
    NADE(hidden, tied),
    bernoulli(),
    shape=(28, 28, 1),
    levels=mnist.levels,
    optimizer=optax.adam(rate),
    ema=ema,
    microbatches=microbatches,
  )
  published = Published(
    paper="Larochelle and Murray 2011 (NADE)",
    table="test log-likelihood of binarized MNIST",
    metric="test_nll_nats_2_levels",
    number=88.86,
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
