"""Pictures of images: grids, pairs, and PNG files. Images are float in [-1, 1], NHWC; pictures are uint8, HWC."""

import io
import math

import numpy as np
from jaxtyping import Float, UInt8

GAP = 128  # the grey of the lines between tiles; it shows on black and on white pages
TILE = 48  # px, about the side to which small images are enlarged


def to_uint8(images: Float[np.ndarray, "*batch h w c"]) -> UInt8[np.ndarray, "*batch h w c"]:
  """[-1, 1] to 0..255, rounded to the nearest. Values outside are clipped; NaN becomes mid-grey."""
  x = np.nan_to_num(np.asarray(images, np.float32), nan=0.0)  # infinities become huge numbers and are clipped
  return np.round((np.clip(x, -1, 1) + 1) * 127.5).astype(np.uint8)


def quantize(images: Float[np.ndarray, "*batch h w c"], levels: int) -> Float[np.ndarray, "*batch h w c"]:
  """Rounds images in [-1, 1] to the nearest of `levels` evenly spaced values, as if they were stored as integers."""
  steps = levels - 1
  return (np.round((np.clip(images, -1, 1) + 1) * (steps / 2)) * (2 / steps) - 1).astype(images.dtype)


def enlargement(height: int, width: int) -> int:
  """The integer factor by which images of this size are enlarged for display: 6 for 8x8, 2 for 32x32, 1 for 64x64."""
  return max(1, int(TILE / max(height, width) + 0.5))


def grid(
  images: Float[np.ndarray, "n h w c"], columns: int | None = None, scale: int | None = None
) -> UInt8[np.ndarray, "height width c"]:
  """Lays images out in rows, from the top left, with thin grey lines between them. Empty tiles at the end are grey.

  Args:
    images: images in [-1, 1], with 1, 3 or 4 channels (grey, RGB, RGBA).
    columns: number of columns; by default about as many as rows.
    scale: integer factor of enlargement by nearest neighbour; `enlargement` by default.

  Raises:
    ValueError: there are no images, or they have another number of channels.
  """
  n, h, w, c = images.shape
  if n < 1 or c not in (1, 3, 4):
    raise ValueError(f"a grid needs at least one image with 1, 3 or 4 channels, not shape {list(images.shape)}")
  columns = columns or math.ceil(math.sqrt(n))
  scale = scale or enlargement(h, w)
  tiles = to_uint8(images).repeat(scale, 1).repeat(scale, 2)
  return _lay_out(tiles, columns, gap=max(1, scale // 2))


def pairs(
  left: Float[np.ndarray, "n h w c"], right: Float[np.ndarray, "n h w c"], scale: int | None = None
) -> list[UInt8[np.ndarray, "height width c"]]:
  """One picture per pair: an image of `left` beside the corresponding one of `right`, enlarged as in `grid`."""
  both = np.stack([left, right], 1)
  return [grid(pair, columns=2, scale=scale) for pair in both]


def _lay_out(tiles: UInt8[np.ndarray, "n h w c"], columns: int, gap: int) -> UInt8[np.ndarray, "height width c"]:
  n, h, w, c = tiles.shape
  columns = min(columns, n)
  rows = math.ceil(n / columns)
  fill = np.full((c,), GAP, np.uint8)
  if c == 4:
    fill[3] = 255
  canvas = np.broadcast_to(fill, (rows * (h + gap) - gap, columns * (w + gap) - gap, c)).copy()
  for i, tile in enumerate(tiles):
    y, x = divmod(i, columns)
    canvas[y * (h + gap) : y * (h + gap) + h, x * (w + gap) : x * (w + gap) + w] = tile
  return canvas


def animation(clips: Float[np.ndarray, "n time h w c"], fps: float, scale: int | None = None) -> bytes:
  """Clips in [-1, 1] that play beside each other, over and over, as the bytes of an animated WebP without loss.

  Args:
    clips: the clips, with 1, 3 or 4 channels.
    fps: frames a second.
    scale: factor of enlargement; as in `grid`.
  """
  from PIL import Image

  frames = [grid(clips[:, t], scale=scale) for t in range(clips.shape[1])]
  first, *rest = (Image.fromarray(frame.repeat(3, -1) if frame.shape[-1] == 1 else frame) for frame in frames)
  buffer = io.BytesIO()
  first.save(buffer, "WEBP", save_all=True, append_images=rest, duration=round(1000 / fps), loop=0, lossless=True)
  return buffer.getvalue()


def strips(clips: Float[np.ndarray, "n time h w c"], scale: int | None = None) -> UInt8[np.ndarray, "height width c"]:
  """A row for each clip in [-1, 1], its frames from left to right."""
  n, time, *rest = clips.shape
  return grid(clips.reshape(n * time, *rest), columns=time, scale=scale)


def png(picture: UInt8[np.ndarray, "height width c"]) -> bytes:
  """A picture with 1, 3 or 4 channels as the bytes of a PNG file."""
  from PIL import Image

  buffer = io.BytesIO()
  Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture).save(buffer, "PNG", optimize=True)
  return buffer.getvalue()
