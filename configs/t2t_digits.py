"""T2T-ViT, tokens to tokens, on scikit-learn's 8x8 digits.

Paper: Yuan et al. 2021, Tokens-to-token ViT: training vision Transformers from scratch on ImageNet,
https://arxiv.org/abs/2101.11986

    jaxgen train configs/t2t_digits.py

Expect: test accuracy 0.994 (360 digits, one seed)
Cost: 3 minutes on 2 CPU cores with other work on them
"""

from typing import Literal

import optax

from jaxgen import Experiment, data
from jaxgen.data.augment import crop
from jaxgen.evaluation.evaluators import accuracy
from jaxgen.interop import t2t as weights
from jaxgen.methods.supervised.classifier import classifier
from jaxgen.nn.vision.t2t import DIGITS, T2TViT
from jaxgen.optimizers import kernels


def experiment(
  steps: int = 2_000,
  batch_size: int = 128,
  learning_rate: float = 2e-3,
  width: int = 64,
  depth: int = 4,
  heads: int = 4,
  hidden: int = 128,
  token: Literal["performer", "transformer"] = "transformer",
  drop_path: float = 0.1,
  weight_decay: float = 0.05,
  label_smoothing: float = 0.1,
) -> Experiment:
  rate = optax.warmup_cosine_decay_schedule(0.0, learning_rate, min(100, steps // 2), steps)
  network = T2TViT(
    width,
    depth,
    heads,
    hidden,
    token,
    token_width=32,
    splits=DIGITS,
    classes=10,
    drop_path=drop_path,
  )
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
    layouts={"authors": weights.authors(network)},
  )
