"""DDPM on CIFAR-10 at the paper's size, and on MNIST.

Paper: Ho et al. 2020, Denoising diffusion probabilistic models, https://arxiv.org/abs/2006.11239, Section 4 and
Appendix B: 35.7 M parameters, T = 1000, batch 128, 800 k steps, EMA 0.9999, dropout 0.1, flips, ancestral sampling with
the larger variance; FID 3.17 and at most 3.75 bits/dim (their Table 1, simple loss). MNIST is not in the paper.

    jaxgen train ddpm --tfds-dir DIR
    jaxgen prepare mnist --data-dir DIR     (once, with a network; see README)
    jaxgen train ddpm --preset mnist --tfds-dir DIR

Expect: cifar10: at most 3.75 bits/dim; not run to the end here. mnist: not run to the end here, so no number; the first
40 steps were, on the real data
Cost: cifar10: 800 k steps of 4.5e12 FLOPs, 25 hours at a sustained 40 TFLOP/s; an estimate, not measured, and not for a
CPU. mnist: 20 k steps at 1.0 a second on 2 CPU cores are 5.6 hours; meant for an accelerator, where it was not measured
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp

from jaxgen import Experiment, data, diffusion, optimizers
from jaxgen.core.wrappers import averaged
from jaxgen.data.transforms import flip
from jaxgen.diffusion.losses import bound_nll
from jaxgen.evaluation.evaluators import frechet
from jaxgen.evaluation.likelihood import likelihood
from jaxgen.methods.diffusion.gaussian import gaussian_diffusion
from jaxgen.methods.diffusion.objective import Objective
from jaxgen.methods.diffusion.sampler import Sampler
from jaxgen.nn import UNet


class Preset(NamedTuple):
  """The recipe of a data set.

  Attributes:
    network: arguments of `UNet`.
    variance: the reverse process's variance, in the ancestral solver and in the bound.
  """

  steps: int
  learning_rate: float
  dropout: float
  ema: float
  network: Mapping[str, Any]
  variance: diffusion.Variance
  solver: diffusion.SolverName
  sampling_steps: int
  evaluation_terms: int


MNIST = dict(channels=32, multipliers=(1, 2, 2), blocks=1, attention=(7,), out_channels=1)
PRESETS = {
  "cifar10": Preset(800_000, 2e-4, 0.1, 0.9999, {}, "beta", "ancestral", 1000, 100),  # FID 3.17, 3.75 bits/dim
  "mnist": Preset(20_000, 5e-4, 0.0, 0.999, MNIST, "posterior", "ddim", 50, 50),
}
NAMES = {"ddpm_cifar10": {"preset": "cifar10"}, "ddpm_mnist": {"preset": "mnist"}}


def experiment(
  preset: Literal[*PRESETS] = "cifar10",
  steps: int | None = None,
  batch_size: int = 128,
  learning_rate: float | None = None,
  dropout: float | None = None,
  ema: float | None = None,
  bfloat16: bool = False,
  remat: bool = False,
  weighting: diffusion.WeightingName = "simple",
  solver: diffusion.SolverName | None = None,
  grid: diffusion.GridName = "trailing",
  sampling_steps: int | None = None,
  evaluation_terms: int | None = None,
  frechet_samples: int = 10_000,
  microbatches: int = 1,
  tfds_dir: str | None = None,
) -> Experiment:
  """A U-Net learns the noise in images. Flags that are not given are the preset's.

  Args:
    preset: data, and the size of everything.
    dropout: rate, in the network's blocks.
    bfloat16: the network computes in half precision.
    weighting: of its squared error at each step.
    solver: how samples go from noise to images.
    grid: the times that the solver visits.
    sampling_steps: steps of the solver.
    evaluation_terms: terms of the bound that are drawn for each example, of 1,000.
    frechet_samples: samples whose distance to the data is measured (mnist).
  """
  given = dict(steps=steps, learning_rate=learning_rate, dropout=dropout, ema=ema, solver=solver)
  given |= dict(sampling_steps=sampling_steps, evaluation_terms=evaluation_terms)
  p = PRESETS[preset]._replace(**{name: value for name, value in given.items() if value is not None})
  if preset == "cifar10":
    images = data.cifar10(tfds_dir, augment=(flip(),))
    optimizer = optimizers.adam(p.learning_rate, warmup=5_000, clip=1.0)
    more = dict(evaluators=(likelihood(),), log_every=100, sample_every=20_000, checkpoint_every=5_000)
  else:
    images = data.mnist(tfds_dir)
    optimizer = optimizers.adam(p.learning_rate, p.steps, warmup=500, clip=1.0)
    more = dict(evaluators=(likelihood(), frechet(frechet_samples)), sample_every=2_000)
  solvers = {**diffusion.SOLVERS, "ancestral": partial(diffusion.ancestral, variance=p.variance)}
  bound = partial(bound_nll, levels=images.levels, variance=p.variance, terms=p.evaluation_terms)
  method = gaussian_diffusion(
    UNet(dropout=p.dropout, remat=remat, dtype=jnp.bfloat16 if bfloat16 else jnp.float32, **p.network),
    diffusion.linear(1000),
    images.spec,
    optimizer,
    objective=Objective(weighting=diffusion.WEIGHTINGS[weighting]),
    sampler=Sampler(solvers[p.solver], diffusion.GRIDS[grid], p.sampling_steps),
    likelihoods={"nll_nats": bound},
  )
  return Experiment(
    method=averaged(method, p.ema),
    data=images,
    steps=p.steps,
    batch_size=batch_size,
    microbatches=microbatches,
    sample_chunk=128,
    **more,
  )
