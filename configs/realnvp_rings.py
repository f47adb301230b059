"""RealNVP of points in the plane: eight normal clouds on a ring.

Paper: Dinh et al. 2016, Density estimation using Real NVP, https://arxiv.org/abs/1605.08803, eq. 4 and 5, its affine
coupling layers; the clouds are those that adversarial models are tested with, wider.

    jaxgen train configs/realnvp_rings.py

Expect: 0.57 nats (standard error 0.01) per point; the clouds' entropy is ln 8 + ln(2 pi e 0.01) = 0.31. One seed
Cost: 6 minutes on 2 CPU cores that were busy with other work as well
"""

import jax
import numpy as np
import optax

from jaxgen import Experiment, data
from jaxgen.data.sources import modes
from jaxgen.evaluation.evaluators import round_trip
from jaxgen.evaluation.likelihood import likelihood
from jaxgen.methods.likelihood.flow import flow, log_density
from jaxgen.nn.flows.realnvp import realnvp_vectors
from jaxgen.show import figures


def experiment(
  steps: int = 2_000,
  batch_size: int = 512,
  learning_rate: float = 2e-3,
  points: str = "ring8",
  std: float = 0.1,
  couplings: int = 8,
  width: int = 64,
  temperature: float = 1.0,
  ema: float = 0.99,
  microbatches: int = 1,
) -> Experiment:
  cloud = data.Dataset(f"points:{points}:{std}", {"x": jax.ShapeDtypeStruct((2,), np.float32)})
  bijection = realnvp_vectors(couplings, (width, width))
  rate = optax.warmup_cosine_decay_schedule(0.0, learning_rate, min(100, steps // 2), steps)
  method = flow(
    bijection,
    shape=(2,),
    optimizer=optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate)),
    temperature=temperature,
    feature="x",
    ema=ema,
    microbatches=microbatches,
  )
  edge = float(np.abs(modes(points)).max()) + 4 * std
  return Experiment(
    method=method,
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
