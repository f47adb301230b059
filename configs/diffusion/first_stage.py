"""First stages of latent diffusion, VQGAN and the KL autoencoder, on scikit-learn's 8x8 digits.

Paper: Esser et al. 2021, Taming Transformers for high-resolution image synthesis, https://arxiv.org/abs/2012.09841
(VQGAN), section 3.1; Rombach et al. 2022, https://arxiv.org/abs/2112.10752, section 3.1 and Appendix G (the KL
autoencoder). A discriminator of patches comes after `start` steps, with the adaptive weight. Features of a classifier
that is trained here take VGG's place in the perceptual loss: give its run.

    jaxgen train classifier_digits
    jaxgen train first_stage --perceptual runs/classifier_digits
    jaxgen train kl_digits --perceptual runs/classifier_digits

Expect: kl_digits: test_squared_error 0.0133 (standard error 0.0004) of values in [-1, 1]; its latents have mean
0.004 and mean square 0.984 on the test split. vqgan_digits: 0.0235. One seed
Cost: 2 minutes 21 seconds and 1 minute 43 on 2 CPU cores that had other work
"""

from typing import Literal, NamedTuple

from jaxgen import Experiment, data, optimizers
from jaxgen.core.wrappers import averaged
from jaxgen.evaluation.evaluators import means
from jaxgen.interop import runs
from jaxgen.methods.likelihood.autoencoder import Adversary, Bottleneck, Perceptual, autoencoder, codes, kl, reconstruct
from jaxgen.nn import ConvNet
from jaxgen.nn.adversarial.patchgan import PatchDiscriminator
from jaxgen.nn.autoencoders.ldm import KLAutoencoder, VQAutoencoder
from jaxgen.show import figures


class Preset(NamedTuple):
  """A kind of first stage.

  Attributes:
    latent: channels of a latent.
  """

  network: type
  latent: int
  bottleneck: Bottleneck

  def of_width(self, channels: int) -> KLAutoencoder | VQAutoencoder:
    """The network, which halves the sides of a picture of one channel."""
    return self.network(self.latent, 1, channels, (1, 2), blocks=1, groups=4)


PRESETS = {"vq": Preset(VQAutoencoder, 4, codes(64)), "kl": Preset(KLAutoencoder, 3, kl(1e-4))}
NAMES = {"vqgan_digits": {"preset": "vq"}, "kl_digits": {"preset": "kl"}}


def experiment(
  preset: Literal[*PRESETS] = "vq",
  steps: int = 1_000,
  batch_size: int = 64,
  learning_rate: float = 1e-3,
  channels: int = 16,
  ema: float = 0.99,
  perceptual: str | None = None,
  perceptual_weight: float = 1.0,
  start: int = 300,
  adversarial_weight: float = 0.5,
) -> Experiment:
  """An autoencoder learns latents of half of the picture's sides.

  Args:
    preset: latents near the codes of a codebook, or near a normal distribution.
    channels: the network's width.
    perceptual: the folder of a run of backbone_digits, "convnet", whose features compare pictures; none by default.
    perceptual_weight: of the features' distance.
    start: the step from which on the discriminator learns and is listened to.
    adversarial_weight: of its share in the decoder's gradient; 0 for no discriminator.
  """
  digits, p = data.digits(), PRESETS[preset]
  network = p.of_width(channels)
  rate = lambda: optimizers.adam(learning_rate, steps, warmup=50, clip=1.0, b1=0.5, b2=0.9)
  features, patches = ConvNet(10, channels=(32, 64), dropout=0.1), PatchDiscriminator(channels, 1)
  method = autoencoder(
    network,
    p.bottleneck,
    spec=digits.spec,
    optimizer=rate(),
    perceptual=Perceptual(features, runs.frozen(perceptual), perceptual_weight) if perceptual else None,
    adversary=Adversary(patches, rate(), start, adversarial_weight) if adversarial_weight else None,
  )
  return Experiment(
    method=averaged(method, {"network": ema}),
    data=digits,
    steps=steps,
    batch_size=batch_size,
    evaluators=(means("squared_error", "latent", "latent_square"),),
    figures=(figures.reconstructions(reconstruct(network, p.bottleneck)),),
    checkpoint_every=500,
  )
