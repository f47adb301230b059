"""First stages of latent diffusion, VQGAN and the KL autoencoder: on scikit-learn's 8x8 digits, emoji, and ImageNet.

Paper: Esser et al. 2021, Taming Transformers for high-resolution image synthesis, https://arxiv.org/abs/2012.09841
(VQGAN), section 3.1; Rombach et al. 2022, https://arxiv.org/abs/2112.10752, section 3.1 and Appendix G (the KL
autoencoder). A discriminator of patches comes after `start` steps, with the adaptive weight. Features of a classifier
that is trained here take VGG's place in the perceptual loss: give its run. `kl_imagenet` is Stable Diffusion's network
with the numbers of LDM's code for its f = 8 (LPIPS aside), of which `dit --preset XL/2` makes its latents.

    jaxgen train classifier_digits
    jaxgen train first_stage --perceptual runs/classifier_digits
    jaxgen train kl_digits --perceptual runs/classifier_digits
    jaxgen train kl_emoji --file emoji_64.npz
    jaxgen train kl_imagenet --tfds-dir DIR

Expect: kl_digits: test_squared_error 0.0133 (standard error 0.0004) of values in [-1, 1]; its latents have mean
0.004 and mean square 0.984 on the test split. vqgan_digits: 0.0235. One seed. kl_emoji and kl_imagenet: not measured
Cost: 2 minutes 21 seconds and 1 minute 43 on 2 CPU cores that had other work
"""

from typing import Literal, NamedTuple

import jax.numpy as jnp

from jaxgen import Experiment, data, optimizers
from jaxgen.core.wrappers import averaged
from jaxgen.data import captioned
from jaxgen.data.augment import crop
from jaxgen.data.transforms import flip
from jaxgen.evaluation.evaluators import means
from jaxgen.interop import runs
from jaxgen.methods.likelihood.autoencoder import Adversary, Bottleneck, Perceptual, autoencoder, codes, kl, reconstruct
from jaxgen.nn import ConvNet
from jaxgen.nn.adversarial.patchgan import PatchDiscriminator
from jaxgen.nn.autoencoders.ldm import KLAutoencoder, VQAutoencoder
from jaxgen.show import figures


class Preset(NamedTuple):
  """A kind of first stage, and its data.

  Attributes:
    latent: channels of a latent.
    image: channels of a picture.
    multipliers, blocks, groups: of the network, whose channels are `channels`.
    side: height and width of a picture.
  """

  network: type
  latent: int
  bottleneck: Bottleneck
  data: Literal["digits", "emoji", "imagenet"] = "digits"
  image: int = 1
  channels: int = 16
  multipliers: tuple[int, ...] = (1, 2)
  blocks: int = 1
  groups: int = 4
  side: int = 8
  steps: int = 1_000
  batch_size: int = 64
  learning_rate: float = 1e-3
  start: int = 300

  def of_width(self, channels: int | None = None) -> KLAutoencoder | VQAutoencoder:
    """The network, which halves a picture's sides once for each multiplier but the first."""
    channels = channels or self.channels
    return self.network(self.latent, self.image, channels, self.multipliers, blocks=self.blocks, groups=self.groups)


_EMOJI = dict(data="emoji", image=3, multipliers=(1, 2, 2), side=64, steps=4_000, batch_size=32, start=1_500)
_SD = dict(data="imagenet", image=3, channels=128, multipliers=(1, 2, 4, 4), blocks=2, groups=32, side=256)
PRESETS = {
  "vq": Preset(VQAutoencoder, 4, codes(64)),
  "kl": Preset(KLAutoencoder, 3, kl(1e-4)),
  "kl_emoji": Preset(KLAutoencoder, 4, kl(1e-5), **_EMOJI),
  "kl_imagenet": Preset(
    KLAutoencoder, 4, kl(1e-6), **_SD, steps=250_000, batch_size=96, learning_rate=4.3e-4, start=50_001
  ),
}
NAMES = {
  "vqgan_digits": {"preset": "vq"},
  "kl_digits": {"preset": "kl"},
  "kl_emoji": {"preset": "kl_emoji"},
  "kl_imagenet": {"preset": "kl_imagenet"},
}


def experiment(
  preset: Literal[*PRESETS] = "vq",
  steps: int | None = None,
  batch_size: int | None = None,
  learning_rate: float | None = None,
  channels: int | None = None,
  ema: float = 0.99,
  perceptual: str | None = None,
  perceptual_weight: float = 1.0,
  start: int | None = None,
  adversarial_weight: float = 0.5,
  file: str = "emoji_64.npz",
  tfds_dir: str | None = None,
  bfloat16: bool = False,
  remat: bool = False,
) -> Experiment:
  """An autoencoder learns latents of a half, a quarter or an eighth of the picture's sides.

  Flags that are not given are the preset's.

  Args:
    preset: latents near the codes of a codebook, or near a normal distribution, and the data.
    channels: the network's width.
    perceptual: the folder of a run of backbone_digits, "convnet", whose features compare pictures; none by default.
    perceptual_weight: of the features' distance.
    start: the step from which on the discriminator learns and is listened to.
    adversarial_weight: of its share in the decoder's gradient; 0 for no discriminator.
    file: of emoji, 64 x 64 pixels; see docs/data.md.
    bfloat16: the network computes in half precision.
  """
  given = dict(steps=steps, batch_size=batch_size, learning_rate=learning_rate, channels=channels, start=start)
  p = PRESETS[preset]._replace(**{name: value for name, value in given.items() if value is not None})
  images = {
    "digits": data.digits,
    "emoji": lambda: captioned.emoji(file, side=p.side, augment=(crop(4),)),
    "imagenet": lambda: data.imagenet(tfds_dir, size=p.side, augment=(flip(),), standardized=False),
  }[p.data]()
  network = p.of_width().clone(dtype=jnp.bfloat16 if bfloat16 else jnp.float32, remat=remat)
  rate = lambda: optimizers.adam(p.learning_rate, p.steps, warmup=50, clip=1.0, b1=0.5, b2=0.9)
  features = ConvNet(10, channels=(32, 64), dropout=0.1)
  patches = PatchDiscriminator(64 if p.data == "imagenet" else p.channels, {"digits": 1, "emoji": 2}.get(p.data, 3))
  method = autoencoder(
    network,
    p.bottleneck,
    spec=images.spec,
    optimizer=rate(),
    perceptual=Perceptual(features, runs.frozen(perceptual), perceptual_weight) if perceptual else None,
    adversary=Adversary(patches, rate(), p.start, adversarial_weight) if adversarial_weight else None,
  )
  return Experiment(
    method=averaged(method, {"network": ema}),
    data=images,
    steps=p.steps,
    batch_size=p.batch_size,
    evaluators=(means("squared_error", "latent", "latent_square"),),
    figures=(figures.reconstructions(reconstruct(network, p.bottleneck)),),
    checkpoint_every=500,
  )
