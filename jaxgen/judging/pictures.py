"""Sets of pictures to judge or to compare with, from a run, a data set, a folder or a file: uint8, in chunks."""

import hashlib
import itertools
import json
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from jaxgen.core import pictures as core_pictures
from jaxgen.core.errors import UserError
from jaxgen.core.files import NPZ_ERRORS
from jaxgen.data import Dataset, real
from jaxgen.data.own import LOOKS, own
from jaxgen.data.sources.images import FORMATS, SUFFIXES
from jaxgen.data.sources.npz import place_of
from jaxgen.engine import identity
from jaxgen.engine.drawing import origin, stream
from jaxgen.engine.run import Run

CHUNK = 256  # pictures that are read at once
NAMES = ("samples", "arr_0", "image", "train_image", "images", "x")  # of pictures in an npz, in this order


class Pictures(NamedTuple):
  """A set of pictures in an order.

  Attributes:
    name: the set's name in the numbers' names: "train", "test", a folder's name.
    n: the number of pictures.
    about: identifies the set and its content; JSON.
    read: number of the first picture -> an iterator of the pictures from there on, [H, W, C] uint8.
  """

  name: str
  n: int
  about: dict[str, Any]
  read: Callable[[int], Iterator[UInt8[np.ndarray, "_ _ _"]]]

  def first(self, n: int) -> "Pictures":
    """The first n of them.

    Raises:
      UserError: there are fewer.
    """
    if n > self.n:
      raise UserError(f"there are {self.n:,} pictures of {self.name}, and {n:,} were asked for")
    return self._replace(n=n)


def of_run(run: Run, n: int, seed: int = 0, batch: int | None = None) -> Pictures:
  """The samples 0 .. n - 1 of a run's seed, rounded to the data's levels and to uint8.

  Raises:
    UserError: the method generates nothing, or its samples are not pictures.
  """
  stream(run, n, seed=seed, batch=batch)  # raises errors of the request
  like = run.program.sample_shapes(1, run.conditions(np.arange(1)))
  if not hasattr(like, "shape") or len(like.shape) != 4 or like.shape[-1] not in (1, 3, 4):
    raise UserError(f"samples of config {run.config.name} are not pictures: these metrics need pictures")

  def read(first: int) -> Iterator[np.ndarray]:
    for piece in stream(run, n - first, seed=seed, first=first, batch=batch):
      if not np.isfinite(piece).all():
        raise UserError(f"there are samples of {run.name} that are not finite: metrics cannot be computed")
      if run.data.levels is not None:
        piece = core_pictures.quantize(piece, run.data.levels)
      yield from core_pictures.to_uint8(piece)

  return Pictures(run.name, n, origin(run, seed, batch), read)


def of_data(data: Dataset, split: str | None = "train", name: str | None = None) -> Pictures:
  """A split of a data set, as evaluation sees it.

  Args:
    split: "train", "test", or the name that the data set has for it.
    name: the set's name in the numbers' names; by default the split.

  Raises:
    UserError: there is no such split, or its examples are not pictures.
  """
  if "image" not in data.features:
    raise UserError(f"the examples of {data.name} are not pictures, only {', '.join(data.features)}")
  where = {"train": data.train, "test": data.test}.get(split, split)
  n = len(data.source(where))

  def read(first: int) -> Iterator[np.ndarray]:
    for chunk in real.images(data, where, np.arange(first, n)):
      if np.abs(chunk).max() > 1.01:  # standardised, for one
        raise UserError(
          f"the pictures of {data.name} are not in [-1, 1] after its transforms: give the data set itself with "
          "--against"
        )
      yield from core_pictures.to_uint8(chunk)

  about = {"data": data.name, "split": where, "n": n, "content": identity.of_data(data, split or "train")}
  return Pictures(name or split, n, about | {"files": _files_of(data)}, read)


def _files_of(data: Dataset) -> str | None:
  """A hash of the sizes and dates of a data set's files, which `identity.of_data` may not read; None without files."""
  path = pathlib.Path(data.name.partition(":")[2]).expanduser()
  if ":" not in data.name or not path.exists():
    return None
  found = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
  return hashlib.sha256(json.dumps([_identity(p) for p in found]).encode()).hexdigest()


def of_subject(subject: str, split: str | None = None) -> Pictures:
  """Pictures by a name of a data set (folder:DIR, tfds:NAME, ...), by a folder of image files or samples, or an npz.

  Raises:
    UserError: there are none.
  """
  kind = subject.partition(":")[0]
  if kind in LOOKS and not pathlib.Path(subject).exists():
    return of_data(own(subject), split or "train", plain(f"{subject}_{split or 'train'}"))
  path = pathlib.Path(subject).expanduser()
  if split is not None:
    raise UserError(f"--split {split}: {path} has no splits: name it as folder:{path}, or leave --split out")
  if path.is_dir():
    return _of_samples(path) if (path / "samples.json").is_file() else _of_folder(path)
  if path.suffix == ".npz":
    return _of_file(path)
  raise UserError(
    f"{subject} is not a run, a folder, an .npz file or a data set: name a data set as "
    f"{', '.join(f'{k}:...' for k in LOOKS)}"
  )


def plain(name: str) -> str:
  """A name with only letters, digits and underscores, for a number's name."""
  return "".join(c if c.isalnum() else "_" for c in name).strip("_")


def _identity(file: pathlib.Path) -> list[Any]:
  """A file's path, size and time of change, which differ when its content was replaced."""
  stat = file.stat()
  return [str(file.resolve()), stat.st_size, stat.st_mtime_ns]


def _of_folder(path: pathlib.Path) -> Pictures:
  """Image files below a folder, in the order of their paths, each at its own size.

  Colours are converted by PIL's convert("RGB"), as in torch-fidelity and pytorch-fid: alpha is dropped.
  """
  paths = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
  if not paths:
    raise UserError(f"{path} has no image files ({', '.join(sorted(SUFFIXES))}) and no samples of jaxgen")

  def read(first: int) -> Iterator[np.ndarray]:
    from PIL import Image

    for file in paths[first:]:
      try:
        with Image.open(file, formats=FORMATS) as image:
          if image.mode.startswith(("I", "F")):
            raise UserError(f"{file} has more than 8 bits a channel (mode {image.mode}): convert it to 8 bits")
          x = np.array(image.convert("L" if image.mode in ("1", "L", "LA") else "RGB"))
      except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{file} cannot be read as an image ({error}): repair or remove it") from error
      yield x if x.ndim == 3 else x[..., None]

  about = {"files": [_identity(p) for p in paths]}
  return Pictures(plain(path.name), len(paths), about, read)


def _of_samples(path: pathlib.Path) -> Pictures:
  """A folder that `jaxgen sample --out FOLDER` has written."""
  try:
    about = json.loads((path / "samples.json").read_text())
    n, kind = about["n"], about["format"]
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise UserError(f"{path / 'samples.json'} cannot be read: draw the samples anew") from error
  if kind == "images":
    found = _of_folder(path)
    if found.n != n:
      raise UserError(f"{path} has {found.n:,} of {n:,} samples: repeat the command that draws them")
    return found
  paths = sorted(path.glob("samples_*.npz"))
  parts = [_of_file(p) for p in paths]
  if sum(part.n for part in parts) != n:
    raise UserError(
      f"{path} has {sum(part.n for part in parts):,} of {n:,} samples: repeat the command that draws them"
    )

  def read(first: int) -> Iterator[np.ndarray]:
    return itertools.islice(itertools.chain.from_iterable(part.read(0) for part in parts), first, None)

  return Pictures(plain(path.name), n, {"parts": [part.about for part in parts]}, read)


def _of_file(path: pathlib.Path) -> Pictures:
  """An npz of pictures: "arr_0" in uint8, as guided-diffusion writes them, or "samples" in [-1, 1], as jaxgen does.

  An uncompressed file is mapped, and read a chunk at a time; of a compressed one, the array is read into memory.
  """
  try:
    with np.load(path, allow_pickle=False) as arrays:
      name = next((name for name in NAMES if name in arrays.files), None)
      if name is None:
        raise UserError(f"{path} has none of {', '.join(NAMES)}, only {', '.join(arrays.files)}")
      place = place_of(arrays.zip, f"{name}.npy")
      x = arrays[name] if place.offset is None else place.map(path)
  except NPZ_ERRORS as error:
    raise UserError(f"{path} cannot be read as a NumPy file of pictures: {error}") from error
  if x.ndim != 4 or x.shape[-1] not in (1, 3, 4) or not len(x):
    raise UserError(f"{path}: pictures are [N, height, width, channels], and {name} is {list(x.shape)}")
  chunks = lambda first: (x[i : i + CHUNK] for i in range(first, len(x), CHUNK))
  if np.issubdtype(x.dtype, np.floating):
    if not all(np.isfinite(chunk).all() and np.abs(chunk).max() <= 2 for chunk in chunks(0)):
      raise UserError(f"{path}: pictures of {x.dtype} are in [-1, 1], and {name} is not: write them as uint8")
  elif x.dtype != np.uint8:
    raise UserError(f"{path}: pictures are uint8, or float in [-1, 1], and {name} is {x.dtype}")

  def read(first: int) -> Iterator[np.ndarray]:
    for chunk in chunks(first):
      yield from np.array(chunk) if chunk.dtype == np.uint8 else core_pictures.to_uint8(chunk)

  return Pictures(plain(path.stem), len(x), {"file": _identity(path), "n": len(x)}, read)
