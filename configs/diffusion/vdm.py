"""Variational diffusion model, with a learned noise schedule: on 8x8 digits, on CIFAR-10 at the paper's size.

Paper: Kingma et al. 2021, Variational diffusion models, https://arxiv.org/abs/2107.00630: eq. 11 and 17 in continuous
time, low-discrepancy t (Appendix I.1), a network without downsampling on Fourier features (Appendix B). Appendix B and
their code for CIFAR-10: 30.6 M parameters, 10 M steps of batch 128, AdamW with beta_2 = 0.99 and weight decay 0.01, EMA
0.9999, dropout 0.1, no flips, the schedule's two ends learned; 2.65 bits/dim (their Table 1; 2.637 by their code's
README).

    jaxgen train vdm
    jaxgen train vdm --preset cifar10 --tfds-dir DIR

Expect: digits: at most 1.75 bits/dim (standard error 0.02); frechet_1437 1.25, 1.12 times its floor. The bound's
weighting favours likelihood over looks (2,000 steps: 1.78 bits/dim and 2.82 times). One seed. cifar10: at most 2.65
bits/dim; not run to the end here
Cost: digits: 10 minutes on 2 CPU cores. cifar10: 10 M steps of 2.0e13 FLOPs, 59 days at a sustained 40 TFLOP/s; an
estimate, not measured, and not for a CPU
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from jaxgen import Experiment, data, diffusion, optimizers
from jaxgen.core.wrappers import averaged
from jaxgen.engine.experiment import Published
from jaxgen.evaluation.evaluators import frechet
from jaxgen.evaluation.likelihood import likelihood
from jaxgen.methods.diffusion.vdm import vdm
from jaxgen.nn.unets.vdm import LinearGamma, ScoreNetwork


class Preset(NamedTuple):
  """The recipe of a data set.

  Attributes:
    fourier: see `ScoreNetwork`.
    gamma_min, gamma_max: -log-SNR at t = 0 and t = 1 at initialisation.
  """

  steps: int
  learning_rate: float
  channels: int
  depth: int
  fourier: Sequence[int]
  dropout: float
  ema: float
  gamma_min: float
  gamma_max: float
  sampling_steps: int
  evaluation_terms: int
  published: tuple[Published, ...] = ()


TABLE_1 = Published("Kingma et al. 2021 (VDM)", "Table 1", "test_bits_per_dim_256_levels", 2.65)
PRESETS = {
  "digits": Preset(6_000, 2e-3, 32, 3, (3, 4), 0.0, 0.99, -8.0, 6.0, 100, 64),
  "cifar10": Preset(10_000_000, 2e-4, 128, 32, (7, 8), 0.1, 0.9999, -13.3, 5.0, 1000, 128, (TABLE_1,)),
}


def not_biases(params):
  """What decays: all but the biases, as in the paper's code."""
  return jax.tree.map_with_path(lambda path, _: path[-1].key != "bias", params)


NAMES = {"vdm_digits": {"preset": "digits"}, "vdm_cifar10": {"preset": "cifar10"}}


def experiment(
  preset: Literal[*PRESETS] = "digits",
  steps: int | None = None,
  batch_size: int = 128,
  learning_rate: float | None = None,
  channels: int | None = None,
  depth: int | None = None,
  dropout: float | None = None,
  ema: float | None = None,
  gamma_min: float | None = None,
  gamma_max: float | None = None,
  bfloat16: bool = False,
  remat: bool = False,
  solver: diffusion.SolverName = "ancestral",
  grid: diffusion.GridName = "trailing",
  sampling_steps: int | None = None,
  evaluation_terms: int | None = None,
  microbatches: int = 1,
  tfds_dir: str | None = None,
) -> Experiment:
  """A network and its noise schedule learn the likelihood's bound. Flags that are not given are the preset's.

  Args:
    preset: data, and the size of everything.
    channels: the network's width.
    depth: its blocks on the way down.
    dropout: rate, in the network's blocks.
    gamma_min: minus the log-SNR of the least noise, at first.
    gamma_max: minus the log-SNR of the most noise, at first.
    bfloat16: the network computes in half precision.
    solver: how samples go from noise to images.
    grid: the times that the solver visits.
    sampling_steps: steps of the solver.
    evaluation_terms: draws of the bound's integral for each example.
  """
  given = dict(steps=steps, learning_rate=learning_rate, channels=channels, depth=depth, dropout=dropout, ema=ema)
  given |= dict(gamma_min=gamma_min, gamma_max=gamma_max)
  given |= dict(sampling_steps=sampling_steps, evaluation_terms=evaluation_terms)
  p = PRESETS[preset]._replace(**{name: value for name, value in given.items() if value is not None})
  if preset == "digits":
    images = data.digits()
    optimizer = optimizers.adam(p.learning_rate, p.steps, warmup=100, clip=1.0)
    more = dict(evaluators=(likelihood(), frechet()), sample_every=500, checkpoint_every=500)
  else:
    images = data.cifar10(tfds_dir)
    optimizer = optimizers.adam(p.learning_rate, warmup=100, b2=0.99, weight_decay=0.01, mask=not_biases)
    more = dict(evaluators=(likelihood(),), log_every=100, sample_every=20_000, checkpoint_every=5_000)
    more |= dict(sample_chunk=128)
  dtype = jnp.bfloat16 if bfloat16 else jnp.float32
  ends = p.gamma_min, p.gamma_max
  method = vdm(
    ScoreNetwork(*ends, p.channels, p.depth, p.dropout, p.fourier, remat=remat, dtype=dtype),
    LinearGamma(*ends),
    images.spec,
    optimizer,
    batch_size=batch_size,
    solver=diffusion.SOLVERS[solver],
    grid=diffusion.GRIDS[grid],
    sampling_steps=p.sampling_steps,
    terms=p.evaluation_terms,
  )
  return Experiment(
    method=averaged(method, p.ema),
    data=images,
    steps=p.steps,
    batch_size=batch_size,
    published=p.published,
    microbatches=microbatches,
    **more,
  )
