"""Glow on CIFAR-10 as in the paper.

Paper: Kingma and Dhariwal 2018, Glow: generative flow with invertible 1x1 convolutions,
https://arxiv.org/abs/1807.03039, section 5 and Appendix C: three levels of 32 steps, affine coupling by networks of 512
features, batches of 512. From their code: plain 1x1 convolutions, Adamax with rate 1e-3 after ten epochs of warm-up and
beta_2 = 1 - 1 / (steps of an epoch). Their code also shifts images by up to 10 %, which this does not, and neither says
how long it trained: 1,800 epochs are our choice.

    jaxgen prepare cifar10 --data-dir DIR     (once, with a network; see README)
    jaxgen train configs/glow_cifar10.py --tfds-dir DIR
    jaxgen train configs/glow_cifar10.py --lu --tfds-dir DIR     (the 1x1 convolutions decomposed)

Expect: 3.35 bits/dim, dequantized; not run to the end here
Cost: not measured; not for a CPU
"""

from functools import partial

import jax.numpy as jnp
import optax

from jaxgen import Experiment, data
from jaxgen.data.transforms import dequantize
from jaxgen.engine.experiment import Published
from jaxgen.evaluation.evaluators import round_trip
from jaxgen.evaluation.likelihood import likelihood
from jaxgen.methods.likelihood.flow import decode, encode, flow
from jaxgen.nn.flows.glow import glow
from jaxgen.show import figures


def experiment(
  steps: int = 176_400,
  batch_size: int = 512,
  learning_rate: float = 1e-3,
  levels: int = 3,
  flow_steps: int = 32,
  width: int = 512,
  lu: bool = False,
  additive: bool = False,
  temperature: float = 1.0,
  bfloat16: bool = False,
  microbatches: int = 1,
  tfds_dir: str | None = None,
) -> Experiment:
  cifar10 = data.images("tfds:cifar10", (32, 32, 3), transforms=(dequantize(),), data_dir=tfds_dir)
  bijection = glow(levels, flow_steps, width, lu=lu, additive=additive, dtype=jnp.bfloat16 if bfloat16 else jnp.float32)
  epoch = 50_000 // batch_size + 1
  rate = optax.linear_schedule(0.0, learning_rate, 10 * epoch)
  method = flow(
    bijection,
    shape=(32, 32, 3),
    levels=cifar10.levels,
    optimizer=optax.adamax(rate, b2=1 - 1 / epoch),
    temperature=temperature,
    microbatches=microbatches,
  )
  published = Published(
    paper="Kingma and Dhariwal 2018",
    table="Table 2",
    metric="test_bits_per_dim_256_levels_dequantized",
    number=3.35,
    note="their code also shifts the training images by up to 10 %",
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
    sample_every=10_000,
    evaluate_every=20_000,
    checkpoint_every=5_000,
    evaluate_batch=100,
  )
