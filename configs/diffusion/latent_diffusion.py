"""Latent diffusion on scikit-learn's 8x8 digits: a diffusion model of a frozen first stage's latents, 4x4.

Paper: Rombach et al. 2022, High-resolution image synthesis with latent diffusion models,
https://arxiv.org/abs/2112.10752, sections 3.1 and 3.2. The first stage is that of a run of `first_stage`; its latents
are scaled to mean 0 and standard deviation 1 in each channel, by the moments that that run measured.

    jaxgen train kl_digits
    jaxgen train latent_diffusion --first-stage-run runs/kl_digits
    jaxgen train vqgan_digits
    jaxgen train latent_diffusion --first-stage-kind vq --first-stage-run runs/vqgan_digits

Sample i is digit i % 10.

Expect: frechet_1437 1.08, 0.96 times its floor, at weight 1, with the KL autoencoder; 0.98 with VQGAN's (one seed)
Cost: 7 minutes on 2 CPU cores that had much other work
"""

from typing import Literal

import numpy as np
from first_stage import PRESETS

from jaxgen import Experiment, data, diffusion, optimizers
from jaxgen.core.condition import labels
from jaxgen.core.spec import Spec
from jaxgen.core.wrappers import averaged, first_stage
from jaxgen.evaluation.evaluators import frechet
from jaxgen.interop import runs
from jaxgen.methods.diffusion.gaussian import gaussian_diffusion
from jaxgen.methods.diffusion.objective import Objective
from jaxgen.methods.diffusion.sampler import Sampler
from jaxgen.methods.likelihood.autoencoder import latents
from jaxgen.nn import UNet

NAMES = {"ldm_digits": {"first_stage_kind": "kl"}}


def experiment(
  first_stage_run: str | None = None,
  first_stage_kind: Literal["kl", "vq"] = "kl",
  first_stage_channels: int = 16,
  steps: int = 2_000,
  batch_size: int = 128,
  learning_rate: float = 2e-3,
  channels: int = 32,
  ema: float = 0.99,
  label_dropout: float = 0.1,
  guidance: float = 1.0,
  solver: diffusion.SolverName = "ddim",
  grid: diffusion.GridName = "trailing",
  sampling_steps: int = 100,
) -> Experiment:
  """A U-Net learns latents of a class, and of none.

  Args:
    first_stage_run: the folder of a run of first_stage; without one the first stage keeps its random initialisation.
    first_stage_kind: the preset of that run.
    first_stage_channels: the width of that run's network.
    channels: the U-Net's width.
    label_dropout: the share of training examples whose label is dropped.
    guidance: the weight of the conditional prediction in samples; 1 is no guidance.
    solver: how samples go from noise to latents.
    grid: the times that the solver visits.
    sampling_steps: steps of the solver.
  """
  digits = data.digits()
  stage = PRESETS[first_stage_kind]
  spec = Spec((4, 4, stage.latent), classes=digits.spec.classes)
  method = gaussian_diffusion(
    UNet(channels=channels, multipliers=(1, 1), blocks=1, attention=(4,), out_channels=stage.latent, classes=11),
    diffusion.cosine(1000),
    spec,
    optimizers.adam(learning_rate, steps, warmup=100, clip=1.0),
    objective=Objective(diffusion.PREDICTIONS["v"]),
    condition=labels(spec, label_dropout),
    sampler=Sampler(diffusion.SOLVERS[solver], diffusion.GRIDS[grid], sampling_steps, clip=False),
  )
  frozen = runs.frozen(first_stage_run) if first_stage_run else None
  return Experiment(
    method=first_stage(averaged(method, ema), *latents(stage.of_width(first_stage_channels), stage.bottleneck), frozen),
    data=digits,
    steps=steps,
    batch_size=batch_size,
    evaluators=(frechet(),),
    conditions=lambda index: {"label": index % 10, "weight": np.full(len(index), guidance, np.float32)},
    sample_every=500,
    checkpoint_every=500,
  )
