"""DenseNet on ImageNet-1k, 224x224.

Paper: Huang et al. 2017, Densely connected convolutional networks, https://arxiv.org/abs/1608.06993

    jaxgen inspect configs/densenet_imagenet.py
    jaxgen train configs/densenet_imagenet.py --tfds-dir DIR
    jaxgen import FILE configs/densenet_imagenet.py

Expect: 121: 7,978,856 parameters; 0.750 in the paper, one crop
Cost: not run here, a pod's work; `jaxgen inspect` counts parameters and FLOPs
"""

from typing import Literal

import jax.numpy as jnp
import optax

from jaxgen import Experiment, data
from jaxgen.data.augment import crop
from jaxgen.data.transforms import flip, scale, standardize
from jaxgen.evaluation.evaluators import accuracy
from jaxgen.interop import densenet as weights
from jaxgen.methods.supervised.classifier import classifier
from jaxgen.nn.vision.densenet import SIZES, DenseNet
from jaxgen.optimizers import kernels

Dtype = Literal["float32", "bfloat16"]


def experiment(
  steps: int = 450_000,
  batch_size: int = 256,
  learning_rate: float = 0.1,
  layers: Literal[121, 169, 201, 161] = 121,
  weight_decay: float = 1e-4,
  label_smoothing: float = 0.0,
  dtype: Dtype = "bfloat16",
  tfds_dir: str | None = None,
) -> Experiment:
  rate = optax.piecewise_constant_schedule(learning_rate, {steps * part // 90: 0.1 for part in (30, 60, 80)})
  network = DenseNet(**SIZES[layers], dtype=jnp.dtype(dtype))
  decay = optax.add_decayed_weights(weight_decay, mask=kernels)
  method = classifier(
    network,
    optimizer=optax.chain(decay, optax.sgd(rate, momentum=0.9, nesterov=True)),
    classes=1000,
    label_smoothing=label_smoothing,
  )
  images = data.images(
    "tfds:imagenet2012",
    (224, 224, 3),
    classes=1000,
    transforms=(scale(),),
    augment=(
      crop(16),
      flip(),
    ),
    test="validation",
    data_dir=tfds_dir,
    last=(standardize(),),
  )
  return Experiment(
    method=method,
    data=images,
    steps=steps,
    batch_size=batch_size,
    evaluators=(accuracy(),),
    evaluate_every=25_000,
    checkpoint_every=5_000,
    layouts={"timm": weights.timm(network)},
  )
