"""EDM on scikit-learn's 8x8 digits.

Paper: Karras et al. 2022, Elucidating the design space of diffusion-based generative models,
https://arxiv.org/abs/2206.00364, Table 1 (last column), Algorithms 1 and 2, with the digits' standard deviation.

    jaxgen train configs/edm_digits.py

Expect: frechet_1437 1.24, 1.04 times its floor, by 35 network calls (one seed)
Cost: 10 minutes of 2,000 steps with other work on the machine; about 3 on 2 idle CPU cores, as the main job
"""

from functools import partial

import optax

from jaxgen import Experiment, data, diffusion
from jaxgen.diffusion import predictions, weightings
from jaxgen.diffusion.likelihood import continuous_bound
from jaxgen.diffusion.times import c_noise, log_normal
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
  solver: diffusion.SolverName = "heun",
  grid: diffusion.GridName = "karras",
  sampling_steps: int = 18,
  microbatches: int = 1,
) -> Experiment:
  digits = data.digits()
  process = diffusion.edm()
  sigma_data = 0.75
  rate = optax.warmup_cosine_decay_schedule(0.0, learning_rate, min(100, steps // 2), steps)
  method = gaussian_diffusion(
    UNet(channels=channels, multipliers=(1, 1), blocks=1, attention=(4,), out_channels=1),
    process,
    shape=(8, 8, 1),
    optimizer=optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate)),
    prediction=predictions.edm(sigma_data),
    weighting=weightings.edm(sigma_data),
    times=log_normal(process),
    time_input=c_noise,
    solver=diffusion.SOLVERS[solver],
    grid=diffusion.GRIDS[grid],
    clip=False,
    likelihoods={"nll_nats": partial(continuous_bound, levels=digits.levels, t_min=0.03)},
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
