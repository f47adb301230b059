"""The interface of all sources, and its two common implementations: arrays in memory, and a function that reads
examples."""

import gzip
import json
import os
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import Float, Int

from jaxgen.core.errors import UserError
from jaxgen.data.sources.views import View

Features = Mapping[str, jax.ShapeDtypeStruct]
Example = dict[str, np.ndarray | np.generic]
Examples = dict[str, np.ndarray]
Fit = Literal["crop", "pad"] | View

IN_MEMORY_BYTES = 2**29  # CIFAR-10 takes 154 MB, ImageNet at 32x32 takes 3.9 GB


class Request(NamedTuple):
  """A request to a source; see `jaxgen.data.sources.open_source`.

  Attributes:
    rest: the data set's name without its kind and the first colon, "a.npz" of "npz:a.npz".
  """

  name: str
  rest: str
  split: str
  features: Features
  data_dir: str | Path | None
  fit: Fit
  memory_bytes: int


class About(NamedTuple):
  """What a source reports about how it was read.

  Attributes:
    classes: their names in the order of their numbers; () where they have none.
    left_out: what was passed over, and why; one phrase for each reason.
  """

  classes: tuple[str, ...] = ()
  left_out: tuple[str, ...] = ()


NOTHING = About()


@runtime_checkable
class Source(Protocol):
  """Random access to the examples of one split.

  Attributes:
    in_memory: all of it is in memory.
    draws: uniform numbers in [0, 1) that an example takes, 0 for all but views that draw; with others than 0,
      gather(indices, uniform [n, draws]).
    arrays: what is in memory, {name: [N, ...]}: all features, or labels alone, or nothing.
  """

  in_memory: bool
  arrays: Examples
  about: About
  draws: int

  def __len__(self) -> int: ...
  def __getitem__(self, index: int) -> Example: ...
  def gather(self, indices: np.ndarray) -> Examples: ...


class Arrays:
  """A source in memory. arrays: {name: [N, ...]}, all of one length."""

  in_memory, draws = True, 0

  def __init__(self, arrays: Examples, about: About = NOTHING):
    self.arrays, self.about = arrays, about

  def __len__(self) -> int:
    return len(next(iter(self.arrays.values())))

  def __getitem__(self, index: int) -> Example:
    return {name: array[index] for name, array in self.arrays.items()}

  def gather(self, indices: Int[np.ndarray, "n"]) -> Examples:
    return {name: array.take(indices, axis=0) for name, array in self.arrays.items()}


class Decoded:
  """A source that decodes examples when they are asked for.

  Attributes:
    length: the number of examples.
    read: indices -> their examples. It may run in several threads at once, and in other processes if it can be pickled.
    arrays: features of all examples, by name, that need no decoding.
    about: what the source says of how it was read.
    look: of pictures of any size: (view, indices, uniform [n, draws]) -> examples as seen through a view.
    view: what they are seen through, None for `read`.
  """

  in_memory = False

  def __init__(
    self,
    length: int,
    read: Callable[[list[int]], list[Example]],
    arrays: Examples | None = None,
    about: About = NOTHING,
    look: Callable[[View, list[int], np.ndarray], list[Example]] | None = None,
    view: View | None = None,
  ):
    self.length, self.read, self.arrays, self.about = length, read, arrays or {}, about
    self.look, self.view, self.draws = look, view, view.draws if view else 0

  def through(self, view: View) -> "Decoded":
    """The same pictures, seen through another view."""
    return Decoded(self.length, self.read, self.arrays, self.about, self.look, view)

  def __len__(self) -> int:
    return self.length

  def __getitem__(self, index: int) -> Example:
    """One of any draws where the view draws: an example of what is to come."""
    return {name: array[0] for name, array in self.gather(np.array([index]), np.full((1, self.draws), 0.5)).items()}

  def gather(self, indices: Int[np.ndarray, "n"], uniform: Float[np.ndarray, "n draws"] | None = None) -> Examples:
    rows = indices.tolist()
    examples = self.read(rows) if self.view is None else self.look(self.view, rows, uniform)
    return {name: np.stack([example[name] for example in examples]) for name in examples[0]}


class Texts:
  """Many texts in little memory, which are soon sent to another process: one text, and where each begins."""

  def __init__(self, texts: Iterable[str]):
    encoded = [os.fsencode(text) for text in texts]
    self._text, self._ends = b"".join(encoded), np.cumsum([0, *map(len, encoded)])

  def __len__(self) -> int:
    return len(self._ends) - 1

  def __getitem__(self, index: int) -> str:
    return os.fsdecode(self._text[self._ends[index] : self._ends[index + 1]])


def text_of(path: Path, missing: str = "") -> str:
  """A file's text in UTF-8, decompressed if its name ends in .gz, without a byte order mark.

  Args:
    missing: the error message if there is no such file.

  Raises:
    UserError: the file is missing, or is not text.
  """
  try:
    data = path.read_bytes()
    return (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8-sig")
  except FileNotFoundError:
    raise UserError(missing or f"there is no file {path.absolute()}") from None
  except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
    raise UserError(f"{path} cannot be read as text: {error}") from error


def json_of(line: str) -> Any:
  """The value of a line of JSON.

  Raises:
    ValueError: it is not JSON, or escapes half of a surrogate pair, so that its text cannot be encoded.
  """
  value = json.loads(line)
  if "\\u" in line:
    json.dumps(value, ensure_ascii=False).encode()
  return value


def check_example(name: str, example: Example, features: Features) -> None:
  """Raises a UserError where an example's shapes or dtypes are not those of `features`."""
  for key, expected in features.items():
    if key not in example:
      raise UserError(
        f"{name} has no {key!r}, only {', '.join(sorted(example))}: leave it out of the data set's features"
      )
    value = np.asarray(example[key])
    if value.shape != expected.shape or value.dtype != expected.dtype:
      raise UserError(
        f"{name}: {key!r} is {value.dtype} of shape {value.shape}, but the config expects "
        f"{np.dtype(expected.dtype)} of shape {tuple(expected.shape)}: change the config's shape or the data set"
      )


def into_memory(source: Source, features: Features, chunk: int = 1024) -> Arrays:
  """Decodes every example of a source, once."""
  arrays = {name: np.empty((len(source), *s.shape), s.dtype) for name, s in features.items()}
  for first in range(0, len(source), chunk):
    indices = np.arange(first, min(first + chunk, len(source)))
    for name, values in source.gather(indices).items():
      arrays[name][indices] = values
  return Arrays(arrays, source.about)


def select(arrays: Examples, features: Features, name: str) -> Examples:
  """The arrays that `features` names, labels as int32."""
  missing = [key for key in features if key not in arrays]
  if missing:
    raise UserError(f"{name} has no {missing[0]!r}, only {', '.join(sorted(arrays))}")
  return {key: integer_label(key, arrays[key]) for key in features}


def integer_label(key: str, value: np.ndarray | np.generic) -> np.ndarray | np.generic:
  """Labels of any integer dtype as int32; other arrays unchanged."""
  return value.astype(np.int32) if key == "label" and np.issubdtype(value.dtype, np.integer) else value
