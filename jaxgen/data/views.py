"""Views of a picture for learning without labels: random parts, colours, blur, all computed on the device.

    data.digits(augment=(two_views((resized_crop(), color_jitter(0.4, 0.4))),))

The transforms take images in [-1, 1] and draw per example, as those of `jaxgen.data.augment`. Each is torchvision's
operation of the same name on floats in [0, 1], but for the order of random draws. `two_views` applies a row of them
twice and puts both results into the batch as "views", [B, 2, H, W, C]; "image" stays as it was.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgen.core.errors import UserError
from jaxgen.core.keys import example_keys
from jaxgen.core.method import Batch
from jaxgen.data.augment import Image, gray
from jaxgen.data.transforms import Transform, flip, scaled

VIEWS = "views"  # the batch's entry, [B, V, H, W, C]
TRIES = 10
Number = float | Array


def two_views(first: Sequence[Transform], second: Sequence[Transform] | None = None) -> Transform:
  """Adds "views", [B, 2, H, W, C]: the image through the first row of transforms, and through the second.

  Args:
    first: applied in this order.
    second: those of the second view, with other draws; None: the first's.

  Raises:
    UserError: the two rows make pictures of different sizes.
  """
  rows = (tuple(first), tuple(first if second is None else second))

  def transform(key: Array, batch: Batch) -> Batch:
    scaled("two_views", batch["image"])
    seen = []
    for v, row in enumerate(rows):
      one, view_key = batch, jax.random.fold_in(key, v)
      for i, t in enumerate(row):
        one = t(jax.random.fold_in(view_key, i), one)
      seen.append(one["image"])
    if seen[0].shape != seen[1].shape:
      sizes = [f"{x.shape[1]} x {x.shape[2]} x {x.shape[3]}" for x in seen]
      raise UserError(f"the two views are of {sizes[0]} and of {sizes[1]}: give both the same size")
    return batch | {VIEWS: jnp.stack(seen, axis=1)}

  return transform


def simclr_views(
  size: int | None = None, *, strength: float = 1.0, blur: bool = True, least: float = 0.08
) -> Transform:
  """SimCLR's two views: Chen et al. 2020, https://arxiv.org/abs/2002.05709, Appendix A.

  A part of 8 to 100 % of the area, a flip, with probability 0.8 colours jittered by (0.8, 0.8, 0.8, 0.2) times the
  strength, with probability 0.2 no colours, with probability 1/2 blur.

  Args:
    size: the views' height and width; None: the image's.
    strength: of the colours; 1 for ImageNet, 1/2 for CIFAR-10 (Appendix B.9).
    blur: the paper leaves it out for CIFAR-10.
    least: smallest share of the area.
  """
  s = strength
  colours = color_jitter(0.8 * s, 0.8 * s, 0.8 * s, 0.2 * s, probability=0.8)
  return two_views((resized_crop(size, (least, 1.0)), flip(), colours, grayscale(0.2), *([gaussian_blur()] * blur)))


def byol_views(size: int | None = None, *, blur: bool = True, least: float = 0.08) -> Transform:
  """BYOL's two views, which Barlow Twins, VICReg and MoCo v3 took over: Grill et al. 2020, Appendix B, Table 6.

  https://arxiv.org/abs/2006.07733. The first is always blurred, the second with probability 0.1; that one is solarised
  with probability 0.2.

  Args:
    size, least: as in `simclr_views`.
    blur: leave it out for small pictures.
  """

  def row(blurred: float, solarized: float) -> list[Transform]:
    colours = color_jitter(0.4, 0.4, 0.2, 0.1, probability=0.8)
    return [
      resized_crop(size, (least, 1.0)),
      flip(),
      colours,
      grayscale(0.2),
      *([gaussian_blur(probability=blurred)] * blur),
      *([solarize(solarized)] * (solarized > 0)),
    ]

  return two_views(row(1.0, 0.0), row(0.1, 0.2))


def _each(name: str, of: Callable[[Array, Image], Array], probability: float = 1.0) -> Transform:
  """A transform of images in [0, 1], (key, [H, W, C]) -> [H, W, C], applied to each example with this probability."""
  if not 0 <= probability <= 1:
    raise UserError(f"{name} has a probability in [0, 1], not {probability:g}")

  def one(key: Array, x: Image) -> Float[Array, "rows columns channels"]:
    coin_key, key = jax.random.split(key)
    y = of(key, (x + 1) / 2) * 2 - 1
    return y if probability == 1 else jnp.where(jax.random.bernoulli(coin_key, probability), y, x)

  def transform(key: Array, batch: Batch) -> Batch:
    scaled(name, batch["image"])
    return batch | {"image": jax.vmap(one)(example_keys(key, batch["index"]), batch["image"])}

  return transform


def crop_box(
  key: Array, height: int, width: int, area: tuple[float, float], ratio: tuple[float, float]
) -> tuple[Array, Array, Array, Array]:
  """(top, left, height, width) of a random part, in whole pixels, as torchvision's RandomResizedCrop draws it.

  Of ten parts with areas uniform in `area` and ratios of width to height log-uniform in `ratio`, the first that fits;
  where none does, the largest in the middle whose ratio is allowed.
  """
  u, v = jax.random.uniform(jax.random.fold_in(key, 0), (2, TRIES), minval=jnp.zeros((2, 1)))
  size = height * width * (area[0] + u * (area[1] - area[0]))
  aspect = jnp.exp(jnp.log(ratio[0]) + v * (jnp.log(ratio[1]) - jnp.log(ratio[0])))
  w, h = (jnp.round(jnp.sqrt(x)).astype(jnp.int32) for x in (size * aspect, size / aspect))
  fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
  first, any_fits = jnp.argmax(fits), fits.any()
  h = jnp.where(any_fits, h[first], min(height, round(width / ratio[0])))
  w = jnp.where(any_fits, w[first], min(width, round(height * ratio[1])))
  place = lambda n, whole, side: jnp.where(
    any_fits, jax.random.randint(jax.random.fold_in(key, n), (), 0, whole - side + 1), (whole - side) // 2
  )
  return place(1, height, h), place(2, width, w), h, w


def resampling(start: Array, length: Array, whole: int, size: int, method: Literal["bilinear", "bicubic"], dtype):
  """Weights [size, whole] that resize the pixels start .. start + length - 1 of a row of `whole` to `size` pixels.

  As Pillow and torchvision with antialias: the filter is as wide as the scale where it shrinks, pixels beside the part
  have no weight, and weights sum to 1. Bicubic is Keys' filter with a = -1/2.
  """
  scale = length.astype(dtype) / size
  wide = jnp.maximum(scale, 1)
  center = start + (jnp.arange(size, dtype=dtype) + 0.5) * scale  # of each new pixel, among the old pixels' edges
  pixel = jnp.arange(whole, dtype=dtype)
  d = jnp.abs(pixel + 0.5 - center[:, None]) / wide
  if method == "bilinear":
    weights = jnp.maximum(1 - d, 0)
  else:
    near, far = (1.5 * d - 2.5) * d**2 + 1, ((-0.5 * d + 2.5) * d - 4) * d + 2
    weights = jnp.where(d < 1, near, jnp.where(d < 2, far, 0))
  weights = jnp.where((pixel >= start) & (pixel < start + length), weights, 0)
  return weights / weights.sum(1, keepdims=True)


def crop_and_resize(
  x: Image, box: tuple[Array, Array, Array, Array], size: tuple[int, int], method: str
) -> Float[Array, "rows columns channels"]:
  """The part (top, left, height, width) of an image, in the size (height, width)."""
  top, left, h, w = box
  rows = resampling(top, h, x.shape[0], size[0], method, x.dtype)
  columns = resampling(left, w, x.shape[1], size[1], method, x.dtype)
  return jnp.einsum("ah,bw,hwc->abc", rows, columns, x)  # a, b: the new rows and columns


def resized_crop(
  size: int | None = None,
  area: tuple[float, float] = (0.08, 1.0),
  ratio: tuple[float, float] = (3 / 4, 4 / 3),
  method: Literal["bilinear", "bicubic"] = "bicubic",
) -> Transform:
  """A random part of the image, stretched to a size: Szegedy et al. 2015, https://arxiv.org/abs/1409.4842, section 6.

  Args:
    size: height and width of the result; None: the image's.
    area: least and largest share of the image's area.
    ratio: least and largest width over height.
    method: the filter; values beyond black and white, which bicubic makes, are cut off.

  Raises:
    UserError: areas or ratios are out of range.
  """
  if not (0 < area[0] <= area[1] <= 1 and 0 < ratio[0] <= ratio[1]):
    raise UserError(
      "resized_crop takes an area LEAST to MOST within (0, 1] and a ratio LOW to HIGH, not "
      f"area={tuple(area)}, ratio={tuple(ratio)}"
    )

  def one(key: Array, x: Image) -> Float[Array, "rows columns channels"]:
    box = crop_box(key, *x.shape[:2], area, ratio)
    return jnp.clip(crop_and_resize(x, box, (size, size) if size else x.shape[:2], method), 0, 1)

  return _each("resized_crop", one)


def brightness(x: Image, factor: Number) -> Image:
  return jnp.clip(x * factor, 0, 1)


def contrast(x: Image, factor: Number) -> Image:
  mean = gray(x).mean()
  return jnp.clip(mean + factor * (x - mean), 0, 1)


def saturation(x: Image, factor: Number) -> Image:
  return jnp.clip(gray(x) + factor * (x - gray(x)), 0, 1)


def hue(x: Image, turn: Number) -> Image:
  """Adds `turn`, a share of the whole circle, to the hue; an image without three channels has none."""
  if x.shape[-1] != 3:
    return x
  high, low = x.max(-1), x.min(-1)
  spread = high - low
  some = jnp.where(spread > 0, spread, 1)
  r, g, b = ((high - x[..., i]) / some for i in range(3))
  angle = jnp.where(
    high == x[..., 0], b - g, jnp.where(high == x[..., 1], 2 + r - b, 4 + g - r)
  )  # in sixths of the circle
  angle = jnp.where(spread > 0, angle, 0) + 6 * turn
  # f(n) = V - V S max(0, min(k, 4 - k, 1)) with k = (n + angle) mod 6, for red, green, blue: n = 5, 3, 1
  k = (jnp.asarray([5.0, 3.0, 1.0], x.dtype) + angle[..., None]) % 6
  return high[..., None] - spread[..., None] * jnp.clip(jnp.minimum(k, 4 - k), 0, 1)


def color_jitter(
  brightness_by: float, contrast_by: float, saturation_by: float = 0.0, hue_by: float = 0.0, probability: float = 1.0
) -> Transform:
  """Brightness, contrast, saturation and hue, in random order, each example's own.

  Args:
    brightness_by, contrast_by, saturation_by: factors are uniform in [max(0, 1 - by), 1 + by].
    hue_by: the turn is uniform in [-by, by], in whole circles, at most 1/2.
    probability: that an example is changed.

  Raises:
    UserError: an amount is out of range.
  """
  amounts = brightness_by, contrast_by, saturation_by
  if min(amounts) < 0 or not 0 <= hue_by <= 0.5:
    raise UserError(f"color_jitter takes amounts of 0 or more, a hue of at most 1/2, not {(*amounts, hue_by)}")

  def one(key: Array, x: Image) -> Image:
    order_key, *keys = jax.random.split(key, 5)
    operations = []
    for k, by, of in zip(keys, (*amounts, hue_by), (brightness, contrast, saturation, hue), strict=True):
      low, high = (-by, by) if of is hue else (max(0.0, 1 - by), 1 + by)
      strength = jax.random.uniform(k, (), x.dtype, low, high)
      if by > 0 and (x.shape[-1] == 3 or of in (brightness, contrast)):
        operations.append(lambda y, of=of, strength=strength: of(y, strength))
    for which in jax.random.permutation(order_key, len(operations)) if operations else ():
      x = jax.lax.switch(which, operations, x)
    return x

  return _each("color_jitter", one, probability)


def grayscale(probability: float = 0.2) -> Transform:
  """The image without colours, in as many channels, with this probability."""
  return _each("grayscale", lambda key, x: jnp.broadcast_to(gray(x), x.shape), probability)


def blurred(x: Image, sigma: Number, radius: int) -> Image:
  """A Gaussian filter of 2 radius + 1 pixels, with the image mirrored at its borders."""
  weights = jnp.exp(-0.5 * (jnp.arange(-radius, radius + 1, dtype=x.dtype) / sigma) ** 2)
  weights = weights / weights.sum()
  for axis in (0, 1):
    around = [(radius, radius) if a == axis else (0, 0) for a in range(3)]
    padded, n = jnp.pad(x, around, mode="reflect"), x.shape[axis]
    x = sum(w * jax.lax.slice_in_dim(padded, i, i + n, axis=axis) for i, w in enumerate(weights))
  return x


def gaussian_blur(sigma: tuple[float, float] = (0.1, 2.0), kernel: float = 0.1, probability: float = 0.5) -> Transform:
  """Blurs with a standard deviation that is uniform in `sigma`, in pixels: SimCLR, Appendix A.

  Args:
    sigma: least and largest standard deviation.
    kernel: the filter's width as a share of the image's height, rounded to an odd number of 3 or more.
    probability: that an example is blurred.

  Raises:
    UserError: a standard deviation of 0 or less.
  """
  if not 0 < sigma[0] <= sigma[1]:
    raise UserError(f"gaussian_blur draws its deviation from LEAST to MOST, above 0, not {tuple(sigma)}")

  def one(key: Array, x: Image) -> Image:
    radius = min(max(1, round(kernel * x.shape[0]) // 2), min(x.shape[:2]) - 1)
    return blurred(x, jax.random.uniform(key, (), x.dtype, *sigma), radius)

  return _each("gaussian_blur", one, probability)


def solarize(probability: float = 0.2, threshold: float = 0.5) -> Transform:
  """Inverts values of the threshold, in [0, 1], or more, with this probability."""
  return _each("solarize", lambda key, x: jnp.where(x >= threshold, 1 - x, x), probability)


def rotations(x: Float[Array, "batch height width channels"]) -> Float[Array, "turns height width channels"]:
  """Every picture turned by 0, 90, 180 and 270 degrees against the clock: [4 B, ...], four of a picture in a row.

  Raises:
    UserError: pictures that are not square.
  """
  if x.shape[1] != x.shape[2]:
    raise UserError(
      f"pictures of {x.shape[1]} x {x.shape[2]} change their shape when they are rotated: crop them to squares"
    )
  turned = jnp.stack([jnp.rot90(x, turns, axes=(1, 2)) for turns in range(4)], axis=1)
  return turned.reshape(-1, *x.shape[1:])
