"""DeiT on ImageNet-1k, 224x224: a Vision Transformer with a distillation token.

Paper: Touvron et al. 2021, Training data-efficient image Transformers, https://arxiv.org/abs/2012.12877, section 4 and
Table 9

    jaxgen inspect configs/deit_imagenet.py
    jaxgen train configs/deit_imagenet.py --teacher runs/resnet_imagenet --tfds-dir DIR
    jaxgen import FILE configs/deit_imagenet.py --size Ti

Expect: B: 87,338,192 parameters, Ti: 5,910,800; 0.834 and 0.745 in the paper, whose teacher is a RegNetY-16GF
Cost: not run here, a pod's work; `jaxgen inspect` counts parameters and FLOPs
"""

import functools
from typing import Literal

import jax.numpy as jnp
import optax

from jaxgen import Experiment, data
from jaxgen.data.augment import cutmix, either, mixup, rand_augment
from jaxgen.data.transforms import flip, scale, standardize
from jaxgen.evaluation.evaluators import accuracy
from jaxgen.interop import runs
from jaxgen.interop import vit as weights
from jaxgen.methods.supervised.classifier import Teacher, classifier
from jaxgen.nn.vision import resnet
from jaxgen.nn.vision.vit import DEIT, ViT
from jaxgen.optimizers import kernels

Dtype = Literal["float32", "bfloat16"]
Size = Literal["Ti", "S", "B"]


def experiment(
  steps: int = 375_000,
  batch_size: int = 1024,
  learning_rate: float = 1e-3,
  size: Size = "B",
  drop_path: float = 0.1,
  weight_decay: float = 0.05,
  label_smoothing: float = 0.1,
  dtype: Dtype = "bfloat16",
  tfds_dir: str | None = None,
  teacher: str | None = None,
  teacher_layers: Literal[18, 34, 50, 101, 152] = 50,
  distillation: Literal["hard", "soft"] = "hard",
) -> Experiment:
  """teacher: a run of configs/resnet_imagenet.py of so many layers; without one both heads learn from labels."""
  rate = optax.warmup_cosine_decay_schedule(0.0, learning_rate, 5 * steps // 300, steps)
  network = ViT(**DEIT[size], drop_path=drop_path, dtype=jnp.dtype(dtype))
  learned = teacher and Teacher(
    resnet.ResNet(**resnet.SIZES[teacher_layers], dtype=jnp.dtype(dtype)),
    functools.cache(lambda: runs.variables(teacher)),
    kind=distillation,
    weight={"hard": 0.5, "soft": 0.1}[distillation],
  )
  method = classifier(
    network,
    optimizer=optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate, weight_decay=weight_decay, mask=kernels)),
    classes=1000,
    label_smoothing=label_smoothing,
    auxiliary=1.0,
    teacher=learned or None,
  )
  images = data.images(
    "tfds:imagenet2012",
    (224, 224, 3),
    classes=1000,
    transforms=(scale(),),
    augment=(
      rand_augment(2, 9.0),
      flip(),
      either(mixup(0.8, 1000), cutmix(1.0, 1000)),
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
    layouts={"timm": weights.timm(network), "transformers": weights.transformers(network)},
  )
