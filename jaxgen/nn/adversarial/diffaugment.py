"""Differentiable augmentation, of real and of generated images: Zhao et al. 2020, https://arxiv.org/abs/2006.10738.

    augment = diff_augment(color, translation, cutout)
    x = augment(keys, x)       # keys [B], x [B, H, W, C] in [-1, 1] -> [B, H, W, C]

An augmentation is (key, image [H, W, C]) -> image, differentiable in the image. Pixels that are moved or cut out become
0, which is grey, as in the authors' code.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

Image = Float[Array, "height width channels"]
Augmentation = Callable[[Key[Array, ""], Image], Image]


def color(key: Key[Array, ""], x: Image) -> Image:
  """Brightness shifted by up to 0.5, saturation times 0 to 2 and contrast times 0.5 to 1.5, each uniform."""
  brightness, saturation, contrast = jax.random.uniform(key, (3,), x.dtype)
  x = x + (brightness - 0.5)
  grey = x.mean(-1, keepdims=True)
  x = grey + (x - grey) * (2 * saturation)
  return x.mean() + (x - x.mean()) * (contrast + 0.5)


def translation(key: Key[Array, ""], x: Image, ratio: float = 1 / 8) -> Image:
  """Moves the image in both directions by whole pixels, up to this share of its size."""
  most = [int(side * ratio + 0.5) for side in x.shape[:2]]
  padded = jnp.pad(x, [(m, m) for m in most] + [(0, 0)])
  top, left = jax.random.randint(key, (2,), 0, 2 * jnp.asarray(most) + 1)
  return jax.lax.dynamic_slice(padded, (top, left, 0), x.shape)


def cutout(key: Key[Array, ""], x: Image, ratio: float = 1 / 2) -> Image:
  """Cuts out a rectangle with this share of the image's sides, whose centre is anywhere in the image."""
  inside = []
  for side, k in zip(x.shape[:2], jax.random.split(key), strict=True):
    size = int(side * ratio + 0.5)
    first = jax.random.randint(k, (), 0, side + 1 - size % 2) - size // 2
    inside.append((jnp.arange(side) >= first) & (jnp.arange(side) < first + size))
  return jnp.where((inside[0][:, None] & inside[1])[..., None], 0, x)


def diff_augment(
  *augmentations: Augmentation,
) -> Callable[[Key[Array, " batch"], Float[Array, "batch *shape"]], Float[Array, "batch *shape"]]:
  """Applies augmentations one after the other, with draws for each image from its own key."""

  def one(key: Key[Array, ""], x: Image) -> Image:
    for k, augmentation in zip(jax.random.split(key, len(augmentations)), augmentations, strict=True):
      x = augmentation(k, x)
    return x

  return jax.vmap(one)
