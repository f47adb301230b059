"""PixelCNN on scikit-learn's 8x8 digits.

Paper: van den Oord et al. 2016, Pixel recurrent neural networks, https://arxiv.org/abs/1601.06759:
masked convolutions and a softmax

    jaxgen train configs/pixelcnn_digits.py

Expect: 83.7 nats (standard error 0.6), 1.89 bits/dim; frechet_1437 5.4 times its floor. One seed
Cost: a minute on 2 CPU cores
"""

import optax

from jaxgen import Experiment, data
from jaxgen.evaluation.evaluators import frechet
from jaxgen.evaluation.likelihood import likelihood
from jaxgen.methods.likelihood.autoregressive import autoregressive
from jaxgen.nn.autoregressive.pixelcnn import PixelCNN
from jaxgen.probability.distributions import categorical


def experiment(
  steps: int = 1_500,
  batch_size: int = 128,
  learning_rate: float = 3e-3,
  features: int = 16,
  layers: int = 4,
  ema: float = 0.99,
  microbatches: int = 1,
) -> Experiment:
  digits = data.digits()
  rate = optax.cosine_decay_schedule(learning_rate, steps)
  method = autoregressive(
    PixelCNN(digits.levels, features, layers, head=2 * features, first=5),
    categorical(digits.levels),
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
