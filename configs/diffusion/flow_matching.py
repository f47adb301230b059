"""Rectified flow (flow matching on the straight path): on scikit-learn's 8x8 digits, on CIFAR-10 at the paper's size.

Paper: Liu et al. 2022, Flow straight and fast, https://arxiv.org/abs/2209.03003, Algorithm 1; the same loss is Lipman
et al. 2022, Flow matching for generative modeling, https://arxiv.org/abs/2210.02747, eq. 23 with sigma_min = 0. Their
code for CIFAR-10: 1-rectified flow with DDPM++, 61.8 M parameters, batch 128, 800 k steps, EMA 0.999999, dropout 0.15,
flips, the ODE by an adaptive Runge-Kutta method with tolerance 1e-5; FID 2.58 (Liu et al., Table 1).

    jaxgen train flow_matching
    jaxgen train flow_matching --preset cifar10 --tfds-dir DIR

Expect: digits: frechet_1437 1.32, 1.17 times its floor (one seed). cifar10: FID 2.58, which is not computed here; not
run to the end here
Cost: digits: 3 minutes on 2 CPU cores.
cifar10: 800 k steps of 8.3e12 FLOPs, 46 hours at a sustained 40 TFLOP/s; an estimate, not measured, and not for a CPU
"""

from functools import partial
from typing import Literal, NamedTuple

import jax.numpy as jnp

from jaxgen import Experiment, data, diffusion, optimizers
from jaxgen.core.wrappers import averaged, warmed_up
from jaxgen.data.transforms import flip
from jaxgen.diffusion.likelihood import continuous_bound
from jaxgen.diffusion.times import thousandths
from jaxgen.evaluation.evaluators import frechet
from jaxgen.evaluation.likelihood import likelihood
from jaxgen.methods.diffusion.gaussian import gaussian_diffusion
from jaxgen.methods.diffusion.objective import Objective
from jaxgen.methods.diffusion.sampler import Sampler
from jaxgen.nn import SongUNet, UNet


class Preset(NamedTuple):
  """The recipe of a data set.

  Attributes:
    t_min: the time at which the likelihood's ODE ends; None: the schedule's own.
    warms_up: the average's decay rises during the first steps, so that the average forgets the initialisation.
  """

  steps: int
  learning_rate: float
  dropout: float
  ema: float
  solver: diffusion.SolverName
  t_min: float | None
  warms_up: bool = False


PRESETS = {
  "digits": Preset(2_000, 2e-3, 0.0, 0.99, "ddim", 0.03),  # DDIM is Euler's method on this path
  "cifar10": Preset(800_000, 2e-4, 0.15, 0.999999, "adaptive", None, True),  # FID 2.58
}
NAMES = {"flow_matching_digits": {"preset": "digits"}, "flow_matching_cifar10": {"preset": "cifar10"}}


def experiment(
  preset: Literal[*PRESETS] = "digits",
  steps: int | None = None,
  batch_size: int = 128,
  learning_rate: float | None = None,
  channels: int | None = None,
  dropout: float | None = None,
  ema: float | None = None,
  bfloat16: bool = False,
  remat: bool = False,
  weighting: diffusion.WeightingName = "simple",
  times: diffusion.TimesName = "uniform",
  solver: diffusion.SolverName | None = None,
  grid: diffusion.GridName = "trailing",
  sampling_steps: int = 100,
  evaluation_terms: int = 128,
  microbatches: int = 1,
  tfds_dir: str | None = None,
) -> Experiment:
  """A network learns the velocity from noise to images. Flags that are not given are the preset's.

  Args:
    preset: data, and the size of everything.
    channels: the network's width; 32 for digits, 128 for CIFAR-10 by default.
    dropout: rate, in the network's blocks.
    bfloat16: the network computes in half precision.
    weighting: of the squared error at each time.
    times: the distribution of times in training.
    solver: how samples go from noise to images.
    grid: the times that the solver visits.
    sampling_steps: steps of the solver, unless it is adaptive.
    evaluation_terms: draws of the bound's integral for each example.
  """
  given = dict(steps=steps, learning_rate=learning_rate, dropout=dropout, ema=ema, solver=solver)
  p = PRESETS[preset]._replace(**{name: value for name, value in given.items() if value is not None})
  options = dict(dropout=p.dropout, remat=remat, dtype=jnp.bfloat16 if bfloat16 else jnp.float32)
  if preset == "digits":
    images, time_input = data.digits(), thousandths
    network = UNet(channels or 32, multipliers=(1, 1), blocks=1, attention=(4,), out_channels=1, **options)
    optimizer = optimizers.adam(p.learning_rate, p.steps, warmup=100, clip=1.0)
    more = dict(evaluators=(likelihood(), frechet()), sample_every=500, checkpoint_every=500)
  else:
    images = data.cifar10(tfds_dir, augment=(flip(),))
    time_input = lambda at: 999 * (1 - at.t)  # the paper counts t from noise
    network = SongUNet(channels or 128, **options)
    optimizer = optimizers.adam(p.learning_rate, warmup=5_000, clip=1.0)
    more = dict(evaluators=(likelihood(),), log_every=100, sample_every=20_000, checkpoint_every=5_000)
    more |= dict(sample_chunk=128)
  process = diffusion.rectified_flow()
  method = gaussian_diffusion(
    network,
    process,
    images.spec,
    optimizer,
    objective=Objective(
      diffusion.PREDICTIONS["velocity"],
      diffusion.WEIGHTINGS[weighting],
      times=diffusion.TIMES[times](process),
      time_input=time_input,
    ),
    sampler=Sampler(diffusion.SOLVERS[p.solver], diffusion.GRIDS[grid], sampling_steps, clip=False),
    likelihoods={"nll_nats": partial(continuous_bound, levels=images.levels, terms=evaluation_terms, t_min=p.t_min)},
  )
  return Experiment(
    method=averaged(method, warmed_up(p.ema) if p.warms_up else p.ema),
    data=images,
    steps=p.steps,
    batch_size=batch_size,
    microbatches=microbatches,
    **more,
  )
