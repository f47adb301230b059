"""Improved DDPM, with learned variances and the hybrid loss: on scikit-learn's 8x8 digits, on CIFAR-10 at full size.

Paper: Nichol and Dhariwal 2021, Improved denoising diffusion probabilistic models, https://arxiv.org/abs/2102.09672:
cosine schedule (eq. 17), variances (eq. 15), L_hybrid = L_simple + 0.001 L_vlb (eq. 16; L_vlb in bits/dim, as in their
code), or L_vlb alone with importance-sampled t (`--objective vlb`). Table 2 and their code's README for CIFAR-10: 52.5
M parameters, T = 4000, batch 128, 500 k steps, EMA 0.9999, dropout 0.3, no flips, ancestral sampling with the learned
variance; 3.17 bits/dim and FID 3.19 (L_hybrid), 2.94 bits/dim and FID 11.47 (L_vlb).

    jaxgen train improved_ddpm
    jaxgen train improved_ddpm --preset cifar10 --tfds-dir DIR

Expect: digits: frechet_1437 1.16, 1.03 times its floor; at most 2.90 bits/dim (one seed). cifar10: at most 3.17
bits/dim; not run to the end here
Cost: digits: 2 minutes on 2 CPU cores.
cifar10: 500 k steps of 6.2e12 FLOPs, 22 hours at a sustained 40 TFLOP/s; an estimate, not measured, and not for a CPU
"""

import math
from functools import partial
from typing import Literal, NamedTuple

import jax.numpy as jnp

from jaxgen import Experiment, data, diffusion, optimizers
from jaxgen.core.wrappers import averaged
from jaxgen.diffusion.losses import bound_nll
from jaxgen.diffusion.times import by_loss
from jaxgen.evaluation.evaluators import frechet
from jaxgen.evaluation.likelihood import likelihood
from jaxgen.methods.diffusion.gaussian import gaussian_diffusion
from jaxgen.methods.diffusion.objective import Objective
from jaxgen.methods.diffusion.sampler import Sampler
from jaxgen.nn import ADM, UNet


class Preset(NamedTuple):
  """The recipe of a data set.

  Attributes:
    T: number of steps of the diffusion process.
  """

  steps: int
  learning_rate: float
  dropout: float
  ema: float
  T: int
  sampling_steps: int
  evaluation_terms: int


PRESETS = {
  "digits": Preset(2_000, 2e-3, 0.0, 0.99, 1000, 100, 50),
  "cifar10": Preset(500_000, 1e-4, 0.3, 0.9999, 4000, 4000, 100),  # 3.17 bits/dim, FID 3.19
}
# The paper samples with the learned variance.
SOLVERS = {**diffusion.SOLVERS, "ancestral": partial(diffusion.ancestral, variance="learned")}
NAMES = {"improved_ddpm_digits": {"preset": "digits"}, "improved_ddpm_cifar10": {"preset": "cifar10"}}


def experiment(
  preset: Literal[*PRESETS] = "digits",
  steps: int | None = None,
  batch_size: int = 128,
  learning_rate: float | None = None,
  channels: int | None = None,
  dropout: float | None = None,
  ema: float | None = None,
  objective: Literal["hybrid", "vlb"] = "hybrid",
  bfloat16: bool = False,
  remat: bool = False,
  solver: diffusion.SolverName = "ancestral",
  grid: diffusion.GridName = "trailing",
  sampling_steps: int | None = None,
  evaluation_terms: int | None = None,
  microbatches: int = 1,
  tfds_dir: str | None = None,
) -> Experiment:
  """A U-Net learns the noise in images, and how much of it to take away. Flags that are not given are the preset's.

  Args:
    preset: data, and the size of everything.
    channels: the network's width; 32 for digits, 128 for CIFAR-10 by default.
    dropout: rate, in the network's blocks.
    objective: the simple loss plus a small multiple of the bound, or only the bound.
    bfloat16: the network computes in half precision.
    solver: how samples go from noise to images.
    grid: the times that the solver visits.
    sampling_steps: steps of the solver.
    evaluation_terms: terms of the bound that are drawn for each example.
  """
  given = dict(steps=steps, learning_rate=learning_rate, dropout=dropout, ema=ema)
  given |= dict(sampling_steps=sampling_steps, evaluation_terms=evaluation_terms)
  p = PRESETS[preset]._replace(**{name: value for name, value in given.items() if value is not None})
  options = dict(dropout=p.dropout, remat=remat, dtype=jnp.bfloat16 if bfloat16 else jnp.float32)
  if preset == "digits":
    images = data.digits()
    network = UNet(channels or 32, multipliers=(1, 1), blocks=1, attention=(4,), out_channels=2, **options)
    optimizer = optimizers.adam(p.learning_rate, p.steps, warmup=100, clip=1.0)
    more = dict(evaluators=(likelihood(), frechet()), sample_every=500, checkpoint_every=500)
  else:
    images = data.cifar10(tfds_dir)
    network = ADM(channels or 128, **options)
    optimizer = optimizers.adam(p.learning_rate)
    more = dict(evaluators=(likelihood(),), log_every=100, sample_every=20_000, checkpoint_every=5_000)
    more |= dict(sample_chunk=128)
  process = diffusion.cosine(p.T)
  time_input = lambda at: (at.t - 1) * (1000 / process.T)
  learns = {
    "hybrid": Objective(time_input=time_input, variance="learned", vlb=1e-3 / math.log(2)),
    "vlb": Objective(weighting=None, times=by_loss(process), time_input=time_input, variance="learned", vlb=1.0),
  }[objective]
  bound = partial(bound_nll, levels=images.levels, variance="learned", terms=p.evaluation_terms)
  method = gaussian_diffusion(
    network,
    process,
    images.spec,
    optimizer,
    objective=learns,
    sampler=Sampler(SOLVERS[solver], diffusion.GRIDS[grid], p.sampling_steps),
    likelihoods={"nll_nats": bound},
  )
  return Experiment(
    method=averaged(method, p.ema),
    data=images,
    steps=p.steps,
    batch_size=batch_size,
    microbatches=microbatches,
    **more,
  )
