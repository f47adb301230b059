"""A data set's images, as a method sees them: read in chunks, transformed as for an evaluation."""

from collections.abc import Iterator
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
