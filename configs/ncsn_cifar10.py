"""NCSN, noise-conditional score network with annealed Langevin dynamics, on CIFAR-10 at the paper's size.

Paper: Song and Ermon 2019, Generative modeling by estimating gradients of the data distribution,
https://arxiv.org/abs/1907.05600, section 5, Appendix B and their code: RefineNet of 30.1 M parameters, 10 noise levels
from 1 to 0.01 for images in [0, 1], batch 128, 200 k steps, Adam at 0.001, flips, no averaged weights, 100 Langevin
steps a level with epsilon = 2e-5; Inception score 8.87 and FID 25.32 (their Table 1).

    jaxgen train configs/ncsn_cifar10.py --tfds-dir DIR

Sampling begins at the second level, where the paper begins with 100 steps at the first, from uniform noise, and it ends
with the predicted x_0, where the paper ends with the last step's noise.

Expect: FID 25.32, which is not computed here; not run to the end here
Cost: 200 k steps of 7.6e12 FLOPs: 11 hours at a sustained 40 TFLOP/s; an estimate, not measured, and not for a CPU
"""

from functools import partial

import jax.numpy as jnp
import optax

from jaxgen import Experiment, data, diffusion
from jaxgen.data.transforms import flip
from jaxgen.diffusion.losses import bound_nll
from jaxgen.diffusion.solvers.annealed_langevin import annealed_langevin
from jaxgen.evaluation.likelihood import likelihood
from jaxgen.methods.diffusion.gaussian import gaussian_diffusion
from jaxgen.nn import RefineNet


def experiment(
  steps: int = 200_000,
  batch_size: int = 128,
  learning_rate: float = 1e-3,
  levels: int = 10,
  langevin_steps: int = 100,
  bfloat16: bool = False,
  microbatches: int = 1,
  tfds_dir: str | None = None,
) -> Experiment:
  cifar10 = data.images("tfds:cifar10", (32, 32, 3), classes=10, augment=(flip(),), data_dir=tfds_dir)
  process = diffusion.geometric(levels, smallest=0.02, largest=2.0)
  method = gaussian_diffusion(
    RefineNet(levels=levels, dtype=jnp.bfloat16 if bfloat16 else jnp.float32),
    process,
    shape=(32, 32, 3),
    optimizer=optax.adam(learning_rate),
    prediction=diffusion.PREDICTIONS["score"],
    weighting=diffusion.WEIGHTINGS["eps"],
    solver=partial(annealed_langevin, corrections=langevin_steps),
    grid=diffusion.GRIDS["trailing"],
    sampling_steps=levels,
    clip=False,
    likelihoods={"nll_nats": partial(bound_nll, levels=cifar10.levels)},
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
