"""Restricted Boltzmann machine with Gaussian visible units on scikit-learn's 8x8 digits, dequantized.

Paper: Cho, Ilin and Raiko 2011, Improved learning of Gaussian-Bernoulli restricted Boltzmann machines: each visible
unit learns the logarithm of its variance. The likelihood is exact, of the dequantized values.

    jaxgen train configs/gaussian_rbm_digits.py
    jaxgen train configs/gaussian_rbm_digits.py --negative tempering

Expect: at most 3.03 bits/dim on the test digits (standard error 0.02), 2.97 on the training digits; with tempering and
a third of the rate of learning 3.04. A normal density of independent pixels has 3.40, one with a full covariance 2.98.
One seed
Cost: 1 minute on 2 CPU cores, which others used as well
"""

from functools import partial
from typing import Literal

import optax

from jaxgen import Experiment, data
from jaxgen.data.transforms import dequantize
from jaxgen.evaluation.likelihood import likelihood
from jaxgen.evaluation.partition import exact
from jaxgen.methods.energy.rbm import cd, filters, persistent, rbm, tempered, walk, weights_only
from jaxgen.nn.energy.rbm import RBM, gaussian
from jaxgen.show import figures


def experiment(
  steps: int = 10_000,
  batch_size: int = 128,
  learning_rate: float = 1e-2,
  weight_decay: float = 0.0,
  hidden: int = 20,
  negative: Literal["cd", "pcd", "tempering"] = "pcd",
  k: int = 5,
  chains: int = 128,
  ema: float = 0.999,
  sampling_steps: int = 1_000,
) -> Experiment:
  digits = data.digits(transforms=(dequantize(17),))
  network = RBM(64, hidden, gaussian(None))
  phases = {"cd": cd, "pcd": partial(persistent, chains=chains), "tempering": partial(tempered, chains=chains)}
  rate = optax.cosine_decay_schedule(learning_rate, steps)
  method = rbm(
    network,
    shape=(8, 8, 1),
    levels=digits.levels,
    optimizer=optax.chain(
      optax.clip_by_global_norm(10.0), optax.adamw(rate, weight_decay=weight_decay, mask=weights_only)
    ),
    negative=phases[negative](k),
    sampling_steps=sampling_steps,
    drawn=False,
    ema=ema,
  )
  partition = exact(network, digits.levels)
  return Experiment(
    method=method,
    data=digits,
    steps=steps,
    batch_size=batch_size,
    evaluators=(likelihood("train", partition=partition), likelihood(partition=partition)),
    figures=(figures.filters(filters(network, (8, 8, 1))), figures.chains(walk(network))),
    log_every=500,
    checkpoint_every=5_000,
  )
