"""Resizing of pictures exactly as the programs do that published numbers come from.

The filters differ in where a pixel's centre lies, in whether the kernel widens where the picture shrinks
(antialiasing), and in what is rounded:

    tf1                 TensorFlow 1's ResizeBilinear: pixel i is at i * old / new; not antialiased. In the FID graph
    bilinear            PyTorch's interpolate: centres at (i + 1/2) * old / new - 1/2; not antialiased. pytorch-fid
    clean               Pillow's bicubic of each channel in float32, clipped to 0..255. clean-fid
    antialias_bicubic   PyTorch's interpolate with antialias=True; neither rounded nor clipped. DINOv2 in EDM2
    pil_bilinear, pil_bicubic, pil_lanczos, pil_box
                        Pillow's of 8-bit pictures, by Pillow: torchvision's transforms of pictures from files

The first four are matrices [new, old] of weights, `weights`, along the width and then the height. Pillow rounds 8-bit
pictures to levels in between, and which way it goes first depends on its version where a picture shrinks; this changes
single values of noise by more than ten levels.

Parmar et al. 2022, https://arxiv.org/abs/2104.11222, show how much a number depends on this choice.
"""

import functools
from collections.abc import Callable

import numpy as np
from jaxtyping import Float, UInt8

from jaxgen.core.errors import UserError


def _triangle(x: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
  return np.maximum(1 - np.abs(x), 0)


def _cubic(x: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
  """Keys 1981, equation 4, with a = -1/2."""
  x = np.abs(x)
  inner, outer = 1 + x**2 * (1.5 * x - 2.5), 2 - x * (4 - x * (2.5 - 0.5 * x))
  return np.where(x < 1, inner, np.where(x < 2, outer, 0))


KERNELS: dict[str, tuple[Callable, int]] = {"bilinear": (_triangle, 1), "bicubic": (_cubic, 2)}  # and half their width


@functools.lru_cache(maxsize=256)  # pictures of one data set share a few sizes
def weights(old: int, new: int, kernel: str, antialias: bool = True) -> Float[np.ndarray, "new old"]:
  """The weights of the old pixels in each new one, as Pillow has them (and PyTorch, with antialias).

  Args:
    kernel: "bilinear" or "bicubic"; or "tf1".
    antialias: whether the kernel widens where the picture shrinks; weights are then of the pixels within the picture
      alone. Without, positions beyond the border are the border's.
  """
  if kernel == "tf1":
    position = np.arange(new, dtype=np.float32) * np.float32(old / new)
    low = position.astype(int)
    part, found = position - low.astype(np.float32), np.zeros((new, old), np.float32)
    found[np.arange(new), low] += 1 - part
    found[np.arange(new), np.minimum(low + 1, old - 1)] += part
    return found
  function, half = KERNELS[kernel]
  scale = old / new
  centre = (np.arange(new) + 0.5) * scale
  if antialias:
    widened = max(scale, 1.0)
    first = np.maximum((centre - half * widened + 0.5).astype(int), 0)
    last = np.minimum((centre + half * widened + 0.5).astype(int), old)
    pixels = np.arange(old)
    found = function((pixels + 0.5 - centre[:, None]) / widened)
    found *= (pixels >= first[:, None]) & (pixels < last[:, None])
    return found / found.sum(1, keepdims=True)
  position = np.maximum(centre - 0.5, 0) if kernel == "bilinear" else centre - 0.5
  start, found = np.floor(position).astype(int), np.zeros((new, old))
  for offset in range(1 - half, half + 1):
    pixel = start + offset
    np.add.at(found, (np.arange(new), np.clip(pixel, 0, old - 1)), function(position - pixel))
  return found


FILTERS = ("tf1", "bilinear", "clean", "antialias_bicubic", "pil_bilinear", "pil_bicubic", "pil_lanczos", "pil_box")
MATRICES = {
  "tf1": ("tf1", False),
  "bilinear": ("bilinear", False),
  "clean": ("bicubic", True),
  "antialias_bicubic": ("bicubic", True),
}


def resize(
  picture: UInt8[np.ndarray, "height width channels"], size: tuple[int, int], filter: str
) -> Float[np.ndarray, "new_height new_width channels"]:
  """A picture of 1, 3 or 4 channels at another size, as float32 in 0..255; `antialias_bicubic` may exceed that.

  Args:
    size: height and width.
    filter: one of FILTERS.

  Raises:
    UserError: there is no such filter.
  """
  if filter not in FILTERS:
    raise UserError(f"there is no filter {filter!r} of resizing: they are {', '.join(FILTERS)}")
  if filter.startswith("pil_"):
    from PIL import Image

    image = Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture)
    found = np.asarray(image.resize(size[::-1], Image.Resampling[filter.removeprefix("pil_").upper()]), np.float32)
    return found.reshape(*size, picture.shape[-1])
  rows, columns = (weights(old, new, *MATRICES[filter]) for old, new in zip(picture.shape[:2], size, strict=True))
  # h, w: old rows and columns; p, q: new columns and rows
  x = np.einsum("pw,hwc->hpc", columns, picture.astype(np.float64), optimize=True)
  x = np.einsum("qh,hpc->qpc", rows, x, optimize=True).astype(np.float32)
  return np.clip(x, 0, 255) if filter == "clean" else x
