"""MADE with 32 masks on binarized MNIST.

Paper: Germain et al. 2015, MADE: masked autoencoder for distribution estimation, https://arxiv.org/abs/1502.03509,
Table 6: one hidden layer of 8,000 units, 88.40 nats with one mask (`--masks 1`), 88.04 with 32. Adam in place of the
paper's optimizer and early stopping; `--shuffle` draws the orders, too

    jaxgen prepare binarized_mnist --data-dir DIR     (once, with a network; see README)
    jaxgen train configs/made_mnist.py --tfds-dir DIR

Expect: not measured; the paper's is 88.04 nats
Cost: an estimate from single steps: 41 minutes of a CPU core's time, and the evaluation of 32 masks
"""

import optax

from jaxgen import Experiment, data
from jaxgen.engine.experiment import Published
from jaxgen.evaluation.likelihood import likelihood
from jaxgen.methods.likelihood.autoregressive import autoregressive
from jaxgen.nn.autoregressive.made import MADE
from jaxgen.probability.distributions import bernoulli

PUBLISHED = {1: 88.40, 32: 88.04}  # by the number of masks, of one hidden layer of 8,000 units


def experiment(
  steps: int = 10_000,
  batch_size: int = 100,
  learning_rate: float = 1e-3,
  hidden: tuple[int, ...] = (8000,),
  masks: int = 32,
  shuffle: bool = False,
  ema: float = 0.999,
  microbatches: int = 1,
  tfds_dir: str | None = None,
) -> Experiment:
  mnist = data.images("tfds:binarized_mnist", (28, 28, 1), levels=2, data_dir=tfds_dir)
  rate = optax.cosine_decay_schedule(learning_rate, steps)
  method = autoregressive(
    MADE(1, hidden, masks, shuffle),
    bernoulli(),
    shape=(28, 28, 1),
    levels=mnist.levels,
    optimizer=optax.adam(rate),
    members=masks,
    ema=ema,
    microbatches=microbatches,
  )
  published = []
  if hidden == (8000,) and masks in PUBLISHED:
    paper = f"Germain et al. 2015 (MADE, 1 hidden layer, {masks} mask{'s' * (masks > 1)})"
    note = "" if steps >= 10_000 else f"{steps * batch_size // 50_000} epochs are too few"
    published.append(Published(paper, "Table 6", "test_nll_nats_2_levels", PUBLISHED[masks], note))
  return Experiment(
    method=method,
    data=mnist,
    steps=steps,
    batch_size=batch_size,
    evaluators=(
      likelihood("validation"),
      likelihood(),
    ),
    published=published,
    log_every=100,
    sample_every=10_000,
    evaluate_batch=500,
    checkpoint_every=2_000,
  )
