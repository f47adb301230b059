"""The data sets `emoji_clips:DIR`: animated emoji on white, {"clip": uint8 [T, 32, 32, 3]}.

Asked for "image", uint8 [32, 32, 3], in place of "clip", it has every frame as an example of its own.

DIR has sheets in lossless WebP, row i of a sheet clip i, its 16 frames of 32x32 RGBA from left to right, and clips.tsv
with a line for each clip in the order of the sheets: code point, Unicode name, number of the original's frames. A clip
of T frames takes every (16 / T)th of its 16, so T divides 16. Every tenth clip, from the first, is the split "test".
"""

import functools
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from jaxgen.core.errors import NoSplit, UserError
from jaxgen.data.sources.base import Arrays, Request, select, text_of

FRAMES, SIDE, TENTH = 16, 32, 10


@functools.lru_cache(maxsize=1)
def read(folder: str) -> tuple[UInt8[np.ndarray, "clips 16 32 32 3"], tuple[str, ...]]:
  """(the clips on white, their names).

  Raises:
    UserError: the folder lacks sheets or clips.tsv, or they do not fit together.
  """
  from PIL import Image

  root = Path(folder).expanduser()
  rows = [line.split("\t") for line in text_of(root / "clips.tsv").splitlines()[1:]]
  if short := [number for number, row in enumerate(rows, 2) if len(row) < 2]:
    raise UserError(f"{root / 'clips.tsv'}, line {short[0]}, has no name after a tab: get it anew")
  names = [row[1] for row in rows]
  sheets = []
  for path in sorted(root.glob("*.webp")):
    try:
      with Image.open(path, formats=("WEBP",)) as image:
        pixels = np.asarray(image.convert("RGBA"))
    except (OSError, SyntaxError, ValueError) as error:
      raise UserError(f"{path} cannot be read as an image ({error}): get it anew") from error
    if pixels.shape[0] % SIDE or pixels.shape[1] != SIDE * FRAMES:
      raise UserError(f"{path} is {pixels.shape[1]}x{pixels.shape[0]}, no sheet of {FRAMES} frames of {SIDE}x{SIDE}")
    sheets.append(pixels.reshape(-1, SIDE, FRAMES, SIDE, 4).transpose(0, 2, 1, 3, 4))
  found = sum(map(len, sheets))
  if not found or found != len(names):
    raise UserError(f"{root} has {found:,} clips in sheets *.webp and {len(names):,} lines in clips.tsv: get it anew")
  alpha = np.concatenate(sheets).astype(np.float32)
  colours, alpha = alpha[..., :3], alpha[..., 3:] / 255
  return np.round(colours * alpha + 255 * (1 - alpha)).astype(np.uint8), tuple(names)


def open_emoji_clips(request: Request) -> Arrays:
  """Raises a UserError if there is no such split or feature, or T does not divide 16."""
  if request.split not in ("train", "test"):
    raise NoSplit(f"{request.name} has no split {request.split!r}: it has train, and test, every tenth clip")
  clips, _ = read(request.rest)
  frames = request.features["clip"].shape[0] if "clip" in request.features else FRAMES
  if not 1 <= frames <= FRAMES or FRAMES % frames:
    raise UserError(
      f"{request.name} has clips of {FRAMES} frames, which {frames} do not divide: ask for 1, 2, 4, 8 or 16"
    )
  tests = np.arange(len(clips)) % TENTH == 0
  chosen = clips[tests == (request.split == "test")]
  if "clip" not in request.features:
    return Arrays(select({"image": chosen.reshape(-1, *chosen.shape[2:])}, request.features, request.name))
  arrays = {"clip": chosen[:, :: FRAMES // frames]}
  return Arrays(select(arrays, request.features, request.name))
