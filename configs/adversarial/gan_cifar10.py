"""Residual adversarial networks on CIFAR-10 at the papers' size: WGAN-GP and SNGAN, the latter with or without labels.

Paper: wgan_gp: Gulrajani et al. 2017, Improved training of Wasserstein GANs, https://arxiv.org/abs/1704.00028, section
5.5 and Appendix F, and their code: 128 channels, batch norm in the generator alone, a gradient penalty of 10, 100 k
steps. sngan: Miyato et al. 2018, Spectral normalization for generative adversarial networks,
https://arxiv.org/abs/1802.05957, section 4.1 and Table 4, and their code: 256 channels in the generator and 128 in the
discriminator, hinge loss, 50 k steps. Both: five updates of the discriminator with 64 images each and one of the
generator with 128, Adam at 2e-4 falling to 0 with beta_1 = 0 and beta_2 = 0.9. With `--conditional True` the
discriminator has projected labels, as in Miyato and Koyama 2018, https://arxiv.org/abs/1802.05637; the generator gets
them together with z, while theirs has them in its batch norm.

    jaxgen train gan_cifar10 --tfds-dir DIR
    jaxgen train gan_cifar10 --preset sngan --tfds-dir DIR

Expect: not measured; the papers' Inception scores and FID, beside PRESETS, are not computed here
Cost: not measured, and not for a CPU
"""

from functools import partial
from typing import Literal, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxgen import Experiment, data, optimizers
from jaxgen.core.condition import UNCONDITIONAL, labels
from jaxgen.core.wrappers import averaged
from jaxgen.data.transforms import Transform, dequantize, flip
from jaxgen.evaluation.evaluators import frechet
from jaxgen.methods.adversarial.gan import LOSSES, LossName, cut, gan, generate, gradient_penalty
from jaxgen.nn.adversarial.gan import ResNetDiscriminator, ResNetGenerator
from jaxgen.show import figures


class Preset(NamedTuple):
  """A method's recipe.

  Attributes:
    width: the generator's channels.
    penalty: weight of the gradient penalty.
    augment: augmentation of the data.
  """

  steps: int
  loss: str
  width: int
  penalty: float
  spectral: bool
  augment: tuple[Transform, ...]


PRESETS = {
  "wgan_gp": Preset(100_000, "wasserstein", 128, 10.0, False, ()),  # Inception score 7.86 (standard deviation 0.07)
  "sngan": Preset(50_000, "hinge", 256, 0.0, True, (flip(),)),  # Table 2: Inception score 8.22 (0.05), FID 21.7
}
NAMES = {"wgan_gp_cifar10": {"preset": "wgan_gp"}, "sngan_cifar10": {"preset": "sngan"}}


def experiment(
  preset: Literal[*PRESETS] = "wgan_gp",
  steps: int | None = None,
  batch_size: int = 64,
  generator_batch: int = 128,
  learning_rate: float = 2e-4,
  loss: LossName | None = None,
  penalty: float | None = None,
  k: int = 5,
  conditional: bool = False,
  width: int | None = None,
  discriminator_width: int = 128,
  latent: int = 128,
  ema: float | None = None,
  bfloat16: bool = False,
  tfds_dir: str | None = None,
) -> Experiment:
  """Flags that are not given are the preset's; a batch has examples for all six updates, and a sixth of it is not used.

  Args:
    preset: loss, penalty, normalisation and size of the networks.
    batch_size: images of each update of the discriminator.
    generator_batch: images that the generator makes in its update.
    loss: what both minimise.
    penalty: weight of the gradient penalty, 0 for none.
    k: updates of the discriminator for each of the generator.
    conditional: both networks are conditioned on the class.
    width: the generator's channels.
    discriminator_width: the discriminator's channels.
    latent: number of values that the generator begins with.
    bfloat16: networks compute in half precision.
  """
  given = dict(steps=steps, loss=loss, penalty=penalty, width=width)
  p = PRESETS[preset]._replace(**{name: value for name, value in given.items() if value is not None})
  # Their code adds the noise that makes integers continuous.
  cifar10 = data.images(
    "tfds:cifar10", (32, 32, 3), classes=10, transforms=(dequantize(),), augment=p.augment, data_dir=tfds_dir
  )
  dtype = jnp.bfloat16 if bfloat16 else jnp.float32
  classes = cifar10.classes if conditional else None
  generator = ResNetGenerator(cifar10.spec.shape, p.width, classes=classes, dtype=dtype)
  discriminator = ResNetDiscriminator(discriminator_width, spectral=p.spectral, classes=classes, dtype=dtype)
  adam = lambda updates: optimizers.adam(learning_rate, updates, decay="linear", b1=0.0, b2=0.9)
  whole, slices = cut(k, batch_size, generator_batch)
  method = gan(
    generator,
    discriminator,
    spec=cifar10.spec,
    latent=latent,
    loss=LOSSES[p.loss],
    penalty=gradient_penalty(p.penalty) if p.penalty else None,
    k=k,
    slices=slices,
    generator_optimizer=adam(p.steps),
    discriminator_optimizer=adam(k * p.steps),  # it counts every update
    condition=labels(cifar10.spec) if conditional else UNCONDITIONAL,
  )
  return Experiment(
    method=averaged(method, None if ema is None else {"generator": ema}),
    data=cifar10,
    steps=p.steps,
    batch_size=whole,
    evaluators=(frechet(10_000),),
    conditions=(lambda index: {"label": np.asarray(index % 10)}) if conditional else None,
    figures=(figures.latent_interpolations(partial(generate, generator), latent, rows=10, classes=classes),),
    log_every=100,
    sample_every=10_000 if preset == "wgan_gp" else 5_000,
    checkpoint_every=5_000,
    sample_chunk=128,
  )
