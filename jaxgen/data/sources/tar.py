"""The data sets `tar:DIR` and `tar:FILE`: shards as webdataset has them, {"image": uint8 [H, W, C], "label": int32 []}.

The shards of a split are DIR/<split>*.tar or DIR/<split>/*.tar; a file alone, or a folder whose shards begin with no
split's name, is the training split. Members that share their path up to the name's first dot are an example: an image
(`.png`, `.jpg`, ...) and, with labels, a `.cls` with its number as text; for the source `captions`, a `.txt`. Other
members are passed over, and none is unpacked or unpickled: the members' positions are read once, and an example from
its position.
"""

import io
import tarfile
from collections import Counter
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxgen.core.errors import NoSplit, UserError
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
      raise NoSplit(f"{request.name} is one file, the training split: there is no split {split!r}")
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
    raise NoSplit(f"{path} has no shards {split}*.tar and no {split}/*.tar of the split {split!r}, found {there}")
  return found


class Split(NamedTuple):
  """A split's shards, read through once.

  Attributes:
    labels: int32 [N], -1 where an image has none.
    captions: the text beside each image, a member with .txt; None where it has none.
    passed_over: the number of members of each kind that is neither image nor label.
  """

  index: Index
  labels: np.ndarray
  captions: list[bytes | None]
  passed_over: dict[str, int]


def split_of(request: Request) -> Split:
  """Reads the members' places and labels, again only where a shard has changed.

  Raises:
    UserError: there is no such split or no image in it, a shard is damaged, or a label is no number.
  """
  found = [(shard, shard.stat()) for shard in shards_of(request)]
  return _split(tuple((str(shard), stat.st_size, stat.st_mtime_ns) for shard, stat in found))


@lru_cache(maxsize=4)
def _split(shards: tuple[tuple[str, int, int], ...]) -> Split:
  """Args: shards: path, size in bytes, and time of the last change."""
  rows, labels, captions, passed_over = [], [], [], Counter()
  for number, (shard, length, _) in enumerate(shards):
    images, numbers, texts = {}, {}, {}
    try:
      with tarfile.open(shard, "r:") as archive:
        for member in archive:
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
            numbers[key] = _number(archive, member, shard)
          elif kind == "txt":
            texts[key] = archive.extractfile(member).read()
          else:
            passed_over[f".{kind}"] += 1
    except (tarfile.TarError, OSError) as error:
      raise UserError(
        f"{shard} cannot be read as a tar file that is not compressed ({error}): repair it, or write it anew"
      ) from error
    rows += images.values()
    labels += [numbers.get(key, -1) for key in images]
    captions += [texts.get(key) for key in images]
  paths = [path for path, *_ in shards]
  if not rows:
    raise UserError(f"there are no images (png, jpg, webp, ...) in {', '.join(paths[:5])}")
  names, *places = zip(*rows, strict=True)
  index = Index(Texts(paths), Texts(names), *(np.array(place, np.int64) for place in places))
  return Split(index, np.array(labels, np.int32), captions, dict(passed_over))


def _number(archive: tarfile.TarFile, member: tarfile.TarInfo, shard: str) -> int:
  text = archive.extractfile(member).read(32).decode("ascii", "replace").strip()
  if not text.isdigit():
    raise UserError(f"{member.name} of {shard} is {text!r} and no label, a number from 0 on, as text")
  return int(text)


def open_tar(request: Request) -> Decoded:
  """Raises a UserError where a shard is damaged, or an image has no label where labels are asked for."""
  if unknown := set(request.features) - {"image", "label"}:
    raise UserError(f"{request.name} has an image and a label, no {min(unknown)!r}")
  index, labels, captions, passed_over = split_of(request)
  beside = sum(caption is not None for caption in captions)
  passed_over = passed_over | ({".txt": beside} if beside else {})
  numbers = {"label": labels} if "label" in request.features else {}
  if numbers and (labels < 0).any():
    missing = index.name(np.flatnonzero(labels < 0)[0])
    raise UserError(f"{missing} has no label beside it, a member with .cls: train without labels")
  about = About((), tuple(f"{count:,} members {kind} (no image)" for kind, count in passed_over.items()))
  look = partial(_read, index, numbers.get("label"), request.features["image"].shape)
  return Decoded(len(labels), partial(look, request.fit), numbers, about, look)


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
