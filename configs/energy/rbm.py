"""Restricted Boltzmann machines of black and white digits: scikit-learn's 8x8 and MNIST, by four negative phases.

Paper: Hinton 2002, Training products of experts by minimizing contrastive divergence (cd); Tieleman 2008, Training
restricted Boltzmann machines using approximations to the likelihood gradient (pcd); Welling and Hinton 2002
(mean_field); Desjardins et al. 2010 (tempering). MNIST's numbers: Salakhutdinov and Murray 2008, On the quantitative
analysis of deep belief networks, Table 1, by annealed importance sampling with 100 runs of 14,500 steps, and Burda et
al. 2015, Accurate and conservative estimates of MRF log-likelihood.

    jaxgen train rbm
    jaxgen train rbm --negative cd                               (or mean_field, tempering)
    jaxgen prepare binarized_mnist --data-dir DIR                (once, with a network)
    jaxgen train rbm --preset mnist_pcd --tfds-dir DIR           (or mnist_cd, mnist)

Machines of up to 25 hidden units are evaluated exactly, those of MNIST by annealed importance sampling as well.

Expect: 18.20 nats on the test digits (standard error 0.23) by persistent chains, 18.31 by CD-1, 18.14 by tempering and
20.90 by the mean field; on the training digits 16.81, 16.97, 16.79 and 19.56. On MNIST's test set with 20 hidden units
136.93 by persistent chains (0.38) and 164.23 by CD-1, both exact. Annealed importance sampling of 100 runs of 14,500
steps finds log Z = 175.99 (standard error 0.10) where it is 175.94, and 160.96 (0.08) where it is 160.76; four more
keys there find 160.65, 160.87, 160.92 and 160.77. Chains of the former wander between classes in 1,200 steps, many of
CD-1's machine end as zeros. 500 hidden units were not measured. One seed each
Cost: digits 1 minute on 2 CPU cores, which others used as well, with tempering 3; MNIST with 20 hidden units 4 minutes,
half a minute of it annealing, with 500 and CD-25 about 6 hours, an estimate from 6 steps a second
"""

from functools import partial
from typing import Literal, NamedTuple

import optax

from jaxgen import Experiment, data
from jaxgen.core.wrappers import averaged
from jaxgen.engine.experiment import Published
from jaxgen.evaluation.likelihood import likelihood
from jaxgen.evaluation.partition import ais, exact
from jaxgen.methods.energy.rbm import cd, filters, mean_field, persistent, rbm, tempered, walk, weights_only
from jaxgen.nn.energy.rbm import MOST, RBM
from jaxgen.show import figures

Phase = Literal["cd", "pcd", "mean_field", "tempering"]
RAISE = "Burda et al. 2015, Accurate and conservative estimates of MRF log-likelihood"
OURS = "the rate of learning and the epochs are ours"
QUOTED = f"their number is quoted from memory; {OURS}"


class Preset(NamedTuple):
  """A machine, its negative phase, and the paper's number of it: (paper, nats, note)."""

  mnist: bool
  hidden: int
  negative: str
  k: int
  steps: int
  batch_size: int
  published: tuple[str, float, str] | None = None


PRESETS = {
  "digits": Preset(False, 20, "pcd", 1, 20_000, 128),
  "mnist": Preset(True, 500, "cd", 25, 125_000, 100, ("Salakhutdinov and Murray 2008 (RBM)", 86.34, OURS)),
  "mnist_cd": Preset(True, 20, "cd", 1, 30_000, 100, (RAISE, 164.50, QUOTED)),
  "mnist_pcd": Preset(True, 20, "pcd", 1, 30_000, 100, (RAISE, 150.11, QUOTED)),
}
NAMES = {"rbm_digits": {"preset": "digits"}, "rbm_mnist": {"preset": "mnist"}}


def experiment(
  preset: Literal[*PRESETS] = "digits",
  steps: int | None = None,
  batch_size: int | None = None,
  learning_rate: float = 0.05,
  momentum: float = 0.5,
  weight_decay: float = 1e-4,
  hidden: int | None = None,
  negative: Phase | None = None,
  k: int | None = None,
  chains: int | None = None,
  sparsity: float = 0.0,
  sparsity_target: float = 0.02,
  ema: float = 0.999,
  sampling_steps: int = 1_000,
  ais_runs: int = 100,
  ais_steps: int = 14_500,
  tfds_dir: str | None = None,
) -> Experiment:
  """Flags that are not given are the preset's.

  Args:
    preset: data set, machine and negative phase.
    momentum: of stochastic gradient descent.
    weight_decay: of the weights alone.
    hidden: number of hidden units.
    negative: phase: contrastive divergence, persistent chains, mean field, or chains at several temperatures.
    k: steps of the negative phase.
    chains: of the persistent negative phases, as many as the preset's batch has examples by default.
    sparsity: weight of the penalty that keeps hidden units off.
    sparsity_target: share of examples for which a hidden unit should be on.
    sampling_steps: of the Gibbs chain that makes a sample.
    ais_runs: of annealed importance sampling, on MNIST.
    ais_steps: of each of these runs.
  """
  p = PRESETS[preset]
  given = (hidden or p.hidden, negative or p.negative, k or p.k)
  hidden, negative, k = given
  steps, chains = steps or p.steps, chains or p.batch_size
  if p.mnist:
    digits = data.images("tfds:binarized_mnist", (28, 28, 1), levels=2, data_dir=tfds_dir)
  else:
    digits = data.binarized(data.digits())
  network = RBM(digits.spec.size, hidden)
  phases = {
    "cd": cd,
    "pcd": partial(persistent, chains=chains),
    "mean_field": mean_field,
    "tempering": partial(tempered, chains=chains),
  }
  rate = optax.linear_schedule(learning_rate, 0.0, steps)
  method = rbm(
    network,
    spec=digits.spec,
    optimizer=optax.chain(optax.add_decayed_weights(weight_decay, weights_only), optax.sgd(rate, momentum)),
    negative=phases[negative](k),
    sparsity=sparsity,
    target=sparsity_target,
    sampling_steps=sampling_steps,
    drawn=not p.mnist,
  )
  partitions = [ais(network, digits, ais_runs, ais_steps)] if p.mnist else []
  if hidden <= MOST:
    partitions.append(exact(network, digits.spec))
  published = []
  if p.published is not None and given == (p.hidden, p.negative, p.k):
    paper, nats, note = p.published
    suffix = "" if hidden <= MOST else f"_ais_{ais_runs}x{ais_steps}"
    published.append(Published(paper, "table of RBMs", f"test_nll_nats_2_levels{suffix}", nats, note))
  splits = ("test",) if p.mnist else ("train", "test")
  return Experiment(
    method=averaged(method, ema),
    data=digits,
    steps=steps,
    batch_size=batch_size or p.batch_size,
    evaluators=[likelihood(split, partition=partition) for split in splits for partition in partitions],
    figures=(
      figures.filters(filters(network, digits.spec)),
      figures.chains(walk(network, every=100 if p.mnist else 20)),
    ),
    published=published,
    log_every=500,
    evaluate_batch=500 if p.mnist else None,
    checkpoint_every=5_000,
  )
