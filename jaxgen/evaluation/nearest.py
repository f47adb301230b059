"""Nearest neighbours by Euclidean distance, to see whether samples are copies of training examples."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int


class Nearest(NamedTuple):
  """For each query its nearest example: Euclidean distance, position in the search order, and the example itself."""

  distance: Float[np.ndarray, " n"]
  index: Int[np.ndarray, " n"]
  image: Float[np.ndarray, "n h w c"]


def nearest(queries: Float[np.ndarray, "n h w c"], chunks: Iterable[Float[np.ndarray, "_ h w c"]]) -> Nearest:
  """Exact nearest neighbours of images among the images of all chunks, one chunk in memory at a time.

  Raises:
    ValueError: there is nothing to search.
  """
  flat = queries.reshape(len(queries), -1).astype(np.float64)
  best = np.full(len(flat), np.inf)
  index = np.zeros(len(flat), np.int64)
  image = np.zeros_like(queries)
  seen = 0
  for chunk in chunks:
    other = chunk.reshape(len(chunk), -1).astype(np.float64)
    squares = np.sum(flat**2, 1)[:, None] - 2 * flat @ other.T + np.sum(other**2, 1)
    j = squares.argmin(1)
    exact = np.sum((flat - other[j]) ** 2, 1)  # the expansion above cancels where two images are close
    closer = exact < best
    best, index = np.where(closer, exact, best), np.where(closer, seen + j, index)
    image[closer] = chunk[j[closer]]
    seen += len(chunk)
  if not seen:
    raise ValueError("there are no examples to search for a nearest neighbour")
  return Nearest(np.sqrt(best), index, image)
