"""NCSN, noise-conditional score network with annealed Langevin dynamics, on scikit-learn's 8x8 digits.

Paper: Song and Ermon 2019, Generative modeling by estimating gradients of the data distribution,
https://arxiv.org/abs/1907.05600, Algorithm 1 and eq. 6 with lambda = sigma^2. As in Song and Ermon 2020 (Improved
techniques), https://arxiv.org/abs/2006.09011, the score is the network's output divided by sigma (a prediction
of -eps), the largest sigma is the largest distance in the data, weights are averaged, and a last step denoises.

    jaxgen train configs/ncsn_digits.py

Expect: frechet_1437 1.31, 1.10 times its floor; at most 2.26 bits/dim (one seed)
Cost: 13 minutes of 2,000 steps with other work on the machine; about 3 on 2 idle CPU cores, as the main job
"""

from functools import partial

import optax

from jaxgen import Experiment, data, diffusion
from jaxgen.diffusion.losses import bound_nll
from jaxgen.diffusion.solvers.annealed_langevin import annealed_langevin
from jaxgen.evaluation.evaluators import frechet
from jaxgen.evaluation.likelihood import likelihood
from jaxgen.methods.diffusion.gaussian import gaussian_diffusion
from jaxgen.nn import UNet


def experiment(
  steps: int = 2_000,
  batch_size: int = 128,
  learning_rate: float = 2e-3,
  channels: int = 32,
  ema: float = 0.99,
  levels: int = 50,
  langevin_steps: int = 5,
  sampling_steps: int = 50,
  microbatches: int = 1,
) -> Experiment:
  digits = data.digits()
  process = diffusion.geometric(levels, smallest=0.02, largest=9.6)
  rate = optax.warmup_cosine_decay_schedule(0.0, learning_rate, min(100, steps // 2), steps)
  method = gaussian_diffusion(
    UNet(channels=channels, multipliers=(1, 1), blocks=1, attention=(4,), out_channels=1),
    process,
    shape=(8, 8, 1),
    optimizer=optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate)),
    weighting=diffusion.WEIGHTINGS["eps"],
    solver=partial(annealed_langevin, corrections=langevin_steps),
    grid=diffusion.GRIDS["trailing"],
    clip=False,
    likelihoods={"nll_nats": partial(bound_nll, levels=digits.levels)},
    sampling_steps=sampling_steps,
    ema=ema,
    microbatches=microbatches,
  )
  return Experiment(
    method=method,
    data=digits,
    steps=steps,
    batch_size=batch_size,
    evaluators=(likelihood(), frechet()),
    sample_every=500,
    checkpoint_every=500,
  )
