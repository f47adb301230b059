"""Augmentations of labelled images for training, computed on the device; see `jaxgen.data.transforms` for transforms.

    data.cifar10(augment=(crop(4), flip(), rand_augment(2, 9), mixup(0.2, classes=10)))

All take images in [-1, 1] and draw their noise per example. Those that mix two examples mix example i with example
B - 1 - i of the batch, and turn the labels [B] into distributions over the classes, [B, classes].
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxgen.core.arrays import per_example
from jaxgen.core.errors import UserError
from jaxgen.core.keys import example_keys
from jaxgen.core.method import Batch
from jaxgen.data.transforms import IMAGENET_MEAN, IMAGENET_STD, Transform, scaled

Image = Float[Array, "height width channels"]


def crop(padding: int) -> Transform:
  """Pads the image with `padding` black pixels on each side and crops it back at random: He et al. 2016, 4.2."""

  def transform(key: Array, batch: Batch) -> Batch:
    image = batch["image"]
    scaled("crop", image)
    around = (padding, padding)
    padded = jnp.pad(image, [(0, 0), around, around, (0, 0)], constant_values=-1.0)

    def window(key: Array, x: Array) -> Array:
      top, left = jax.random.randint(key, (2,), 0, 2 * padding + 1)
      return jax.lax.dynamic_slice(x, (top, left, 0), image.shape[1:])

    return batch | {"image": jax.vmap(window)(example_keys(key, batch["index"]), padded)}

  return transform


def erase(
  probability: float = 0.25,
  area: tuple[float, float] = (0.02, 1 / 3),
  ratio: tuple[float, float] = (0.3, 10 / 3),
  mean: Sequence[float] = IMAGENET_MEAN,
  std: Sequence[float] = IMAGENET_STD,
) -> Transform:
  """Replaces a random box of the image by noise, with this probability: Zhong et al. 2020.

  https://arxiv.org/abs/1708.04896, as timm and DeiT implement it: up to ten boxes are drawn, their share of the image's
  area uniform in `area` and their height over width log-uniform in `ratio`; the first that is smaller than the image is
  put at a uniformly random place. If none is smaller, the image stays as it is. The noise is independent and normal in
  each value, with each channel's `mean` and `std`. These are the numbers that `transforms.standardize` takes, so that
  a network sees noise of mean 0 and standard deviation 1. std=(0, 0, 0) fills the box with one colour.

  Raises:
    UserError: the probability, the area or the ratio is outside its range.
  """
  (least, most), (low, high) = area, ratio
  if not (0 <= probability <= 1 and 0 < least <= most < 1 and 0 < low <= high):
    raise UserError(
      "erase takes a probability in [0, 1], an area LEAST to MOST within (0, 1) and a ratio LOW to HIGH, not "
      f"{probability:g}, area={area}, ratio={ratio}"
    )

  def transform(key: Array, batch: Batch) -> Batch:
    image = batch["image"]
    scaled("erase", image)
    height, width = image.shape[1:3]

    def one(key: Array, x: Image) -> Image:
      coin_key, box_key, noise_key = jax.random.split(key, 3)
      inside = _box(box_key, height, width, area, ratio)
      noise = jax.random.normal(noise_key, x.shape, x.dtype)
      m, s = (jnp.asarray(value, x.dtype) for value in (mean, std))
      hit = jax.random.bernoulli(coin_key, probability) & inside
      return jnp.where(hit[..., None], 2 * (m + s * noise) - 1, x)

    return batch | {"image": jax.vmap(one)(example_keys(key, batch["index"]), image)}

  return transform


def _box(
  key: Array, height: int, width: int, area: tuple[float, float], ratio: tuple[float, float], tries: int = 10
) -> Bool[Array, "height width"]:
  """A mask that is True inside the first of `tries` random boxes that is smaller than the image; False if none is.

  Args:
    key: the random key.
    height, width: the image's size.
    area: the least and largest share of the image's area.
    ratio: the least and largest height over width.
    tries: the number of boxes that are drawn.
  """
  u, v = jax.random.uniform(jax.random.fold_in(key, 0), (2, tries))
  size = height * width * (area[0] + u * (area[1] - area[0]))
  aspect = jnp.exp(jnp.log(ratio[0]) + v * (jnp.log(ratio[1]) - jnp.log(ratio[0])))
  h, w = (jnp.round(jnp.sqrt(x)).astype(jnp.int32) for x in (size * aspect, size / aspect))
  fits = (h < height) & (w < width)
  first = jnp.argmax(fits)
  inside = []
  for n, (side, whole) in enumerate(((h[first], height), (w[first], width))):
    start = jax.random.randint(jax.random.fold_in(key, n + 1), (), 0, jnp.maximum(whole - side, 0) + 1)
    inside.append((jnp.arange(whole) >= start) & (jnp.arange(whole) < start + side))
  return fits.any() & inside[0][:, None] & inside[1]


def mixup(alpha: float, classes: int, probability: float = 1.0) -> Transform:
  """x = l x_i + (1 - l) x_j, and likewise for the labels, with l ~ Beta(alpha, alpha): Zhang et al. 2018.

  https://arxiv.org/abs/1710.09412, eq. 1. Each example draws its own l, and is mixed with this probability; else l = 1.

  Raises:
    UserError: alpha is not positive.
  """
  _positive("mixup", alpha, probability)

  def transform(key: Array, batch: Batch) -> Batch:
    image = batch["image"]
    scaled("mixup", image)
    keys = example_keys(key, batch["index"])
    share = jax.vmap(lambda k: jax.random.beta(k, alpha, alpha, dtype=image.dtype))(keys)
    if probability < 1:
      share = jnp.where(_drawn(keys, probability), share, 1)
    mixed = _mix(share[:, None, None, None], image)
    return batch | {"image": mixed, "label": _mix(share[:, None], _distribution(batch["label"], classes, image.dtype))}

  return transform


def cutmix(alpha: float, classes: int, probability: float = 1.0) -> Transform:
  """Replaces a box of x_i by the same box of x_j, and mixes the labels by their shares of the area: Yun et al. 2019.

  https://arxiv.org/abs/1905.04899, Algorithm A1: the box has the image's proportions, a share 1 - l of its area with
  l ~ Beta(alpha, alpha), and a uniformly random centre; what reaches beyond the borders is cut off. Each example gets a
  box with this probability.

  Raises:
    UserError: alpha is not positive.
  """
  _positive("cutmix", alpha, probability)

  def transform(key: Array, batch: Batch) -> Batch:
    image = batch["image"]
    scaled("cutmix", image)

    def keep(key: Array) -> Float[Array, "height width"]:
      """1 where the image keeps its own pixels, 0 in the box."""
      share_key, center_key = jax.random.split(key)
      side = jnp.sqrt(1 - jax.random.beta(share_key, alpha, alpha, dtype=image.dtype))
      inside = []
      for n, k in zip(image.shape[1:3], jax.random.split(center_key), strict=True):
        center, half = jax.random.randint(k, (), 0, n), (n * side).astype(jnp.int32) // 2
        inside.append((jnp.arange(n) >= center - half) & (jnp.arange(n) < center + half))
      return 1 - (inside[0][:, None] & inside[1]).astype(image.dtype)

    keys = example_keys(key, batch["index"])
    mask = jax.vmap(keep)(keys)
    if probability < 1:
      mask = jnp.where(_drawn(keys, probability)[:, None, None], mask, 1)
    label = _mix(mask.mean((1, 2))[:, None], _distribution(batch["label"], classes, image.dtype))
    return batch | {"image": _mix(mask[..., None], image), "label": label}

  return transform


def either(first: Transform, second: Transform, probability: float = 0.5) -> Transform:
  """Applies one of two transforms to each example, the second with this probability: mixup or cutmix, for instance.

  Both must give the same shapes.
  """

  def transform(key: Array, batch: Batch) -> Batch:
    choice_key, key = jax.random.split(key)
    coin = jax.vmap(lambda k: jax.random.bernoulli(k, 1 - probability))(example_keys(choice_key, batch["index"]))
    pick = lambda a, b: jnp.where(per_example(coin, a), a, b)
    return jax.tree.map(pick, first(key, batch), second(key, batch))

  return transform


def rand_augment(operations: int = 2, magnitude: float = 9.0, deviation: float = 0.0) -> Transform:
  """Applies random operations out of 14, one after another, at one strength: Cubuk et al. 2020.

  https://arxiv.org/abs/1909.13719, section 3. Operations with a direction (shear, translation, rotation and, as in
  later code, brightness, colour, contrast and sharpness) take a random sign. Strengths grow linearly from no effect at
  magnitude 0 to these at magnitude 10: shear 0.3, translation by 0.45 of the image, rotation by 30 degrees, factors
  1 +- 0.9, all values solarised, 4 of 8 bits kept. Pixels from outside the image are black; interpolation is bilinear.

  Args:
    operations: the number of operations in a row.
    magnitude: their strength, 0 to 10.
    deviation: if not 0, each operation draws its magnitude from a normal distribution of this standard deviation,
      clipped to [0, 10]; timm added this.

  Raises:
    UserError: no operations, or a magnitude outside [0, 10].
  """
  if operations < 1 or not 0 <= magnitude <= 10:
    raise UserError(f"rand_augment takes 1 operation or more of magnitude 0 to 10, not {operations} of {magnitude:g}")

  def augment(key: Array, x: Image) -> Image:
    for k in jax.random.split(key, operations):
      which_key, sign_key = jax.random.split(k)
      m = jnp.asarray(magnitude / 10, x.dtype)
      if deviation:
        m = jnp.clip(m + deviation / 10 * jax.random.normal(jax.random.fold_in(k, 2), (), x.dtype), 0, 1)
      m = m * jax.random.rademacher(sign_key, (), x.dtype)
      x = jax.lax.switch(jax.random.randint(which_key, (), 0, len(OPERATIONS)), list(OPERATIONS.values()), x, m)
    return x

  def transform(key: Array, batch: Batch) -> Batch:
    scaled("rand_augment", batch["image"])
    keys = example_keys(key, batch["index"])
    return batch | {"image": jax.vmap(augment)(keys, (batch["image"] + 1) / 2) * 2 - 1}

  return transform


def _drawn(keys: Array, probability: float) -> Bool[Array, "batch"]:
  """Whether each example is drawn, independently and with this probability."""
  return jax.vmap(lambda k: jax.random.bernoulli(jax.random.fold_in(k, 1), probability))(keys)


def _positive(name: str, alpha: float, probability: float) -> None:
  if not 0 <= probability <= 1:
    raise UserError(f"{name} has a probability in [0, 1], not {probability:g}")
  if not alpha > 0:
    raise UserError(
      f"{name} draws from Beta(alpha, alpha), alpha > 0, and this is {alpha:g}: leave {name} out for none"
    )


def _mix(share: Array, x: Array) -> Array:
  return share * x + (1 - share) * x[::-1]


def _distribution(label: Array, classes: int, dtype) -> Float[Array, "batch classes"]:
  return label if label.ndim == 2 else jax.nn.one_hot(label, classes, dtype=dtype)


# RandAugment's operations, (image in [0, 1], strength in [-1, 1]) -> image in [0, 1].


def _affine(matrix, shift, x: Image) -> Image:
  """Reads x at matrix (position - center) + shift + center for each position (row, column); outside x is black."""
  height, width, _ = x.shape
  center = jnp.asarray([(height - 1) / 2, (width - 1) / 2], x.dtype)
  grid = jnp.stack(jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij"), -1).astype(x.dtype)
  at = (grid - center) @ jnp.asarray(matrix, x.dtype).T + jnp.asarray(shift, x.dtype) + center
  read = lambda channel: jax.scipy.ndimage.map_coordinates(channel, [at[..., 0], at[..., 1]], order=1)
  return jax.vmap(read, -1, -1)(x)


def gray(x: Image) -> Float[Array, "height width 1"]:
  """The luma of ITU-R 601 for three channels, else the channels' mean."""
  if x.shape[-1] != 3:
    return x.mean(-1, keepdims=True)
  return (x @ jnp.asarray([0.299, 0.587, 0.114], x.dtype))[..., None]


def _blend(dull: Array, x: Image, m: Array) -> Image:
  """Interpolates from `dull` (factor 0) to x (factor 1) and beyond; m in [-1, 1] gives factors 0.1 to 1.9."""
  factor = 1 + 0.9 * m
  return jnp.clip(dull + factor * (x - dull), 0, 1)


def _rotate(x: Image, m: Array) -> Image:
  angle = m * (jnp.pi / 6)
  c, s = jnp.cos(angle), jnp.sin(angle)
  return _affine(jnp.stack([jnp.stack([c, s]), jnp.stack([-s, c])]), jnp.zeros(2), x)


def _shear_x(x: Image, m: Array) -> Image:
  return _affine(jnp.eye(2).at[1, 0].set(0.3 * m), jnp.zeros(2), x)


def _shear_y(x: Image, m: Array) -> Image:
  return _affine(jnp.eye(2).at[0, 1].set(0.3 * m), jnp.zeros(2), x)


def _translate_x(x: Image, m: Array) -> Image:
  return _affine(jnp.eye(2), jnp.stack([jnp.zeros_like(m), 0.45 * m * x.shape[1]]), x)


def _translate_y(x: Image, m: Array) -> Image:
  return _affine(jnp.eye(2), jnp.stack([0.45 * m * x.shape[0], jnp.zeros_like(m)]), x)


def _autocontrast(x: Image, m: Array) -> Image:
  """Stretches each channel to [0, 1]; a constant channel stays as it is."""
  low, high = x.min((0, 1)), x.max((0, 1))
  return jnp.where(high > low, (x - low) / jnp.where(high > low, high - low, 1), x)


def _equalize(x: Image, m: Array) -> Image:
  """Equalises each channel's histogram, in 256 levels."""

  def channel(x: Array) -> Array:
    k = jnp.round(255 * x).astype(jnp.int32)
    counts = jnp.zeros(256, jnp.int32).at[k.ravel()].add(1)
    # Pillow's rule: the step leaves out the count of the highest level that occurs, and half a step is added first.
    last = counts[255 - jnp.argmax(counts[::-1] > 0)]
    step = (k.size - last) // 255
    table = (step // 2 + jnp.cumsum(counts) - counts) // jnp.maximum(step, 1)
    return jnp.where(step > 0, jnp.clip(table, 0, 255)[k].astype(x.dtype) / 255, x)

  return jax.vmap(channel, -1, -1)(x)


def _solarize(x: Image, m: Array) -> Image:
  return jnp.where(x >= 1 - jnp.abs(m), 1 - x, x)


def _posterize(x: Image, m: Array) -> Image:
  drop = 2 ** jnp.round(4 * jnp.abs(m)).astype(jnp.int32)
  k = jnp.round(255 * x).astype(jnp.int32)
  return (k // drop * drop).astype(x.dtype) / 255


def _color(x: Image, m: Array) -> Image:
  return _blend(gray(x), x, m)


def _contrast(x: Image, m: Array) -> Image:
  return _blend(gray(x).mean(), x, m)


def _brightness(x: Image, m: Array) -> Image:
  return _blend(jnp.zeros((), x.dtype), x, m)


def _sharpness(x: Image, m: Array) -> Image:
  """Blends with the image smoothed by a 3x3 kernel, 5 in its centre and 1 around it; border pixels stay."""
  height, width, _ = x.shape
  if min(height, width) < 3:
    return x
  rows = lambda i, j: x[1 + i : height - 1 + i, 1 + j : width - 1 + j]
  smooth = (sum(rows(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)) + 4 * rows(0, 0)) / 13
  return _blend(x.at[1:-1, 1:-1].set(smooth), x, m)


OPERATIONS = {
  "identity": lambda x, m: x,
  "autocontrast": _autocontrast,
  "equalize": _equalize,
  "rotate": _rotate,
  "solarize": _solarize,
  "color": _color,
  "posterize": _posterize,
  "contrast": _contrast,
  "brightness": _brightness,
  "sharpness": _sharpness,
  "shear_x": _shear_x,
  "shear_y": _shear_y,
  "translate_x": _translate_x,
  "translate_y": _translate_y,
}
