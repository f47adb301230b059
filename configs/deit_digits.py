"""DeiT on scikit-learn's 8x8 digits: a Vision Transformer that also learns from a teacher.

Paper: Touvron et al. 2021, Training data-efficient image Transformers, https://arxiv.org/abs/2012.12877, section 4

    jaxgen train configs/resnet_digits.py
    jaxgen train configs/deit_digits.py --teacher runs/resnet_digits

Expect: test accuracy 0.978 (hard distillation from resnet_digits) (360 digits, one seed)
Cost: 3 minutes on 2 CPU cores with other work on them
"""

import functools
from typing import Literal

import optax

from jaxgen import Experiment, data
from jaxgen.data.augment import crop
from jaxgen.evaluation.evaluators import accuracy
from jaxgen.interop import runs
from jaxgen.interop import vit as weights
from jaxgen.methods.supervised.classifier import Teacher, classifier
from jaxgen.nn.vision.resnet import ResNet
from jaxgen.nn.vision.vit import ViT
from jaxgen.optimizers import kernels


def experiment(
  steps: int = 2_000,
  batch_size: int = 128,
  learning_rate: float = 2e-3,
  patch: int = 2,
  width: int = 64,
  depth: int = 4,
  heads: int = 4,
  drop_path: float = 0.1,
  weight_decay: float = 0.05,
  label_smoothing: float = 0.1,
  teacher: str | None = None,
  teacher_width: int = 16,
  teacher_depths: tuple[int, ...] = (1, 1, 1),
  distillation: Literal["hard", "soft"] = "hard",
) -> Experiment:
  """teacher: a run of configs/resnet_digits.py of that width and depths; without one both heads learn from labels."""
  rate = optax.warmup_cosine_decay_schedule(0.0, learning_rate, min(100, steps // 2), steps)
  network = ViT(patch, width, depth, heads, classes=10, distilled=True, drop_path=drop_path)
  learned = teacher and Teacher(
    ResNet(teacher_depths, teacher_width, classes=10, small=True),
    functools.cache(lambda: runs.variables(teacher)),
    kind=distillation,
    weight={"hard": 0.5, "soft": 0.1}[distillation],
  )
  method = classifier(
    network,
    optimizer=optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate, weight_decay=weight_decay, mask=kernels)),
    classes=10,
    label_smoothing=label_smoothing,
    auxiliary=1.0,
    teacher=learned or None,
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
