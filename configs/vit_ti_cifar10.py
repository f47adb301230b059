"""ViT-Ti on CIFAR-10, patches of 4x4, with DeiT's recipe.

Paper: Dosovitskiy et al. 2021, An image is worth 16x16 words, https://arxiv.org/abs/2010.11929; recipe: Touvron et al.
2021, https://arxiv.org/abs/2012.12877, Table 9

    jaxgen train configs/vit_ti_cifar10.py --tfds-dir DIR
    jaxgen import FILE configs/vit_ti_cifar10.py --fresh params/head params/patches     (from 16x16 patches)

Expect: not run here
Cost: 117,000 steps of 2.8e11 FLOPs: 14 minutes at a sustained 40 TFLOP/s, days on a CPU; an estimate, not measured
"""

from typing import Literal

import jax.numpy as jnp
import optax

from jaxgen import Experiment, data
from jaxgen.data.augment import crop, cutmix, either, mixup, rand_augment
from jaxgen.data.transforms import flip, scale
from jaxgen.evaluation.evaluators import accuracy
from jaxgen.interop import vit as weights
from jaxgen.methods.supervised.classifier import classifier
from jaxgen.nn.vision.vit import SIZES, ViT
from jaxgen.optimizers import kernels, layer_decay


def experiment(
  steps: int = 117_000,
  batch_size: int = 128,
  learning_rate: float = 5e-4,
  layer_rate: float = 1.0,
  drop_path: float = 0.1,
  weight_decay: float = 0.05,
  label_smoothing: float = 0.1,
  ema: float | None = None,
  dtype: Literal["float32", "bfloat16"] = "float32",
  tfds_dir: str | None = None,
) -> Experiment:
  rate = optax.warmup_cosine_decay_schedule(0.0, learning_rate, steps // 60, steps)
  size = SIZES["Ti/16"] | dict(patch=4)
  network = ViT(**size, classes=10, drop_path=drop_path, dtype=jnp.dtype(dtype))
  method = classifier(
    network,
    optimizer=optax.chain(
      optax.clip_by_global_norm(1.0),
      optax.adamw(rate, weight_decay=weight_decay, mask=kernels),
      layer_decay(layer_rate, size["depth"]),
    ),
    classes=10,
    label_smoothing=label_smoothing,
    ema=ema,
  )
  images = data.images(
    "tfds:cifar10",
    (32, 32, 3),
    classes=10,
    transforms=(scale(),),
    augment=(crop(4), flip(), rand_augment(2, 9.0), either(mixup(0.8, 10), cutmix(1.0, 10))),
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
