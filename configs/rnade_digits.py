"""Real-valued NADE on scikit-learn's 8x8 digits, dequantized.

Paper: Uria et al. 2013, RNADE: the real-valued neural autoregressive density-estimator,
https://arxiv.org/abs/1306.0186: mixtures of Gaussians. Its data sets are tables and patches of images, for which
`levels=None` gives densities

    jaxgen train configs/rnade_digits.py

Expect: at most 99.4 nats by uniform dequantization (standard error 0.7), 2.24 bits/dim. One seed
Cost: under a minute on 2 CPU cores, an estimate from 36 s of processor time
"""

import optax

from jaxgen import Experiment, data
from jaxgen.data.transforms import dequantize
from jaxgen.evaluation.evaluators import frechet
from jaxgen.evaluation.likelihood import likelihood
from jaxgen.methods.likelihood.autoregressive import autoregressive
from jaxgen.nn.autoregressive.made import RNADE
from jaxgen.probability.distributions import gaussian_mixture


def experiment(
  steps: int = 2_000,
  batch_size: int = 128,
  learning_rate: float = 1e-3,
  hidden: int = 100,
  components: int = 5,
  ema: float = 0.99,
  microbatches: int = 1,
) -> Experiment:
  digits = data.digits(transforms=(dequantize(17),))
  distribution = gaussian_mixture(components)
  rate = optax.cosine_decay_schedule(learning_rate, steps)
  method = autoregressive(
    RNADE(distribution.parameters, hidden),
    distribution,
    shape=(8, 8, 1),
    levels=digits.levels,
    optimizer=optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate)),
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
