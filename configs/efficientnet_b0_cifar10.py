"""EfficientNet-B0 on CIFAR-10, at 32x32.

Paper: Tan and Le 2019, EfficientNet: rethinking model scaling for convolutional neural networks,
https://arxiv.org/abs/1905.11946; the stem does not stride, so that small pictures stay larger

    jaxgen train configs/efficientnet_b0_cifar10.py --tfds-dir DIR

Expect: not run here
Cost: an estimate, not measured; `jaxgen inspect` counts the FLOPs of a step
"""

from typing import Literal

import jax.numpy as jnp
import optax

from jaxgen import Experiment, data
from jaxgen.data.augment import crop, rand_augment
from jaxgen.data.transforms import flip, scale
from jaxgen.evaluation.evaluators import accuracy
from jaxgen.interop import efficientnet as weights
from jaxgen.methods.supervised.classifier import classifier
from jaxgen.nn.vision.efficientnet import SIZES, EfficientNet
from jaxgen.optimizers import kernels


def experiment(
  steps: int = 78_000,
  batch_size: int = 128,
  learning_rate: float = 2e-3,
  weight_decay: float = 0.05,
  label_smoothing: float = 0.1,
  ema: float | None = None,
  dtype: Literal["float32", "bfloat16"] = "float32",
  tfds_dir: str | None = None,
) -> Experiment:
  rate = optax.warmup_cosine_decay_schedule(0.0, learning_rate, steps // 40, steps)
  network = EfficientNet(**SIZES["B0"], classes=10, small=True, dtype=jnp.dtype(dtype))
  method = classifier(
    network,
    optimizer=optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate, weight_decay=weight_decay, mask=kernels)),
    classes=10,
    label_smoothing=label_smoothing,
    ema=ema,
  )
  images = data.images(
    "tfds:cifar10",
    (32, 32, 3),
    classes=10,
    transforms=(scale(),),
    augment=(crop(4), flip(), rand_augment(2, 9.0)),
    data_dir=tfds_dir,
  )
  return Experiment(
    method=method,
    data=images,
    steps=steps,
    batch_size=batch_size,
    evaluators=(accuracy(),),
    evaluate_every=3_900,
    checkpoint_every=3_900,
    layouts={"timm": weights.timm(network), "transformers": weights.transformers(network)},
  )
