"""DCGAN on your own images, with differentiable augmentation for small data.

Paper: Radford et al. 2015, Unsupervised representation learning with deep convolutional generative adversarial
networks, https://arxiv.org/abs/1511.06434; the R1 penalty of Mescheder et al. 2018, https://arxiv.org/abs/1801.04406;
Zhao et al. 2020, Differentiable augmentation for data-efficient GAN training, https://arxiv.org/abs/2006.10738.

    jaxgen train gan_images --data folder:photos --size 64
    jaxgen train gan_images --data npz:faces.npz --name faces --augment False

Channels and, if all pictures have the same, the size are read from the data; digits are a trial. Sides are
even, 8 or more; 32, 48, 64 and the like, a few times a power of two, make the best networks.

Expect: not run to the end; no number is published of data that are your own
Cost: 64x64 with width 64, 3.6 M parameters of the generator: meant for an accelerator
"""

from functools import partial

from jaxgen import Experiment, optimizers
from jaxgen.core.wrappers import averaged
from jaxgen.data.own import own
from jaxgen.data.transforms import flip
from jaxgen.methods.adversarial.gan import LOSSES, LossName, gan, generate, r1
from jaxgen.nn.adversarial.diffaugment import cutout, diff_augment, translation
from jaxgen.nn.adversarial.gan import DCGANDiscriminator, DCGANGenerator
from jaxgen.show import figures


def experiment(
  data: str = "digits",
  size: int | None = None,
  steps: int = 50_000,
  batch_size: int = 64,
  learning_rate: float = 2e-4,
  loss: LossName = "non_saturating",
  gamma: float = 0.1,
  augment: bool = True,
  width: int = 64,
  latent: int = 128,
  ema: float = 0.999,
  mirrored: bool = True,
  tfds_dir: str | None = None,
) -> Experiment:
  """A generator against a discriminator.

  Args:
    data: folder:DIR, npz:FILE, tar:DIR, tfds:NAME, hf:DIR, or digits.
    size: side to which pictures are resized: the shorter side is scaled and the middle cut out.
    learning_rate: of both networks.
    loss: what both minimise.
    gamma: weight of R1, the gradient penalty at the data.
    augment: all that the discriminator sees is moved about and has holes.
    width: of the largest convolutions' channels, which double as the map halves.
    latent: number of values that the generator begins with.
    mirrored: half of the pictures are seen mirrored.
  """
  images = own(data, size, augment=(flip(),) if mirrored else (), data_dir=tfds_dir)
  least = 2 if min(images.spec.shape[:2]) < 16 else 4
  generator = DCGANGenerator(images.spec.shape, width, least=least)
  adam = lambda: optimizers.adam(learning_rate, b1=0.5)
  method = gan(
    generator,
    DCGANDiscriminator(width, norm=False, least=least),
    spec=images.spec,
    latent=latent,
    loss=LOSSES[loss],
    penalty=r1(gamma) if gamma else None,
    augment=diff_augment(translation, cutout) if augment else None,
    generator_optimizer=adam(),
    discriminator_optimizer=adam(),
  )
  return Experiment(
    method=averaged(method, {"generator": ema}),
    data=images,
    steps=steps,
    batch_size=batch_size,
    figures=(figures.latent_interpolations(partial(generate, generator), latent),),
    sample_every=2_000,
    checkpoint_every=2_000,
  )
