"""Features of a set of pictures, computed once and stored in a folder, in chunks. After a kill the rest is computed.

    FOLDER/about.json              identifies network and pictures; with others, the folder is refused
    FOLDER/features_00000256.npz   those of the chunk that begins with picture 256

A chunk's file appears whole or not at all. After a kill the same chunks are computed, so that every number from the
features has the same bits.
"""

import hashlib
import io
import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from jaxgen.core import files
from jaxgen.core.errors import UserError
from jaxgen.engine.cluster import by_main
from jaxgen.judging.pictures import Pictures
from jaxgen.judging.spaces import Space

CHUNK = 256  # pictures whose features are written together


class Features:
  """The features of a set of pictures in a space, in a folder.

  Attributes:
    n: number of pictures.
  """

  def __init__(self, folder: files.Place, pictures: Pictures, space: Space):
    self.folder, self.n, self._pictures, self._space = folder, pictures.n, pictures, space
    content = hashlib.sha256(json.dumps(pictures.about, sort_keys=True, default=str).encode()).hexdigest()
    self._about = {"features": space.name, "weights": space.content, "n": pictures.n, "pictures": content}

  def compute(self, resume: bool = True, progress: Callable[[int], Any] = lambda done: None) -> int:
    """Computes the features that the folder lacks, or all; returns the number of pictures whose features existed.

    Raises:
      UserError: with `resume`, the folder has features of other pictures or of another network.
    """
    kept = by_main(lambda: self._begin(resume))
    progress(kept)
    if kept == self.n:
      return kept
    pictures = itertools.islice(self._pictures.read(kept), self.n - kept)
    for start in range(kept, self.n, CHUNK):
      chunk = list(itertools.islice(pictures, min(CHUNK, self.n - start)))
      found = self._space.features(chunk)
      for name, x in found.items():
        if not np.isfinite(x).all():
          raise UserError(
            f"{name} of {self._pictures.name} in {self._space.name} are not finite: are these its weights?"
          )
      if jax.process_index() == 0:
        with files.written(self._path(start)) as file:
          np.savez(file, **found)
      progress(start + len(chunk))
    return kept

  def _path(self, start: int) -> files.Place:
    return self.folder / f"features_{start:08d}.npz"

  def _begin(self, resume: bool) -> int:
    """The number of pictures, from the first on, whose features exist."""
    about, file = self._about, self.folder / "about.json"
    there = None
    if file.is_file():
      try:
        there = json.loads(file.read_text())
      except ValueError:
        there = None
    same = there == about
    if resume and there is not None and not same:
      names = [name for name in about if not isinstance(there, dict) or there.get(name) != about[name]]
      raise UserError(f"{self.folder} was computed with other {' and '.join(names)}: leave --resume out to begin anew")
    starts = list(range(0, self.n, CHUNK))
    if not (resume and same):
      for path in self.folder.glob("features_*.npz") if self.folder.is_dir() else ():
        path.unlink()
      files.write(file, json.dumps(about, indent=2) + "\n")
      return 0
    for start in starts:
      try:
        self._read(start)
      except files.NPZ_ERRORS:
        return start
    return self.n

  def _read(self, start: int, name: str = "features") -> np.ndarray:
    with np.load(io.BytesIO(self._path(start).read_bytes()), allow_pickle=False) as arrays:
      return arrays[name]

  def chunks(self, name: str = "features") -> Iterator[np.ndarray]:
    """Features [k, F] in order, a chunk at a time."""
    for start in range(0, self.n, CHUNK):
      yield self._read(start, name)

  def all(self, name: str = "features") -> np.ndarray:
    """All of them [N, F], in memory."""
    return np.concatenate(list(self.chunks(name)))
