"""Gated PixelCNN on CIFAR-10.

Paper: van den Oord et al. 2016, Conditional image generation with PixelCNN decoders, https://arxiv.org/abs/1606.05328,
Table 1: 3.03 bits/dim, without labels. The paper does not give the network's size; `--conditional` uses the labels

    jaxgen prepare cifar10 --data-dir DIR     (once, with a network; see README)
    jaxgen train configs/gated_pixelcnn_cifar10.py --tfds-dir DIR

Expect: not measured; the paper's is 3.03 bits/dim
Cost: not measured, and not for a CPU
"""

import optax

from jaxgen import Experiment, data
from jaxgen.engine.experiment import Published
from jaxgen.evaluation.likelihood import likelihood
from jaxgen.methods.likelihood.autoregressive import autoregressive
from jaxgen.nn.autoregressive.pixelcnn import GatedPixelCNN
from jaxgen.probability.distributions import categorical


def experiment(
  steps: int = 200_000,
  batch_size: int = 128,
  learning_rate: float = 3e-4,
  features: int = 384,
  layers: int = 20,
  head: int = 1024,
  conditional: bool = False,
  ema: float = 0.9995,
  microbatches: int = 1,
  tfds_dir: str | None = None,
) -> Experiment:
  cifar10 = data.images("tfds:cifar10", (32, 32, 3), classes=10, data_dir=tfds_dir)
  rate = optax.cosine_decay_schedule(learning_rate, steps)
  method = autoregressive(
    GatedPixelCNN(256, features, layers, head, classes=cifar10.classes if conditional else None),
    categorical(256),
    shape=(32, 32, 3),
    levels=cifar10.levels,
    optimizer=optax.adam(rate),
    conditional=conditional,
    ema=ema,
    microbatches=microbatches,
  )
  published = Published(
    paper="van den Oord et al. 2016 (Gated PixelCNN)",
    table="Table 1",
    metric="test_bits_per_dim_256_levels",
    number=3.03,
  )
  return Experiment(
    method=method,
    data=cifar10,
    steps=steps,
    batch_size=batch_size,
    evaluators=(likelihood(),),
    published=(published,),
    conditions=(lambda index: {"label": index % cifar10.classes}) if conditional else None,
    log_every=100,
    sample_every=10_000,
    evaluate_batch=100,
    checkpoint_every=2_000,
  )
