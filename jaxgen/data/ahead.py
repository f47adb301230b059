"""Parts of batches, read ahead by threads of this process or by Grain's worker processes, in their order.

What is read is a function of its number alone, so the bits do not depend on how many read. Worker processes are started
anew (spawned, as Grain does), import this package and use no device. They take no notice of SIGINT and SIGTERM, which a
terminal or a launcher sends to them too: whoever reads closes them, and should it be killed, they end by themselves.
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

THREADS = 8  # of this process, where there are no worker processes
AT_MOST = 16  # worker processes that are started unasked
SHARED = "/dev/shm"  # where arrays lie that a worker process hands over
SMALL = 2**16  # bytes; what is smaller is handed over through a pipe

Read = Callable[[int], Any]


def of_machine() -> int:
  """How many worker processes suit this machine: one for each core but one, at most 16; none on fewer than 4 cores."""
  cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
  return min(cores - 1, AT_MOST) if cores >= 4 else 0


class Ahead:
  """Iterates over read(start), ..., read(stop - 1), several of which are computed ahead.

  What `read` raises is raised where its result was due. `close` ends threads and processes.
  """

  def __init__(self, read: Read, start: int, stop: int, workers: int = 0, part_bytes: int = 0):
    """Starts nothing yet.

    Args:
      read: a function that several threads may call at once; with workers it is sent to them by cloudpickle.
      start, stop: the numbers that it is called with.
      workers: processes that read; 0: threads of this process.
      part_bytes: of one result, about.

    Raises:
      UserError: fewer than 0 workers.
    """
    if workers < 0:
      raise UserError(f"--workers is a number of processes, 0 for none, not {workers}")
    import grain  # takes a second, and data in memory does not need it

    self._workers, self._started = workers, False
    parts = grain.MapDataset.range(start, stop).map(functools.partial(_portable, read) if workers else read)
    if workers:
      _let_flags_be_read()
      options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2)
      shared = shutil.disk_usage(SHARED).free if os.path.isdir(SHARED) else 0
      # A container's /dev/shm may be small, and writing beyond it kills the process: pipes then.
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
      with _signals_held_back():  # all processes start now, from threads that start now
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
  """Grain's flags have their defaults where nobody has parsed absl's; it does the same for some of them."""
  from absl import flags

  if not flags.FLAGS.is_parsed():
    for name in flags.FLAGS:
      if name.startswith("grain_"):
        flags.FLAGS[name].present = True


@contextlib.contextmanager
def _signals_held_back() -> Iterator[None]:
  """Threads and processes that are started within do not get SIGINT and SIGTERM; this thread gets them afterwards."""
  if not hasattr(signal, "pthread_sigmask"):
    yield
    return
  before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
  try:
    yield
  finally:
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(worker: int, workers: int) -> None:
  """What a worker process does first."""
  for signum in (signal.SIGINT, signal.SIGTERM):
    signal.signal(signum, signal.SIG_IGN)
  threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
  parent = multiprocessing.parent_process()
  if parent is not None:
    wait([parent.sentinel])
    os._exit(1)


def _portable(read: Read, i: int) -> Any:
  """read(i), whose errors can be sent to another process."""
  try:
    return read(i)
  except UserError as error:
    raise UserError(str(error)) from None
  except Exception as error:
    try:
      pickle.loads(pickle.dumps(error))
    except Exception:  # whatever an error's own constructor wants
      raise RuntimeError(f"{type(error).__name__}: {error}") from None
    raise
