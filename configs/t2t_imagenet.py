"""T2T-ViT on ImageNet-1k, 224x224.

Paper: Yuan et al. 2021, Tokens-to-token ViT: training vision Transformers from scratch on ImageNet,
https://arxiv.org/abs/2101.11986

    jaxgen inspect configs/t2t_imagenet.py
    jaxgen train configs/t2t_imagenet.py --tfds-dir DIR
    jaxgen import FILE configs/t2t_imagenet.py

Expect: 14: 21,545,550 parameters; 0.815 in the paper
Cost: not run here, a pod's work; `jaxgen inspect` counts parameters and FLOPs
"""

from typing import Literal

import jax.numpy as jnp
import optax

from jaxgen import Experiment, data
from jaxgen.data.augment import cutmix, either, mixup, rand_augment
from jaxgen.data.transforms import flip, scale, standardize
from jaxgen.evaluation.evaluators import accuracy
from jaxgen.interop import t2t as weights
from jaxgen.methods.supervised.classifier import classifier
from jaxgen.nn.vision.t2t import SIZES, T2TViT
from jaxgen.optimizers import kernels

Dtype = Literal["float32", "bfloat16"]
Size = Literal["7", "10", "12", "14", "19", "24", "t-14", "t-19", "t-24"]


def experiment(
  steps: int = 375_000,
  batch_size: int = 1024,
  learning_rate: float = 1e-3,
  size: Size = "14",
  drop_path: float = 0.1,
  weight_decay: float = 0.05,
  label_smoothing: float = 0.1,
  dtype: Dtype = "bfloat16",
  tfds_dir: str | None = None,
) -> Experiment:
  rate = optax.warmup_cosine_decay_schedule(0.0, learning_rate, 5 * steps // 300, steps)
  network = T2TViT(**SIZES[size], drop_path=drop_path, dtype=jnp.dtype(dtype))
  method = classifier(
    network,
    optimizer=optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate, weight_decay=weight_decay, mask=kernels)),
    classes=1000,
    label_smoothing=label_smoothing,
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
    layouts={"authors": weights.authors(network)},
  )
