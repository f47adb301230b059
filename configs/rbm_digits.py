"""Restricted Boltzmann machine with 20 hidden units on scikit-learn's 8x8 digits, black and white.

Paper: Hinton 2002, Training products of experts by minimizing contrastive divergence; Tieleman 2008, Training
restricted Boltzmann machines using approximations to the likelihood gradient (persistent chains); Welling and Hinton
2002 (mean field); Desjardins et al. 2010 (tempering). The likelihoods are exact.

    jaxgen train configs/rbm_digits.py
    jaxgen train configs/rbm_digits.py --negative cd --k 1
    jaxgen train configs/rbm_digits.py --negative mean_field --k 1
    jaxgen train configs/rbm_digits.py --negative tempering

Expect: 18.20 nats on the test digits (standard error 0.23) by persistent chains, 18.31 by CD-1, 18.14 by tempering and
20.90 by the mean field; on the training digits 16.81, 16.97, 16.79 and 19.56. One seed each
Cost: 1 minute on 2 CPU cores, which others used as well; with tempering 3 minutes
"""

from functools import partial
from typing import Literal

import optax

from jaxgen import Experiment, data
from jaxgen.evaluation.likelihood import likelihood
from jaxgen.evaluation.partition import exact
from jaxgen.methods.energy.rbm import cd, filters, mean_field, persistent, rbm, tempered, walk, weights_only
from jaxgen.nn.energy.rbm import RBM
from jaxgen.show import figures


def experiment(
  steps: int = 20_000,
  batch_size: int = 128,
  learning_rate: float = 0.05,
  momentum: float = 0.5,
  weight_decay: float = 1e-4,
  hidden: int = 20,
  negative: Literal["cd", "pcd", "mean_field", "tempering"] = "pcd",
  k: int = 1,
  chains: int = 128,
  sparsity: float = 0.0,
  target: float = 0.02,
  ema: float = 0.999,
  sampling_steps: int = 1_000,
) -> Experiment:
  digits = data.binarized(data.digits())
  network = RBM(64, hidden)
  rate = optax.linear_schedule(learning_rate, 0.0, steps)
  phases = {
    "cd": cd,
    "pcd": partial(persistent, chains=chains),
    "mean_field": mean_field,
    "tempering": partial(tempered, chains=chains),
  }
  method = rbm(
    network,
    shape=(8, 8, 1),
    levels=digits.levels,
    optimizer=optax.chain(optax.add_decayed_weights(weight_decay, weights_only), optax.sgd(rate, momentum)),
    negative=phases[negative](k),
    sparsity=sparsity,
    target=target,
    sampling_steps=sampling_steps,
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
