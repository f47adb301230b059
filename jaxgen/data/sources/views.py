"""Views: the part of a picture of any size that is used, resized to the network's size.

It is cut out before it is resized, and both before the picture becomes an array, so that the work is that of the part.
Pillow's filters are antialiased where they shrink. A view that draws takes uniform numbers in [0, 1) and no generator:
which part an example shows is a function of (seed, its place in the endless sequence), as all of a batch is.

A JPEG whose part is at least twice as large as what is asked for, `SPARE`, is decoded at 1/2, 1/4 or 1/8 of its size:
from the low frequencies of its blocks only. Pictures of ImageNet are mostly too small for it; a photograph of 12
megapixels is read several times as fast, and differs from the one decoded whole by about one level of 255.
"""

import math
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from jaxgen.core.errors import UserError

Resample = Literal["bilinear", "bicubic", "lanczos"]
Number = int | float
Uniform = Float[np.ndarray, "draws"]
Box = tuple[Number, Number, Number, Number]  # left, top, right, bottom, in pixels

SPARE = 2  # a picture is decoded at a fraction of its size where so many of its pixels are left for one
TRIES = 10


class RandomResizedCrop(NamedTuple):
  """A random part of the picture, for training: Szegedy et al. 2015, https://arxiv.org/abs/1409.4842, section 6.

  As torchvision draws it: of ten parts with areas uniform in `area` and ratios of width to height log-uniform in
  `ratio`, the first that fits, at a uniform place; where none does, the largest in the middle within `ratio`. It is cut
  out first, so that pixels outside do not enter, and then resized.

  Attributes:
    area: least and largest share of the picture's area.
    ratio: least and largest width to height.
    resample: the filter.
  """

  area: tuple[float, float] = (0.08, 1.0)
  ratio: tuple[float, float] = (3 / 4, 4 / 3)
  resample: Resample = "bicubic"
  draws = 2 * TRIES + 2

  def check(self) -> None:
    """Raises a UserError if areas or ratios are invalid."""
    (least, most), (low, high) = self.area, self.ratio
    if not (0 < least <= most <= 1 and 0 < low <= high):
      raise UserError(
        f"a random crop has an area of LEAST to MOST, within (0, 1], and a ratio LOW to HIGH: not area={self.area}, "
        f"ratio={self.ratio}"
      )

  def box(self, width: int, height: int, size: tuple[int, int], uniform: Uniform) -> Box:
    """The part of a picture of this width and height, in whole pixels."""
    (least, most), (low, high) = self.area, self.ratio
    for u, v in uniform[: 2 * TRIES].reshape(TRIES, 2):
      area = width * height * (least + u * (most - least))
      ratio = math.exp(math.log(low) + v * (math.log(high) - math.log(low)))
      w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
      if 0 < w <= width and 0 < h <= height:
        left, top = int(uniform[-2] * (width - w + 1)), int(uniform[-1] * (height - h + 1))
        return left, top, left + w, top + h
    w, h = min(width, round(height * high)), min(height, round(width / low))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


class CenterCrop(NamedTuple):
  """The middle of the picture, for evaluation, as torchvision's Resize(size / share) and CenterCrop(size) show it.

  Attributes:
    share: of the shorter side, 224 / 256 for most published numbers.
    resample: the filter.
  """

  share: float = 0.875
  resample: Resample = "bicubic"
  draws = 0

  def check(self) -> None:
    """Raises a UserError if the share is invalid."""
    if not 0 < self.share <= 1:
      raise UserError(f"a middle has a share of the picture within (0, 1], not {self.share:g}")

  def box(self, width: int, height: int, size: tuple[int, int], uniform: Uniform | None = None) -> Box:
    """The part of a picture of this width and height that is shown in the size (width, height)."""
    w, h = size
    if width * h <= height * w:
      whole = int(w / self.share), max(h, int(int(w / self.share) * height / width))
    else:
      whole = max(w, int(int(h / self.share) * width / height)), int(h / self.share)
    left, top = round((whole[0] - w) / 2), round((whole[1] - h) / 2)
    x, y = width / whole[0], height / whole[1]
    return max(0, left * x), max(0, top * y), min(width, (left + w) * x), min(height, (top + h) * y)


class RandomClip(NamedTuple):
  """A random stretch of a video, for training: its stride uniform among those that fit, and its first frame among those
  that are left.

  Attributes:
    strides: the least and the largest number of the video's frames from one of the clip's to the next.
  """

  strides: tuple[int, int] = (1, 1)
  draws = 2

  def check(self) -> None:
    """Raises a UserError where there is no such stride."""
    if not 1 <= self.strides[0] <= self.strides[1]:
      raise UserError(f"a random clip has strides LEAST to MOST, 1 or more, not {self.strides}")

  def stretch(self, frames: int, count: int, uniform: Uniform) -> tuple[int, int]:
    """(the first frame, the stride) of a clip of so many frames from a video of `frames`; at least one fits."""
    least, most = self.strides
    most = min(most, (frames - 1) // (count - 1)) if count > 1 else least
    stride = least + int(uniform[0] * (most - least + 1))
    return int(uniform[1] * (frames - stride * (count - 1))), stride

  def box(self, width: int, height: int, size: tuple[int, int], uniform: Uniform | None = None) -> Box:
    """Raises a UserError: a picture has no frames."""
    raise UserError("RandomClip is a view of videos, and these are pictures: use RandomResizedCrop, or none")


View = RandomResizedCrop | CenterCrop | RandomClip


def fraction(box: Box, size: tuple[int, int], spare: float = SPARE) -> int:
  """1, 2, 4 or 8: by how much a picture may be shrunk while it is decoded, so that `spare` pixels are left for one."""
  room = min((box[2] - box[0]) / size[0], (box[3] - box[1]) / size[1]) / spare
  return next(n for n in (8, 4, 2, 1) if room >= n or n == 1)


def show(image, view: View, box: Box, size: tuple[int, int]):
  """The part of a Pillow image in this box, in the size (width, height)."""
  from PIL import Image

  resample = Image.Resampling[view.resample.upper()]
  if view.draws and all(float(x).is_integer() for x in box):
    return image.crop(tuple(map(int, box))).resize(size, resample)
  return image.resize(size, resample, box=box)
