"""ResNet-18 on CIFAR-10.

Paper: He et al. 2016, Deep residual learning for image recognition, https://arxiv.org/abs/1512.03385, the network of
Table 1 with section 4.2's stem; cosine schedule as is usual today

    jaxgen train configs/resnet18_cifar10.py --tfds-dir DIR

Expect: not run here; about 0.95 is what this recipe is known for
Cost: 78,000 steps of 4.3e11 FLOPs: 14 minutes at a sustained 40 TFLOP/s, days on a CPU; an estimate, not measured
"""

from typing import Literal

import jax.numpy as jnp
import optax

from jaxgen import Experiment, data
from jaxgen.data.augment import crop
from jaxgen.data.transforms import flip, scale
from jaxgen.evaluation.evaluators import accuracy
from jaxgen.interop import resnet as weights
from jaxgen.methods.supervised.classifier import classifier
from jaxgen.nn.vision.resnet import SIZES, ResNet
from jaxgen.optimizers import kernels


def experiment(
  steps: int = 78_000,
  batch_size: int = 128,
  learning_rate: float = 0.1,
  weight_decay: float = 5e-4,
  label_smoothing: float = 0.0,
  dtype: Literal["float32", "bfloat16"] = "float32",
  tfds_dir: str | None = None,
) -> Experiment:
  network = ResNet(**SIZES[18], classes=10, small=True, dtype=jnp.dtype(dtype))
  decay = optax.add_decayed_weights(weight_decay, mask=kernels)
  sgd = optax.sgd(optax.cosine_decay_schedule(learning_rate, steps), momentum=0.9, nesterov=True)
  method = classifier(network, optimizer=optax.chain(decay, sgd), classes=10, label_smoothing=label_smoothing)
  return Experiment(
    method=method,
    data=data.images(
      "tfds:cifar10", (32, 32, 3), classes=10, transforms=(scale(),), augment=(crop(4), flip()), data_dir=tfds_dir
    ),
    steps=steps,
    batch_size=batch_size,
    evaluators=(accuracy(),),
    evaluate_every=3_900,
    checkpoint_every=3_900,
    layouts={"timm": weights.timm(network)},
  )
