"""Rectified flow (flow matching on the straight path) on CIFAR-10 at the paper's size.

Paper: Liu et al. 2022, Flow straight and fast, https://arxiv.org/abs/2209.03003, and their code: 1-rectified flow with
DDPM++, 61.8 M parameters, batch 128, 800 k steps, EMA 0.999999, dropout 0.15, flips, the ODE by an adaptive
Runge-Kutta method with tolerance 1e-5; FID 2.58 (their Table 1).

    jaxgen train configs/flow_matching_cifar10.py --tfds-dir DIR

Expect: FID 2.58, which is not computed here; not run to the end here
Cost: 800 k steps of 8.3e12 FLOPs: 46 hours at a sustained 40 TFLOP/s; an estimate, not measured, and not for a CPU
"""

from functools import partial

import jax.numpy as jnp
import optax

from jaxgen import Experiment, data, diffusion
from jaxgen.data.transforms import flip
from jaxgen.diffusion.likelihood import continuous_bound
from jaxgen.evaluation.likelihood import likelihood
from jaxgen.methods.diffusion.gaussian import gaussian_diffusion
from jaxgen.nn import SongUNet


def experiment(
  steps: int = 800_000,
  batch_size: int = 128,
  learning_rate: float = 2e-4,
  dropout: float = 0.15,
  ema: float = 0.999999,
  bfloat16: bool = False,
  weighting: diffusion.WeightingName = "simple",
  times: diffusion.TimesName = "uniform",
  solver: diffusion.SolverName = "adaptive",
  grid: diffusion.GridName = "trailing",
  sampling_steps: int = 100,
  evaluation_terms: int = 128,
  microbatches: int = 1,
  tfds_dir: str | None = None,
) -> Experiment:
  cifar10 = data.images("tfds:cifar10", (32, 32, 3), classes=10, augment=(flip(),), data_dir=tfds_dir)
  process = diffusion.rectified_flow()
  rate = optax.linear_schedule(0.0, learning_rate, 5_000)
  method = gaussian_diffusion(
    SongUNet(dropout=dropout, dtype=jnp.bfloat16 if bfloat16 else jnp.float32),
    process,
    shape=(32, 32, 3),
    optimizer=optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate)),
    prediction=diffusion.PREDICTIONS["velocity"],
    weighting=diffusion.WEIGHTINGS[weighting],
    times=diffusion.TIMES[times](process),
    time_input=lambda at: 999 * (1 - at.t),  # the paper counts t from noise
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
