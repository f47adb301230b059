"""DDPM on MNIST, 28x28.

Paper: Ho et al. 2020, Denoising diffusion probabilistic models, https://arxiv.org/abs/2006.11239, Algorithms 1 and 2.

    jaxgen prepare mnist --data-dir DIR     (once, with a network; see README)
    jaxgen train configs/ddpm_mnist.py --tfds-dir DIR

Expect: not run to the end here, so no number; the first 40 steps were, on the real data
Cost: 20 k steps at 1.0 a second on 2 CPU cores are 5.6 hours; meant for an accelerator, where it was not measured
"""

from functools import partial

import optax

from jaxgen import Experiment, data, diffusion
from jaxgen.diffusion.losses import bound_nll
from jaxgen.evaluation.evaluators import frechet
from jaxgen.evaluation.likelihood import likelihood
from jaxgen.methods.diffusion.gaussian import gaussian_diffusion
from jaxgen.nn import UNet


def experiment(
  steps: int = 20_000,
  batch_size: int = 128,
  learning_rate: float = 5e-4,
  channels: int = 32,
  dropout: float = 0.0,
  ema: float = 0.999,
  weighting: diffusion.WeightingName = "simple",
  solver: diffusion.SolverName = "ddim",
  grid: diffusion.GridName = "trailing",
  sampling_steps: int = 50,
  evaluation_terms: int | None = 50,
  frechet_samples: int = 10_000,
  microbatches: int = 1,
  tfds_dir: str | None = None,
) -> Experiment:
  mnist = data.images("tfds:mnist", (28, 28, 1), classes=10, data_dir=tfds_dir)
  process = diffusion.linear(1000)
  rate = optax.warmup_cosine_decay_schedule(0.0, learning_rate, min(500, steps // 2), steps)
  method = gaussian_diffusion(
    UNet(channels=channels, multipliers=(1, 2, 2), blocks=1, attention=(7,), dropout=dropout, out_channels=1),
    process,
    shape=(28, 28, 1),
    optimizer=optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate)),
    weighting=diffusion.WEIGHTINGS[weighting],
    solver=diffusion.SOLVERS[solver],
    grid=diffusion.GRIDS[grid],
    sampling_steps=sampling_steps,
    ema=ema,
    likelihoods={"nll_nats": partial(bound_nll, levels=mnist.levels, terms=evaluation_terms)},
    microbatches=microbatches,
  )
  return Experiment(
    method=method,
    data=mnist,
    steps=steps,
    batch_size=batch_size,
    evaluators=(likelihood(), frechet(frechet_samples)),
    log_every=50,
    sample_every=2_000,
    checkpoint_every=1_000,
    sample_chunk=128,
  )
