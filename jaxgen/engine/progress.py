"""The terminal output of training."""

import sys
import time

import jax

from jaxgen.core import environment


class Progress:
  """The output of training: a bar on a terminal, otherwise a line now and then. Only process 0 prints.

  A job of several processes has no bar: its thread would wait for a terminal that the launcher has closed.
  """

  def __init__(self, quiet: bool = False):
    self._quiet = quiet or jax.process_index() != 0
    self._bar = self._task = self._status = None
    self._last = 0.0
    if not self._quiet:
      from rich.console import Console

      self._console = Console(file=sys.stdout, highlight=False, soft_wrap=True)

  def say(self, text: str) -> None:
    if not self._quiet:
      self._console.print(text, markup=False)

  def start(self, step: int, steps: int) -> None:
    self._begin, self._steps, self._since = step, steps, time.perf_counter()
    if not self._quiet:
      environment.say_changes()
    if self._quiet or not self._console.is_terminal or jax.process_count() > 1:
      return
    from rich import progress

    self._bar = progress.Progress(
      progress.TextColumn("{task.description}"),
      progress.BarColumn(),
      progress.TextColumn("step {task.completed}/{task.total}  loss {task.fields[loss]}  {task.fields[rate]} steps/s"),
      progress.TimeRemainingColumn(elapsed_when_finished=True),
      console=self._console,
    )
    self._task = self._bar.add_task("training", total=steps, completed=step, loss="...", rate="...")
    self._bar.start()

  def update(self, step: int, loss: float) -> None:
    if self._quiet:
      return
    now = time.perf_counter()
    rate = (step - self._begin) / (now - self._since)
    if self._bar is not None:
      self._bar.update(self._task, completed=step, loss=f"{loss:.4f}", rate=f"{rate:.1f}")
    elif now - self._last > 10 or step == self._steps:
      left = (self._steps - step) / rate
      self.say(f"step {step}/{self._steps}  loss {loss:.4f}  {rate:.1f} steps/s  {left:.0f} s left")
      self._last = now

  def status(self, what: str) -> None:
    if self._bar is not None:
      self._bar.update(self._task, description=what)
    elif what != "training":
      self.say(f"{what} ...")

  def stop(self) -> None:
    if self._bar is not None:
      self._bar.stop()
      self._bar = None
