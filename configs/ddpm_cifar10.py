"""DDPM on CIFAR-10 at the paper's size.

Paper: Ho et al. 2020, Denoising diffusion probabilistic models, https://arxiv.org/abs/2006.11239, Section 4 and
Appendix B: 35.7 M parameters, T = 1000, batch 128, 800 k steps, EMA 0.9999, dropout 0.1, flips, ancestral sampling with
the larger variance; FID 3.17 and at most 3.75 bits/dim (their Table 1, simple loss).

    jaxgen train configs/ddpm_cifar10.py --tfds-dir DIR

Expect: at most 3.75 bits/dim; not run to the end here
Cost: 800 k steps of 4.5e12 FLOPs: 25 hours at a sustained 40 TFLOP/s; an estimate, not measured, and not for a CPU
"""

from functools import partial

import jax.numpy as jnp
import optax

from jaxgen import Experiment, data, diffusion
from jaxgen.data.transforms import flip
from jaxgen.diffusion.losses import bound_nll
from jaxgen.evaluation.likelihood import likelihood
from jaxgen.methods.diffusion.gaussian import gaussian_diffusion
from jaxgen.nn import UNet

# The paper samples with the larger variance.
SOLVERS = {**diffusion.SOLVERS, "ancestral": partial(diffusion.ancestral, variance="beta")}


def experiment(
  steps: int = 800_000,
  batch_size: int = 128,
  learning_rate: float = 2e-4,
  dropout: float = 0.1,
  ema: float = 0.9999,
  bfloat16: bool = False,
  solver: diffusion.SolverName = "ancestral",
  grid: diffusion.GridName = "trailing",
  sampling_steps: int = 1000,
  evaluation_terms: int | None = 100,
  microbatches: int = 1,
  tfds_dir: str | None = None,
) -> Experiment:
  cifar10 = data.images("tfds:cifar10", (32, 32, 3), classes=10, augment=(flip(),), data_dir=tfds_dir)
  process = diffusion.linear(1000)
  rate = optax.linear_schedule(0.0, learning_rate, 5_000)
  method = gaussian_diffusion(
    UNet(dropout=dropout, dtype=jnp.bfloat16 if bfloat16 else jnp.float32),
    process,
    shape=(32, 32, 3),
    optimizer=optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate)),
    solver=SOLVERS[solver],
    grid=diffusion.GRIDS[grid],
    sampling_steps=sampling_steps,
    ema=ema,
    likelihoods={"nll_nats": partial(bound_nll, levels=cifar10.levels, variance="beta", terms=evaluation_terms)},
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
