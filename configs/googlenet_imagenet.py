"""GoogLeNet on ImageNet-1k, 224x224.

Paper: Szegedy et al. 2015, Going deeper with convolutions, https://arxiv.org/abs/1409.4842

    jaxgen inspect configs/googlenet_imagenet.py
    jaxgen train configs/googlenet_imagenet.py --tfds-dir DIR
    jaxgen import FILE configs/googlenet_imagenet.py

Expect: 6,998,552 parameters without the auxiliary heads
Cost: not run here, a pod's work; `jaxgen inspect` counts parameters and FLOPs
"""

from typing import Literal

import jax.numpy as jnp
import optax

from jaxgen import Experiment, data
from jaxgen.data.augment import crop
from jaxgen.data.transforms import flip, scale, standardize
from jaxgen.evaluation.evaluators import accuracy
from jaxgen.interop import googlenet as weights
from jaxgen.methods.supervised.classifier import classifier
from jaxgen.nn.vision.googlenet import GoogLeNet
from jaxgen.optimizers import kernels

Dtype = Literal["float32", "bfloat16"]


def experiment(
  steps: int = 450_000,
  batch_size: int = 256,
  learning_rate: float = 0.1,
  batch_norm: bool = False,
  weight_decay: float = 1e-4,
  label_smoothing: float = 0.0,
  dtype: Dtype = "bfloat16",
  tfds_dir: str | None = None,
) -> Experiment:
  rate = optax.piecewise_constant_schedule(learning_rate, {steps * part // 90: 0.1 for part in (30, 60, 80)})
  network = GoogLeNet(batch_norm=batch_norm, dtype=jnp.dtype(dtype))
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
    layouts={"torchvision": weights.torchvision(network)} if batch_norm else {},
  )
