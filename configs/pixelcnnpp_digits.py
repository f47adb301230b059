"""PixelCNN++ on scikit-learn's 8x8 digits.

Paper: Salimans et al. 2017, PixelCNN++, https://arxiv.org/abs/1701.05517: a discretized mixture of logistics, images of
half the side, short-cuts and dropout

    jaxgen train configs/pixelcnnpp_digits.py

Expect: not measured
Cost: not measured
"""

import optax

from jaxgen import Experiment, data
from jaxgen.evaluation.evaluators import frechet
from jaxgen.evaluation.likelihood import likelihood
from jaxgen.methods.likelihood.autoregressive import autoregressive
from jaxgen.nn.autoregressive.pixelcnnpp import PixelCNNpp
from jaxgen.probability.distributions import logistic_mixture


def experiment(
  steps: int = 1_500,
  batch_size: int = 128,
  learning_rate: float = 2e-3,
  features: int = 24,
  blocks: int = 2,
  components: int = 5,
  dropout: float = 0.2,
  ema: float = 0.99,
  microbatches: int = 1,
) -> Experiment:
  digits = data.digits()
  distribution = logistic_mixture(components, digits.levels)
  rate = optax.cosine_decay_schedule(learning_rate, steps)
  method = autoregressive(
    PixelCNNpp(distribution.parameters, features, blocks, stages=2, dropout=dropout),
    distribution,
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
