"""Score-based generative modelling through SDEs, VP, sub-VP and VE, on scikit-learn's 8x8 digits.

Paper: Song et al. 2021, Score-based generative modeling through stochastic differential equations,
https://arxiv.org/abs/2011.13456: eq. 7 with lambda = sigma^2 (the error of eps), the SDEs of section 3.4, the
predictor-corrector sampler of Algorithm 1, and likelihoods by the probability-flow ODE (section 4.3). Without
`--solver` samples are drawn as the authors draw them: Euler-Maruyama for VP and sub-VP, predictor-corrector for VE.

    jaxgen train score_sde_digits
    jaxgen train score_sde_digits --sde ve              (or sub_vp)

Expect: VE: frechet_1437 1.39, 1.17 times its floor, at most 1.93 bits/dim. Sub-VP: 1.52 times, at most 1.99 bits/dim.
VP: 1.69 to 1.90 times over three seeds of the samples, at most 2.01 bits/dim; with `--sampling-steps 500` 1.29, with
`--solver dpmpp_2m --grid log_snr --sampling-steps 25` 1.37 to 1.68. The distance comes mostly from the proportions of
the classes. (One network each)
Cost: about 3 minutes on 2 idle CPU cores, as the main job
"""

from functools import partial
from typing import Literal

import numpy as np

from jaxgen import Experiment, data, diffusion, optimizers
from jaxgen.core.wrappers import averaged
from jaxgen.data.transforms import dequantize
from jaxgen.diffusion.likelihood import continuous_bound, ode_nll
from jaxgen.diffusion.times import uniform
from jaxgen.evaluation.evaluators import frechet
from jaxgen.evaluation.likelihood import likelihood
from jaxgen.methods.diffusion.gaussian import gaussian_diffusion
from jaxgen.methods.diffusion.objective import Objective
from jaxgen.methods.diffusion.sampler import Sampler
from jaxgen.nn import UNet

SDES = {  # and the authors' solver
  "vp": (diffusion.vp, "euler_maruyama"),
  "sub_vp": (diffusion.sub_vp, "euler_maruyama"),
  "ve": (partial(diffusion.ve, 0.02, 9.6), "predictor_corrector"),  # 9.6 is the largest distance between two digits
}


def experiment(
  sde: Literal[*SDES] = "vp",
  steps: int = 2_000,
  batch_size: int = 128,
  learning_rate: float = 2e-3,
  channels: int = 32,
  ema: float = 0.99,
  ode_likelihood: bool = False,
  solver: diffusion.SolverName | None = None,
  grid: diffusion.GridName = "linspace",
  sampling_steps: int = 100,
) -> Experiment:
  """A U-Net learns the score of an SDE.

  Args:
    sde: variance preserving, less than that, or exploding.
    channels: the network's width.
    ode_likelihood: train on dequantized data, whose likelihood is that of the probability-flow ODE, instead of the
      bound.
    solver: how samples go from noise to digits; the authors' by default.
    grid: the times that the solver visits.
    sampling_steps: steps of the solver.
  """
  digits = data.digits(transforms=(dequantize(17),)) if ode_likelihood else data.digits()
  make, authors = SDES[sde]
  process = make()
  if ode_likelihood:
    likelihoods = {"nll_nats_dequantized": partial(ode_nll, levels=digits.levels)}
  else:
    t_min = process.time(np.array([7.2])).item()  # of sigma 0.03, a quarter of the distance between two pixel values
    likelihoods = {"nll_nats": partial(continuous_bound, levels=digits.levels, t_min=t_min)}
  method = gaussian_diffusion(
    UNet(channels=channels, multipliers=(1, 1), blocks=1, attention=(4,), out_channels=1),
    process,
    digits.spec,
    optimizers.adam(learning_rate, steps, warmup=100, clip=1.0),
    objective=Objective(weighting=diffusion.WEIGHTINGS["eps"], times=uniform(process, first=1e-5)),
    sampler=Sampler(diffusion.SOLVERS[solver or authors], diffusion.GRIDS[grid], sampling_steps, clip=False),
    likelihoods=likelihoods,
  )
  return Experiment(
    method=averaged(method, ema),
    data=digits,
    steps=steps,
    batch_size=batch_size,
    evaluators=(likelihood(),) if ode_likelihood else (likelihood(), frechet()),
    sample_every=500,
    checkpoint_every=500,
  )
