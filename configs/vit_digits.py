"""Vision Transformer on scikit-learn's 8x8 digits.

Paper: Dosovitskiy et al. 2021, An image is worth 16x16 words, https://arxiv.org/abs/2010.11929

    jaxgen train configs/vit_digits.py

Expect: test accuracy 0.978 (360 digits, one seed)
Cost: 2 minutes on 2 CPU cores with other work on them
"""

import optax

from jaxgen import Experiment, data
from jaxgen.data.augment import crop
from jaxgen.evaluation.evaluators import accuracy
from jaxgen.interop import vit as weights
from jaxgen.methods.supervised.classifier import classifier
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
) -> Experiment:
  rate = optax.warmup_cosine_decay_schedule(0.0, learning_rate, min(100, steps // 2), steps)
  network = ViT(patch, width, depth, heads, classes=10, drop_path=drop_path)
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
