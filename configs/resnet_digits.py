"""Residual network of 8 layers on scikit-learn's 8x8 digits.

Paper: He et al. 2016, Deep residual learning for image recognition, https://arxiv.org/abs/1512.03385

    jaxgen train configs/resnet_digits.py

Expect: test accuracy 0.997 (360 digits, one seed)
Cost: 40 seconds on 2 CPU cores with other work on them
"""

import optax

from jaxgen import Experiment, data
from jaxgen.data.augment import crop
from jaxgen.evaluation.evaluators import accuracy
from jaxgen.interop import resnet as weights
from jaxgen.methods.supervised.classifier import classifier
from jaxgen.nn.vision.resnet import ResNet
from jaxgen.optimizers import kernels


def experiment(
  steps: int = 1_000,
  batch_size: int = 128,
  learning_rate: float = 2e-3,
  width: int = 16,
  depths: tuple[int, ...] = (1, 1, 1),
  preactivation: bool = False,
  weight_decay: float = 0.05,
  label_smoothing: float = 0.1,
) -> Experiment:
  rate = optax.warmup_cosine_decay_schedule(0.0, learning_rate, min(100, steps // 2), steps)
  network = ResNet(depths, width, classes=10, preactivation=preactivation, small=True)
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
