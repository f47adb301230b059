"""Fully visible sigmoid belief network on scikit-learn's 8x8 digits in two levels.

Paper: Larochelle and Murray 2011, The neural autoregressive distribution estimator,
http://proceedings.mlr.press/v15/larochelle11a.html, section 4

    jaxgen train configs/fvsbn_digits.py

Expect: 18.9 nats of the digits in two levels (standard error 0.2), 0.43 bits/dim. One seed
Cost: half a minute on 2 CPU cores, an estimate from 12 s of processor time
"""

import optax

from jaxgen import Experiment, data
from jaxgen.evaluation.evaluators import frechet
from jaxgen.evaluation.likelihood import likelihood
from jaxgen.methods.likelihood.autoregressive import autoregressive
from jaxgen.nn.autoregressive.made import FVSBN
from jaxgen.probability.distributions import bernoulli


def experiment(
  steps: int = 1_000,
  batch_size: int = 128,
  learning_rate: float = 1e-2,
  ema: float = 0.99,
  microbatches: int = 1,
) -> Experiment:
  digits = data.binarized(data.digits())
  rate = optax.cosine_decay_schedule(learning_rate, steps)
  method = autoregressive(
    FVSBN(),
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
