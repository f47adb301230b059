"""Transforms: pure functions (key, batch) -> batch that run on the device, inside the compiled step or beside it.

A batch has "image" [B, H, W, C] (integers 0..levels-1 as the source gives them, until `scale` or `dequantize` makes
floats in [-1, 1] of them) and "index" [B]. Noise is drawn per example, from `example_keys(key, batch["index"])`, so
that it does not depend on how the batch lies on devices.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxgen.core.errors import UserError
from jaxgen.core.keys import example_keys
from jaxgen.core.method import Batch

Transform = Callable[[Array, Batch], Batch]


def _floats(x: Array) -> Array:
  """As floating point of the default width: float64 under jax_enable_x64, else float32."""
  return x.astype(jnp.result_type(float))


def _integers(name: str, image: Array) -> None:
  if not jnp.issubdtype(image.dtype, jnp.integer):
    raise ValueError(f"{name} takes the integer pixel values that the source gives, not {image.dtype}: put it first")


def scaled(name: str, image: Array) -> None:
  """Refuses images that are not in [-1, 1] yet."""
  if not jnp.issubdtype(image.dtype, jnp.floating):
    raise ValueError(f"{name} takes images in [-1, 1], not {image.dtype}: put scale(levels) before it")


def _black(image: Array) -> float | int:
  return -1.0 if jnp.issubdtype(image.dtype, jnp.floating) else 0


def scale(levels: int = 256, feature: str = "image") -> Transform:
  """Integers 0..levels-1 -> floats in [-1, 1]: 2 x / (levels - 1) - 1, the ends included; `feature` may be "clip"."""

  def transform(key: Array, batch: Batch) -> Batch:
    _integers("scale", batch[feature])
    return batch | {feature: _floats(batch[feature]) * (2 / (levels - 1)) - 1}

  return transform


def dequantize(levels: int = 256) -> Transform:
  """Integers 0..levels-1 -> floats in [-1, 1): 2 (x + u) / levels - 1 with u uniform in [0, 1). In place of `scale`.

  A density p of the result bounds the probability of the integers (Theis et al. 2016, https://arxiv.org/abs/1511.01844,
  section 3.1): -log P(x) <= E_u[-log p] + D log(levels / 2) nats, D the number of values of an image.
  """

  def transform(key: Array, batch: Batch) -> Batch:
    _integers("dequantize", batch["image"])
    image = _floats(batch["image"])
    keys = example_keys(key, batch["index"])
    noise = jax.vmap(lambda k: jax.random.uniform(k, image.shape[1:], image.dtype))(keys)
    scaled = (image + noise) * (2 / levels) - 1
    below_one = jnp.nextafter(
      jnp.ones((), image.dtype), jnp.zeros((), image.dtype)
    )  # levels - 1 + u may round to levels
    return batch | {"image": jnp.minimum(scaled, below_one)}

  return transform


def binarize(threshold: float = 0.5) -> Transform:
  """Images in [-1, 1] -> {-1, 1}: 1 where the intensity (x + 1) / 2 is above the threshold."""

  def transform(key: Array, batch: Batch) -> Batch:
    image = batch["image"]
    scaled("binarize", image)
    return batch | {"image": jnp.where((image + 1) / 2 > threshold, 1, -1).astype(image.dtype)}

  return transform


def binarize_dynamic() -> Transform:
  """Images in [-1, 1] -> {-1, 1}: 1 with the probability that the intensity (x + 1) / 2 gives, drawn anew at every use.

  Salakhutdinov & Murray 2008 fixed one such draw (the data set binarized_mnist); Burda et al. 2016,
  https://arxiv.org/abs/1509.00519, section 5.1, draw anew. Likelihoods of the two do not compare.
  """

  def transform(key: Array, batch: Batch) -> Batch:
    image = batch["image"]
    scaled("binarize_dynamic", image)
    keys = example_keys(key, batch["index"])
    ones = jax.vmap(jax.random.bernoulli)(keys, (image + 1) / 2)
    return batch | {"image": jnp.where(ones, 1, -1).astype(image.dtype)}

  return transform


# Of the training pictures' red, green and blue, in [0, 1]: what most networks for ImageNet were trained with.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def standardize(mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD) -> Transform:
  """Images in [-1, 1] -> ((x + 1) / 2 - mean) / std, for each channel; put it last, after augmentations."""

  def transform(key: Array, batch: Batch) -> Batch:
    image = batch["image"]
    scaled("standardize", image)
    m, s = (jnp.asarray(v, image.dtype) for v in (mean, std))
    return batch | {"image": ((image + 1) / 2 - m) / s}

  return transform


def pad(size: int) -> Transform:
  """[B, H, W, C] -> [B, size, size, C] with black around; an odd row or column goes to the bottom or right."""

  def transform(key: Array, batch: Batch) -> Batch:
    image = batch["image"]
    if max(image.shape[1:3]) > size:
      raise ValueError(f"images of {image.shape[1]}x{image.shape[2]} do not fit into {size}x{size}: use resize")
    sides = [((size - n) // 2, size - n - (size - n) // 2) for n in image.shape[1:3]]
    return batch | {"image": jnp.pad(image, [(0, 0), *sides, (0, 0)], constant_values=_black(image))}

  return transform


def resize(size: int) -> Transform:
  """Images in [-1, 1], [B, H, W, C] -> [B, size, size, C] by linear interpolation, antialiased where it shrinks."""

  def transform(key: Array, batch: Batch) -> Batch:
    image = batch["image"]
    scaled("resize", image)
    shape = (image.shape[0], size, size, image.shape[3])
    return batch | {"image": jax.image.resize(image, shape, "linear")}

  return transform


def flip() -> Transform:
  """Mirrors each image left to right with probability 1/2."""

  def transform(key: Array, batch: Batch) -> Batch:
    image = batch["image"]
    flips = jax.vmap(jax.random.bernoulli)(example_keys(key, batch["index"]))
    return batch | {"image": jnp.where(flips[:, None, None, None], image[:, :, ::-1], image)}

  return transform


def shrink(side: int, name: str = "image") -> Transform:
  """The images made smaller, [B, side, side, C], as the entry `name`: each pixel is the mean of a square of theirs.

  Raises:
    UserError: the image's sides are no multiples of `side`.
  """

  def transform(key: Array, batch: Batch) -> Batch:
    image = batch["image"]
    scaled("shrink", image)
    n, height, width, channels = image.shape
    if side < 1 or height % side or width % side:
      raise UserError(
        f"an image of {height} x {width} does not shrink to {side} x {side} by whole numbers: choose a side that "
        "divides it"
      )
    parts = image.reshape(n, side, height // side, side, width // side, channels)
    return batch | {name: parts.mean((2, 4))}

  return transform


def low_resolution(side: int) -> Transform:
  """Adds "low" [B, side, side, C], the images made smaller by `shrink`, and "level" [B], zeros.

  Both are for super-resolution: the image is to be made from "low", which has noise of this level; see `levels`.

  Raises:
    UserError: as in `shrink`, or the image is no larger than "low".
  """
  smaller = shrink(side, "low")

  def transform(key: Array, batch: Batch) -> Batch:
    image, batch = batch["image"], smaller(key, batch)
    if side >= max(image.shape[1:3]):
      raise UserError(f"an image of {side} x {side} is to be made from a smaller one: choose a smaller side")
    return batch | {"level": jnp.zeros(len(image), image.dtype)}

  return transform


def levels(most: float = 1.0) -> Transform:
  """Draws "level" [B], uniform in [0, most]: how much noise an example's "low" gets in training.

  Saharia et al. 2022 (Imagen), https://arxiv.org/abs/2205.11487, section 2.4: noise conditioning augmentation.

  Raises:
    UserError: `most` lies outside [0, 1].
  """
  if not 0 <= most <= 1:
    raise UserError(f"a level of noise is a share from 0, none, to 1, nothing else, not {most:g}: change it")

  def transform(key: Array, batch: Batch) -> Batch:
    keys, like = example_keys(key, batch["index"]), batch["level"]
    return batch | {"level": most * jax.vmap(lambda key: jax.random.uniform(key, (), like.dtype))(keys)}

  return transform


def outlined(threshold: float = 0.1) -> Transform:
  """Images in [-1, 1] get their outlines, "control" [B, H, W, 1]: 1 where the brightness changes, 0 elsewhere.

  A pixel is on an outline where brightness in [0, 1] differs from the one below or to the right by the threshold.
  """

  def transform(key: Array, batch: Batch) -> Batch:
    scaled("outlined", batch["image"])
    bright = (batch["image"].mean(-1) + 1) / 2
    down, right = (jnp.diff(bright, axis=axis, append=jnp.take(bright, jnp.array([-1]), axis)) for axis in (1, 2))
    return batch | {"control": (jnp.hypot(down, right) > threshold).astype(bright.dtype)[..., None]}

  return transform
