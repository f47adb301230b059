"""Autoregressive models of CIFAR-10.

Paper: gated PixelCNN: van den Oord et al. 2016, https://arxiv.org/abs/1606.05328, Table 1, without labels; the paper
does not give the network's size. PixelCNN++: Salimans et al. 2017, https://arxiv.org/abs/1701.05517, Table 1: 160
features, 5 blocks a stage, dropout 1/2, Adam at 1e-3 falling by 5e-6 of itself every step, an average of the weights

    jaxgen prepare cifar10 --data-dir DIR     (once, with a network)
    jaxgen train density_cifar10 --tfds-dir DIR
    jaxgen train density_cifar10 --model gated_pixelcnn --conditional True --tfds-dir DIR

Expect: not measured; the papers' are 2.92 bits/dim for pixelcnnpp and 3.03 for gated_pixelcnn
Cost: not measured, and not for a CPU
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import optax
from flax import linen as nn

from jaxgen import Experiment, data, optimizers
from jaxgen.core.wrappers import averaged
from jaxgen.engine.experiment import Published
from jaxgen.evaluation.likelihood import likelihood
from jaxgen.methods.likelihood.autoregressive import autoregressive
from jaxgen.nn.autoregressive.pixelcnn import GatedPixelCNN
from jaxgen.nn.autoregressive.pixelcnnpp import PixelCNNpp
from jaxgen.probability.distributions import Distribution, categorical, logistic_mixture


class Preset(NamedTuple):
  """A network and its recipe.

  Attributes:
    network: (width, number of classes) -> the network.
    optimizer: (learning rate, number of steps) -> the optimizer.
  """

  network: Callable[[int, int | None], nn.Module]
  width: int
  distribution: Distribution
  optimizer: Callable[[float, int], optax.GradientTransformation]
  steps: int
  batch_size: int
  learning_rate: float
  paper: str
  bits_per_dim: float


EPS = 1e-8 / (32 * 32 * 3)  # Adam's of a loss in nats per image, and the loss is in nats per value


def falling(rate: float, steps: int) -> optax.GradientTransformation:
  """As in the authors' code of PixelCNN++."""
  return optimizers.adam(optax.exponential_decay(rate, 1, 0.999995), b1=0.95, b2=0.9995, eps=EPS)


def cosine(rate: float, steps: int) -> optax.GradientTransformation:
  return optimizers.adam(rate, steps, eps=EPS)


LOGISTICS = logistic_mixture(10, 256, 3)
PRESETS = {
  "gated_pixelcnn": Preset(
    lambda width, classes: GatedPixelCNN(256, width, layers=20, head=1024, classes=classes),
    384, categorical(256), cosine, 200_000, 128, 3e-4, "van den Oord et al. 2016 (Gated PixelCNN)", 3.03,
  ),
  "pixelcnnpp": Preset(
    lambda width, classes: PixelCNNpp(LOGISTICS.parameters, width, blocks=5, stages=3, dropout=0.5, classes=classes),
    160, LOGISTICS, falling, 500_000, 96, 1e-3, "Salimans et al. 2017", 2.92,
  ),
}  # fmt: skip
NAMES = {"gated_pixelcnn_cifar10": {"model": "gated_pixelcnn"}, "pixelcnnpp_cifar10": {"model": "pixelcnnpp"}}


def experiment(
  model: Literal["gated_pixelcnn", "pixelcnnpp"] = "pixelcnnpp",
  conditional: bool = False,
  width: int | None = None,
  steps: int | None = None,
  batch_size: int | None = None,
  learning_rate: float | None = None,
  ema: float = 0.9995,
  microbatches: int = 1,
  tfds_dir: str | None = None,
) -> Experiment:
  """
  Args:
    model: network, distribution and recipe.
    conditional: the network is conditioned on the labels, and samples are class-conditional.
    width: features of the network; the model's own by default, to which the paper's number belongs.
    steps: training steps; the model's own by default.
    batch_size: examples in a batch; the model's own by default.
    learning_rate: at first; the model's own by default.
  """
  preset = PRESETS[model]
  steps = preset.steps if steps is None else steps
  rate = preset.learning_rate if learning_rate is None else learning_rate
  width = preset.width if width is None else width
  cifar10 = data.cifar10(tfds_dir)
  network = preset.network(width, cifar10.classes if conditional else None)
  method = autoregressive(network, preset.distribution, spec=cifar10.spec, optimizer=preset.optimizer(rate, steps))
  published = Published(preset.paper, "Table 1", "test_bits_per_dim_256_levels", preset.bits_per_dim)
  return Experiment(
    method=averaged(method, ema),
    data=cifar10,
    steps=steps,
    batch_size=preset.batch_size if batch_size is None else batch_size,
    evaluators=(likelihood(),),
    published=(published,) if width == preset.width and not conditional else (),
    conditions=(lambda index: {"label": index % cifar10.classes}) if conditional else None,
    log_every=100,
    sample_every=10_000,
    evaluate_batch=100,
    checkpoint_every=2_000,
    microbatches=microbatches,
  )
