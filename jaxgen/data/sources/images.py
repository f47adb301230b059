"""Encoded images -> arrays: what folders and tensorflow-datasets hold."""

import numpy as np
from jaxtyping import UInt8

from jaxgen.core.errors import UserError
from jaxgen.data.sources.base import Fit

MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # Pillow's name of 8-bit images by number of channels
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})
# What may be inside, whatever a file is called. Pillow knows more, and gives some of it (EPS) to other programs.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
BACKGROUND = (255, 255, 255)  # what transparent pixels are seen on


def decode(file, name: str, shape: tuple[int, ...], fit: Fit | None) -> UInt8[np.ndarray, "height width channels"]:
  """An encoded image as an array of shape [H, W, C].

  With one or three channels, transparent pixels are seen on white: what colours lie hidden under them means nothing.

  Args:
    file: a path or an open file.
    name: what the image is called in errors.
    shape: [H, W, C].
    fit: how it is brought to that size; None: it keeps its own H and W.

  Raises:
    UserError: it is no image of the formats above, is damaged, has more than 8 bits a channel, or does not fit.
  """
  from PIL import Image, ImageOps

  channels = shape[-1]
  if channels not in MODES:
    raise UserError(f"images have 1, 3 or 4 channels, not {channels}: change the config's shape")
  try:
    with Image.open(file, formats=FORMATS) as image:
      if image.mode.startswith(("I", "F")):
        raise UserError(f"{name} has more than 8 bits a channel (mode {image.mode}): convert it to 8 bits")
      if fit is not None:
        image = ImageOps.exif_transpose(image)
      if channels < 4 and image.has_transparency_data:
        seen = Image.new("RGBA", image.size, BACKGROUND)
        image = Image.alpha_composite(seen, image.convert("RGBA"))
      image = image.convert(MODES[channels])
      array = np.array(image if fit is None else _fit(image, shape, fit, name))
  except Image.UnidentifiedImageError as error:
    raise UserError(
      f"{name} cannot be read as an image: it is none of {', '.join(FORMATS)}, or damaged: repair or remove it"
    ) from error
  except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
    raise UserError(f"{name} cannot be read as an image ({error}): repair or remove it") from error
  return array if channels > 1 else array[..., None]


def _fit(image, shape: tuple[int, ...], fit: Fit, name: str):
  """A Pillow image brought to the height and width of the shape [H, W, C]."""
  from PIL import Image, ImageOps

  height, width, _ = shape
  if image.size == (width, height):
    return image
  if fit == "crop":
    return ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)
  if image.width > width or image.height > height:
    raise UserError(f"{name} is {image.width}x{image.height}, larger than {width}x{height}: use fit='crop'")
  canvas = Image.new(image.mode, (width, height))
  canvas.paste(image, ((width - image.width) // 2, (height - image.height) // 2))
  return canvas
