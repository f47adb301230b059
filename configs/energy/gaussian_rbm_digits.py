"""Restricted Boltzmann machine with Gaussian visible units on scikit-learn's 8x8 digits, dequantized.

Paper: Cho, Ilin and Raiko 2011, Improved learning of Gaussian-Bernoulli restricted Boltzmann machines: each visible
unit learns the logarithm of its variance. The likelihood is exact, of the dequantized values.

    jaxgen train gaussian_rbm_digits
    jaxgen train gaussian_rbm_digits --negative tempering --learning-rate 0.0033

Expect: at most 3.03 bits/dim on the test digits (standard error 0.02), 2.97 on the training digits; with tempering and
a third of the rate of learning 3.04. A normal density of independent pixels has 3.40, one with a full covariance 2.98.
One seed
Cost: 1 minute on 2 CPU cores, which others used as well
"""

from functools import partial
from typing import Literal

from jaxgen import Experiment, data, optimizers
from jaxgen.core.wrappers import averaged
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
  """A machine of real numbers.

  Args:
    weight_decay: of the weights alone.
    hidden: number of hidden units.
    negative: phase: contrastive divergence, persistent chains, or those at several temperatures.
    k: Gibbs steps of the negative phase.
    chains: of the persistent negative phases.
    sampling_steps: of the Gibbs chain that makes a sample.
  """
  digits = data.digits(transforms=(dequantize(17),))
  network = RBM(64, hidden, gaussian(None))
  phases = {"cd": cd, "pcd": partial(persistent, chains=chains), "tempering": partial(tempered, chains=chains)}
  method = rbm(
    network,
    spec=digits.spec,
    optimizer=optimizers.adam(learning_rate, steps, clip=10.0, weight_decay=weight_decay, mask=weights_only),
    negative=phases[negative](k),
    sampling_steps=sampling_steps,
    drawn=False,
  )
  partition = exact(network, digits.spec)
  return Experiment(
    method=averaged(method, ema),
    data=digits,
    steps=steps,
    batch_size=batch_size,
    evaluators=(likelihood("train", partition=partition), likelihood(partition=partition)),
    figures=(figures.filters(filters(network, digits.spec)), figures.chains(walk(network))),
    log_every=500,
    checkpoint_every=5_000,
  )
