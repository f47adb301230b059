"""DCGAN on scikit-learn's 8x8 digits, small, with what came after it as options.

Paper: Radford et al. 2015, Unsupervised representation learning with deep convolutional generative adversarial
networks, https://arxiv.org/abs/1511.06434: batch norm, Adam with beta_1 = 0.5. Options: spectral normalisation, Miyato
et al. 2018, https://arxiv.org/abs/1802.05957, with the hinge loss; labels by projection, Miyato and Koyama 2018,
https://arxiv.org/abs/1802.05637; differentiable augmentation, Zhao et al. 2020, https://arxiv.org/abs/2006.10738.

    jaxgen train configs/dcgan_digits.py
    jaxgen train configs/dcgan_digits.py --loss hinge --spectral True --conditional True --learning-rate 1e-3
    jaxgen train configs/dcgan_digits.py --augment True

Expect: frechet_1437 1.44, 1.21 times its floor; with the second line's options 1.60, with the third's 3.20. One seed
each
Cost: 1.5 minutes on 2 CPU cores that were busy with other work as well, 45 s of CPU time
"""

from functools import partial

import numpy as np
import optax

from jaxgen import Experiment, data
from jaxgen.evaluation.evaluators import frechet
from jaxgen.methods.adversarial.gan import LOSSES, LossName, gan, generate, r1
from jaxgen.nn.adversarial.diffaugment import cutout, diff_augment, translation
from jaxgen.nn.adversarial.gan import DCGANDiscriminator, DCGANGenerator
from jaxgen.show import figures


def experiment(
  steps: int = 2_000,
  batch_size: int = 64,
  learning_rate: float = 2e-3,
  discriminator_rate: float = 2e-3,
  loss: LossName = "non_saturating",
  gamma: float = 0.0,
  k: int = 1,
  spectral: bool = False,
  conditional: bool = False,
  augment: bool = False,
  width: int = 64,
  latent: int = 32,
  ema: float = 0.995,
) -> Experiment:
  digits = data.digits()
  classes = digits.classes if conditional else None
  generator = DCGANGenerator((8, 8, 1), width, least=2, classes=classes)
  adam = partial(optax.adam, b1=0.5)
  method = gan(
    generator,
    DCGANDiscriminator(width, norm=not spectral, spectral=spectral, least=2, classes=classes),
    shape=(8, 8, 1),
    latent=latent,
    loss=LOSSES[loss],
    penalty=r1(gamma) if gamma else None,
    k=k,
    augment=diff_augment(translation, cutout) if augment else None,
    generator_optimizer=adam(learning_rate),
    discriminator_optimizer=adam(discriminator_rate),
    classes=classes,
    ema=ema,
  )
  return Experiment(
    method=method,
    data=digits,
    steps=steps,
    batch_size=k * batch_size,
    evaluators=(frechet(),),
    conditions=(lambda index: {"label": np.asarray(index % 10)}) if conditional else None,
    figures=(figures.latent_interpolations(partial(generate, generator), latent, rows=10, classes=classes),),
    sample_every=1_000,
    evaluate_every=1_000,
  )
