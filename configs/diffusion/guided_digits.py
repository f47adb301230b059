"""Class-conditional DDPM with classifier-free guidance on scikit-learn's 8x8 digits.

Paper: Ho and Salimans 2022, Classifier-free diffusion guidance, https://arxiv.org/abs/2207.12598, Algorithms 1 and 2.

    jaxgen train guided_digits

Sample i is digit i % 10. `--guidance` is the weight w that multiplies the conditional prediction (the paper's 1 + w): 1
means no guidance. `jaxgen sample RUN --guidance 3` and `benchmarks/guidance.py` compare weights.

Expect: frechet_1437 1.01, 0.91 times its floor, at weight 1; at most 3.29 bits/dim (one seed)
Cost: 11 minutes of 2,000 steps with other work on the machine; about 3 on 2 idle CPU cores, as the main job
"""

from functools import partial

import numpy as np

from jaxgen import Experiment, data, diffusion, optimizers
from jaxgen.core.condition import labels
from jaxgen.core.wrappers import averaged
from jaxgen.diffusion.losses import bound_nll
from jaxgen.evaluation.evaluators import frechet
from jaxgen.evaluation.likelihood import likelihood
from jaxgen.methods.diffusion.gaussian import gaussian_diffusion
from jaxgen.methods.diffusion.guides import classifier_free
from jaxgen.methods.diffusion.objective import Objective
from jaxgen.methods.diffusion.sampler import Sampler
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
) -> Experiment:
  """A U-Net learns digits of a class, and of none.

  Args:
    channels: the network's width.
    label_dropout: the share of training examples whose label is dropped.
    guidance: the weight of the conditional prediction in samples; 1 is no guidance.
    rescale: how far guided predictions are rescaled to the standard deviation of conditional ones, from 0 (not) to 1.
    interval: lowest and highest noise, sigma / alpha, at which samples are guided; everywhere by default.
    prediction: the network's output: the noise, the clean image, or another combination of both.
    solver: how samples go from noise to digits.
    grid: the times that the solver visits.
    sampling_steps: steps of the solver.
    evaluation_terms: terms of the bound that are drawn for each example; None: all 1,000.
  """
  digits = data.digits()
  free = classifier_free(rescale, interval)
  method = gaussian_diffusion(
    # One class more than there are digits: "no label".
    UNet(channels=channels, multipliers=(1, 1), blocks=1, attention=(4,), out_channels=1, classes=11),
    diffusion.cosine(1000),
    digits.spec,
    optimizers.adam(learning_rate, steps, warmup=100, clip=1.0),
    objective=Objective(diffusion.PREDICTIONS[prediction]),
    condition=labels(digits.spec, label_dropout),
    sampler=Sampler(diffusion.SOLVERS[solver], diffusion.GRIDS[grid], sampling_steps, guidance=free),
    likelihoods={"nll_nats": partial(bound_nll, levels=digits.levels, terms=evaluation_terms)},
  )
  return Experiment(
    method=averaged(method, ema),
    data=digits,
    steps=steps,
    batch_size=batch_size,
    evaluators=(likelihood(), frechet()),
    conditions=lambda index: {"label": index % 10, "weight": np.full(len(index), guidance, np.float32)},
    sample_every=500,
    checkpoint_every=500,
  )
