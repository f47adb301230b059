"""A data set's images, as a method sees them: read in chunks, transformed as for an evaluation."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from jaxgen.data.dataset import Dataset

CHUNK = 256


def batches(data: Dataset, split: str, indices: np.ndarray | None = None) -> Iterator[dict[str, np.ndarray]]:
  """Transformed examples of a split in chunks of at most 256: {"image": [b, H, W, C] in [-1, 1], "index": [b], ...}.

  Args:
    indices: positions in the split; all, in order, by default.
  """
  source = data.source(split)
  indices = np.arange(len(source)) if indices is None else np.asarray(indices)
  # Transforms that draw noise get the same in every call.
  transform = jax.jit(lambda key, batch: data.transform(key, batch, False))
  key = jax.random.key(0)
  for start in range(0, len(indices), CHUNK):
    chosen = indices[start : start + CHUNK]
    padded = np.pad(chosen, (0, CHUNK - len(chosen)), mode="edge")  # one shape, so one compilation
    raw: dict[str, Any] = {**source.gather(padded), "index": padded.astype(np.int32)}
    yield {name: np.asarray(x)[: len(chosen)] for name, x in transform(key, raw).items()}


def images(data: Dataset, split: str, indices: np.ndarray | None = None) -> Iterator[np.ndarray]:
  """The images alone."""
  for batch in batches(data, split, indices):
    yield batch["image"]


def entries(data: Dataset, names: tuple[str, ...], split: str = "test") -> Callable[[Any], dict[str, np.ndarray]]:
  """Conditions of samples, for `Experiment.conditions`: sample i is told these entries of the split's example i.

  After the last example it begins again with the first. Nothing is read before the function is called.
  """
  seen: dict[int, dict[str, np.ndarray]] = {}  # by position

  def of(index: np.ndarray) -> dict[str, np.ndarray]:
    source = data.source(split)
    chosen, place = np.unique(np.asarray(index) % len(source), return_inverse=True)
    missing = [i for i in chosen if i not in seen]
    rows = iter(missing)
    for batch in batches(data, split, np.array(missing, int)) if missing else ():
      for j in range(len(batch["index"])):
        seen[next(rows)] = {name: batch[name][j] for name in names}
    return {name: np.stack([seen[i][name] for i in chosen])[place] for name in names}

  return of
