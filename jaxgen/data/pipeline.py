"""Batches as a function of (seed, step) alone: nothing about the data needs saving.

Row j of the global batch of step k is position k B + j of an endless sequence, and position p is element p mod N of the
permutation of epoch p div N, so batches run across the ends of epochs. With r repeats it is element (p mod N) div r, so
that r examples in a row are the same one, and an epoch sees N / r of them. A view that draws is given uniform numbers
that are a function of (seed, p). Of several processes each reads the rows that its devices have, in `index` as in the
data, so any number of processes reads the same global batches.
"""

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from functools import lru_cache, partial
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Int32

from jaxgen.data.ahead import Ahead
from jaxgen.data.sources import Examples, Source

PIECE = 64  # rows of a batch that are read at a time: little enough that all workers have some of each batch
_ENDLESS = 2**62


@lru_cache(maxsize=4)
def permutation(size: int, seed: int, epoch: int) -> Int[np.ndarray, "size"]:
  """The order of an epoch. Made of Philox's raw stream, which NumPy keeps the same in every release, unlike
  `Generator.permutation`: a run resumed after an upgrade reads on where it was."""
  random = np.random.Philox(key=np.array([seed % 2**64, epoch], np.uint64)).random_raw(size)
  order = np.argsort(random, kind="stable")
  order.setflags(write=False)
  return order


def elements(size: int, seed: int, positions: Int[np.ndarray, "*shape"], repeats: int = 1) -> Int[np.ndarray, "*shape"]:
  """Which of `size` examples stand at these positions of the endless sequence."""
  epochs, offsets = np.divmod(positions, size)
  out = np.empty_like(offsets)
  for epoch in np.unique(epochs):
    here = epochs == epoch
    out[here] = permutation(size, seed, int(epoch))[offsets[here] // repeats]
  return out


def draws(count: int, seed: int, positions: Int[np.ndarray, "n"]) -> Float[np.ndarray, "n {count}"]:
  """Uniform numbers in [0, 1) for the examples at these positions: Philox's raw stream, as `permutation`, keyed by each
  position, and from a counter that no permutation reaches."""
  out = np.empty((len(positions), count))
  for row, position in zip(out, positions.tolist(), strict=True):
    key, counter = np.array([seed % 2**64, position], np.uint64), np.array([0, 0, 0, 1], np.uint64)
    stream = np.random.Philox(key=key, counter=counter)
    row[:] = stream.random_raw(count) >> np.uint64(11)
  return out * 2.0**-53


Rows = Int32[np.ndarray, "rows"]


def _all(batch_size: int, rows: Rows | None) -> Rows:
  return np.arange(batch_size, dtype=np.int32) if rows is None else rows


def _gather(
  source: Source, seed: int, steps: np.ndarray, batch_size: int, rows: np.ndarray, repeats: int = 1
) -> Examples:
  positions = steps[:, None].astype(np.int64) * batch_size + rows
  uniform = (draws(source.draws, seed, positions.reshape(-1)),) if source.draws else ()
  examples = source.gather(elements(len(source), seed, positions, repeats).reshape(-1), *uniform)
  batches = {name: array.reshape(*positions.shape, *array.shape[1:]) for name, array in examples.items()}
  return batches | {"index": np.broadcast_to(rows, positions.shape).copy()}


def batch_at(
  source: Source, seed: int, step: int, batch_size: int, rows: Rows | None = None, repeats: int = 1
) -> Examples:
  """Rows of the global batch of a step, all by default: {name: [rows, ...]}, and "index", which they are."""
  return _rows_at(source, seed, step, batch_size, _all(batch_size, rows), repeats)


def _rows_at(source: Source, seed: int, step: int, batch_size: int, rows: Rows, repeats: int) -> Examples:
  batch = _gather(source, seed, np.array([step]), batch_size, rows, repeats)
  return {name: array[0] for name, array in batch.items()}


class Stream:
  """Batches of consecutive steps. In memory they are gathered at once; else they are read ahead of `take`.

  Attributes:
    rows: those of each batch that are read, this process's; all by default.
    repeats: see `jaxgen.data.dataset.Dataset`.
    workers: processes that read what is not in memory (see `jaxgen.data.ahead`); 0: threads of this process.
  """

  def __init__(
    self,
    source: Source,
    seed: int,
    batch_size: int,
    rows: Rows | None = None,
    repeats: int = 1,
    workers: int = 0,
  ):
    self.source, self.seed, self.batch_size = source, seed, batch_size
    self.repeats, self.workers = repeats, workers
    self.rows = _all(batch_size, rows)
    self._pieces = np.array_split(self.rows, -(-len(self.rows) // PIECE))
    self._ahead = None  # (the step that comes next, what reads ahead)

  def first(self) -> Examples:
    """The batch of step 0, {name: [B/P, ...]}; nothing is read ahead."""
    return _rows_at(self.source, self.seed, 0, self.batch_size, self.rows, self.repeats)

  def piece(self, number: int) -> Examples:
    """A part, which is read at a time: of the batch of step number // pieces, the rows of piece number % pieces."""
    step, piece = divmod(number, len(self._pieces))
    return _rows_at(self.source, self.seed, step, self.batch_size, self._pieces[piece], self.repeats)

  def __getstate__(self) -> dict[str, Any]:
    return self.__dict__ | {"_ahead": None}  # as a worker process has it

  def take(self, start: int, count: int) -> Examples:
    """The batches of steps start ... start + count - 1: {name: [count, rows, ...]}, as the source gives them."""
    if self.source.in_memory:
      steps = np.arange(start, start + count)
      return _gather(self.source, self.seed, steps, self.batch_size, self.rows, self.repeats)
    pieces = len(self._pieces)
    if self._ahead is None or self._ahead[0] != start:
      self.close()
      size = PIECE * _example_bytes(self.source)
      self._ahead = (start, Ahead(self.piece, start * pieces, _ENDLESS, self.workers, size))
    _, parts = self._ahead
    taken = _filled(parts, count * pieces, count * len(self.rows))
    self._ahead = (start + count, parts)
    return {name: array.reshape(count, -1, *array.shape[1:]) for name, array in taken.items()}

  def close(self) -> None:
    """Ends what reads ahead. Threads may still read a little: a mapped file must not be overwritten in place."""
    if self._ahead is not None:
      self._ahead[1].close()
      self._ahead = None


def _example_bytes(source: Source) -> int:
  return sum(np.asarray(value).nbytes for value in source[0].values())


def _filled(parts: Iterator[Examples], number: int, rows: int) -> Examples:
  """Numbers of parts, and of rows of the arrays that hold them: one copy of each, wherever a worker has left it."""
  arrays, done = {}, 0
  for _ in range(number):
    part = next(parts)
    end = done + len(part["index"])
    for name, values in part.items():
      if name not in arrays:
        arrays[name] = np.empty((rows, *values.shape[1:]), values.dtype)
      arrays[name][done:end] = values
    done = end
  return arrays


class prefetch:
  """Iterates over fn(request) for the requests in their order, up to `depth` results ahead, in one background thread.

  An exception of fn is raised when its result is requested. `close`, or leaving it as a context manager, ends the
  thread.

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
    finally:
      if hasattr(requests, "close"):  # a generator that reads ahead itself
        requests.close()

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


def in_order(
  source: Source, batch_size: int, rows: Rows | None = None, workers: int = 0
) -> Iterator[tuple[Examples, int]]:
  """A whole split in its order: (some rows of a batch, all by default, the number of examples in the global batch).

  The last batch is filled by repeating the last example. "index" is the example's index in the split.

  Args:
    source: the split.
    batch_size: of the global batch.
    rows: of each batch, those of this process; by default all.
    workers: as in `Stream`.
  """
  rows = _all(batch_size, rows)
  counts = [min(batch_size, len(source) - first) for first in range(0, len(source), batch_size)]
  if source.in_memory:
    for batch, count in enumerate(counts):
      yield _part_in_order(source, batch_size, [rows], batch), count
    return
  pieces = np.array_split(rows, -(-len(rows) // PIECE))
  number = len(counts) * len(pieces)
  read = partial(_part_in_order, source, batch_size, pieces)
  with closing(Ahead(read, 0, number, min(workers, number), PIECE * _example_bytes(source))) as parts:
    for count in counts:
      yield _filled(parts, len(pieces), len(rows)), count


def _part_in_order(
  source: Source, batch_size: int, pieces: Sequence[Int32[np.ndarray, "rows"]], number: int
) -> Examples:
  batch, piece = divmod(number, len(pieces))
  indices = np.minimum(batch * batch_size + pieces[piece], len(source) - 1)
  return source.gather(indices) | {"index": indices}
