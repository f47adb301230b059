"""The networks of Stable Diffusion 1, 2 and XL: sizes as JSON, and the networks with these sizes.

    networks = built(PRESETS["sd1"], dtype, dtype)                   the U-Net, the first stage, the text encoders

`interop.pipelines` reads sizes and weights of files.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jaxgen.core.errors import UserError
from jaxgen.methods.diffusion.text_to_image import Encoder
from jaxgen.nn.autoencoders.ldm import KLAutoencoder
from jaxgen.nn.blocks.activations import gelu, quick_gelu
from jaxgen.nn.joint.text import TextTower, clip
from jaxgen.nn.unets.cross import SIZES, CrossUNet

NETWORK, STAGE, TEXTS = "network", "first_stage", ("text_encoder", "text_encoder_2")
ACTIVATIONS = {"quick_gelu": quick_gelu, "gelu": gelu}


class Tower(NamedTuple):
  """A text encoder.

  Attributes:
    penultimate, pooled, end, pad: as in `text_to_image.Encoder`.
    largest: the text is read out at its largest token, as OpenAI's code does, and not at its first end.
  """

  width: int = 768
  heads: int = 12
  depth: int = 12
  activation: str = "quick_gelu"
  hidden: int = 3072
  vocabulary: int = 49_408
  context: int = 77
  projection: int | None = None
  penultimate: bool = False
  pooled: bool = False
  end: int = 49_407
  pad: int = 49_407
  largest: bool = True


class Description(NamedTuple):
  """The sizes of a model's networks; the defaults are Stable Diffusion 1's.

  Attributes:
    unet: attributes of `CrossUNet`.
    inputs: the U-Net's input channels: 4, or 9 for inpainting.
    linear: as in `cross_unet.diffusers`.
    vae: attributes of `KLAutoencoder`.
    scale, shift: of its latents.
    texts: the text encoders.
    start: the token that begins a text.
    zeros: "no text" is zeros and not the empty text.
    prediction: the U-Net's prediction, "eps" or "v".
    betas: number of steps, the first and the last beta of the schedule, whose square roots lie on a line.
    zero_snr: the schedule is rescaled so that it ends in pure noise.
    side: of the pictures that it was trained on, in pixels.
  """

  unet: Mapping[str, Any] = SIZES["SD 1"]
  inputs: int = 4
  linear: bool = False
  vae: Mapping[str, Any] = dict()  # noqa: C408, RUF012 - JSON is made of it
  scale: float = 0.18215
  shift: float = 0.0
  texts: Sequence[Tower] = (Tower(),)
  start: int = 49_406
  zeros: bool = False
  prediction: str = "eps"
  betas: Sequence[float] = (1000, 0.00085, 0.012)
  zero_snr: bool = False
  side: int = 512

  @property
  def factor(self) -> int:
    """Pixels of a latent's side."""
    return 2 ** (len(self.vae.get("multipliers", KLAutoencoder.multipliers)) - 1)

  @property
  def inpaints(self) -> bool:
    return self.inputs > self.vae.get("latent", KLAutoencoder.latent)

  def to_json(self) -> str:
    return json.dumps({**self._asdict(), "texts": [tower._asdict() for tower in self.texts]})

  @classmethod
  def of_json(cls, text: str) -> "Description":
    """Raises a UserError where the text is no description."""
    try:
      found = json.loads(text)
      tuples = lambda tree: {name: tuple(v) if isinstance(v, list) else v for name, v in tree.items()}
      texts = tuple(Tower(**tower) for tower in found.pop("texts"))
      return cls(**{**found, "unet": tuples(found["unet"]), "vae": tuples(found["vae"]), "texts": texts})
    except (ValueError, TypeError, KeyError, AttributeError) as error:
      raise UserError(
        f"--model is written by `jaxgen import`, and this is no description of a model: {error}"
      ) from None


_H = Tower(1024, 16, 23, "gelu", 4096, pad=0)
_G = Tower(1280, 20, 32, "gelu", 5120, projection=1280, penultimate=True, pooled=True, pad=0)
_SD2 = Description(SIZES["SD 2"], linear=True, texts=(_H,))
PRESETS = {
  "sd1": Description(),
  "sd2": _SD2._replace(prediction="v", side=768),
  "sd2_base": _SD2,
  "sdxl": Description(
    SIZES["SDXL"], linear=True, scale=0.13025, texts=(Tower(penultimate=True), _G), zeros=True, side=1024
  ),
  "tiny": Description(
    dict(channels=8, multipliers=(1, 2), blocks=1, depths=(1, 0), heads=2, groups=4),
    vae=dict(channels=8, multipliers=(1, 2), blocks=1, groups=4),
    texts=(Tower(8, 2, 2, hidden=16, vocabulary=600, end=599, pad=599),),
    start=598,
    side=16,
  ),
}


class Networks(NamedTuple):
  unet: CrossUNet
  vae: KLAutoencoder
  encoders: dict[str, Encoder]


def built(description: Description, dtype: Any, param_dtype: Any, remat: bool = False) -> Networks:
  """The networks.

  Args:
    dtype: of the computation of U-Net and first stage.
    param_dtype: of all parameters, and of the text encoders' computation.
    remat: as in the networks.
  """
  options = dict(dtype=dtype, param_dtype=param_dtype, remat=remat)
  latent = description.vae.get("latent", KLAutoencoder.latent)

  def encoder(tower: Tower) -> Encoder:
    sizes = tower.width, tower.heads, tower.depth, ACTIVATIONS[tower.activation], tower.context, tower.hidden
    end = None if tower.largest else tower.end
    network = TextTower(tower.vocabulary, clip(*sizes, param_dtype), tower.projection, end=end)
    return Encoder(network, tower.penultimate, tower.pooled, tower.end, tower.pad)

  return Networks(
    CrossUNet(**description.unet, out_channels=latent, **options),
    KLAutoencoder(**description.vae, **options),
    {name: encoder(tower) for name, tower in zip(TEXTS, description.texts, strict=False)},
  )
