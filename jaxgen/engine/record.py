"""Writes the results of training into a run's folder: numbers, samples and figures. Only process 0 writes."""

import io
import time

import jax
import numpy as np

from jaxgen.core import files
from jaxgen.data.units import unit
from jaxgen.engine.chips import data_sheet
from jaxgen.engine.flops import flops
from jaxgen.engine.folder import Folder
from jaxgen.engine.program import Program
from jaxgen.engine.run import Run


class Log:
  """Numbers by step, in metrics.jsonl, in a folder of a file system in tensorboard/, and in the run's `on_metrics`.

  Attributes:
    batch_size: examples in a step.
    unit: what examples are counted in.
  """

  def __init__(self, run: Run, step: int):
    """Opens the log.

    Args:
      run: the run.
      step: the step that training goes on from; TensorBoard's later events are discarded.
    """
    folder, self.batch_size, self._others = run.folder, run.experiment.batch_size, run.on_metrics
    self.unit = unit(run.data)
    self._folder, self._events = folder, None
    self._is_main = jax.process_index() == 0
    if self._is_main and not files.is_remote(folder.path):
      from tensorboardX import SummaryWriter  # takes a second

      purge = step + 1 if step else None
      self._events = SummaryWriter(str(folder / "tensorboard"), purge_step=purge, write_to_disk=True)

  def write(self, step: int, kind: str, numbers: dict[str, float]) -> None:
    """Writes the numbers of a step.

    Args:
      step: the step.
      kind: "train" or "evaluate".
      numbers: the numbers by name.
    """
    if not self._is_main:
      return
    self._folder.append_metrics({"step": step, "kind": kind, **numbers})
    if self._events is not None:
      for name, value in numbers.items():
        self._events.add_scalar(f"{kind}/{name}", value, step)
      self._events.flush()
    for other in self._others:
      other(step, kind, dict(numbers))

  def close(self) -> None:
    self._folder.flush()
    if self._events is not None:
      self._events.close()
    for other in self._others:
      if hasattr(other, "close"):
        other.close()


class Window:
  """Averages metrics over the steps between two lines of the log.

  Attributes:
    waited: seconds that training has waited for data so far; the loop sets it.
  """

  def __init__(self, log: Log, every: int, step: int, steps: int, program: Program):
    """Starts with no metrics.

    Args:
      log: where the averages are written.
      every: steps between two lines of the log.
      step: the last step that was done.
      steps: the last step of the run.
      program: what is trained, whose work is counted.
    """
    self._log, self._every, self._steps = log, every, steps
    self._flops, self._devices = flops(program.step_traced.jaxpr.jaxpr), program.mesh.devices.flat
    self._sheet = data_sheet(self._devices[0].device_kind)
    self._rows, self._time, self._since = [], time.perf_counter(), step
    self.waited = self._waited = 0.0

  def add(self, start: int, metrics: dict[str, np.ndarray]) -> None:
    """Takes the metrics [count] of the steps start+1 .. start+count."""
    for i in range(len(metrics["skipped"])):
      self._rows.append({name: float(x[i]) for name, x in metrics.items()})
      step = start + i + 1
      if step % self._every == 0 or step == self._steps:
        self._flush(step)

  def _flush(self, step: int) -> None:
    good = [row for row in self._rows if row["skipped"] == 0] or self._rows
    numbers = {name: float(np.mean([row[name] for row in good])) for name in good[0] if name != "skipped"}
    numbers["skipped"] = len(self._rows) - sum(row["skipped"] == 0 for row in self._rows)
    now = time.perf_counter()
    numbers["steps_per_second"] = (step - self._since) / (now - self._time)
    numbers["examples_per_second"] = numbers["steps_per_second"] * self._log.batch_size
    if self._log.unit.name not in ("images", "examples"):
      name = f"{self._log.unit.name.replace(' ', '_')}_per_second"
      numbers[name] = numbers["examples_per_second"] * self._log.unit.each
    if self._sheet is not None:
      numbers["mfu"] = self._flops * numbers["steps_per_second"] / (len(self._devices) * self._sheet.bfloat16)
    memory = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in memory:  # not known for CPUs
      numbers["device_peak_gib"] = memory["peak_bytes_in_use"] / 2**30
    numbers["data_wait_seconds"] = (self.waited - self._waited) / (step - self._since)  # a step
    self._rows, self._time, self._since, self._waited = [], now, step, self.waited
    self._log.write(step, "train", numbers)


def sample_name(step: int) -> str:
  return f"step_{step:08d}"


def write_samples(run: Run, samples: np.ndarray, step: int) -> None:
  """Writes samples as samples/final.npz, and as samples/step_XXXXXXXX.png or other files that show them."""
  if jax.process_index() != 0:
    return
  run.folder.check()
  buffer = io.BytesIO()
  np.savez(buffer, samples=samples)
  files.write(run.folder / "samples" / "final.npz", buffer.getvalue())
  for suffix, contents in run.render(samples).items():  # last, because they mark this as done
    files.write(run.folder / "samples" / f"{sample_name(step)}{suffix}", contents)


def write_figures(folder: Folder, drawn: dict[str, bytes], step: int) -> None:
  """Writes files into the run's folder figures/, and an empty file whose name has their step."""
  if jax.process_index() != 0:
    return
  folder.check()
  for old in (folder / "figures").glob("*"):
    old.unlink()
  for name, contents in drawn.items():
    files.write(folder / "figures" / name, contents)
  files.write(folder / "figures" / sample_name(step), b"")
