"""Batches as a function of (seed, step) alone: nothing about the data needs saving.

Row j of the global batch of step k is position k B + j of an endless sequence, and position p is element p mod N of the
permutation of epoch p div N, so batches run across the ends of epochs. Of several processes each reads the rows that
its devices have, in `index` as in the data, so any number of processes reads the same global batches.
"""

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Int, Int32

from jaxgen.data.sources import Examples, Source

THREADS = 8  # that decode batches of a source that is not in memory, each a batch at a time
_ENDLESS = 2**62


@lru_cache(maxsize=4)
def permutation(size: int, seed: int, epoch: int) -> Int[np.ndarray, "size"]:
  """The order of an epoch. Made of Philox's raw stream, which NumPy keeps the same in every release, unlike
  `Generator.permutation`: a run resumed after an upgrade reads on where it was."""
  random = np.random.Philox(key=np.array([seed % 2**64, epoch], np.uint64)).random_raw(size)
  order = np.argsort(random, kind="stable")
  order.setflags(write=False)
  return order


def elements(size: int, seed: int, positions: Int[np.ndarray, "*shape"]) -> Int[np.ndarray, "*shape"]:
  """Which of `size` examples stand at these positions of the endless sequence."""
  epochs, offsets = np.divmod(positions, size)
  out = np.empty_like(offsets)
  for epoch in np.unique(epochs):
    here = epochs == epoch
    out[here] = permutation(size, seed, int(epoch))[offsets[here]]
  return out


Rows = Int32[np.ndarray, "rows"]


def _all(batch_size: int, rows: Rows | None) -> Rows:
  return np.arange(batch_size, dtype=np.int32) if rows is None else rows


def _gather(source: Source, seed: int, steps: np.ndarray, batch_size: int, rows: np.ndarray) -> Examples:
  positions = steps[:, None].astype(np.int64) * batch_size + rows
  examples = source.gather(elements(len(source), seed, positions).reshape(-1))
  batches = {name: array.reshape(*positions.shape, *array.shape[1:]) for name, array in examples.items()}
  return batches | {"index": np.broadcast_to(rows, positions.shape).copy()}


def batch_at(source: Source, seed: int, step: int, batch_size: int, rows: Rows | None = None) -> Examples:
  """Rows of the global batch of a step, all by default: {name: [rows, ...]}, and "index", which they are."""
  rows = _all(batch_size, rows)
  return {name: array[0] for name, array in _gather(source, seed, np.array([step]), batch_size, rows).items()}


class Stream:
  """Batches of consecutive steps, some rows of each: those of this process; all by default. In memory they are gathered
  at once; else Grain's threads decode ahead of `take`."""

  def __init__(self, source: Source, seed: int, batch_size: int, rows: Rows | None = None):
    self.source, self.seed, self.batch_size, self.rows = source, seed, batch_size, _all(batch_size, rows)
    self._ahead = None  # (the step that comes next, Grain's iterator)

  def take(self, start: int, count: int) -> Examples:
    """The batches of steps start ... start + count - 1: {name: [count, rows, ...]}, as the source gives them."""
    if self.source.in_memory:
      return _gather(self.source, self.seed, np.arange(start, start + count), self.batch_size, self.rows)
    if self._ahead is None or self._ahead[0] != start:
      self.close()
      self._ahead = (start, self._decode_from(start))
    _, batches = self._ahead
    taken = [next(batches) for _ in range(count)]
    self._ahead = (start + count, batches)
    return {name: np.stack([batch[name] for batch in taken]) for name in taken[0]}

  def _decode_from(self, start: int):
    import grain  # takes a second, and data in memory does not need it

    read = lambda step: batch_at(self.source, self.seed, step, self.batch_size, self.rows)
    options = grain.ReadOptions(num_threads=THREADS, prefetch_buffer_size=THREADS)
    return iter(grain.MapDataset.range(start, _ENDLESS).map(read).to_iter_dataset(options))

  def close(self) -> None:
    """Ends the threads that decode ahead."""
    if self._ahead is not None:
      self._ahead[1].close()
      self._ahead = None


class prefetch:
  """Iterates over fn(request) for the requests in their order, up to `depth` results ahead, in one background thread.

  What fn raises is raised where its result was due. `close`, or leaving it as a context manager, ends the thread.

  Attributes:
    waited: seconds that the iteration has waited for results that were not ready.
  """

  def __init__(self, fn: Callable[[Any], Any], requests: Iterable[Any], depth: int = 2):
    self._results: queue.Queue = queue.Queue(maxsize=depth)
    self._closed = threading.Event()
    self.waited = 0.0
    self._thread = threading.Thread(target=self._work, args=(fn, requests), name="jaxgen-prefetch", daemon=True)
    self._thread.start()

  def _work(self, fn: Callable[[Any], Any], requests: Iterable[Any]) -> None:
    try:
      for request in requests:
        if self._closed.is_set() or not self._put((fn(request), None)):
          return
      self._put((None, StopIteration()))
    except BaseException as error:
      self._put((None, error))

  def _put(self, item: tuple[Any, BaseException | None]) -> bool:
    """Waits for room; False once closed."""
    while not self._closed.is_set():
      try:
        self._results.put(item, timeout=0.1)
        return True
      except queue.Full:
        continue
    return False

  def __iter__(self) -> "prefetch":
    return self

  def __next__(self) -> Any:
    if self._closed.is_set():
      raise StopIteration
    began = time.perf_counter()
    result, error = self._results.get()
    self.waited += time.perf_counter() - began
    if error is not None:
      self.close()
      raise error
    return result

  def close(self) -> None:
    """Ends the thread, after the request that it works on."""
    self._closed.set()
    if self._thread is not threading.current_thread():
      self._thread.join()

  def __enter__(self) -> "prefetch":
    return self

  def __exit__(self, *exception: object) -> None:
    self.close()


def in_order(source: Source, batch_size: int, rows: Rows | None = None) -> Iterator[tuple[Examples, int]]:
  """A whole split in its order: (some rows of a batch, all by default, the number of examples in the global batch).

  The last batch is filled by repeating the last example. "index" is the example's index in the split.
  """
  rows = _all(batch_size, rows)
  for first in range(0, len(source), batch_size):
    indices = np.minimum(first + rows, len(source) - 1)
    yield source.gather(indices) | {"index": indices}, min(batch_size, len(source) - first)
