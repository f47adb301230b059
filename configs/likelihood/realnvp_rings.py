"""RealNVP of points in the plane: eight normal clouds on a ring.

Paper: Dinh et al. 2016, Density estimation using Real NVP, https://arxiv.org/abs/1605.08803, eq. 4 and 5, its affine
coupling layers; the clouds are those that adversarial models are tested with, wider.

    jaxgen train realnvp_rings

Expect: 0.57 nats (standard error 0.01) per point; the clouds' entropy is ln 8 + ln(2 pi e 0.01) = 0.31. One seed
Cost: 6 minutes on 2 CPU cores that were busy with other work as well
"""

from typing import Literal

import numpy as np

from jaxgen import Experiment, data, optimizers
from jaxgen.core.wrappers import averaged
from jaxgen.data.sources import modes
from jaxgen.evaluation.evaluators import round_trip
from jaxgen.evaluation.likelihood import likelihood
from jaxgen.methods.likelihood.flow import flow, log_density
from jaxgen.nn.flows.realnvp import realnvp_vectors
from jaxgen.show import figures


def experiment(
  points: Literal["ring8", "grid25"] = "ring8",
  std: float = 0.1,
  couplings: int = 8,
  width: int = 64,
  temperature: float = 1.0,
  steps: int = 2_000,
  batch_size: int = 512,
  learning_rate: float = 2e-3,
  ema: float = 0.99,
) -> Experiment:
  """
  Args:
    points: where the clouds' centres are.
    std: standard deviation of each cloud.
    couplings: number of coupling layers.
    width: hidden units of their networks, which have two hidden layers.
    temperature: latents of samples are multiplied by it.
  """
  cloud = data.points(points, std)
  bijection = realnvp_vectors(couplings, (width, width))
  optimizer = optimizers.adam(learning_rate, steps, warmup=100, clip=1.0)
  method = flow(bijection, spec=cloud.spec, optimizer=optimizer, temperature=temperature)
  edge = float(np.abs(modes(points)).max()) + 4 * std
  return Experiment(
    method=averaged(method, ema),
    data=cloud,
    steps=steps,
    batch_size=batch_size,
    evaluators=(likelihood(), round_trip()),
    render=figures.scatter(-edge, edge),
    figures=(figures.density(lambda state, x: log_density(bijection, state, x), -edge, edge),),
    samples=1024,
    sample_chunk=512,
    sample_every=2_000,
  )
