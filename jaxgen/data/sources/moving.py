"""The data sets `moving:DIGITS:IMAGES`: digits that move and bounce, whose dynamics are exact: Moving MNIST.

Srivastava et al. 2015, https://arxiv.org/abs/1502.04681: each clip has DIGITS handwritten digits, which start anywhere,
move in any direction at one speed, a tenth of their room in a frame, and bounce off the edges. Where they overlap, the
brighter pixel is seen. IMAGES is digits (8x8, needs no network), mnist, fashion_mnist, or another data set of 28x28
pictures in one channel by its name, such as npz:FILE.

    {"clip": uint8 [T, S, S, 1], "position": float32 [T, D, 2], "glyph": uint8 [D, h, w, 1], "digit": int32 [D]}

A position is a digit's upper left corner, (row, column) in pixels, and the digit is drawn at the nearest pixel. With
one digit there is "label", int32 [], as well. A digit at p in [0, room] with velocity v is at the reflection of p + v t
in closed form (`bounced`); the authors' code instead stops a digit at the edge for the rest of that frame. Clip i of a
split depends only on i, and the digits of the split "test" come from the images' split "test".
"""

import numpy as np
from jaxtyping import Float

from jaxgen.core.errors import NoSplit, UserError
from jaxgen.data.sources.base import Decoded, Example, Request, Source

SIZES = {"train": 10_000, "test": 1_000}
# Name -> the pictures' data set, their side in pixels, their highest value.
IMAGES = {
  "digits": ("digits", 8, 16),
  "mnist": ("tfds:mnist", 28, 255),
  "fashion_mnist": ("tfds:fashion_mnist", 28, 255),
}
SPEED = 0.1  # of the room that a digit has, in a frame
FEATURES = ("clip", "position", "glyph", "digit", "label")


def bounced(position: np.ndarray, velocity: np.ndarray, t: float | np.ndarray, room: float | np.ndarray) -> np.ndarray:
  """The position after the time t of what bounces between 0 and `room`: p + v t, reflected at both ends."""
  way = np.mod(position + velocity * t, 2 * room)
  return room - np.abs(way - room)


def parts(name: str) -> tuple[int, str, int, int]:
  """(number of digits, the pictures' data set, their side in pixels, their highest value) of `moving:DIGITS:IMAGES`.

  Raises:
    UserError: another form.
  """
  digits, _, images = name.removeprefix("moving:").partition(":")
  if not digits.isdecimal() or int(digits) < 1 or not images:
    raise UserError(f"{name!r} is not moving:DIGITS:IMAGES, such as moving:1:digits or moving:2:mnist")
  return int(digits), *IMAGES.get(images, (images, 28, 255))


def open_moving(request: Request) -> Decoded:
  """Raises a UserError if there is no such split or feature, or digits do not fit into the frames."""
  import jax

  from jaxgen.data.sources import open_source

  count, images, side, most = parts(request.name)
  if request.split not in SIZES:
    sizes = " and ".join(f"{name} ({size:,})" for name, size in SIZES.items())
    raise NoSplit(f"{request.name} has no split {request.split!r}: it has {sizes}")
  there = FEATURES if count == 1 else FEATURES[:-1]
  if unknown := set(request.features) - set(there):
    raise UserError(f"{request.name} has {', '.join(there)}, no {min(unknown)!r}")
  if "clip" not in request.features:
    raise UserError(f"{request.name} is asked for without its clip: name the clip's shape among the features")
  frames, height, width, _ = request.features["clip"].shape
  if min(height, width) <= side:
    raise UserError(f"frames of {height}x{width} have no room for digits of {side}x{side} to move in: make them larger")
  features = {"image": jax.ShapeDtypeStruct((side, side, 1), np.uint8), "label": jax.ShapeDtypeStruct((), np.int32)}
  source = open_source(images, request.split, features, request.data_dir)
  seed = list(SIZES).index(request.split)
  return Decoded(
    SIZES[request.split], Clips(source, count, frames, (height, width), most, seed, tuple(request.features))
  )


class Clips:
  """Indices -> their clips. It can be sent to another process."""

  def __init__(
    self, source: Source, count: int, frames: int, size: tuple[int, int], most: int, seed: int, names: tuple[str, ...]
  ):
    self.source, self.count, self.frames, self.size = source, count, frames, size
    self.most, self.seed, self.names = most, seed, names

  def __call__(self, indices: list[int]) -> list[Example]:
    return [{name: x for name, x in self.one(index).items() if name in self.names} for index in indices]

  def one(self, index: int) -> Example:
    """All arrays of a clip."""
    random = np.random.default_rng([self.seed, index])
    chosen = self.source.gather(random.integers(len(self.source), size=self.count))
    glyph = np.round(chosen["image"] * (255 / self.most)).astype(np.uint8)
    room = np.array(self.size, float) - glyph.shape[1:3]
    start, angle = random.uniform(size=(self.count, 2)) * room, 2 * np.pi * random.uniform(size=self.count)
    velocity = SPEED * room * np.stack([np.sin(angle), np.cos(angle)], axis=-1)
    position = bounced(start, velocity, np.arange(self.frames)[:, None, None], room)
    digit = chosen["label"].astype(np.int32)
    example = {"clip": drawn(glyph, position, self.size), "position": position.astype(np.float32)}
    return example | {"glyph": glyph, "digit": digit, "label": digit[0]}


def drawn(glyph: np.ndarray, position: Float[np.ndarray, "frames digits 2"], size: tuple[int, int]) -> np.ndarray:
  """Frames [T, H, W, 1] with the digits [D, h, w, 1] at these positions, each rounded to the nearest pixel."""
  h, w = glyph.shape[1:3]
  frames = np.zeros((len(position), *size, 1), glyph.dtype)
  for frame, corners in zip(frames, np.rint(position.astype(np.float32)).astype(int), strict=True):
    for one, (row, column) in zip(glyph, corners, strict=True):
      part = frame[row : row + h, column : column + w]
      np.maximum(part, one, out=part)
  return frames
