"""Encoded images -> arrays: what folders and tensorflow-datasets hold."""

import numpy as np
from jaxtyping import Float, UInt8

from jaxgen.core.errors import UserError
from jaxgen.data.sources import views
from jaxgen.data.sources.base import Fit
from jaxgen.data.sources.views import View

MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # Pillow's name of 8-bit images by number of channels
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})
# The accepted formats, whatever the file's name. Pillow reads more, and passes some (EPS) to external programs.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
ORIENTATION = 0x0112  # the EXIF tag of a photograph's orientation
BACKGROUND = (255, 255, 255)  # what transparent pixels are seen on


def decode(
  file, name: str, shape: tuple[int, ...], fit: Fit | None, uniform: Float[np.ndarray, "draws"] | None = None
) -> UInt8[np.ndarray, "height width channels"]:
  """An encoded image as an array of shape [H, W, C].

  With one or three channels, transparent pixels are seen on white: what colours lie hidden under them means nothing.

  Args:
    file: a path or an open file.
    name: what the image is called in errors.
    shape: [H, W, C].
    fit: how it is resized to that shape; None: it keeps its own H and W.
    uniform: random numbers in [0, 1) of a random view.

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
      box = None
      if isinstance(fit, View):
        box = _drafted(image, fit, shape[1::-1], uniform)
      if fit is not None:
        image = ImageOps.exif_transpose(image)
      image = in_mode(image, channels)
      if box is not None:
        image = views.show(image, fit, box, shape[1::-1])
      elif fit is not None:
        image = fitted(image, shape, fit, name)
      array = np.array(image)
  except Image.UnidentifiedImageError as error:
    raise UserError(
      f"{name} cannot be read as an image: it is none of {', '.join(FORMATS)}, or damaged: repair or remove it"
    ) from error
  except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
    raise UserError(f"{name} cannot be read as an image ({error}): repair or remove it") from error
  return array if channels > 1 else array[..., None]


def is_turned(image) -> bool:
  """Whether a picture's EXIF orientation exchanges its height and width."""
  return image.getexif().get(ORIENTATION, 1) in (5, 6, 7, 8)


def in_mode(image, channels: int):
  """A Pillow image as grey, RGB or RGBA; without an alpha channel, transparent pixels become white."""
  from PIL import Image

  if channels < 4 and image.has_transparency_data:
    seen = Image.new("RGBA", image.size, BACKGROUND)
    image = Image.alpha_composite(seen, image.convert("RGBA"))
  return image if image.mode == MODES[channels] else image.convert(MODES[channels])


def _drafted(image, view: View, size: tuple[int, int], uniform: Float[np.ndarray, "draws"] | None) -> views.Box:
  """The visible box of an undecoded picture, upright; it also sets the size at which a JPEG is decoded."""
  width, height = image.size
  turned = is_turned(image)
  upright = (height, width) if turned else (width, height)
  box = view.box(*upright, size, uniform)
  by = views.fraction(box, size)
  if by == 1 or image.draft(None, (width // by, height // by)) is None:
    return box
  now = image.size[::-1] if turned else image.size
  return tuple(x * now[i % 2] / upright[i % 2] for i, x in enumerate(box))


def fitted(image, shape: tuple[int, ...], fit: Fit, name: str):
  """A Pillow image resized to the height and width of the shape [H, W, C]."""
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
