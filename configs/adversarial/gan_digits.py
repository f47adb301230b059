"""Adversarial networks of scikit-learn's 8x8 digits: of dense layers, and DCGAN with what came after it.

Paper: dense: Goodfellow et al. 2014, Generative adversarial nets, https://arxiv.org/abs/1406.2661, Algorithm 1 with the
non-saturating loss, where R1 of Mescheder et al. 2018, https://arxiv.org/abs/1801.04406, and an averaged generator keep
it in place (`--gamma 0 --ema 0` is the paper's). dcgan: Radford et al. 2015, https://arxiv.org/abs/1511.06434: batch
norm, Adam with beta_1 = 0.5. sngan: spectral normalisation, Miyato et al. 2018, https://arxiv.org/abs/1802.05957, with
the hinge loss, and labels by projection, Miyato and Koyama 2018, https://arxiv.org/abs/1802.05637. augmented: Zhao et
al. 2020, https://arxiv.org/abs/2006.10738.

    jaxgen train gan_digits
    jaxgen train gan_digits --preset dcgan              (or sngan, augmented)
    jaxgen train gan_digits --loss minimax --gamma 0
    jaxgen train gan_digits --conditional True

Expect: frechet_1437 1.80, 1.51 times its floor; without the penalty 3.99, or 2.64 with the minimax loss. dcgan 1.44,
1.21 times the floor, sngan 1.60, augmented 3.20. One seed each
Cost: 2.5 minutes on 2 CPU cores that were busy with other work as well, 44 s of CPU time; dcgan 1.5 minutes, 45 s
"""

from functools import partial
from typing import Literal, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxgen import Experiment, data, optimizers
from jaxgen.core.condition import UNCONDITIONAL, labels
from jaxgen.core.wrappers import averaged
from jaxgen.evaluation.evaluators import frechet
from jaxgen.methods.adversarial.gan import LOSSES, LossName, gan, generate, r1
from jaxgen.nn.adversarial.diffaugment import cutout, diff_augment, translation
from jaxgen.nn.adversarial.gan import DCGANDiscriminator, DCGANGenerator, MLPDiscriminator, MLPGenerator
from jaxgen.show import figures


class Preset(NamedTuple):
  """A method's recipe.

  Attributes:
    rates: learning rates of generator and discriminator.
    gamma: weight of the R1 penalty.
    conditional, spectral, augment: see the flags.
  """

  steps: int
  batch_size: int
  rates: tuple[float, float]
  ema: float
  loss: str = "non_saturating"
  gamma: float = 0.0
  conditional: bool = False
  spectral: bool = False
  augment: bool = False


PRESETS = {  # frechet_1437 over its floor
  "dense": Preset(6_000, 128, (1e-3, 1e-3), 0.999, gamma=0.3),  # 1.51
  "dcgan": Preset(2_000, 64, (2e-3, 2e-3), 0.995),  # 1.21
  "sngan": Preset(2_000, 64, (1e-3, 2e-3), 0.995, loss="hinge", conditional=True, spectral=True),  # 1.34
  "augmented": Preset(2_000, 64, (2e-3, 2e-3), 0.995, augment=True),  # 2.69
}
NAMES = {"dcgan_digits": {"preset": "dcgan"}}


def experiment(
  preset: Literal[*PRESETS] = "dense",
  steps: int | None = None,
  batch_size: int | None = None,
  learning_rate: float | None = None,
  discriminator_rate: float | None = None,
  loss: LossName | None = None,
  gamma: float | None = None,
  k: int = 1,
  spectral: bool | None = None,
  conditional: bool | None = None,
  augment: bool | None = None,
  width: int | None = None,
  latent: int = 32,
  ema: float | None = None,
) -> Experiment:
  """Flags that are not given are the preset's.

  Args:
    preset: networks, and what keeps them in balance.
    batch_size: examples of each update of the discriminator.
    learning_rate: the generator's.
    discriminator_rate: the discriminator's.
    loss: what both minimise.
    gamma: weight of R1, the gradient penalty at the data.
    k: updates of the discriminator for each of the generator.
    spectral: spectral normalisation instead of the discriminator's batch norm (not for dense networks).
    conditional: both networks are conditioned on the digit.
    augment: all that the discriminator sees is moved about and has holes.
    width: of the two hidden layers, 256 (dense), or of the last convolution, 64.
    latent: number of values that the generator begins with.
  """
  given = dict(
    steps=steps,
    batch_size=batch_size,
    loss=loss,
    gamma=gamma,
    spectral=spectral,
    conditional=conditional,
    augment=augment,
    ema=ema,
  )
  p = PRESETS[preset]._replace(**{name: value for name, value in given.items() if value is not None})
  rates = (learning_rate or p.rates[0], discriminator_rate or p.rates[1])
  digits = data.digits()
  classes = digits.classes if p.conditional else None
  if preset == "dense":
    hidden = (width or 256,) * 2
    generator = MLPGenerator(digits.spec.shape, hidden, output=jnp.tanh, classes=classes)
    discriminator = MLPDiscriminator(hidden, classes=classes)
    adam = lambda rate, updates: optimizers.adam(rate, updates, b1=0.0, b2=0.99)
  else:
    generator = DCGANGenerator(digits.spec.shape, width or 64, least=2, classes=classes)
    discriminator = DCGANDiscriminator(width or 64, norm=not p.spectral, spectral=p.spectral, least=2, classes=classes)
    adam = lambda rate, updates: optimizers.adam(rate, b1=0.5)
  method = gan(
    generator,
    discriminator,
    spec=digits.spec,
    latent=latent,
    loss=LOSSES[p.loss],
    penalty=r1(p.gamma) if p.gamma else None,
    k=k,
    augment=diff_augment(translation, cutout) if p.augment else None,
    generator_optimizer=adam(rates[0], p.steps),
    discriminator_optimizer=adam(rates[1], k * p.steps),  # it counts every update
    condition=labels(digits.spec) if p.conditional else UNCONDITIONAL,
  )
  return Experiment(
    method=averaged(method, {"generator": p.ema}),
    data=digits,
    steps=p.steps,
    batch_size=k * p.batch_size,
    evaluators=(frechet(),),
    conditions=(lambda index: {"label": np.asarray(index % 10)}) if p.conditional else None,
    figures=(figures.latent_interpolations(partial(generate, generator), latent, rows=10, classes=classes),),
    updates_per_dispatch=20 if preset == "dense" else 10,
    sample_every=2_000 if preset == "dense" else 1_000,
    evaluate_every=2_000 if preset == "dense" else 1_000,
  )
