"""EDM on CIFAR-10 at the paper's size.

Paper: Karras et al. 2022, Elucidating the design space of diffusion-based generative models,
https://arxiv.org/abs/2206.00364, Tables 1 and 7 and their code: DDPM++ with 3 levels, 55.7 M parameters, batch 512,
200 M images, learning rate 0.001 after 10 M images, EMA with a half-life of 0.5 M images, dropout 0.13, Heun's method
with 18 steps (35 evaluations); FID 1.97, class-conditional 1.79 (their abstract).

    jaxgen train configs/edm_cifar10.py --tfds-dir DIR

This trains on flipped images. The paper's augmentation (flips, rotations, scalings, told to the network) is not here,
nor its 1,152 parameters.

Expect: FID somewhat above 1.97, which is not computed here; not run to the end here
Cost: 391 k steps of 6.5e13 FLOPs: 7 days at a sustained 40 TFLOP/s; an estimate, not measured, and not for a CPU
"""

from functools import partial

import jax.numpy as jnp
import optax

from jaxgen import Experiment, data, diffusion
from jaxgen.data.transforms import flip
from jaxgen.diffusion import predictions, weightings
from jaxgen.diffusion.likelihood import continuous_bound
from jaxgen.diffusion.times import c_noise, log_normal
from jaxgen.evaluation.likelihood import likelihood
from jaxgen.methods.diffusion.gaussian import gaussian_diffusion
from jaxgen.nn import SongUNet


def experiment(
  steps: int = 390_625,
  batch_size: int = 512,
  learning_rate: float = 1e-3,
  dropout: float = 0.13,
  ema_half_life: int = 500_000,
  conditional: bool = False,
  bfloat16: bool = False,
  solver: diffusion.SolverName = "heun",
  grid: diffusion.GridName = "karras",
  sampling_steps: int = 18,
  evaluation_terms: int = 128,
  microbatches: int = 1,
  tfds_dir: str | None = None,
) -> Experiment:
  cifar10 = data.images("tfds:cifar10", (32, 32, 3), classes=10, augment=(flip(),), data_dir=tfds_dir)
  process = diffusion.edm()
  sigma_data = 0.5
  classes = cifar10.classes if conditional else None
  dtype = jnp.bfloat16 if bfloat16 else jnp.float32
  rate = optax.linear_schedule(0.0, learning_rate, 10_000_000 // batch_size)

  def ema(step):
    """The half-life grows with the images seen, as a 20th of them, up to the given number."""
    return 0.5 ** (batch_size / jnp.clip(0.05 * batch_size * step, 1e-8, ema_half_life))

  method = gaussian_diffusion(
    SongUNet(multipliers=(2, 2, 2), dropout=dropout, classes=classes, dtype=dtype),
    process,
    shape=(32, 32, 3),
    optimizer=optax.adam(rate),
    prediction=predictions.edm(sigma_data),
    weighting=weightings.edm(sigma_data),
    times=log_normal(process),
    time_input=c_noise,
    solver=diffusion.SOLVERS[solver],
    grid=diffusion.GRIDS[grid],
    sampling_steps=sampling_steps,
    clip=False,
    ema=ema,
    classes=classes,
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
