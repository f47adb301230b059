"""Class-conditional DDPM with classifier-free guidance on scikit-learn's 8x8 digits.

Paper: Ho and Salimans 2022, Classifier-free diffusion guidance, https://arxiv.org/abs/2207.12598, Algorithms 1 and 2.

    jaxgen train configs/guided_digits.py

Sample i is digit i % 10. `--guidance` is the weight w that multiplies the conditional prediction
(the paper's 1 + w): 1 is none. `jaxgen sample RUN --guidance 3` and `benchmarks/guidance.py` compare weights.

Expect: frechet_1437 1.15, 0.96 times its floor, at weight 1; at most 3.29 bits/dim (one seed)
Cost: 11 minutes of 2,000 steps with other work on the machine; about 3 on 2 idle CPU cores, as the main job
"""

from functools import partial

import numpy as np
import optax

from jaxgen import Experiment, data, diffusion
from jaxgen.diffusion.losses import bound_nll
from jaxgen.evaluation.evaluators import frechet
from jaxgen.evaluation.likelihood import likelihood
from jaxgen.methods.diffusion.gaussian import gaussian_diffusion
from jaxgen.nn import UNet


def experiment(
  steps: int = 2_000,
  batch_size: int = 128,
  learning_rate: float = 2e-3,
  channels: int = 32,
  ema: float = 0.99,
  label_dropout: float = 0.1,
  guidance: float = 1.0,
  rescale: float = 0.0,
  interval: tuple[float, float] | None = None,
  prediction: diffusion.PredictionName = "v",
  solver: diffusion.SolverName = "ddim",
  grid: diffusion.GridName = "trailing",
  sampling_steps: int = 100,
  evaluation_terms: int | None = 50,
  microbatches: int = 1,
) -> Experiment:
  digits = data.digits()
  process = diffusion.cosine(1000)
  rate = optax.warmup_cosine_decay_schedule(0.0, learning_rate, min(100, steps // 2), steps)
  # One class more than there are digits: "no label".
  method = gaussian_diffusion(
    UNet(channels=channels, multipliers=(1, 1), blocks=1, attention=(4,), out_channels=1, classes=11),
    process,
    shape=(8, 8, 1),
    optimizer=optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate)),
    prediction=diffusion.PREDICTIONS[prediction],
    solver=diffusion.SOLVERS[solver],
    grid=diffusion.GRIDS[grid],
    sampling_steps=sampling_steps,
    ema=ema,
    classes=10,
    label_dropout=label_dropout,
    rescale=rescale,
    interval=interval,
    likelihoods={"nll_nats": partial(bound_nll, levels=digits.levels, terms=evaluation_terms)},
    microbatches=microbatches,
  )
  return Experiment(
    method=method,
    data=digits,
    steps=steps,
    batch_size=batch_size,
    evaluators=(likelihood(), frechet()),
    conditions=lambda index: {"label": index % 10, "weight": np.full(len(index), guidance, np.float32)},
    sample_every=500,
    checkpoint_every=500,
  )
