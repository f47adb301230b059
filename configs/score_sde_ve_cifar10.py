"""Score SDE, variance exploding, on CIFAR-10 at the paper's size.

Paper: Song et al. 2021, Score-based generative modeling through stochastic differential equations,
https://arxiv.org/abs/2011.13456, Appendix H and their code: NCSN++ cont., 62.8 M parameters (108 M with 8 blocks,
"deep"), batch 128, 1.3 M steps, EMA 0.999, dropout 0.1, flips, predictor-corrector with 1000 steps of reverse diffusion
and one of Langevin dynamics each, signal-to-noise ratio 0.16; FID 2.38, deep 2.20 (their Table 3).

    jaxgen train configs/score_sde_ve_cifar10.py --tfds-dir DIR

Expect: FID 2.38, which is not computed here; not run to the end here
Cost: 1.3 M steps of 8.4e12 FLOPs: 76 hours at a sustained 40 TFLOP/s; an estimate, not measured, and not for a CPU
"""

import math
from functools import partial

import jax.numpy as jnp
import optax

from jaxgen import Experiment, data, diffusion
from jaxgen.data.transforms import flip
from jaxgen.diffusion.likelihood import continuous_bound
from jaxgen.diffusion.times import uniform
from jaxgen.evaluation.likelihood import likelihood
from jaxgen.methods.diffusion.gaussian import gaussian_diffusion
from jaxgen.nn import SongUNet


def half_sum(prediction, at):
  """The paper's code takes half the sum of eps's squared errors, not their mean, which clipped gradients notice."""
  return 32 * 32 * 3 / 2 * diffusion.WEIGHTINGS["eps"](prediction, at)


def log_sigma(at):
  """Of images in [0, 1], as in the paper's code; sigma is twice as large in [-1, 1]."""
  return -at.log_snr / 2 - math.log(2)


def experiment(
  steps: int = 1_300_000,
  batch_size: int = 128,
  learning_rate: float = 2e-4,
  dropout: float = 0.1,
  ema: float = 0.999,
  blocks: int = 4,
  bfloat16: bool = False,
  solver: diffusion.SolverName = "predictor_corrector",
  grid: diffusion.GridName = "linspace",
  sampling_steps: int = 1000,
  evaluation_terms: int = 128,
  microbatches: int = 1,
  tfds_dir: str | None = None,
) -> Experiment:
  cifar10 = data.images("tfds:cifar10", (32, 32, 3), classes=10, augment=(flip(),), data_dir=tfds_dir)
  process = diffusion.ve(smallest=0.02, largest=100.0)
  dtype = jnp.bfloat16 if bfloat16 else jnp.float32
  rate = optax.linear_schedule(0.0, learning_rate, 5_000)
  method = gaussian_diffusion(
    SongUNet(blocks=blocks, dropout=dropout, ncsnpp=True, fourier=16.0, dtype=dtype),
    process,
    shape=(32, 32, 3),
    optimizer=optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate)),
    weighting=half_sum,
    times=uniform(process, first=1e-5),
    time_input=log_sigma,
    solver=diffusion.SOLVERS[solver],
    grid=diffusion.GRIDS[grid],
    sampling_steps=sampling_steps,
    clip=False,
    ema=ema,
    likelihoods={"nll_nats": partial(continuous_bound, levels=cifar10.levels, terms=evaluation_terms)},
    microbatches=microbatches,
  )
  return Experiment(
    method=method,
    data=cifar10,
    steps=steps,
    batch_size=batch_size,
    evaluators=(likelihood(),),
    log_every=100,
    sample_every=20_000,
    checkpoint_every=5_000,
    sample_chunk=128,
  )
