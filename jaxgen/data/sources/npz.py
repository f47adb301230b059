"""The data sets `npz:FILE`: arrays of a NumPy file, {name: [...]} of any shapes and dtypes.

A file of `numpy.savez`, which does not compress, may be larger than the memory: beyond `memory_bytes` it is mapped, and
a process reads the rows that it asks for and no others. One of `numpy.savez_compressed` is always read whole; if it is
larger, a warning says so.
"""

import math
import mmap
import struct
import warnings
import zipfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from jaxgen.core.errors import NoSplit, UserError
from jaxgen.core.files import NPZ_ERRORS
from jaxgen.data.sources.base import About, Arrays, Example, Examples, Request, Source, integer_label, select


class Place(NamedTuple):
  """An array's position in a file, shape and dtype.

  Attributes:
    offset: the position of its first byte; None: it is compressed.
    shape: its shape.
    fortran: whether it is stored in Fortran order.
    dtype: its dtype.
  """

  offset: int | None
  shape: tuple[int, ...]
  fortran: bool
  dtype: np.dtype

  @property
  def nbytes(self) -> int:
    return math.prod(self.shape) * self.dtype.itemsize

  def map(self, path: Path) -> np.memmap:
    array = np.memmap(path, self.dtype, "r", self.offset, self.shape, "F" if self.fortran else "C")
    if hasattr(mmap, "MADV_RANDOM"):  # read only the pages that are accessed
      array._mmap.madvise(mmap.MADV_RANDOM)
    return array


def place_of(archive: zipfile.ZipFile, name: str) -> Place:
  """Reads an array's header. Formats: PKWARE's APPNOTE 4.3.7, the local file header, and NEP 1, the .npy header."""
  member = archive.getinfo(name)
  with archive.open(member) as file:
    version = np.lib.format.read_magic(file)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
    if read is None:
      raise ValueError(f"{name} has the format {version}, of arrays of named fields")
    shape, fortran, dtype = read(file)
    header_size = file.tell()
  if dtype.hasobject:
    raise ValueError(f"{name} is pickled")
  if member.compress_type != zipfile.ZIP_STORED or not math.prod(shape):
    return Place(None, shape, fortran, dtype)
  with open(archive.filename, "rb") as file:
    file.seek(member.header_offset + 26)
    lengths = struct.unpack("<HH", file.read(4))  # of the name and of the extra field that follow
  return Place(member.header_offset + 30 + sum(lengths) + header_size, shape, fortran, dtype)


def _soon(array: np.ndarray, rows: slice) -> None:
  """Asks the system to read these consecutive rows of a mapped array in one piece."""
  if isinstance(array, np.memmap) and array.flags.c_contiguous and hasattr(mmap, "MADV_WILLNEED"):
    begin = array.offset % mmap.ALLOCATIONGRANULARITY + rows.start * array.strides[0]
    start = begin // mmap.PAGESIZE * mmap.PAGESIZE
    array._mmap.madvise(mmap.MADV_WILLNEED, start, begin - start + (rows.stop - rows.start) * array.strides[0])


class Mapped:
  """A source of arrays on the disk, read by rows; labels are in memory. Sent to another process it maps them anew."""

  in_memory, draws = False, 0

  def __init__(self, path: Path, places: Mapping[str, Place], mapped: Examples):
    """Reads the labels.

    Args:
      path: the file.
      places: where its arrays lie.
      mapped: these arrays, {name: [N, ...]}, labels as int32.
    """
    self.path, self.places, self.mapped, self.about = path, places, mapped, About()
    self.arrays = {"label": np.array(mapped["label"])} if "label" in mapped else {}

  def __reduce__(self):
    return _map_anew, (self.path, self.places, list(self.mapped))

  def __len__(self) -> int:
    return len(next(iter(self.mapped.values())))

  def __getitem__(self, index: int) -> Example:
    return {name: np.array(array[index]) for name, array in (self.mapped | self.arrays).items()}

  def gather(self, indices: Int[np.ndarray, "n"]) -> Examples:
    rows = slice(indices[0], indices[-1] + 1)
    if len(indices) > 1 and (np.diff(indices) == 1).all():
      for array in self.mapped.values():
        _soon(array, rows)
    return {name: np.asarray(array)[indices] for name, array in (self.mapped | self.arrays).items()}


def _map_anew(path: Path, places: Mapping[str, Place], names: list[str]) -> Mapped:
  return Mapped(path, places, {name: integer_label(name, places[name].map(path)) for name in names})


def open_npz(request: Request) -> Source:
  """Arrays of a NumPy file, never unpickled: `<split>_<feature>`, or `<feature>` alone, which is the training split."""
  path, split, features = Path(request.rest).expanduser(), request.split, request.features
  if not path.is_file():
    raise UserError(f"there is no file {path.absolute()}, which the data set {request.name} names")
  try:
    file = np.load(path, allow_pickle=False)
    if not isinstance(file, np.lib.npyio.NpzFile):
      raise UserError(f"{path} holds one array, not named ones: write it with numpy.savez(file, image=..., label=...)")
    with file:
      prefix = f"{split}_"
      if split == "train" and not any(prefix + key in file for key in features):
        prefix = ""
      names = {key: prefix + key for key in features if prefix + key in file}
      if not names:
        expected = ", ".join(f"{split}_{key}" for key in features)
        alone = f" (or {', '.join(features)} alone)" if split == "train" else ""
        has_split = any(name.startswith(f"{split}_") for name in file.files)
        lacks = f"no {' and no '.join(map(repr, features))} in its split" if has_split else "no split"
        raise (UserError if has_split else NoSplit)(
          f"{path} has {lacks} {split!r}: expected arrays named {expected}{alone}, "
          f"found {', '.join(file.files) or 'none'}: write the file with the expected names"
        )
      places = {key: place_of(file.zip, f"{full}.npy") for key, full in names.items()}
      size = sum(place.nbytes for place in places.values())
      if size > request.memory_bytes and all(place.offset is not None for place in places.values()):
        arrays, source = {key: place.map(path) for key, place in places.items()}, partial(Mapped, path, places)
      else:
        if size > request.memory_bytes:
          warnings.warn(
            f"{path} is compressed, so that every process reads all its {size / 2**30:.1f} GiB into memory: written "
            "with numpy.savez it would be read by rows",
            stacklevel=2,
          )
        arrays, source = {key: file[full] for key, full in names.items()}, Arrays
  except NPZ_ERRORS as error:
    if "pickle" in str(error):
      raise UserError(f"{path} has pickled objects, which are never loaded: write plain number arrays") from error
    raise UserError(f"{path} cannot be read as a NumPy file ({error}): write it anew with numpy.savez") from error
  for key, array in arrays.items():
    if array.ndim == 0 or len(array) != len(next(iter(arrays.values()))):
      shapes = ", ".join(f"{k} {a.shape}" for k, a in arrays.items())
      raise UserError(f"{path}: the first axis of {key!r} must count the same examples as the others: {shapes}")
  return source(select(arrays, features, request.name))
