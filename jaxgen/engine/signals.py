"""SIGINT and SIGTERM as a request to stop between dispatches."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator

import jax

from jaxgen.core.errors import Stopped


class Signals:
  """Turns SIGINT and SIGTERM into a request to stop, which the loop checks between dispatches.

  Several processes must stop at the same step. There jax's coordination service handles SIGTERM and agrees on the step,
  and SIGINT is passed on as SIGTERM.
  """

  def __init__(self):
    self.received = None
    self.asked = 0
    self.waiting = False  # the loop is running and will ask; otherwise a signal stops at once

  @contextlib.contextmanager
  def handled(self) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
      yield  # only the main thread may set handlers; a training that runs elsewhere is stopped by its owner
      return
    wanted = [signal.SIGINT] if jax.process_count() > 1 else [signal.SIGINT, signal.SIGTERM]
    before = {s: signal.signal(s, self._handle) for s in wanted}
    try:
      yield
    finally:
      for s, handler in before.items():
        signal.signal(s, handler)

  def _handle(self, signum: int, frame) -> None:
    if not self.waiting or (self.received is not None and signum == signal.SIGINT):
      raise Stopped("stopped at once; what was saved before is kept", signum)
    self.received = signum
    if jax.process_count() > 1:
      os.kill(os.getpid(), signal.SIGTERM)

  def wish(self) -> int | None:
    """The signal to stop for; None: go on. Every process asks after the same dispatches and gets the same answer."""
    if jax.process_count() > 1:
      from jax.experimental import multihost_utils

      self.asked += 1  # the service names one number to stop at, so none may be left out: steps would not do
      return signal.SIGTERM if multihost_utils.reached_preemption_sync_point(self.asked) else None
    return self.received
