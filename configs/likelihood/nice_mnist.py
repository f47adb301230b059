"""NICE on MNIST as in the paper.

Paper: Dinh et al. 2014, NICE: non-linear independent components estimation, https://arxiv.org/abs/1410.8516, section
5.1: four additive coupling layers of five hidden layers of 1,000 ReLU, a scaling, a logistic prior, 50,000 training
images, at most 1,500 epochs in batches of 200 (their code's), Adam with rate 1e-3. Its 1,980.50 nats are log p of
values in [0, 1]. Of the integers that is 784 ln 256 - 1,980.50 = 2,366.9 nats, or 4.36 bits/dim.

    jaxgen prepare mnist --data-dir DIR     (once, with a network)
    jaxgen train nice_mnist --tfds-dir DIR

Expect: 4.36 bits/dim, dequantized; not run to the end here
Cost: 375 k steps of 2.3e10 FLOPs: 15 minutes at a sustained 10 TFLOP/s; an estimate, not measured, and not for a CPU
"""

from functools import partial
from typing import Literal

import optax

from jaxgen import Experiment, data, optimizers
from jaxgen.data.transforms import dequantize
from jaxgen.engine.experiment import Published
from jaxgen.evaluation.evaluators import round_trip
from jaxgen.evaluation.likelihood import bits_per_value, integers_from_density, likelihood
from jaxgen.methods.likelihood.flow import decode, encode, flow
from jaxgen.nn.flows.nice import nice
from jaxgen.probability.bases import BASES
from jaxgen.show import figures

PUBLISHED = Published(
  paper="Dinh et al. 2014",
  table="Figure 3",
  metric="test_bits_per_dim_256_levels_dequantized",
  number=bits_per_value(integers_from_density(-1980.50, values=784, levels=256), 784),
  note="1,980.50 nats of log density on [0, 1]; the paper stops by the likelihood of 10,000 validation images",
)


def experiment(
  widths: tuple[int, ...] = (1000, 1000, 1000, 1000, 1000),
  base: Literal["logistic", "gaussian"] = "logistic",
  temperature: float = 1.0,
  steps: int = 375_000,
  batch_size: int = 200,
  learning_rate: float = 1e-3,
  least_rate: float = 1e-4,
  microbatches: int = 1,
  tfds_dir: str | None = None,
) -> Experiment:
  """
  Args:
    widths: hidden units of each layer of the coupling layers' networks.
    base: the latent's distribution.
    temperature: latents of samples are multiplied by it.
    least_rate: the final learning rate.
  """
  mnist = data.mnist(tfds_dir, transforms=(dequantize(),), classes=False, train="train[:50000]")
  bijection = nice(widths)
  # Their code divides the rate by 1.0005 at every step. What their Adam, its first version, calls beta_2 = 0.01 is
  # 1 - beta_2 today. Its epsilon, 1e-4, is of a loss in nats per image, and the loss is in nats per value.
  rate = optax.exponential_decay(learning_rate, 1, 1 / 1.0005, end_value=least_rate)
  method = flow(
    bijection,
    spec=mnist.spec,
    optimizer=optimizers.adam(rate, b2=0.99, eps=1e-4 / mnist.spec.size),
    base=BASES[base],
    temperature=temperature,
  )
  return Experiment(
    method=method,
    data=mnist,
    steps=steps,
    batch_size=batch_size,
    evaluators=(likelihood(), round_trip()),
    figures=(figures.interpolations(partial(encode, bijection), partial(decode, bijection)),),
    published=(PUBLISHED,),
    log_every=500,
    sample_every=25_000,
    evaluate_every=25_000,
    checkpoint_every=25_000,
    microbatches=microbatches,
  )
