"""The training loop, the only one.

It dispatches one compiled program (see `Program`): up to `updates_per_dispatch` updates from batches that a
thread has already put on the devices. Hooks by step (sample, evaluate, checkpoint) cut dispatches where they must; the
bits do not depend on where. While the devices work on one dispatch, the host reads the metrics of the one before.

    run = Run(Folder("runs/x"), config, arguments, seed)
    train(run)

A run that exists is resumed from its newest good checkpoint: the batch of step k is a function of (seed, k), so nothing
else needs restoring. SIGINT and SIGTERM finish the dispatch, save, and raise `Stopped`; a second SIGINT does not wait.
"""

import collections
import contextlib
import errno
import io
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxgen.core import files
from jaxgen.core.errors import Stopped, UserError
from jaxgen.core.method import network_sizes
from jaxgen.data import pipeline
from jaxgen.engine.checkpoint import Checkpoints, agreed
from jaxgen.engine.experiment import Experiment
from jaxgen.engine.folder import Folder
from jaxgen.engine.progress import Progress
from jaxgen.engine.provenance import check_same, describe, keep_config, where
from jaxgen.engine.run import Run
from jaxgen.engine.signals import Signals


class Hook(NamedTuple):
  """Something done every so many steps, and at the last one if `last`."""

  every: int | None
  last: bool
  act: Callable[[int], None]

  def due(self, step: int, steps: int) -> bool:
    return (self.every is not None and step > 0 and step % self.every == 0) or (self.last and step == steps)


def batches(experiment: Experiment, seed: int) -> pipeline.Stream:
  """This process's part of the run's batches."""
  return pipeline.Stream(
    experiment.data.source(experiment.data.train),
    seed,
    experiment.batch_size,
    process=jax.process_index(),
    processes=jax.process_count(),
  )


def cuts(start: int, steps: int, size: int, hooks: list[Hook]) -> Iterator[tuple[int, int]]:
  """(first step, number of steps) of each dispatch: at most `size` steps, ending wherever a hook is due."""
  periods = [hook.every for hook in hooks if hook.every]
  while start < steps:
    end = min([start + size, steps, *((start // p + 1) * p for p in periods)])
    yield start, end - start
    start = end


def _first(stream: pipeline.Stream) -> dict[str, np.ndarray]:
  return {k: x[0] for k, x in stream.take(0, 1).items()}


def train(run: Run, progress: Progress | None = None, report: Callable[[Run], Any] | None = None) -> dict[str, float]:
  """Trains a run to its last step, or resumes it, and evaluates it; returns the final numbers.

  report: called at the end by the main process; the command line gives `show.report.write`.

  Raises:
    Stopped: a signal came; the state is saved.
    UserError: the run cannot go on: another process writes it, it is of another config, its losses are not finite, its
      disk is full. What was saved is kept.
  """
  main = jax.process_index() == 0
  signals = Signals()
  with signals.handled():
    # Wrong data, batches and meshes are said before a folder is made.
    run.data.source(run.data.train)
    if run.experiment.evaluators:
      run.data.source(run.data.test)
    _ = run.program
    if main:
      run.folder.lock()
    try:
      return _train(run, progress or Progress(), signals, main, report)
    except OSError as error:
      if error.errno in (errno.ENOSPC, errno.EDQUOT):
        raise UserError(
          f"the disk of {run.folder.path} is full: free some space and start again; what was saved is kept"
        ) from error
      raise
    finally:
      run.folder.unlock()


def _train(
  run: Run, progress: Progress, signals: Signals, main: bool, report: Callable[[Run], Any] | None
) -> dict[str, float]:
  e, folder, began = run.experiment, run.folder, time.time()
  # What is decided by looking at files is decided by process 0 for all: they may not see the same.
  if agreed(folder.exists()):
    check_same(folder, run.config, run.arguments, run.seed)
  elif main:
    (folder / "samples").mkdir(parents=True, exist_ok=True)
    keep_config(folder, run.config)
    folder.write_info(describe(run.config, run.arguments, run.seed))
  program = run.program
  checkpoints = Checkpoints(folder / "checkpoints", keep=e.keep, best=e.best, meta={"config": run.config.name})
  with contextlib.ExitStack() as stack:
    stack.callback(checkpoints.close)
    stream = stack.enter_context(contextlib.closing(batches(e, run.seed)))
    with warnings.catch_warnings(record=True) as caught:
      warnings.simplefilter("always", UserWarning)
      restored = checkpoints.restore(program.abstract)
    for warning in caught:
      progress.say(str(warning.message))
    if restored is not None:
      step, state = restored
      if step > e.steps:
        raise UserError(f"{folder.path} has {step} steps already: --steps may be raised, not lowered to {e.steps}")
      progress.say(
        f"resuming {folder.path} at step {step}" if step < e.steps else f"{folder.path} is trained: step {step}"
      )
    else:
      first = _first(stream)
      e.method.check(program.prepared(first))
      step, state = 0, program.init(run.seed, first)
    run.state = state
    if main:
      folder.keep_metrics_until(step)
      info = folder.info()
      info["arguments"] = run.config.to_json(run.arguments)  # the same but for the steps
      info["parameters"] = network_sizes(state.params)
      folder.write_info(info)
    writer = _event_writer(folder, step) if main else None
    if writer is not None:
      stack.callback(writer.close)

    def write(step: int, kind: str, numbers: dict[str, float]) -> None:
      if main:
        folder.append_metrics({"step": step, "kind": kind, **numbers})
        for name, value in numbers.items():
          writer.add_scalar(f"{kind}/{name}", value, step)
        writer.flush()

    evaluated = {}

    def sample(at: int) -> None:
      progress.status("sampling")
      pictures = run.sample(e.samples)
      if main:
        write_samples(run, pictures, at)

    def evaluate(at: int) -> None:
      progress.status("evaluating")
      evaluated[at] = run.evaluate()
      if e.best and e.best[0] not in evaluated[at]:
        raise UserError(f"config {run.config.name}: best={e.best[0]!r} is none of {', '.join(evaluated[at])}")
      write(at, "evaluate", evaluated[at])

    def save(at: int) -> None:
      checkpoints.save(at, run.state, evaluated.get(at))

    hooks = [Hook(e.checkpoint_every, True, save)]
    if e.method.sample is not None and e.samples:
      hooks.insert(0, Hook(e.sample_every, False, sample))
    if e.evaluators:
      hooks.insert(0, Hook(e.evaluate_every, e.best is not None, evaluate))  # the last checkpoint, too, may be the best

    if step < e.steps:
      session = {"from": step, "to": step, **where()}
      try:
        stopped = _loop(run, program, stream, session, hooks, signals, progress, write)
      finally:
        if main:
          info = folder.info()
          info["sessions"].append({**session, "seconds": round(time.time() - began, 1)})
          folder.write_info(info)
      step = session["to"]
      if stopped:
        checkpoints.save(step, run.state)
        checkpoints.wait()
        raise Stopped(
          f"{signal.Signals(stopped).name}: saved {folder.path} at step {step} of {e.steps}; "
          "the same command goes on from there",
          stopped,
        )
      checkpoints.wait()

    drawn = any((folder / "samples").glob(f"{sample_name(step)}.*"))
    if e.method.sample is not None and e.samples and not agreed(drawn):
      sample(step)
    numbers = folder.evaluation(step)
    if not agreed(numbers is not None):
      evaluate(step)
      numbers = evaluated[step]
    if e.figures and not agreed((folder / "figures" / sample_name(step)).exists()):
      progress.status("drawing")
      drawn = run.draw()
      if main:
        write_figures(folder, drawn, step)
  if main and report is not None:
    progress.status("writing the report")
    report(run)
  progress.stop()
  return numbers or {}


def _loop(
  run: Run, program, stream, session: dict, hooks: list[Hook], signals: Signals, progress: Progress, write
) -> int | None:
  """Trains from session["from"] to the last step, or until a signal, which it returns; session["to"] goes along."""
  e, step = run.experiment, session["from"]
  began = time.perf_counter()
  _ = program.loop
  progress.say(f"compiled in {time.perf_counter() - began:.1f} s")
  window = Window(e, write, step)
  progress.start(step, e.steps)
  put = lambda cut: (*cut, program.put_many(stream.take(*cut)))
  pending = collections.deque()

  def settle(keep: int) -> None:
    while len(pending) > keep:
      start, count, metrics = pending.popleft()
      host = {name: np.asarray(x)[:count] for name, x in jax.device_get(metrics).items()}
      window.add(start, host)
      progress.update(start + count, float(next(x for name, x in host.items() if name.endswith("loss"))[-1]))
      row = host["skipped"].astype(int)
      if row.max() >= e.max_skipped:
        since = start + 1 + row.argmax() - (row.max() - 1)
        raise UserError(
          f"stopped at step {start + count}: the loss or a gradient has not been finite since step {since} "
          f"({row.max()} updates skipped); the last good checkpoint in {run.folder.path} is kept; "
          "a lower learning rate or gradient clipping usually helps"
        )

  requests = cuts(step, e.steps, e.updates_per_dispatch, hooks)
  signals.waiting = True
  try:
    with contextlib.closing(pipeline.prefetch(put, requests, depth=2)) as ready:
      for start, count, raws in ready:
        run.state, metrics = program.dispatch(run.state, raws, count)
        pending.append((start, count, metrics))
        step = session["to"] = start + count
        due = [hook for hook in hooks if hook.due(step, e.steps)]
        settle(0 if due or step == e.steps else 1)
        for hook in due:
          hook.act(step)
          progress.status("training")
        stopped = signals.wish()
        if stopped is not None:
          settle(0)
          return stopped
  finally:
    signals.waiting = False
    progress.stop()
  return None


class Window:
  """Averages metrics over the steps between two log lines."""

  def __init__(self, experiment: Experiment, write, step: int):
    self.every, self.steps, self.write = experiment.log_every, experiment.steps, write
    self.rows, self.time, self.since = [], time.perf_counter(), step

  def add(self, start: int, metrics: dict[str, np.ndarray]) -> None:
    """Takes the metrics [count] of the steps start+1 .. start+count."""
    for i in range(len(metrics["skipped"])):
      self.rows.append({name: float(x[i]) for name, x in metrics.items()})
      step = start + i + 1
      if step % self.every == 0 or step == self.steps:
        self._flush(step)

  def _flush(self, step: int) -> None:
    good = [row for row in self.rows if row["skipped"] == 0] or self.rows
    numbers = {name: float(np.mean([row[name] for row in good])) for name in good[0] if name != "skipped"}
    numbers["skipped"] = len(self.rows) - sum(row["skipped"] == 0 for row in self.rows)
    now = time.perf_counter()
    numbers["steps_per_second"] = (step - self.since) / (now - self.time)
    self.rows, self.time, self.since = [], now, step
    self.write(step, "train", numbers)


def sample_name(step: int) -> str:
  return f"step_{step:08d}"


def write_samples(run: Run, samples: np.ndarray, step: int) -> None:
  """Writes samples as samples/step_XXXXXXXX.png, or what else shows them, and as samples/final.npz."""
  for suffix, contents in run.render(samples).items():
    files.write(run.folder / "samples" / f"{sample_name(step)}{suffix}", contents)
  buffer = io.BytesIO()
  np.savez(buffer, samples=samples)
  files.write(run.folder / "samples" / "final.npz", buffer.getvalue())


def write_figures(folder: Folder, drawn: dict[str, bytes], step: int) -> None:
  """Writes the files into the run's folder figures/, and an empty one that says of which step they are."""
  for old in (folder / "figures").glob("*"):
    old.unlink()
  for name, contents in drawn.items():
    files.write(folder / "figures" / name, contents)
  files.write(folder / "figures" / sample_name(step), b"")


def _event_writer(folder, step: int):
  from tensorboardX import SummaryWriter

  return SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1 if step else None, write_to_disk=True)
