"""A small convolutional classifier on scikit-learn's 8x8 digits.

Paper: none; it is the supervised method of the frame, and its features can judge samples.

    jaxgen train configs/classifier_digits.py

Expect: test accuracy 0.989 (standard error 0.006, 360 digits)
Cost: 8 seconds on 2 CPU cores
"""

import optax

from jaxgen import Experiment, data
from jaxgen.evaluation.evaluators import accuracy
from jaxgen.methods.supervised.classifier import classifier
from jaxgen.nn import ConvNet


def experiment(
  steps: int = 1_000,
  batch_size: int = 128,
  learning_rate: float = 2e-3,
  dropout: float = 0.1,
  label_smoothing: float = 0.0,
  microbatches: int = 1,
) -> Experiment:
  method = classifier(
    ConvNet(10, channels=(32, 64), dropout=dropout),
    optimizer=optax.adamw(optax.cosine_decay_schedule(learning_rate, steps), weight_decay=1e-4),
    classes=10,
    label_smoothing=label_smoothing,
    microbatches=microbatches,
  )
  return Experiment(
    method=method,
    data=data.digits(),
    steps=steps,
    batch_size=batch_size,
    evaluators=(accuracy(),),
    evaluate_every=250,
    checkpoint_every=250,
    best=("test_accuracy", "max"),
  )
