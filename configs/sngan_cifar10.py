"""Spectrally normalised GAN on CIFAR-10 at the paper's size, with or without labels.

Paper: Miyato et al. 2018, Spectral normalization for generative adversarial networks,
https://arxiv.org/abs/1802.05957, section 4.1 and Table 4, and their code: residual networks, 256 channels in the
generator and 128 in the discriminator, hinge loss, five discriminator updates of 64 images each for one of the
generator (theirs has 128 images, here 64), Adam at 2e-4 falling to 0 in 50 k steps with beta_1 = 0 and beta_2 = 0.9.
Its Table 2 has the Inception score 8.22 (standard deviation 0.05) and FID 21.7 without labels. With `--conditional
True` labels are projected as in Miyato and Koyama 2018, https://arxiv.org/abs/1802.05637, and given to the generator
beside z, where theirs has them in its batch norm.

    jaxgen train configs/sngan_cifar10.py --tfds-dir DIR

Expect: not measured; the Inception score and FID are not computed here
Cost: not measured, and not for a CPU
"""

from functools import partial

import jax.numpy as jnp
import numpy as np
import optax

from jaxgen import Experiment, data
from jaxgen.data.transforms import dequantize, flip
from jaxgen.evaluation.evaluators import frechet
from jaxgen.methods.adversarial.gan import LOSSES, LossName, gan, generate
from jaxgen.nn.adversarial.gan import ResNetDiscriminator, ResNetGenerator
from jaxgen.show import figures


def experiment(
  steps: int = 50_000,
  batch_size: int = 64,
  learning_rate: float = 2e-4,
  loss: LossName = "hinge",
  k: int = 5,
  conditional: bool = False,
  width: int = 256,
  discriminator_width: int = 128,
  latent: int = 128,
  ema: float | None = None,
  bfloat16: bool = False,
  tfds_dir: str | None = None,
) -> Experiment:
  cifar10 = data.images(
    "tfds:cifar10", (32, 32, 3), classes=10, transforms=(dequantize(),), augment=(flip(),), data_dir=tfds_dir
  )
  dtype = jnp.bfloat16 if bfloat16 else jnp.float32
  classes = cifar10.classes if conditional else None
  generator = ResNetGenerator((32, 32, 3), width, classes=classes, dtype=dtype)
  adam = lambda: optax.adam(optax.linear_schedule(learning_rate, 0.0, steps), b1=0.0, b2=0.9)
  method = gan(
    generator,
    ResNetDiscriminator(discriminator_width, spectral=True, classes=classes, dtype=dtype),
    shape=(32, 32, 3),
    latent=latent,
    loss=LOSSES[loss],
    k=k,
    generator_optimizer=adam(),
    discriminator_optimizer=adam(),
    classes=classes,
    ema=ema,
  )
  return Experiment(
    method=method,
    data=cifar10,
    steps=steps,
    batch_size=k * batch_size,
    evaluators=(frechet(10_000),),
    conditions=(lambda index: {"label": np.asarray(index % 10)}) if conditional else None,
    figures=(figures.latent_interpolations(partial(generate, generator), latent, rows=10, classes=classes),),
    log_every=100,
    sample_every=5_000,
    checkpoint_every=5_000,
    sample_chunk=128,
  )
