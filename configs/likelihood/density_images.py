"""Likelihood models of your own images: a convolutional VAE, Glow and PixelCNN++.

Paper: Kingma and Welling 2013, Auto-encoding variational Bayes, https://arxiv.org/abs/1312.6114, with the discretized
logistic likelihood of Kingma et al. 2016, https://arxiv.org/abs/1606.04934; Kingma and Dhariwal 2018, Glow,
https://arxiv.org/abs/1807.03039; Salimans et al. 2017, PixelCNN++, https://arxiv.org/abs/1701.05517.

    jaxgen train density_images --data folder:photos --size 32
    jaxgen train density_images --model glow --data npz:faces.npz --name glow_faces
    jaxgen train density_images --model pixelcnnpp --data tar:shards --size 32

Channels, levels and, if all pictures have the same, the size are read from the data; digits are a trial. Bits
per dimension are those of the split "test", or of "train" where there is no other.

Expect: not run to the end; no number is published of data that are your own
Cost: 2,000 steps of the VAE on digits take about 2 minutes on 2 CPU cores; Glow and PixelCNN++ of 32x32 pictures are
meant for an accelerator
"""

import dataclasses
from typing import Literal, NamedTuple

from jaxgen import Experiment, optimizers
from jaxgen.core.errors import UserError
from jaxgen.core.method import Method
from jaxgen.core.spec import Spec
from jaxgen.core.wrappers import averaged
from jaxgen.data.own import own
from jaxgen.data.transforms import dequantize, flip
from jaxgen.evaluation.likelihood import likelihood
from jaxgen.methods.likelihood.autoregressive import autoregressive
from jaxgen.methods.likelihood.flow import flow
from jaxgen.methods.likelihood.vae import vae
from jaxgen.nn.autoencoders.vae import ConvDecoder, ConvEncoder
from jaxgen.nn.autoregressive.pixelcnnpp import PixelCNNpp
from jaxgen.nn.flows.glow import glow
from jaxgen.probability.bases import BASES
from jaxgen.probability.distributions import logistic, logistic_mixture


class Preset(NamedTuple):
  """A recipe.

  Attributes:
    width: features of the network's first convolutions.
    depth: levels of the VAE and of Glow, stages of PixelCNN++; fewer where the sides cannot be halved so often.
  """

  width: int
  depth: int
  learning_rate: float


PRESETS = {"vae": Preset(32, 4, 1e-3), "glow": Preset(128, 3, 1e-3), "pixelcnnpp": Preset(64, 3, 5e-4)}
NAMES = {
  "vae_images": {"model": "vae"},
  "glow_images": {"model": "glow"},
  "pixelcnnpp_images": {"model": "pixelcnnpp"},
}


def levels_of(spec: Spec, most: int, least: int = 2) -> int:
  """The number of levels, each of half the side, with no side odd before it is halved or below `least` after it."""
  height, width, _ = spec.shape
  halved = lambda n: height % 2**n == width % 2**n == 0 and min(height, width) >> n >= least
  return max(n for n in range(most) if n == 0 or halved(n)) + 1


def method_of(model: str, spec: Spec, width: int, depth: int, steps: int, rate: float) -> Method:
  """The model of these pictures with its optimizer, whose clip and epsilon are those of a loss in nats per image."""
  channels, adam = spec.shape[-1], optimizers.adam(rate, steps, warmup=100, clip=50.0 / spec.size, eps=1e-8 / spec.size)
  if model == "glow":
    halvings = levels_of(spec, depth + 1) - 1  # each of Glow's levels halves
    if halvings == 0:
      raise UserError(
        f"Glow halves the sides of pictures, and {spec.shape[0]}x{spec.shape[1]} is odd: use another --size"
      )
    return flow(glow(halvings, 16, width), spec=spec, optimizer=adam, base=BASES["gaussian"])
  depth = levels_of(spec, depth)
  if model == "vae":
    value = logistic(spec.levels)
    widths = tuple(width << n for n in range(depth))
    return vae(
      ConvEncoder(4 * width, widths, 8 * width),
      ConvDecoder(spec.shape, widths[::-1], 8 * width, outputs=value.parameters),
      value,
      spec=spec,
      latent=4 * width,
      optimizer=adam,
    )
  mixture = logistic_mixture(10, spec.levels, channels)
  network = PixelCNNpp(mixture.parameters, width, blocks=2, stages=depth, dropout=0.1)
  return autoregressive(network, mixture, spec=spec, optimizer=adam)


def experiment(
  data: str = "digits",
  model: Literal[*PRESETS] = "vae",
  size: int | None = None,
  steps: int = 20_000,
  batch_size: int = 64,
  learning_rate: float | None = None,
  width: int | None = None,
  ema: float = 0.999,
  mirrored: bool = False,
  microbatches: int = 1,
  tfds_dir: str | None = None,
) -> Experiment:
  """A likelihood model of images.

  Args:
    data: folder:DIR, npz:FILE, tar:DIR, tfds:NAME, hf:DIR, or digits.
    model: the VAE, whose number is a bound; Glow, of dequantized values; or PixelCNN++.
    size: side to which pictures are resized: the shorter side is scaled and the middle cut out.
    learning_rate: the highest; the model's own by default.
    width: features of the network's first convolutions; the model's own by default.
    mirrored: half of the pictures are seen mirrored.
  """
  preset = PRESETS[model]
  images = own(data, size, augment=(flip(),) if mirrored else (), data_dir=tfds_dir)
  if len(images.transforms) > 1:
    raise UserError(
      f"{data} would be resized to other than whole pixel values, whose likelihood has no meaning: leave --size out"
    )
  if model == "glow":
    images = dataclasses.replace(images, transforms=(dequantize(images.levels),))
  width = preset.width if width is None else width
  rate = preset.learning_rate if learning_rate is None else learning_rate
  return Experiment(
    method=averaged(method_of(model, images.spec, width, preset.depth, steps, rate), ema),
    data=images,
    steps=steps,
    batch_size=batch_size,
    microbatches=microbatches,
    evaluators=(likelihood("test" if images.has("test") else "train"),),
    sample_every=2_000,
    checkpoint_every=2_000,
  )
