"""Score SDE on CIFAR-10 at the paper's size: variance preserving, sub-VP or exploding.

Paper: Song et al. 2021, Score-based generative modeling through stochastic differential equations,
https://arxiv.org/abs/2011.13456, Appendix H and their code: DDPM++ cont., 61.8 M parameters, or for VE NCSN++ cont.,
62.8 M (107 M and 108 M with 8 blocks, "deep"), batch 128, 1.3 M steps, EMA 0.9999 (VE 0.999), dropout 0.1, flips, 1000
steps of Euler-Maruyama, or for VE of a predictor-corrector: reverse diffusion and one of Langevin dynamics each,
signal-to-noise ratio 0.16. Their Tables 2 and 3: FID of VP 2.55, sub-VP 2.61, VE 2.38 (deep 2.20); by the
probability-flow ODE VP has FID 3.93 and 3.16 bits/dim, sub-VP FID 3.16 and 3.02 bits/dim, with uniform dequantization.

    jaxgen train score_sde_cifar10 --tfds-dir DIR
    jaxgen train score_sde_cifar10 --sde sub_vp --tfds-dir DIR      (or ve)

Expect: VP 3.16, sub-VP 3.02 bits/dim, dequantized; VE: FID 2.38, which is not computed here; not run to the end here
Cost: 1.3 M steps of 8.3e12 FLOPs: 75 hours at a sustained 40 TFLOP/s; an estimate, not measured, and not for a CPU
"""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp

from jaxgen import Experiment, data, diffusion, optimizers
from jaxgen.core.wrappers import averaged
from jaxgen.data.transforms import flip
from jaxgen.diffusion.likelihood import continuous_bound, ode_nll
from jaxgen.diffusion.times import uniform
from jaxgen.evaluation.likelihood import likelihood
from jaxgen.methods.diffusion.gaussian import gaussian_diffusion
from jaxgen.methods.diffusion.objective import Objective
from jaxgen.methods.diffusion.sampler import Sampler
from jaxgen.nn import SongUNet


def half_sum(prediction, at):
  """The paper's code takes half the sum of eps's squared errors, not their mean, which clipped gradients notice."""
  return 32 * 32 * 3 / 2 * diffusion.WEIGHTINGS["eps"](prediction, at)


def log_sigma(at):
  """Of images in [0, 1], as in the paper's code; sigma is twice as large in [-1, 1]."""
  return -at.log_snr / 2 - math.log(2)


class SDE(NamedTuple):
  """The differences between the SDEs.

  Attributes:
    network: arguments of `SongUNet`.
    objective: arguments of `Objective`.
  """

  process: diffusion.Schedule
  network: Mapping[str, Any]
  objective: Mapping[str, Any]
  ema: float
  solver: diffusion.SolverName


EPS = dict(weighting=diffusion.WEIGHTINGS["eps"])
EXPLODING = dict(weighting=half_sum, time_input=log_sigma)
SDES = {
  "vp": SDE(diffusion.vp(), {}, EPS, 0.9999, "euler_maruyama"),  # FID 2.55, 3.16 bits/dim
  "sub_vp": SDE(diffusion.sub_vp(), {}, EPS, 0.9999, "euler_maruyama"),  # FID 2.61, 3.02 bits/dim
  "ve": SDE(  # FID 2.38
    diffusion.ve(0.02, 100.0), dict(ncsnpp=True, fourier=16.0), EXPLODING, 0.999, "predictor_corrector"
  ),
}
NAMES = {
  "score_sde_vp_cifar10": {"sde": "vp"},
  "score_sde_subvp_cifar10": {"sde": "sub_vp"},
  "score_sde_ve_cifar10": {"sde": "ve"},
}


def experiment(
  sde: Literal[*SDES] = "vp",
  steps: int = 1_300_000,
  batch_size: int = 128,
  learning_rate: float = 2e-4,
  dropout: float = 0.1,
  ema: float | None = None,
  blocks: int = 4,
  bfloat16: bool = False,
  remat: bool = False,
  solver: diffusion.SolverName | None = None,
  grid: diffusion.GridName = "linspace",
  sampling_steps: int = 1000,
  evaluation_terms: int = 128,
  microbatches: int = 1,
  tfds_dir: str | None = None,
) -> Experiment:
  """A network learns the score of an SDE. Flags that are not given are the SDE's.

  Args:
    sde: variance preserving, less than that, or exploding.
    dropout: rate, in the network's blocks.
    blocks: residual blocks at each resolution; 8 is the paper's "deep".
    bfloat16: the network computes in half precision.
    solver: how samples go from noise to images; the authors' by default.
    grid: the times that the solver visits.
    sampling_steps: steps of the solver.
    evaluation_terms: draws of the bound's integral for each example (ve).
  """
  cifar10 = data.cifar10(tfds_dir, augment=(flip(),))
  p = SDES[sde]
  if sde == "ve":
    likelihoods = {"nll_nats": partial(continuous_bound, levels=cifar10.levels, terms=evaluation_terms)}
  else:
    likelihoods = {"nll_nats_dequantized": partial(ode_nll, levels=cifar10.levels, t_min=1e-5)}
  method = gaussian_diffusion(
    SongUNet(blocks=blocks, dropout=dropout, remat=remat, dtype=jnp.bfloat16 if bfloat16 else jnp.float32, **p.network),
    p.process,
    cifar10.spec,
    optimizers.adam(learning_rate, warmup=5_000, clip=1.0),
    objective=Objective(times=uniform(p.process, first=1e-5), **p.objective),
    sampler=Sampler(diffusion.SOLVERS[solver or p.solver], diffusion.GRIDS[grid], sampling_steps, clip=False),
    likelihoods=likelihoods,
  )
  return Experiment(
    method=averaged(method, p.ema if ema is None else ema),
    data=cifar10,
    steps=steps,
    batch_size=batch_size,
    evaluators=(likelihood(),),
    microbatches=microbatches,
    log_every=100,
    sample_every=20_000,
    checkpoint_every=5_000,
    sample_chunk=128,
  )
