"""Writes samples to a folder chunk by chunk. After a kill, the same command continues the folder.

    FOLDER/samples.json           what the samples are of; a folder with other samples is refused
    FOLDER/lock                   says which process writes here, while it does
    FOLDER/chunks.jsonl           a line for each complete chunk, with the SHA-256 of its files
    FOLDER/samples_00000064.npz   the chunk that begins with sample 64: "samples" [k, ...] as the method returns them
    FOLDER/00000064.png           with --format png instead: sample 64, at its own size

Files appear whole or not at all, and a chunk's line is written after its files. A second start reads the files of each
line, keeps those with the right SHA-256 and draws the rest in the same batches as before. The folder then has the same
bytes as after one uninterrupted start. Whatever the number of samples, memory holds the chunk that is being written,
the next one with its batches, and what `engine.drawing` has on the devices.
"""

import concurrent.futures
import contextlib
import hashlib
import io
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core import files, pictures
from jaxgen.core.errors import UserError
from jaxgen.engine.claims import claim
from jaxgen.engine.cluster import by_main
from jaxgen.engine.drawing import cut, origin, stream
from jaxgen.engine.run import Run

Kind = Literal["npz", "images"]
ABOUT, INDEX = "samples.json", "chunks.jsonl"


class Chunk(NamedTuple):
  """Samples first .. first + count - 1."""

  first: int
  count: int


class Drawn(NamedTuple):
  """The result of `draw`: the number of samples that existed, and the number that it drew."""

  kept: int
  drawn: int


def draw(
  run: Run,
  folder: files.Place,
  n: int,
  *,
  seed: int = 0,
  first: int = 0,
  kind: Kind = "npz",
  chunk: int | None = None,
  batch: int | None = None,
  progress: Callable[[int, int], Any] = lambda kept, drawn: None,
) -> Drawn:
  """Draws those of the samples first .. first + n - 1 of a seed that a folder lacks into the folder.

  Args:
    kind: npz files, or a PNG file for each sample.
    chunk: number of samples in a chunk; by default the batch. It changes files, not samples.
    batch: as in `engine.drawing.stream`.
    progress: called with the number of samples that existed already and the number drawn so far.

  Raises:
    UserError: as in `stream`; or the folder has other samples, another process writes it, or samples that are not
      images cannot be PNG files.
  """
  batch = batch or run.experiment.sample_chunk
  chunk = chunk or batch
  if chunk < 1:
    raise UserError(f"--chunk {chunk}: a chunk has at least 1 sample")
  stream(run, n, seed=seed, first=first, batch=batch)  # raises errors of the request
  shape, dtype = _like(run)
  if kind == "images" and not (len(shape) == 3 and shape[-1] in (1, 3, 4) and jnp.issubdtype(dtype, jnp.floating)):
    raise UserError(f"samples of shape {list(shape)} and type {dtype} are no pictures: use --format npz")
  about = {
    **origin(run, seed, batch),
    "first": first,
    "n": n,
    "format": kind,
    "chunk": chunk,
    "shape": list(shape),
    "dtype": str(dtype),
  }
  writer = _Writer(folder, kind)
  wanted = [Chunk(start, min(chunk, first + n - start)) for start in range(first, first + n, chunk)]
  main = jax.process_index() == 0
  with contextlib.ExitStack() as stack:

    def begin() -> list[int]:
      stack.enter_context(_locked(folder))
      if (folder / ABOUT).exists():
        _check_same(folder, about)
      writer.begin(about, wanted)
      return [chunk.first for chunk in writer.complete]

    complete = set(by_main(begin))
    missing = [c for c in wanted if c.first not in complete]
    kept, drawn = n - sum(c.count for c in missing), 0
    progress(kept, 0)
    thread = stack.enter_context(concurrent.futures.ThreadPoolExecutor(1))
    pending = None
    for chunks in _neighbours(missing):
      pieces = stream(run, sum(c.count for c in chunks), seed=seed, first=chunks[0].first, batch=batch)
      samples = cut(pieces, iter([c.count for c in chunks]))
      for this in chunks:
        x = next(samples)
        if main:
          if pending is not None:
            pending.result()  # raises the thread's error
          pending = thread.submit(writer.write, this, x)
        del x
        drawn += this.count
        progress(kept, drawn)
    if pending is not None:
      pending.result()
    if main:
      writer.finish()
  return Drawn(kept, drawn)


def _like(run: Run) -> tuple[tuple[int, ...], np.dtype]:
  """Shape and dtype of one sample; none is drawn."""
  like = run.program.sample_shapes(1, run.conditions(np.arange(1)))
  if not hasattr(like, "shape"):
    raise UserError(f"a sample of config {run.config.name} is several arrays, which are not written to a folder")
  return tuple(like.shape[1:]), np.dtype(like.dtype)


def _check_same(folder: files.Place, about: Mapping[str, Any]) -> None:
  """Raises a UserError that names the difference unless the folder's samples are the same; `n` may be larger."""
  try:
    there = json.loads((folder / ABOUT).read_text())
    old = {**there, **{f"--{k.replace('_', '-')}": v for k, v in there.pop("arguments").items()}}
  except (OSError, ValueError, KeyError, AttributeError) as error:
    raise UserError(f"{folder / ABOUT} cannot be read: remove it, or choose another folder") from error
  new = {**about, **{f"--{k.replace('_', '-')}": v for k, v in about["arguments"].items()}}
  words = {"sha256": "a state with SHA-256", "step": "step", "config": "config", "shape": "shape", "dtype": "type"}
  for name in (*about, *sorted(old.keys() | new.keys())):
    if name == "arguments" or old.get(name) == new.get(name):
      continue
    if name == "n" and isinstance(old.get("n"), int) and old["n"] < new["n"]:
      continue
    what = words.get(name, name if name.startswith("--") else f"--{name}")
    raise UserError(
      f"{folder} holds samples of {what} {old.get(name)}, not {new.get(name)}: choose another folder, or the same flags"
    )


@contextlib.contextmanager
def _locked(folder: files.Place) -> Iterator[None]:
  """Locks a folder for this process, and makes it if needed."""
  try:
    held = claim(folder, "choose another folder")
  except OSError as error:
    raise UserError(f"{folder} cannot be written: {error.strerror}") from error
  try:
    yield
  finally:
    held.release()


def _neighbours(chunks: Sequence[Chunk]) -> list[list[Chunk]]:
  """Groups chunks that follow one another, so that a stream for each group draws nothing else."""
  groups: list[list[Chunk]] = []
  for chunk in chunks:
    if groups and sum(groups[-1][-1]) == chunk.first:
      groups[-1].append(chunk)
    else:
      groups.append([chunk])
  return groups


class _Writer:
  """Writes chunks into a folder, and keeps a list of the complete ones."""

  def __init__(self, folder: files.Place, kind: Kind):
    self.folder, self.kind = folder, kind
    self.complete: dict[Chunk, str] = {}  # the SHA-256 of their files

  def begin(self, about: Mapping[str, Any], wanted: Sequence[Chunk]) -> None:
    """Finds which of the wanted chunks are complete, and removes files that a kill has left half written."""
    files.remove_half_written(self.folder)
    known = set(wanted)
    for line in self._lines():
      chunk = Chunk(line["first"], line["count"])
      if chunk in known and self._sha256(chunk) == line["sha256"]:
        self.complete[chunk] = line["sha256"]
    files.write(self.folder / ABOUT, json.dumps(about, indent=2) + "\n")
    self.finish()

  def _lines(self) -> Iterator[Any]:
    """The lines of the index, without a last line that a kill cut short."""
    with contextlib.suppress(FileNotFoundError):
      for text in (self.folder / INDEX).read_text().splitlines():
        with contextlib.suppress(json.JSONDecodeError):
          yield json.loads(text)

  def _paths(self, chunk: Chunk) -> list[files.Place]:
    if self.kind == "npz":
      return [self.folder / f"samples_{chunk.first:08d}.npz"]
    return [self.folder / f"{i:08d}.png" for i in range(chunk.first, chunk.first + chunk.count)]

  def _sha256(self, chunk: Chunk) -> str | None:
    """The SHA-256 of a chunk's concatenated files; None if one cannot be read."""
    digest = hashlib.sha256()
    try:
      for path in self._paths(chunk):
        digest.update(path.read_bytes())
    except OSError:
      return None
    return digest.hexdigest()

  def write(self, chunk: Chunk, samples: np.ndarray) -> None:
    """Writes a chunk's files, and then its line."""
    digest = hashlib.sha256()
    for path, contents in zip(self._paths(chunk), self._contents(samples), strict=True):
      files.write(path, contents)
      digest.update(contents)
    self.complete[chunk] = digest.hexdigest()
    files.append(self.folder / INDEX, self._line(chunk))

  def _contents(self, samples: np.ndarray) -> Iterator[bytes]:
    if self.kind == "npz":
      buffer = io.BytesIO()
      np.savez(buffer, samples=samples)
      yield buffer.getvalue()
    else:
      with concurrent.futures.ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:  # zlib leaves Python's lock
        yield from threads.map(pictures.png, pictures.to_uint8(samples))

  def _line(self, chunk: Chunk) -> str:
    return json.dumps({**chunk._asdict(), "sha256": self.complete[chunk]}) + "\n"

  def finish(self) -> None:
    """Writes the index anew, in order."""
    files.write(self.folder / INDEX, "".join(self._line(chunk) for chunk in sorted(self.complete)))
