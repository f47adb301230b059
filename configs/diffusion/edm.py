"""EDM: on scikit-learn's 8x8 digits, on CIFAR-10 at the paper's size.

Paper: Karras et al. 2022, Elucidating the design space of diffusion-based generative models,
https://arxiv.org/abs/2206.00364, Table 1 (last column), Algorithms 1 and 2; Table 7 and their code for CIFAR-10: DDPM++
with 3 levels, 55.7 M parameters, batch 512, 200 M images, learning rate 0.001 after 10 M images, EMA with a half-life
of 0.5 M images, dropout 0.13, Heun's method with 18 steps (35 evaluations); FID 1.97, class-conditional 1.79 (their
abstract).

    jaxgen train edm
    jaxgen train edm --preset cifar10 --tfds-dir DIR
    jaxgen train edm --preset cifar10 --conditional True --tfds-dir DIR

CIFAR-10's images are flipped. The paper's augmentation (flips, rotations and scalings, on which the network is
conditioned) is not implemented, nor its 1,152 parameters.

Expect: digits: frechet_1437 1.48, 1.34 and 1.27 with seeds 0, 1 and 2, 1.32, 1.20 and 1.13 times its floor, by 35
network calls; at most 1.90 bits/dim. cifar10: FID somewhat above 1.97, which is not computed here; not run to the
end here
Cost: digits: 2 minutes on 2 idle CPU cores. cifar10: 391 k steps of 6.5e13 FLOPs, 7 days at a sustained 40 TFLOP/s; an
estimate, not measured, and not for a CPU
"""

from functools import partial
from typing import Literal, NamedTuple

import jax.numpy as jnp

from jaxgen import Experiment, data, diffusion, optimizers
from jaxgen.core.condition import UNCONDITIONAL, labels
from jaxgen.core.wrappers import averaged
from jaxgen.data.transforms import flip
from jaxgen.diffusion import predictions, weightings
from jaxgen.diffusion.likelihood import continuous_bound
from jaxgen.diffusion.times import c_noise, log_normal
from jaxgen.evaluation.evaluators import frechet
from jaxgen.evaluation.likelihood import likelihood
from jaxgen.methods.diffusion.gaussian import gaussian_diffusion
from jaxgen.methods.diffusion.objective import Objective
from jaxgen.methods.diffusion.sampler import Sampler
from jaxgen.nn import SongUNet, UNet


class Preset(NamedTuple):
  """The recipe of a data set.

  Attributes:
    sigma_data: the data's standard deviation.
    t_min: the time at which the likelihood's ODE ends; None: the schedule's own.
  """

  steps: int
  batch_size: int
  learning_rate: float
  dropout: float
  sigma_data: float
  t_min: float | None


PRESETS = {
  "digits": Preset(2_000, 128, 2e-3, 0.0, 0.75, 0.03),
  "cifar10": Preset(390_625, 512, 1e-3, 0.13, 0.5, None),  # FID 1.97; 1.79 conditional
}
NAMES = {"edm_digits": {"preset": "digits"}, "edm_cifar10": {"preset": "cifar10"}}


def experiment(
  preset: Literal[*PRESETS] = "digits",
  steps: int | None = None,
  batch_size: int | None = None,
  learning_rate: float | None = None,
  channels: int | None = None,
  dropout: float | None = None,
  ema: float = 0.99,
  ema_half_life: int = 500_000,
  conditional: bool = False,
  bfloat16: bool = False,
  remat: bool = False,
  solver: diffusion.SolverName = "heun",
  grid: diffusion.GridName = "karras",
  sampling_steps: int = 18,
  evaluation_terms: int = 128,
  microbatches: int = 1,
  tfds_dir: str | None = None,
) -> Experiment:
  """A preconditioned network removes noise from images. Flags that are not given are the preset's.

  Args:
    preset: data, and the size of everything.
    channels: the network's width; 32 for digits, 128 for CIFAR-10 by default.
    dropout: rate, in the network's blocks.
    ema: decay of the averaged parameters (digits).
    ema_half_life: images after which the averaged parameters have forgotten half (CIFAR-10).
    conditional: the network is conditioned on the class.
    bfloat16: the network computes in half precision.
    solver: how samples go from noise to images.
    grid: the times that the solver visits.
    sampling_steps: steps of the solver.
    evaluation_terms: draws of the bound's integral for each example.
  """
  given = dict(steps=steps, batch_size=batch_size, learning_rate=learning_rate, dropout=dropout)
  p = PRESETS[preset]._replace(**{name: value for name, value in given.items() if value is not None})
  options = dict(dropout=p.dropout, remat=remat, dtype=jnp.bfloat16 if bfloat16 else jnp.float32)
  options |= dict(classes=10) if conditional else {}
  if preset == "digits":
    images, decay = data.digits(), ema
    network = UNet(channels or 32, multipliers=(1, 1), blocks=1, attention=(4,), out_channels=1, **options)
    optimizer = optimizers.adam(p.learning_rate, p.steps, warmup=100, clip=1.0)
    more = dict(evaluators=(likelihood(), frechet()), sample_every=500, checkpoint_every=500)
  else:
    images = data.cifar10(tfds_dir, augment=(flip(),))
    network = SongUNet(channels or 128, multipliers=(2, 2, 2), **options)
    optimizer = optimizers.adam(p.learning_rate, warmup=10_000_000 // p.batch_size)
    more = dict(evaluators=(likelihood(),), log_every=100, sample_every=20_000, checkpoint_every=5_000)
    more |= dict(sample_chunk=128)

    def decay(step):
      """The half-life grows with the images seen, as a 20th of them, up to the given number."""
      return 0.5 ** (p.batch_size / jnp.clip(0.05 * p.batch_size * step, 1e-8, ema_half_life))

  process = diffusion.edm()
  method = gaussian_diffusion(
    network,
    process,
    images.spec,
    optimizer,
    objective=Objective(
      predictions.edm(p.sigma_data), weightings.edm(p.sigma_data), times=log_normal(process), time_input=c_noise
    ),
    condition=labels(images.spec) if conditional else UNCONDITIONAL,
    sampler=Sampler(diffusion.SOLVERS[solver], diffusion.GRIDS[grid], sampling_steps, clip=False),
    likelihoods={"nll_nats": partial(continuous_bound, levels=images.levels, terms=evaluation_terms, t_min=p.t_min)},
  )
  return Experiment(
    method=averaged(method, decay),
    data=images,
    steps=p.steps,
    batch_size=p.batch_size,
    microbatches=microbatches,
    **more,
  )
