"""Dual encoders: a tower for pictures and one for texts, whose features are compared by their cosine.

CLIP: Radford et al. 2021, https://arxiv.org/abs/2103.00020, section 2.3 and Figure 3. SigLIP: Zhai et al. 2023,
https://arxiv.org/abs/2303.15343, Algorithm 1.

    network = clip("B/32")                   151,277,313 parameters, quick GELU: OpenAI's
    network = clip("H/14")                   986,109,441, exact GELU: OpenCLIP's
    joint = network.apply(variables, pictures, tokens)
    joint.image @ joint.text.T * jnp.exp(joint.log_scale)        logits of every picture with every text

Pictures are normalised as a network's weights want them: OpenAI's by `MEAN` and `STD`, of values in [0, 1].
"""

import math
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from jaxgen.core.arrays import unit
from jaxgen.core.errors import UserError
from jaxgen.nn.blocks.activations import gelu, gelu_tanh, quick_gelu
from jaxgen.nn.blocks.attention import Index
from jaxgen.nn.blocks.layers import Dense
from jaxgen.nn.joint import text as texts
from jaxgen.nn.joint.modified_resnet import ModifiedResNet
from jaxgen.nn.joint.text import TextTower
from jaxgen.nn.vision.vit import Pictures, ViT

Dtype = Any
Texts = Int[Array, "texts tokens"]
ACTIVATIONS = {"quick": quick_gelu, "exact": gelu, "tanh": gelu_tanh}
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # of OpenAI's preprocessing


class Joint(NamedTuple):
  """The output of a dual encoder.

  Attributes:
    image, text: features of length 1.
    log_scale: the logarithm of the inverse temperature.
    bias: a number that is added to every logit; None: nothing.
  """

  image: Float[Array, "batch features"]
  text: Float[Array, "texts features"]
  log_scale: Float[Array, ""]
  bias: Float[Array, ""] | None = None


class DualEncoder(nn.Module):
  """Two towers, each followed by a projection into the space that they share.

  Attributes:
    image: the tower for pictures, with a method features(pictures, index) -> [B, width].
    text: the tower for texts, with its own projection.
    projection: width of a dense layer without bias after the picture's features; None: there is none.
    log_scale, bias: initial values; bias None: there is no bias.
  """

  image: nn.Module
  text: TextTower
  projection: int | None = None
  log_scale: float = math.log(1 / 0.07)
  bias: float | None = None
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(
    self, pictures: Pictures, tokens: Texts, mask: Bool[Array, "texts tokens"] | None = None, index: Index = None
  ) -> Joint:
    """Features of pictures and texts, which need not be equally many.

    Args:
      pictures: the pictures.
      tokens: the texts' tokens.
      mask: the tokens that are seen; None: all.
      index: the examples' positions in the global batch, in training; None: evaluation.
    """
    image, text = self.of_pictures(pictures, index), self.of_texts(tokens, mask, index)
    if image.shape[-1] != text.shape[-1]:
      raise UserError(
        f"pictures have {image.shape[-1]} features and texts {text.shape[-1]}: change a projection, they share a space"
      )
    scalar = lambda name, value: self.param(name, nn.initializers.constant(value), (), self.param_dtype)
    bias = None if self.bias is None else scalar("bias", self.bias)
    return Joint(image, text, scalar("log_scale", self.log_scale), bias)

  @nn.compact
  def of_pictures(self, pictures: Pictures, index: Index = None) -> Float[Array, "batch features"]:
    """Features of pictures, of length 1."""
    x = self.image.features(pictures, index)
    if self.projection is not None:
      options = dict(dtype=self.dtype, param_dtype=self.param_dtype)
      init = nn.initializers.normal(x.shape[-1] ** -0.5)
      x = Dense(self.projection, use_bias=False, kernel_init=init, name="image_projection", **options)(x)
    return unit(x)

  def of_texts(
    self, tokens: Texts, mask: Bool[Array, "texts tokens"] | None = None, index: Index = None
  ) -> Float[Array, "texts features"]:
    """Features of texts, of length 1."""
    return unit(self.text(tokens, mask, index).whole)


class Size(NamedTuple):
  """A published CLIP.

  Attributes:
    features: width of the shared space.
    image: options of its `ViT` or `ModifiedResNet`.
    text: width, heads and depth of its text tower.
    activation: "quick" or "exact", as it was trained.
  """

  features: int
  image: dict[str, Any]
  text: tuple[int, int, int]
  activation: str = "quick"


def _resnet(depths: tuple[int, ...], width: int, side: int = 224) -> dict[str, Any]:
  return dict(depths=depths, width=width, heads=width // 2, side=side)


# Parameters with 49,408 tokens and pictures of 224 x 224, or those in the options.
CLIP = {
  "B/32": Size(512, dict(patch=32, width=768, depth=12, heads=12), (512, 8, 12)),  # 151,277,313
  "B/16": Size(512, dict(patch=16, width=768, depth=12, heads=12), (512, 8, 12)),  # 149,620,737
  "L/14": Size(768, dict(patch=14, width=1024, depth=24, heads=16), (768, 12, 12)),  # 427,616,513
  "H/14": Size(1024, dict(patch=14, width=1280, depth=32, heads=16), (1024, 16, 24), "exact"),  # 986,109,441
  "RN50": Size(1024, _resnet((3, 4, 6, 3), 64), (512, 8, 12)),  # 102,007,137
  "RN101": Size(512, _resnet((3, 4, 23, 3), 64), (512, 8, 12)),
  "RN50x4": Size(640, _resnet((4, 6, 10, 6), 80, 288), (640, 10, 12)),
  "RN50x16": Size(768, _resnet((6, 8, 18, 8), 96, 384), (768, 12, 12)),
  "RN50x64": Size(1024, _resnet((3, 15, 36, 10), 128, 448), (1024, 16, 12)),
}


def clip(size: str | Size, activation: str | None = None, dtype: Dtype = jnp.float32, **text: Any) -> DualEncoder:
  """A CLIP of a published size, or of another.

  Args:
    size: a name in `CLIP`, or a `Size`.
    activation: a name in `ACTIVATIONS`; None: that of the size.
    **text: other options of `TextTower`, and `context`, the texts' largest number of tokens.

  Raises:
    UserError: there is no such size or activation.
  """
  if isinstance(size, str) and size not in CLIP:
    raise UserError(f"there is no CLIP {size!r}: it is one of {', '.join(CLIP)}")
  chosen = CLIP[size] if isinstance(size, str) else size
  name, dtypes = activation or chosen.activation, dict(dtype=dtype, param_dtype=dtype)
  if name not in ACTIVATIONS:
    raise UserError(f"there is no activation {name!r}: it is one of {', '.join(ACTIVATIONS)}")
  f = ACTIVATIONS[name]
  tower = TextTower(
    options=texts.clip(*chosen.text, f, text.pop("context", 77), dtype=dtype), projection=chosen.features, **text
  )
  if "depths" in chosen.image:
    return DualEncoder(ModifiedResNet(features_out=chosen.features, **chosen.image, **dtypes), tower, **dtypes)
  width, depth = chosen.image["width"], chosen.image["depth"]
  image = ViT(
    **chosen.image, eps=1e-5, activation=f, patch_bias=False, norm_first=True,
    kernel_init=texts.clip_kernels(width, depth), head_init=nn.initializers.normal(width**-0.5), **dtypes,
  )  # fmt: skip
  return DualEncoder(image, tower, chosen.features, **dtypes)


SIGLIP = {
  "B/16": dict(patch=16, width=768, depth=12, heads=12, hidden=3072),  # 203,155,970, as transformers counts
  "L/16": dict(patch=16, width=1024, depth=24, heads=16, hidden=4096),
  "So400m/14": dict(patch=14, width=1152, depth=27, heads=16, hidden=4304),
}


def siglip(size: str | dict[str, Any], vocabulary: int = 32_000, context: int = 64, dtype: Dtype = jnp.float32):
  """A SigLIP of a published size, or of another: a `DualEncoder` whose towers are equally wide.

  Its temperature starts at 1/10 and its bias at -10: section 3.2.

  Args:
    size: a name in `SIGLIP`, or the options of the picture's `ViT`, `hidden` included.
    vocabulary: number of tokens.
    context: the texts' number of tokens.

  Raises:
    UserError: there is no such size.
  """
  if isinstance(size, str) and size not in SIGLIP:
    raise UserError(f"there is no SigLIP {size!r}: it is one of {', '.join(SIGLIP)}")
  o, dtypes = SIGLIP[size] if isinstance(size, str) else size, dict(dtype=dtype, param_dtype=dtype)
  options = texts.siglip(o["width"], o["heads"], o["depth"], o["hidden"], context, dtype=dtype)
  text = TextTower(vocabulary, options, o["width"], projection_bias=True, causal=False, read="last")
  image = ViT(**o, pool="attention", activation=gelu_tanh, **dtypes)
  return DualEncoder(image, text, None, math.log(10.0), -10.0, **dtypes)
