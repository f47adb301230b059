"""EfficientNet on scikit-learn's 8x8 digits.

Paper: Tan and Le 2019, EfficientNet: rethinking model scaling for convolutional neural networks,
https://arxiv.org/abs/1905.11946

    jaxgen train configs/efficientnet_digits.py

Expect: test accuracy 0.997 (360 digits, one seed)
Cost: 110 seconds on 2 CPU cores with other work on them
"""

import optax

from jaxgen import Experiment, data
from jaxgen.data.augment import crop
from jaxgen.evaluation.evaluators import accuracy
from jaxgen.interop import efficientnet as weights
from jaxgen.methods.supervised.classifier import classifier
from jaxgen.nn.vision.efficientnet import STAGES, EfficientNet
from jaxgen.optimizers import kernels


def experiment(
  steps: int = 1_000,
  batch_size: int = 128,
  learning_rate: float = 4e-3,
  width: float = 1.0,
  depth: float = 1.0,
  drop_path: float = 0.05,
  weight_decay: float = 0.05,
  label_smoothing: float = 0.1,
) -> Experiment:
  rate = optax.warmup_cosine_decay_schedule(0.0, learning_rate, min(100, steps // 2), steps)
  network = EfficientNet(
    width,
    depth,
    classes=10,
    stages=STAGES[:3],
    stem=16,
    out=64,
    drop_path=drop_path,
    momentum=0.9,
    small=True,
  )
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
    layouts={"timm": weights.timm(network), "transformers": weights.transformers(network)},
  )
