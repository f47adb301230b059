"""The data sets `emoji:LABELS[@STYLE[,N]]:SIZE:FILE`: pictures of emoji on white, their names in tokens, and labels.

FILE is an .npz with `images` uint8 [N, S, S, 4], and texts [N] `names`, `styles`, `groups`, `subgroups`. LABELS is
groups, subgroups or names, numbered in the order of their texts; SIZE the number of tokens of byte pair encoding,
trained on all names. The split "train" has the pictures of all styles but one, "blob", which is the split "test": the
same emoji, drawn by others. With a STYLE "train" has the pictures of that style, or N of them evenly spaced, and "test"
the others of that style.

    {"image": uint8 [S, S, 3], "tokens": int32 [T], "label": int32 []}
"""

import functools
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxgen.core.errors import NoSplit, UserError
from jaxgen.core.files import NPZ_ERRORS
from jaxgen.data.sources.base import About, Arrays, Request, select
from jaxgen.data.sources.captions import encode

HELD_OUT = "blob"
LABELS = ("groups", "subgroups", "names")


class Emoji(NamedTuple):
  """All of a file's; images on white, [N, S, S, 3]."""

  images: np.ndarray
  names: np.ndarray
  styles: np.ndarray
  groups: np.ndarray
  subgroups: np.ndarray


@functools.lru_cache(maxsize=1)
def read(file: str) -> Emoji:
  """Raises a UserError if the file is missing or has no emoji."""
  path = Path(file).expanduser()
  try:
    with np.load(path, allow_pickle=False) as arrays:
      found = {name: arrays[name] for name in Emoji._fields}
  except FileNotFoundError:
    raise UserError(f"there is no file {path.absolute()} of emoji") from None
  except NPZ_ERRORS as error:
    raise UserError(f"{path} is no .npz with {', '.join(Emoji._fields)}: {error}") from error
  shape, counts = found["images"].shape, {found[name].shape[:1] for name in Emoji._fields}
  if found["images"].dtype != np.uint8 or len(shape) != 4 or shape[3] != 4 or counts != {shape[:1]}:
    others = ", ".join(Emoji._fields[1:])
    raise UserError(f"{path} has no images uint8 [N, S, S, 4] with N {others}: it is not a file of emoji")
  colours, alpha = found["images"][..., :3].astype(np.float32), found["images"][..., 3:] / np.float32(255)
  found["images"] = np.round(colours * alpha + 255 * (1 - alpha)).astype(np.uint8)
  return Emoji(**found)


def parts(name: str) -> tuple[str, str, str]:
  """(labels, number of tokens, file)."""
  labels, _, rest = name.removeprefix("emoji:").partition(":")
  size, _, file = rest.partition(":")
  labels, _, only = labels.partition("@")
  _, comma, count = only.partition(",")
  if labels not in LABELS or not size.isdecimal() or not file or (comma and not count.isdecimal()):
    raise UserError(f"{name!r} is not emoji:LABELS[@STYLE[,N]]:SIZE:FILE, with LABELS one of {', '.join(LABELS)}")
  return labels, size, file


def classes_of(name: str) -> tuple[str, ...]:
  """The texts of a data set's labels in the order of their numbers."""
  labels, _, file = parts(name)
  return tuple(map(str, np.unique(getattr(read(file), labels))))


def tokens_of(name: str, texts: list[str], length: int) -> tuple[np.ndarray, int]:
  """(tokens of texts int32 [n, length], number of truncated texts), by a data set's tokenizer."""
  _, size, file = parts(name)
  return encode(size, texts, length, sorted({str(n) for n in read(file).names}), Path(file))


def chosen_of(name: str, split: str) -> np.ndarray:
  """The places of a split's pictures in the file. Raises a UserError where the split has none."""
  if split not in ("train", "test"):
    raise NoSplit(f"{name} has no split {split!r}: it has train and test, the style {HELD_OUT!r}")
  styles = read(parts(name)[2]).styles
  style, _, count = name.removeprefix("emoji:").partition(":")[0].partition("@")[2].partition(",")
  if not style:
    return np.flatnonzero((styles == HELD_OUT) == (split == "test"))
  of_style = np.flatnonzero(styles == style)
  if not len(of_style):
    raise UserError(
      f"{name}: there are no emoji of the style {style!r}, only of {', '.join(map(str, np.unique(styles)))}"
    )
  count = int(count or len(of_style))
  if not 1 <= count <= len(of_style):
    raise UserError(f"{name}: the style has {len(of_style):,} emoji, and {count:,} are asked for: ask for fewer")
  some = np.linspace(0, len(of_style) - 1, count).round().astype(int)
  chosen = of_style[some] if split == "train" else np.delete(of_style, some)
  if not len(chosen):
    raise NoSplit(f"{name}: all emoji of the style are in the split train: ask for fewer")
  return chosen


def open_emoji(request: Request) -> Arrays:
  """Raises a UserError where there is no such split or feature."""
  labels, _, file = parts(request.name)
  chosen = chosen_of(request.name, request.split)
  found, classes = read(file), classes_of(request.name)
  (length,) = request.features["tokens"].shape if "tokens" in request.features else (2,)
  tokens, cut = tokens_of(request.name, [str(found.names[i]) for i in chosen], length)
  label = np.searchsorted(classes, getattr(found, labels)[chosen])
  arrays = {"image": found.images[chosen], "tokens": tokens, "label": label.astype(np.int32)}
  left_out = (f"the ends of {cut:,} names, which are longer than {length - 2:,} tokens",) if cut else ()
  return Arrays(select(arrays, request.features, request.name), About(classes, left_out))
