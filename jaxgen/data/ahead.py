"""Reads parts of batches ahead, in order, with threads of this process or with Grain's worker processes.

A part is a function of its number alone, so the number of readers does not change the result. Worker processes are
spawned, as Grain does: they import this package anew and use no device. They ignore SIGINT and SIGTERM, which a
terminal or a launcher also sends to them: the process that reads closes them, and if it is killed, they end by
themselves.
"""

import contextlib
import functools
import multiprocessing
import os
import pickle
import re
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from multiprocessing.connection import wait
from typing import Any

from jaxgen.core.errors import UserError

THREADS = 8  # reading threads of this process, if there are no worker processes
AT_MOST = 16  # most worker processes that are started by default
SHARED = "/dev/shm"  # the shared memory through which worker processes pass arrays
SMALL = 2**16  # bytes; smaller arrays are passed through a pipe

Read = Callable[[int], Any]


def of_machine() -> int:
  """How many worker processes suit this machine: its cores less one, at most 16; 0 with fewer than 4 cores."""
  cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
  return min(cores - 1, AT_MOST) if cores >= 4 else 0


class Ahead:
  """Iterates over read(start), ..., read(stop - 1) and computes several of them ahead.

  An error of `read` is raised when the iteration reaches its result. `close` ends threads and processes.
  """

  def __init__(self, read: Read, start: int, stop: int, workers: int = 0, part_bytes: int = 0):
    """Starts nothing yet.

    Args:
      read: a function that several threads may call at once; with workers, cloudpickle sends it to them.
      start, stop: `read` is called with the numbers start ... stop - 1.
      workers: the number of processes that read; 0: threads of this process.
      part_bytes: the approximate size of one result, in bytes.

    Raises:
      UserError: `workers` is negative.
    """
    if workers < 0:
      raise UserError(f"--workers is a number of processes, 0 for none, not {workers}")
    import grain  # here, because the import takes a second and data in memory does not need it

    self._workers, self._started = workers, False
    parts = grain.MapDataset.range(start, stop).map(functools.partial(_portable, read) if workers else read)
    if workers:
      _let_flags_be_read()
      options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2)
      shared = shutil.disk_usage(SHARED).free if os.path.isdir(SHARED) else 0
      # A container's /dev/shm may be small, and a process that writes beyond its end is killed: use pipes then.
      small = SMALL if shared > 16 * workers * part_bytes else 2**62
      one_by_one = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
      parts = parts.to_iter_dataset(one_by_one)
      parts = grain.experimental.WithOptionsIterDataset(parts, grain.experimental.DatasetOptions(min_shm_size=small))
      parts = parts.mp_prefetch(options, worker_init_fn=_begin)
    else:
      parts = parts.to_iter_dataset(grain.ReadOptions(num_threads=THREADS, prefetch_buffer_size=THREADS))
    self._parts = iter(parts)

  def __iter__(self) -> Iterator[Any]:
    return self

  def __next__(self) -> Any:
    try:
      if self._started or not self._workers:
        return next(self._parts)
      with _signals_held_back():  # this call starts the threads, and they start all processes
        self._started = True
        return next(self._parts)
    except RuntimeError as error:
      ended = re.search(r"terminated unexpectedly with exit code (-?\d+)", str(error))
      if ended is None:
        raise
      raise UserError(
        f"a worker process that reads the data has ended with exit code {ended[1]}: it was killed, perhaps for want of "
        'memory, or could not start (a script that trains begins with `if __name__ == "__main__":`): take fewer '
        "--workers, or 0"
      ) from error

  def close(self) -> None:
    self._parts.close()


def _let_flags_be_read() -> None:
  """Gives Grain's absl flags their defaults where nobody has parsed them, as Grain itself does for some of them."""
  from absl import flags

  if not flags.FLAGS.is_parsed():
    for name in flags.FLAGS:
      if name.startswith("grain_"):
        flags.FLAGS[name].present = True


@contextlib.contextmanager
def _signals_held_back() -> Iterator[None]:
  """Threads and processes that start within it never get SIGINT or SIGTERM; this thread gets them afterwards."""
  if not hasattr(signal, "pthread_sigmask"):
    yield
    return
  before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
  try:
    yield
  finally:
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(worker: int, workers: int) -> None:
  """Sets up a worker process: it ignores signals and ends with its parent."""
  for signum in (signal.SIGINT, signal.SIGTERM):
    signal.signal(signum, signal.SIG_IGN)
  threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
  parent = multiprocessing.parent_process()
  if parent is not None:
    wait([parent.sentinel])
    os._exit(1)


def _portable(read: Read, i: int) -> Any:
  """Returns read(i); replaces an error that cannot be sent to another process by one that can."""
  try:
    return read(i)
  except UserError as error:
    raise UserError(str(error)) from None
  except Exception as error:
    try:
      pickle.loads(pickle.dumps(error))
    except Exception:  # the constructor of the error may need other arguments
      raise RuntimeError(f"{type(error).__name__}: {error}") from None
    raise
