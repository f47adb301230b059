"""NICE on scikit-learn's 8x8 digits, dequantized.

Paper: Dinh et al. 2014, NICE: non-linear independent components estimation, https://arxiv.org/abs/1410.8516: additive
coupling layers, a scaling, and a logistic prior.

    jaxgen train configs/nice_digits.py

Expect: at most 2.80 bits/dim (standard error 0.02), 2.38 on the training images; frechet_1437 12.4, 10.4 times its
floor; round trips exact to 1e-6. It learns its 1,437 images by heart soon: three layers of 256 reach 1.67 bits/dim on
them and 3.57 on the test images. One seed
Cost: 3 minutes on 2 CPU cores that were busy with other work as well
"""

from functools import partial
from typing import Literal

import optax
from flax import linen as nn

from jaxgen import Experiment, data
from jaxgen.data.transforms import dequantize
from jaxgen.evaluation.evaluators import frechet, round_trip
from jaxgen.evaluation.likelihood import likelihood
from jaxgen.methods.likelihood.flow import BASES, decode, encode, flow
from jaxgen.nn.flows.nice import nice
from jaxgen.show import figures


def experiment(
  steps: int = 2_000,
  batch_size: int = 128,
  learning_rate: float = 5e-3,
  widths: tuple[int, ...] = (64, 64),
  base: Literal["logistic", "gaussian"] = "logistic",
  temperature: float = 1.0,
  ema: float = 0.99,
  microbatches: int = 1,
) -> Experiment:
  digits = data.digits(transforms=(dequantize(17),))
  bijection = nice(widths, kernel_init=nn.initializers.lecun_normal())
  rate = optax.warmup_cosine_decay_schedule(0.0, learning_rate, min(100, steps // 2), steps)
  method = flow(
    bijection,
    shape=(8, 8, 1),
    levels=digits.levels,
    optimizer=optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate)),
    base=BASES[base],
    temperature=temperature,
    ema=ema,
    microbatches=microbatches,
  )
  return Experiment(
    method=method,
    data=digits,
    steps=steps,
    batch_size=batch_size,
    evaluators=(likelihood("train"), likelihood(), round_trip(), frechet(data=data.digits())),
    figures=(figures.interpolations(partial(encode, bijection), partial(decode, bijection)),),
    sample_every=1_000,
  )
