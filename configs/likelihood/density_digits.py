"""Autoregressive models of scikit-learn's 8x8 digits.

Paper: FVSBN and NADE: Larochelle and Murray 2011, http://proceedings.mlr.press/v15/larochelle11a.html, section 4 and
eq. 8 to 10. MADE: Germain et al. 2015, https://arxiv.org/abs/1502.03509. RNADE: Uria et al. 2013,
https://arxiv.org/abs/1306.0186, whose own data are tables and patches of images. PixelCNN: van den Oord et al. 2016,
https://arxiv.org/abs/1601.06759; gated, with labels: https://arxiv.org/abs/1606.05328. PixelCNN++: Salimans et al.
2017, https://arxiv.org/abs/1701.05517.

    jaxgen train density_digits
    jaxgen train density_digits --model gated_pixelcnn

Expect: nats of the test digits, one seed each. In two levels: made 16.9, nade 18.5, fvsbn 18.9 (standard error 0.2);
the likelihood of made is that of the mixture of its masks. In 17 levels: gated_pixelcnn 79.9 given the labels (0.8),
frechet_1437 1.01 times its floor; pixelcnnpp 82.6 (0.7), 1.5 times; pixelcnn 83.7 (0.6), 5.4 times; rnade at most 99.4
by uniform dequantization (0.7)
Cost: on 2 CPU cores half a minute for fvsbn, nade and made, a minute for rnade and pixelcnn, two for gated_pixelcnn,
three for pixelcnnpp: an estimate from 335 s of processor time
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

from flax import linen as nn

from jaxgen import Experiment, data, optimizers
from jaxgen.core.errors import UserError
from jaxgen.core.wrappers import averaged
from jaxgen.data.transforms import dequantize
from jaxgen.evaluation.evaluators import frechet
from jaxgen.evaluation.likelihood import likelihood
from jaxgen.methods.likelihood.autoregressive import autoregressive
from jaxgen.nn.autoregressive.made import FVSBN, MADE, NADE, RNADE
from jaxgen.nn.autoregressive.pixelcnn import GatedPixelCNN, PixelCNN
from jaxgen.nn.autoregressive.pixelcnnpp import PixelCNNpp
from jaxgen.probability.distributions import Distribution, bernoulli, categorical, gaussian_mixture, logistic_mixture


class Preset(NamedTuple):
  """A network and its recipe.

  Attributes:
    network: width -> the network.
    width: hidden units or features; None: the network has no width.
    clip: the gradient's largest norm; None: no limit.
  """

  network: Callable[[int], nn.Module]
  width: int | None
  distribution: Distribution
  data: data.Dataset
  steps: int
  learning_rate: float
  clip: float | None = None


DIGITS = data.digits()
BITS = data.binarized(DIGITS)
SPREAD = data.digits(transforms=(dequantize(17),))
GAUSSIANS, LOGISTICS = gaussian_mixture(5), logistic_mixture(5, 17)
PRESETS = {
  "fvsbn": Preset(lambda width: FVSBN(), None, bernoulli(), BITS, 1_000, 1e-2),
  "nade": Preset(lambda width: NADE(width), 100, bernoulli(), BITS, 1_000, 5e-3),
  "made": Preset(lambda width: MADE(1, (width,), 8, shuffle=True), 500, bernoulli(), BITS, 2_000, 3e-3),
  "rnade": Preset(lambda width: RNADE(GAUSSIANS.parameters, width), 100, GAUSSIANS, SPREAD, 2_000, 1e-3, 1.0),
  "pixelcnn": Preset(
    lambda width: PixelCNN(17, width, 4, head=2 * width, first=5), 16, categorical(17), DIGITS, 1_500, 3e-3
  ),
  "gated_pixelcnn": Preset(
    lambda width: GatedPixelCNN(17, width, 4, head=2 * width, first=5, classes=10),
    24,
    categorical(17),
    DIGITS,
    1_500,
    3e-3,
  ),
  "pixelcnnpp": Preset(
    lambda width: PixelCNNpp(LOGISTICS.parameters, width, 2, stages=2, dropout=0.2), 24, LOGISTICS, DIGITS, 1_500, 2e-3
  ),
}
Model = Literal["fvsbn", "nade", "made", "rnade", "pixelcnn", "gated_pixelcnn", "pixelcnnpp"]
NAMES = {
  "fvsbn_digits": {"model": "fvsbn"},
  "nade_digits": {"model": "nade"},
  "made_digits": {"model": "made"},
  "rnade_digits": {"model": "rnade"},
  "pixelcnn_digits": {"model": "pixelcnn"},
  "gated_pixelcnn_digits": {"model": "gated_pixelcnn"},
  "pixelcnnpp_digits": {"model": "pixelcnnpp"},
}


def experiment(
  model: Model = "nade",
  width: int | None = None,
  steps: int | None = None,
  batch_size: int = 128,
  learning_rate: float | None = None,
  ema: float = 0.99,
) -> Experiment:
  """
  Args:
    model: network, distribution, data and recipe.
    width: hidden units or features of the network; the model's own by default.
    steps: training steps; the model's own by default.
    learning_rate: the highest, which falls to 0 as a cosine; the model's own by default.
  """
  preset = PRESETS[model]
  if width is not None and preset.width is None:
    raise UserError(f"{model} has no width: leave it out")
  steps = preset.steps if steps is None else steps
  rate = preset.learning_rate if learning_rate is None else learning_rate
  spec = preset.data.spec
  optimizer = optimizers.adam(rate, steps, clip=preset.clip)
  network = preset.network(preset.width if width is None else width)
  method = autoregressive(network, preset.distribution, spec=spec, optimizer=optimizer)
  return Experiment(
    method=averaged(method, ema),
    data=preset.data,
    steps=steps,
    batch_size=batch_size,
    evaluators=(likelihood(), frechet()),
    conditions=(lambda index: {"label": index % spec.classes}) if model == "gated_pixelcnn" else None,
    sample_every=500,
    checkpoint_every=500,
  )
