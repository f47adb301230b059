"""PixelCNN on binarized MNIST.

Paper: van den Oord et al. 2016, Pixel recurrent neural networks, https://arxiv.org/abs/1601.06759, Table 4:
81.30 nats. Adam in place of RMSProp

    jaxgen prepare binarized_mnist --data-dir DIR     (once, with a network; see README)
    jaxgen train configs/pixelcnn_mnist.py --tfds-dir DIR

Expect: not measured; the paper's is 81.30 nats
Cost: an estimate from single steps: 3.6 hours of a CPU core's time
"""

import optax

from jaxgen import Experiment, data
from jaxgen.engine.experiment import Published
from jaxgen.evaluation.likelihood import likelihood
from jaxgen.methods.likelihood.autoregressive import autoregressive
from jaxgen.nn.autoregressive.pixelcnn import PixelCNN
from jaxgen.probability.distributions import bernoulli


def experiment(
  steps: int = 20_000,
  batch_size: int = 50,
  learning_rate: float = 2e-3,
  features: int = 32,
  layers: int = 7,
  head: int = 32,
  ema: float = 0.999,
  microbatches: int = 1,
  tfds_dir: str | None = None,
) -> Experiment:
  mnist = data.images("tfds:binarized_mnist", (28, 28, 1), levels=2, data_dir=tfds_dir)
  rate = optax.cosine_decay_schedule(learning_rate, steps)
  method = autoregressive(
    PixelCNN(1, features, layers, head),
    bernoulli(),
    shape=(28, 28, 1),
    levels=mnist.levels,
    optimizer=optax.adam(rate),
    ema=ema,
    microbatches=microbatches,
  )
  published = Published(
    paper="van den Oord et al. 2016 (PixelCNN)",
    table="Table 4",
    metric="test_nll_nats_2_levels",
    number=81.3,
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
    evaluate_batch=100,
    checkpoint_every=2_000,
  )
