"""The data sets `tar:DIR` and `tar:FILE`: shards as webdataset has them, {"image": uint8 [H, W, C], "label": int32 []}.

The shards of a split are DIR/<split>*.tar or DIR/<split>/*.tar; a file alone, or a folder whose shards begin with no
split's name, is the training split. Members that share their path up to the name's first dot are an example: an image
(`.png`, `.jpg`, ...) and, with labels, a `.cls` with its number as text. Other members are passed over, and none is
unpacked or unpickled: the members' places are read once, and an example where it lies.
"""

import io
import tarfile
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxgen.core.errors import UserError
from jaxgen.data.sources.base import About, Decoded, Example, Fit, Request, Texts
from jaxgen.data.sources.images import SUFFIXES, decode


class Index(NamedTuple):
  """Where the images of a split lie.

  Attributes:
    shards: their paths.
    names: of the members.
    shard, offset, size: of each member, int64 [N].
  """

  shards: Texts
  names: Texts
  shard: np.ndarray
  offset: np.ndarray
  size: np.ndarray

  def bytes(self, i: int) -> bytes:
    with open(self.shards[int(self.shard[i])], "rb") as file:
      file.seek(self.offset[i])
      return file.read(self.size[i])

  def name(self, i: int) -> str:
    return f"{self.names[i]} of {self.shards[int(self.shard[i])]}"


def shards_of(request: Request) -> list[Path]:
  """The files of a split, in the order of their names."""
  path, split = Path(request.rest).expanduser(), request.split
  if path.is_file():
    if split != "train":
      raise UserError(f"{request.name} is one file, the training split: there is no split {split!r}")
    return [path]
  if not path.is_dir():
    raise UserError(f"there is no folder or file {path.absolute()}, which the data set {request.name} names")
  found = sorted(path.glob(f"{split}*.tar")) or sorted((path / split).glob("*.tar"))
  others = sorted(path.glob("*.tar"))
  named = any(shard.name.startswith(("train", "test", "val")) for shard in others)
  if not found and split == "train" and not named:
    found = others
  if not found:
    there = ", ".join(sorted(p.name for p in path.iterdir())[:5]) or "nothing"
    raise UserError(f"{path} has no shards {split}*.tar and no {split}/*.tar of the split {split!r}, found {there}")
  return found


def _members(shard: Path) -> Iterator[tarfile.TarInfo]:
  try:
    with tarfile.open(shard, "r:") as archive:
      yield from archive
  except (tarfile.TarError, OSError) as error:
    raise UserError(
      f"{shard} cannot be read as a tar file that is not compressed ({error}): repair it, or write it anew"
    ) from error


def open_tar(request: Request) -> Decoded:
  """Raises a UserError where a shard is damaged, or an image has no label where labels are asked for."""
  if unknown := set(request.features) - {"image", "label"}:
    raise UserError(f"{request.name} has an image and a label, no {min(unknown)!r}")
  shards, rows, labels, passed_over = shards_of(request), [], [], Counter()
  for number, shard in enumerate(shards):
    images, numbers, length = {}, {}, shard.stat().st_size
    for member in _members(shard):
      folder, _, file = member.name.rpartition("/")
      stem, _, kind = file.partition(".")
      key = f"{folder}/{stem}"
      if not member.isfile() or not stem:
        continue
      if member.offset_data + member.size > length:
        raise UserError(f"{shard} ends within {member.name}: it is cut short; copy or write it anew")
      if f".{kind.lower()}" in SUFFIXES:
        images[key] = (member.name, number, member.offset_data, member.size)
      elif kind == "cls":
        numbers[key] = _number(shard, member)
      else:
        passed_over[f".{kind}"] += 1
    rows += images.values()
    if "label" in request.features:
      if missing := [row[0] for key, row in images.items() if key not in numbers]:
        raise UserError(f"{missing[0]} of {shard} has no label beside it, a member with .cls: train without labels")
      labels += [numbers[key] for key in images]
  if not rows:
    raise UserError(f"there are no images (png, jpg, webp, ...) in {', '.join(map(str, shards[:5]))}")
  names, *places = zip(*rows, strict=True)
  index = Index(Texts(map(str, shards)), Texts(names), *(np.array(place, np.int64) for place in places))
  numbers = {"label": np.array(labels, np.int32)} if "label" in request.features else {}
  about = About((), tuple(f"{count:,} members {kind} (no image)" for kind, count in passed_over.items()))
  look = partial(_read, index, numbers.get("label"), request.features["image"].shape)
  return Decoded(len(rows), partial(look, request.fit), numbers, about, look)


def _number(shard: Path, member: tarfile.TarInfo) -> int:
  with open(shard, "rb") as file:
    file.seek(member.offset_data)
    text = file.read(min(member.size, 32)).decode("ascii", "replace").strip()
  if not text.isdigit():
    raise UserError(f"{member.name} of {shard} is {text!r} and no label, a number from 0 on, as text")
  return int(text)


def _read(
  index: Index,
  labels: np.ndarray | None,
  shape: tuple[int, ...],
  fit: Fit,
  indices: list[int],
  uniform: np.ndarray | None = None,
) -> list[Example]:
  examples = []
  for n, i in enumerate(indices):
    drawn = None if uniform is None else uniform[n]
    example = {"image": decode(io.BytesIO(index.bytes(i)), index.name(i), shape, fit, drawn)}
    examples.append(example if labels is None else example | {"label": labels[i]})
  return examples
