"""NADE on scikit-learn's 8x8 digits in two levels.

Paper: Larochelle and Murray 2011, The neural autoregressive distribution estimator,
http://proceedings.mlr.press/v15/larochelle11a.html: eq. 8 to 10, the O(HD) recurrence

    jaxgen train configs/nade_digits.py

Expect: 18.5 nats of the digits in two levels (standard error 0.2), 0.42 bits/dim. One seed
Cost: half a minute on 2 CPU cores, an estimate from 10 s of processor time
"""

import optax

from jaxgen import Experiment, data
from jaxgen.evaluation.evaluators import frechet
from jaxgen.evaluation.likelihood import likelihood
from jaxgen.methods.likelihood.autoregressive import autoregressive
from jaxgen.nn.autoregressive.made import NADE
from jaxgen.probability.distributions import bernoulli


def experiment(
  steps: int = 1_000,
  batch_size: int = 128,
  learning_rate: float = 5e-3,
  hidden: int = 100,
  tied: bool = False,
  ema: float = 0.99,
  microbatches: int = 1,
) -> Experiment:
  digits = data.binarized(data.digits())
  rate = optax.cosine_decay_schedule(learning_rate, steps)
  method = autoregressive(
    NADE(hidden, tied),
    bernoulli(),
    shape=(8, 8, 1),
    levels=digits.levels,
    optimizer=optax.adam(rate),
    ema=ema,
    microbatches=microbatches,
  )
  return Experiment(
    method=method,
    data=digits,
    steps=steps,
    batch_size=batch_size,
    evaluators=(likelihood(), frechet()),
    sample_every=500,
    checkpoint_every=500,
  )
