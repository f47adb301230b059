"""Score SDE, sub-VP, on CIFAR-10 at the paper's size.

Paper: Song et al. 2021, Score-based generative modeling through stochastic differential equations,
https://arxiv.org/abs/2011.13456, Appendix H and their code: DDPM++ cont., 61.8 M parameters (107 M with 8 blocks,
"deep"), batch 128, 1.3 M steps, EMA 0.9999, dropout 0.1, flips, Euler-Maruyama with 1000 steps;
FID 2.61, and by the probability-flow ODE FID 3.16 and 3.02 bits/dim with uniform dequantization (their Tables 2 and 3).

    jaxgen train configs/score_sde_subvp_cifar10.py --tfds-dir DIR

Expect: 3.02 bits/dim, dequantized; not run to the end here
Cost: 1.3 M steps of 8.3e12 FLOPs: 75 hours at a sustained 40 TFLOP/s; an estimate, not measured, and not for a CPU
"""

from functools import partial

import jax.numpy as jnp
import optax

from jaxgen import Experiment, data, diffusion
from jaxgen.data.transforms import flip
from jaxgen.diffusion.likelihood import ode_nll
from jaxgen.diffusion.times import uniform
from jaxgen.evaluation.likelihood import likelihood
from jaxgen.methods.diffusion.gaussian import gaussian_diffusion
from jaxgen.nn import SongUNet


def experiment(
  steps: int = 1_300_000,
  batch_size: int = 128,
  learning_rate: float = 2e-4,
  dropout: float = 0.1,
  ema: float = 0.9999,
  blocks: int = 4,
  bfloat16: bool = False,
  solver: diffusion.SolverName = "euler_maruyama",
  grid: diffusion.GridName = "linspace",
  sampling_steps: int = 1000,
  microbatches: int = 1,
  tfds_dir: str | None = None,
) -> Experiment:
  cifar10 = data.images("tfds:cifar10", (32, 32, 3), classes=10, augment=(flip(),), data_dir=tfds_dir)
  process = diffusion.sub_vp()
  rate = optax.linear_schedule(0.0, learning_rate, 5_000)
  method = gaussian_diffusion(
    SongUNet(blocks=blocks, dropout=dropout, dtype=jnp.bfloat16 if bfloat16 else jnp.float32),
    process,
    shape=(32, 32, 3),
    optimizer=optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate)),
    weighting=diffusion.WEIGHTINGS["eps"],
    times=uniform(process, first=1e-5),
    solver=diffusion.SOLVERS[solver],
    grid=diffusion.GRIDS[grid],
    sampling_steps=sampling_steps,
    clip=False,
    ema=ema,
    likelihoods={"nll_nats_dequantized": partial(ode_nll, levels=cifar10.levels, t_min=1e-5)},
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
