"""SR3, super-resolution by diffusion, on scikit-learn's 8x8 digits: 8 x 8 from 4 x 4, or from 2 x 2.

Paper: Saharia et al. 2021, Image super-resolution via iterative refinement, https://arxiv.org/abs/2104.07636: the small
picture, enlarged by bicubic interpolation, is concatenated to x_t, and the time input is the level of noise, drawn
between the steps (section 2.4). Their level is alpha_bar, and here it is sqrt(alpha_bar), as in WaveGrad. Their small
picture is made by bicubic interpolation, too, and their U-Net has BigGAN's blocks; here a pixel of the small picture is
the mean of a square, and the U-Net is DDPM's.

    jaxgen train sr3_digits
    jaxgen train sr3_digits --augmentation 0.5 --level 0.1      with noise in the small picture (Imagen, section 2.4)
    jaxgen train sr3_digits --first-stage-kind kl --first-stage-run runs/kl_digits     of latents, 4 x 4: Rombach et
    al. 2022, https://arxiv.org/abs/2112.10752, section 4.4: the small picture stands beside latents of its size

Sample i is made from the test split's digit i.

Expect: not measured
Cost: not measured; about that of `ddpm_digits`
"""

import dataclasses
from typing import Literal

import numpy as np
from first_stage import PRESETS

from jaxgen import Experiment, data, diffusion, optimizers
from jaxgen.core.spec import Spec
from jaxgen.core.wrappers import averaged, first_stage
from jaxgen.data import real, transforms
from jaxgen.diffusion.times import noise_level, noise_levels
from jaxgen.evaluation.restoration import restoration
from jaxgen.interop import runs
from jaxgen.methods.diffusion.cascade import low_resolution
from jaxgen.methods.diffusion.gaussian import gaussian_diffusion
from jaxgen.methods.diffusion.objective import Objective
from jaxgen.methods.diffusion.sampler import Sampler
from jaxgen.methods.likelihood.autoencoder import latents
from jaxgen.nn import UNet
from jaxgen.nn.unets.super_resolution import SuperResolution


def experiment(
  steps: int = 2_000,
  batch_size: int = 128,
  learning_rate: float = 2e-3,
  low: int = 4,
  channels: int = 32,
  ema: float = 0.99,
  augmentation: float = 0.0,
  level: float = 0.0,
  first_stage_kind: Literal["none", *PRESETS] = "none",
  first_stage_run: str | None = None,
  first_stage_channels: int = 16,
  solver: diffusion.SolverName = "ancestral",
  grid: diffusion.GridName = "trailing",
  sampling_steps: int = 100,
) -> Experiment:
  """A U-Net learns the noise in digits, and sees them small.

  Args:
    low: height and width of the small picture.
    channels: the network's width.
    augmentation: the largest level of noise in the small picture in training, from 0 to 1.
    level: the level of that noise in samples.
    first_stage_kind: the preset of a run of first_stage whose latents are made; none: pixels are.
    first_stage_run: the folder of that run; without one the first stage stays as it is initialised.
    first_stage_channels: the width of that run's network.
    solver: how samples go from noise to digits.
    grid: the times that the solver visits.
    sampling_steps: steps of the solver.
  """
  digits = data.digits()
  digits = dataclasses.replace(
    digits,
    transforms=(*digits.transforms, transforms.low_resolution(low)),
    augment=(*digits.augment, transforms.levels(augmentation)),
    feature="image",
  )
  process, stage = diffusion.cosine(1000), PRESETS.get(first_stage_kind)
  spec = Spec((4, 4, stage.latent)) if stage else digits.spec
  unet = UNet(channels=channels, multipliers=(1, 1), blocks=1, attention=(4,), out_channels=spec.shape[-1])
  method = gaussian_diffusion(
    SuperResolution(unet),
    process,
    spec,
    optimizers.adam(learning_rate, steps, warmup=100, clip=1.0),
    objective=Objective(times=noise_levels(process), time_input=noise_level),
    condition=low_resolution(),
    sampler=Sampler(diffusion.SOLVERS[solver], diffusion.GRIDS[grid], sampling_steps, clip=stage is None),
  )
  method = averaged(method, ema)
  if stage:
    frozen = runs.frozen(first_stage_run) if first_stage_run else None
    method = first_stage(method, *latents(stage.of_width(first_stage_channels), stage.bottleneck), frozen)
  of_test = real.entries(digits, ("low",))
  return Experiment(
    method=method,
    data=digits,
    steps=steps,
    batch_size=batch_size,
    evaluators=(restoration(level=level),),
    conditions=lambda index: {**of_test(index), "level": np.full(len(index), level, np.float32)},
    sample_every=500,
    checkpoint_every=500,
  )
