"""Autoregressive models of binarized MNIST.

Paper: FVSBN and NADE: Larochelle and Murray 2011, http://proceedings.mlr.press/v15/larochelle11a.html. MADE: Germain
et al. 2015, https://arxiv.org/abs/1502.03509, Table 6, one hidden layer of 8,000 units. PixelCNN: van den Oord et al.
2016, https://arxiv.org/abs/1601.06759, Table 4. Adam and an average of the weights in place of the papers' gradient
descent or RMSProp, and of early stopping

    jaxgen prepare binarized_mnist --data-dir DIR     (once, with a network)
    jaxgen train density_mnist --tfds-dir DIR
    jaxgen train density_mnist --model made --tfds-dir DIR

Expect: nade 87.4 nats (standard error 0.2), where the paper's is 88.86; fvsbn 98.0, the paper's 97.45, and 99.5 with
--steps 10000; one seed each. The others are not measured: made 88.04 in the paper, with one mask 88.40; pixelcnn 81.30
Cost: nade 25 minutes on 1 CPU core, fvsbn 3 minutes on 2. Estimates from single steps: made 41 minutes of a CPU core's
time and the evaluation of its masks, pixelcnn 3.6 hours
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

from flax import linen as nn

from jaxgen import Experiment, data, optimizers
from jaxgen.core.errors import UserError
from jaxgen.core.wrappers import averaged
from jaxgen.engine.experiment import Published
from jaxgen.evaluation.likelihood import likelihood
from jaxgen.methods.likelihood.autoregressive import autoregressive
from jaxgen.nn.autoregressive.made import FVSBN, MADE, NADE
from jaxgen.nn.autoregressive.pixelcnn import PixelCNN
from jaxgen.probability.distributions import bernoulli


class Preset(NamedTuple):
  """A network and its recipe.

  Attributes:
    network: width -> the network.
    width: hidden units or features; None: the network has no width.
    nats: the paper's number, in nats.
  """

  network: Callable[[int], nn.Module]
  width: int | None
  steps: int
  batch_size: int
  learning_rate: float
  evaluate_batch: int
  paper: str
  table: str
  nats: float


NADE_PAPER = "test log-likelihood of binarized MNIST"
MASKS_1, MASKS_32 = (f"Germain et al. 2015 (MADE, 1 hidden layer, {masks})" for masks in ("1 mask", "32 masks"))
PRESETS = {
  "fvsbn": Preset(
    lambda width: FVSBN(), None, 30_000, 100, 2e-3, 500, "Larochelle and Murray 2011 (FVSBN)", NADE_PAPER, 97.45
  ),
  "nade": Preset(
    lambda width: NADE(width), 500, 15_000, 100, 2e-3, 500, "Larochelle and Murray 2011 (NADE)", NADE_PAPER, 88.86
  ),
  "nade_tied": Preset(
    lambda width: NADE(width, tied=True), 500, 15_000, 100, 2e-3, 500, "Larochelle and Murray 2011 (NADE)", NADE_PAPER,
    88.86,
  ),
  "made_1": Preset(lambda width: MADE(1, (width,)), 8_000, 10_000, 100, 1e-3, 500, MASKS_1, "Table 6", 88.40),
  "made": Preset(lambda width: MADE(1, (width,), 32), 8_000, 10_000, 100, 1e-3, 500, MASKS_32, "Table 6", 88.04),
  "made_orders": Preset(
    lambda width: MADE(1, (width,), 32, shuffle=True), 8_000, 10_000, 100, 1e-3, 500, MASKS_32, "Table 6", 88.04
  ),
  "pixelcnn": Preset(
    lambda width: PixelCNN(1, width, layers=7, head=32), 32, 20_000, 50, 2e-3, 100,
    "van den Oord et al. 2016 (PixelCNN)", "Table 4", 81.3,
  ),
}  # fmt: skip
Model = Literal["fvsbn", "nade", "nade_tied", "made_1", "made", "made_orders", "pixelcnn"]
NAMES = {
  "fvsbn_mnist": {"model": "fvsbn"},
  "nade_mnist": {"model": "nade"},
  "made_mnist": {"model": "made"},
  "pixelcnn_mnist": {"model": "pixelcnn"},
}


def experiment(
  model: Model = "nade",
  width: int | None = None,
  steps: int | None = None,
  batch_size: int | None = None,
  learning_rate: float | None = None,
  ema: float = 0.999,
  microbatches: int = 1,
  tfds_dir: str | None = None,
) -> Experiment:
  """
  Args:
    model: network and recipe. made has 32 masks and made_1 has 1; made_orders draws an order of the pixels with each.
    width: hidden units or features of the network; the model's own by default, to which the paper's number belongs.
    steps: training steps; the model's own by default.
    batch_size: examples in a batch; the model's own by default.
    learning_rate: the highest, which falls to 0 as a cosine; the model's own by default.
  """
  preset = PRESETS[model]
  if width is not None and preset.width is None:
    raise UserError(f"{model} has no width: leave it out")
  width = preset.width if width is None else width
  steps = preset.steps if steps is None else steps
  rate = preset.learning_rate if learning_rate is None else learning_rate
  mnist = data.binarized_mnist(tfds_dir)
  optimizer = optimizers.adam(rate, steps)
  method = autoregressive(preset.network(width), bernoulli(), spec=mnist.spec, optimizer=optimizer)
  note = "" if steps >= preset.steps else f"{steps:,} steps are too few"
  published = Published(preset.paper, preset.table, "test_nll_nats_2_levels", preset.nats, note)
  return Experiment(
    method=averaged(method, ema),
    data=mnist,
    steps=steps,
    batch_size=preset.batch_size if batch_size is None else batch_size,
    evaluators=(likelihood("validation"), likelihood()),
    published=(published,) if width == preset.width else (),
    log_every=100,
    sample_every=10_000,
    evaluate_batch=preset.evaluate_batch,
    checkpoint_every=2_000,
    microbatches=microbatches,
  )
