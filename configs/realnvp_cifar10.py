"""RealNVP on CIFAR-10 as in the paper.

Paper: Dinh et al. 2016, Density estimation using Real NVP, https://arxiv.org/abs/1605.08803, section 4.1: two scales,
residual networks of eight blocks of 64 features (128 after a halving, as in their code), weight and batch
normalisation, logits with alpha = 0.05, flips, batches of 64, Adam with its default rates, 5e-5 of the squares of the
weight normalisation's gains.

    jaxgen prepare cifar10 --data-dir DIR     (once, with a network; see README)
    jaxgen train configs/realnvp_cifar10.py --tfds-dir DIR

Expect: 3.49 bits/dim, dequantized; not run to the end here. The paper does not say how long it trained
Cost: not measured; not for a CPU
"""

from functools import partial

import jax
import jax.numpy as jnp
import optax

from jaxgen import Experiment, data
from jaxgen.data.transforms import dequantize, flip
from jaxgen.engine.experiment import Published
from jaxgen.evaluation.evaluators import round_trip
from jaxgen.evaluation.likelihood import likelihood
from jaxgen.methods.likelihood.flow import decode, encode, flow
from jaxgen.nn.flows.realnvp import realnvp
from jaxgen.show import figures


def gains(params):
  """What is regularised, as in their code: the weight normalisation's g, and the scales of s that start at 0."""
  return jax.tree.map_with_path(lambda path, _: path[-1].key in ("g", "scale"), params)


def experiment(
  steps: int = 500_000,
  batch_size: int = 64,
  learning_rate: float = 1e-3,
  regularisation: float = 5e-5,
  scales: int = 2,
  features: int = 64,
  blocks: int = 8,
  temperature: float = 1.0,
  bfloat16: bool = False,
  tfds_dir: str | None = None,
) -> Experiment:
  cifar10 = data.images("tfds:cifar10", (32, 32, 3), transforms=(dequantize(),), augment=(flip(),), data_dir=tfds_dir)
  bijection = realnvp(scales, features, blocks, dtype=jnp.bfloat16 if bfloat16 else jnp.float32)
  values = 32 * 32 * 3  # their loss and its gradients are per example, ours per value
  optimizer = optax.chain(
    optax.add_decayed_weights(2 * regularisation / values, mask=gains),
    optax.clip_by_global_norm(100 / values),
    optax.adam(learning_rate),
  )
  method = flow(bijection, shape=(32, 32, 3), levels=cifar10.levels, optimizer=optimizer, temperature=temperature)
  published = Published(
    paper="Dinh et al. 2016",
    table="Table 1",
    metric="test_bits_per_dim_256_levels_dequantized",
    number=3.49,
  )
  return Experiment(
    method=method,
    data=cifar10,
    steps=steps,
    batch_size=batch_size,
    evaluators=(likelihood(), round_trip()),
    figures=(figures.interpolations(partial(encode, bijection), partial(decode, bijection)),),
    published=(published,),
    log_every=100,
    sample_every=20_000,
    evaluate_every=20_000,
    checkpoint_every=5_000,
  )
