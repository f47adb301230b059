"""Generative adversarial network of dense layers on scikit-learn's 8x8 digits.

Paper: Goodfellow et al. 2014, Generative adversarial nets, https://arxiv.org/abs/1406.2661, Algorithm 1 with the
non-saturating loss; R1 of Mescheder et al. 2018, https://arxiv.org/abs/1801.04406, and an averaged generator keep it in
place (`--gamma 0 --ema 0` is the paper's).

    jaxgen train configs/gan_digits.py
    jaxgen train configs/gan_digits.py --loss minimax --gamma 0
    jaxgen train configs/gan_digits.py --conditional True

Expect: frechet_1437 1.80, 1.51 times its floor; without the penalty 3.99, or 2.64 with the minimax loss. One seed each
Cost: 2.5 minutes on 2 CPU cores that were busy with other work as well, 44 s of CPU time
"""

from functools import partial

import jax.numpy as jnp
import numpy as np
import optax

from jaxgen import Experiment, data
from jaxgen.evaluation.evaluators import frechet
from jaxgen.methods.adversarial.gan import LOSSES, LossName, gan, generate, r1
from jaxgen.nn.adversarial.gan import MLPDiscriminator, MLPGenerator
from jaxgen.show import figures


def experiment(
  steps: int = 6_000,
  batch_size: int = 128,
  learning_rate: float = 1e-3,
  discriminator_rate: float = 1e-3,
  loss: LossName = "non_saturating",
  gamma: float = 0.3,
  k: int = 1,
  conditional: bool = False,
  hidden: tuple[int, ...] = (256, 256),
  latent: int = 32,
  ema: float = 0.999,
  microbatches: int = 1,
) -> Experiment:
  digits = data.digits()
  classes = digits.classes if conditional else None
  generator = MLPGenerator((8, 8, 1), hidden, output=jnp.tanh, classes=classes)
  adam = lambda rate: optax.adam(optax.cosine_decay_schedule(rate, steps), b1=0.0, b2=0.99)
  method = gan(
    generator,
    MLPDiscriminator(hidden, classes=classes),
    shape=(8, 8, 1),
    latent=latent,
    loss=LOSSES[loss],
    penalty=r1(gamma) if gamma else None,
    k=k,
    generator_optimizer=adam(learning_rate),
    discriminator_optimizer=adam(discriminator_rate),
    classes=classes,
    ema=ema,
    microbatches=microbatches,
  )
  return Experiment(
    method=method,
    data=digits,
    steps=steps,
    batch_size=k * batch_size,
    evaluators=(frechet(),),
    conditions=(lambda index: {"label": np.asarray(index % 10)}) if conditional else None,
    figures=(figures.latent_interpolations(partial(generate, generator), latent, rows=10, classes=classes),),
    updates_per_dispatch=20,
    sample_every=2_000,
    evaluate_every=2_000,
  )
