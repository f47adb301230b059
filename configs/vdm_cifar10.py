"""Variational diffusion model on CIFAR-10 at the paper's size.

Paper: Kingma et al. 2021, Variational diffusion models, https://arxiv.org/abs/2107.00630, Appendix B and their code:
30.6 M parameters, no downsampling, 10 M steps of batch 128, AdamW with beta_2 = 0.99 and weight decay 0.01, EMA 0.9999,
dropout 0.1, no flips, the schedule's two ends learned; 2.65 bits/dim (their Table 1; 2.637 by their code's README).

    jaxgen train configs/vdm_cifar10.py --tfds-dir DIR

Expect: at most 2.65 bits/dim; not run to the end here
Cost: 10 M steps of 2.0e13 FLOPs: 59 days at a sustained 40 TFLOP/s; an estimate, not measured, and not for a CPU
"""

import jax
import jax.numpy as jnp
import optax

from jaxgen import Experiment, data, diffusion
from jaxgen.engine.experiment import Published
from jaxgen.evaluation.likelihood import likelihood
from jaxgen.methods.diffusion.vdm import vdm
from jaxgen.nn.unets.vdm import LinearGamma, ScoreNetwork


def not_biases(params):
  """What decays: all but the biases, as in the paper's code."""
  return jax.tree.map_with_path(lambda path, _: path[-1].key != "bias", params)


def experiment(
  steps: int = 10_000_000,
  batch_size: int = 128,
  learning_rate: float = 2e-4,
  dropout: float = 0.1,
  ema: float = 0.9999,
  gamma_min: float = -13.3,
  gamma_max: float = 5.0,
  bfloat16: bool = False,
  solver: diffusion.SolverName = "ancestral",
  grid: diffusion.GridName = "trailing",
  sampling_steps: int = 1000,
  evaluation_terms: int = 128,
  microbatches: int = 1,
  tfds_dir: str | None = None,
) -> Experiment:
  cifar10 = data.images("tfds:cifar10", (32, 32, 3), classes=10, data_dir=tfds_dir)
  dtype = jnp.bfloat16 if bfloat16 else jnp.float32
  rate = optax.linear_schedule(0.0, learning_rate, 100)
  method = vdm(
    ScoreNetwork(gamma_min, gamma_max, dropout=dropout, dtype=dtype),
    LinearGamma(gamma_min, gamma_max),
    shape=(32, 32, 3),
    levels=cifar10.levels,
    optimizer=optax.adamw(rate, b2=0.99, weight_decay=0.01, mask=not_biases),
    batch_size=batch_size,
    solver=diffusion.SOLVERS[solver],
    grid=diffusion.GRIDS[grid],
    sampling_steps=sampling_steps,
    terms=evaluation_terms,
    ema=ema,
    microbatches=microbatches,
  )
  return Experiment(
    method=method,
    data=cifar10,
    steps=steps,
    batch_size=batch_size,
    evaluators=(likelihood(),),
    published=(Published("Kingma et al. 2021 (VDM)", "Table 1", "test_bits_per_dim_256_levels", 2.65),),
    log_every=100,
    sample_every=20_000,
    checkpoint_every=5_000,
    sample_chunk=128,
  )
