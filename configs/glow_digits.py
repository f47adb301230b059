"""Glow on scikit-learn's 8x8 digits, dequantized.

Paper: Kingma and Dhariwal 2018, Glow: generative flow with invertible 1x1 convolutions,
https://arxiv.org/abs/1807.03039: actnorm, 1x1 convolutions and affine coupling, two levels.

    jaxgen train configs/glow_digits.py

Expect: not measured
Cost: not measured
"""

from functools import partial

import optax

from jaxgen import Experiment, data, figures
from jaxgen.data.transforms import dequantize
from jaxgen.methods.flow import decode, encode, flow
from jaxgen.metrics.evaluators import frechet, round_trip
from jaxgen.metrics.likelihood import likelihood
from jaxgen.nn.glow import glow


def experiment(
  steps: int = 800,
  batch_size: int = 128,
  learning_rate: float = 2e-3,
  levels: int = 2,
  flow_steps: int = 8,
  width: int = 32,
  lu: bool = True,
  additive: bool = False,
  temperature: float = 1.0,
  ema: float = 0.99,
) -> Experiment:
  digits = data.digits(transforms=(dequantize(17),))
  bijection = glow(levels, flow_steps, width, lu=lu, additive=additive)
  rate = optax.warmup_cosine_decay_schedule(0.0, learning_rate, min(100, steps // 2), steps)
  method = flow(
    bijection,
    shape=(8, 8, 1),
    levels=digits.levels,
    optimizer=optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate)),
    temperature=temperature,
    ema=ema,
  )
  return Experiment(
    method=method,
    data=digits,
    steps=steps,
    batch_size=batch_size,
    evaluators=(likelihood("train"), likelihood(), round_trip(), frechet(data=data.digits())),
    figures=(figures.interpolations(partial(encode, bijection), partial(decode, bijection)),),
    sample_every=500,
  )
