"""Improved DDPM on CIFAR-10 at the paper's size.

Paper: Nichol and Dhariwal 2021, Improved denoising diffusion probabilistic models, https://arxiv.org/abs/2102.09672,
Table 2 and their code's README: 52.5 M parameters, T = 4000, cosine schedule, batch 128, 500 k steps, EMA 0.9999,
dropout 0.3, no flips, ancestral sampling with the learned variance; 3.17 bits/dim and FID 3.19 (L_hybrid), 2.94
bits/dim and FID 11.47 (`--objective vlb`).

    jaxgen train configs/improved_ddpm_cifar10.py --tfds-dir DIR

Expect: at most 3.17 bits/dim; not run to the end here
Cost: 500 k steps of 6.2e12 FLOPs: 22 hours at a sustained 40 TFLOP/s; an estimate, not measured, and not for a CPU
"""

import math
from functools import partial
from typing import Literal

import jax.numpy as jnp
import optax

from jaxgen import Experiment, data, diffusion
from jaxgen.diffusion.losses import bound_nll
from jaxgen.diffusion.times import by_loss, uniform
from jaxgen.evaluation.likelihood import likelihood
from jaxgen.methods.diffusion.gaussian import gaussian_diffusion
from jaxgen.nn import ADM

# The paper samples with the learned variance.
SOLVERS = {**diffusion.SOLVERS, "ancestral": partial(diffusion.ancestral, variance="learned")}


def experiment(
  steps: int = 500_000,
  batch_size: int = 128,
  learning_rate: float = 1e-4,
  dropout: float = 0.3,
  ema: float = 0.9999,
  objective: Literal["hybrid", "vlb"] = "hybrid",
  bfloat16: bool = False,
  solver: diffusion.SolverName = "ancestral",
  grid: diffusion.GridName = "trailing",
  sampling_steps: int = 4000,
  evaluation_terms: int | None = 100,
  microbatches: int = 1,
  tfds_dir: str | None = None,
) -> Experiment:
  cifar10 = data.images("tfds:cifar10", (32, 32, 3), classes=10, data_dir=tfds_dir)
  process = diffusion.cosine(4000)
  hybrid = objective == "hybrid"
  method = gaussian_diffusion(
    ADM(dropout=dropout, dtype=jnp.bfloat16 if bfloat16 else jnp.float32),
    process,
    shape=(32, 32, 3),
    optimizer=optax.adam(learning_rate),
    weighting=diffusion.WEIGHTINGS["simple"] if hybrid else None,
    vlb=1e-3 / math.log(2) if hybrid else 1.0,
    times=uniform(process) if hybrid else by_loss(process),
    time_input=lambda at: (at.t - 1) * (1000 / process.T),
    variance="learned",
    levels=cifar10.levels,
    solver=SOLVERS[solver],
    grid=diffusion.GRIDS[grid],
    sampling_steps=sampling_steps,
    ema=ema,
    likelihoods={"nll_nats": partial(bound_nll, levels=cifar10.levels, variance="learned", terms=evaluation_terms)},
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
