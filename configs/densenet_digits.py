"""DenseNet on scikit-learn's 8x8 digits.

Paper: Huang et al. 2017, Densely connected convolutional networks, https://arxiv.org/abs/1608.06993

    jaxgen train configs/densenet_digits.py

Expect: test accuracy 0.997 (360 digits, one seed)
Cost: 90 seconds on 2 CPU cores with other work on them
"""

import optax

from jaxgen import Experiment, data
from jaxgen.data.augment import crop
from jaxgen.evaluation.evaluators import accuracy
from jaxgen.interop import densenet as weights
from jaxgen.methods.supervised.classifier import classifier
from jaxgen.nn.vision.densenet import DenseNet
from jaxgen.optimizers import kernels


def experiment(
  steps: int = 1_000,
  batch_size: int = 128,
  learning_rate: float = 2e-3,
  depths: tuple[int, ...] = (4, 4),
  growth: int = 12,
  stem: int = 24,
  weight_decay: float = 0.05,
  label_smoothing: float = 0.1,
) -> Experiment:
  rate = optax.warmup_cosine_decay_schedule(0.0, learning_rate, min(100, steps // 2), steps)
  network = DenseNet(depths, growth, stem, classes=10, small=True)
  method = classifier(
    network,
    optimizer=optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate, weight_decay=weight_decay, mask=kernels)),
    classes=10,
    label_smoothing=label_smoothing,
  )
  return Experiment(
    method=method,
    data=data.digits(augment=(crop(1),)),
    steps=steps,
    batch_size=batch_size,
    evaluators=(accuracy(),),
    evaluate_every=500,
    checkpoint_every=500,
    layouts={"timm": weights.timm(network)},
  )
