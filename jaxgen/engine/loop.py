"""The training loop, the only one.

It dispatches one compiled program (see `Program`): up to `updates_per_dispatch` updates from batches that a thread has
already put on the devices. While the devices work on one dispatch, the host reads the metrics of the previous one.

    run = Run(Folder("runs/x"), config, arguments, seed)
    train(run)

A dispatch ends where a hook is due; the bits do not depend on where dispatches end. The hooks act in this order:

    1. the checkpoint, before anything that may fail or take long,
    2. samples,
    3. the evaluation, which also rates the checkpoint of its step if the config keeps the best,
    4. figures and 5. the report, at the last step only.

A run that exists is resumed from its newest good checkpoint. The batch of step k is a function of (seed, k), so nothing
else needs restoring. If the run was killed before a hook of that step had finished, the hook acts before training goes
on. An error of data, samples or evaluation saves the state before it ends the run; with several processes, it ends all
of them if they can be informed (`cluster.errors_of_all`). SIGINT and SIGTERM finish the dispatch, save, and raise
`Stopped`; a second SIGINT does not wait.
"""

import collections
import contextlib
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxgen.core.errors import Stopped, UserError, in_words
from jaxgen.data import pipeline
from jaxgen.engine.checkpoint import Checkpoints
from jaxgen.engine.claims import Lost
from jaxgen.engine.cluster import agreed, by_main, check_shared, errors_of_all
from jaxgen.engine.frozen import RunCheckpoints
from jaxgen.engine.program import NOT_MADE
from jaxgen.engine.progress import Progress
from jaxgen.engine.provenance import check_data, check_same, describe, keep_config, record_end, record_start, start_of
from jaxgen.engine.record import Log, Window, sample_name, write_figures, write_samples
from jaxgen.engine.rehearsal import rehearse
from jaxgen.engine.run import Run
from jaxgen.engine.signals import Signals


class Hook(NamedTuple):
  """An action every `every` steps and at the last one, unless its result exists.

  Attributes:
    what: the text on the terminal meanwhile; "": none.
    every: its period in steps; None: at the last step only.
    act: (step) -> None, the action.
    is_done: (step) -> whether the run's folder has the action's result.
  """

  what: str
  every: int | None
  act: Callable[[int], None]
  is_done: Callable[[int], bool]

  def is_due(self, step: int, steps: int) -> bool:
    return step == steps or (self.every is not None and step > 0 and step % self.every == 0)


class Diverged(UserError):
  """Losses or gradients have not been finite for too long."""


def cuts(start: int, steps: int, size: int, hooks: Sequence[Any]) -> Iterator[tuple[int, int]]:
  """(first step, number of steps) of each dispatch: at most `size` steps, ending wherever a hook is due."""
  periods = [hook.every for hook in hooks if hook.every]
  while start < steps:
    end = min([start + size, steps, *((start // p + 1) * p for p in periods)])
    yield start, end - start
    start = end


def train(
  run: Run,
  progress: Progress | None = None,
  report: Callable[[Run], Any] | None = None,
  *,
  other_data: bool = False,
) -> dict[str, float]:
  """Trains a run to its last step, or resumes it, and evaluates it. Returns the numbers of the last evaluation.

  Args:
    report: called at the end by process 0; the command line passes `show.report.write`.
    other_data: resume a run even if the content of its data has changed.

  Raises:
    Stopped: a signal came; the state is saved.
    UserError: another process writes the run, it is of another config, its losses are not finite, its disk is full, or
      the like. What was saved is kept.
  """
  signals = Signals()
  with signals.handled():
    # Errors of data, batches and meshes are raised before a folder is made.
    run.data.source(run.data.train)
    if run.experiment.evaluators:
      run.data.has("test")  # `rehearse` refuses an evaluator that lacks it
    _ = run.program
    if not _is_trained(run):
      rehearse(run)
    progress = progress or Progress()
    by_main(lambda: run.folder.lock(progress.say))
    check_shared(run.folder.path)
    try:
      return _Training(run, progress, signals, report).to_the_end(other_data)
    except (OSError, MemoryError, RuntimeError) as error:
      sentence = in_words(error)
      if sentence is None:
        raise
      raise UserError(f"{run.folder.path} stopped, {sentence}; what was saved is kept") from error
    finally:
      run.folder.unlock()


def _is_trained(run: Run) -> bool:
  """Whether the folder has a checkpoint of the last step or a later one."""
  return agreed(max(Checkpoints(run.folder / "checkpoints").steps(), default=-1)) >= run.experiment.steps


class _Training:
  """One start of a run: from its newest checkpoint, or from nothing, to its last step or to a signal."""

  def __init__(self, run: Run, progress: Progress, signals: Signals, report: Callable[[Run], Any] | None):
    e = run.experiment
    self.run, self.progress, self.signals, self.report = run, progress, signals, report
    self.main = jax.process_index() == 0
    self.began = time.time()
    self.step = 0  # training steps of the run's state
    self.pending = collections.deque()  # (first step, number of steps, metrics on the devices) of dispatches
    self.skipping = False  # the newest update whose metrics were read was skipped
    self.failed: Exception | None = None  # an error of this process that the others do not know yet
    self.can_save = jax.process_count() == 1  # after an error; several processes must all know of it
    self.numbers: dict[int, dict[str, float]] = {}  # evaluations by step
    self.checkpoints = RunCheckpoints(
      run.folder, e.method.frozen, e.profiles, keep=e.keep, best=e.best, meta={"config": run.config.name}
    )
    self.stream = run.batches()
    self.log = self.window = None
    # `Checkpoints.save` sees what is there already.
    self.hooks = [Hook("", e.checkpoint_every, self.save, lambda step: False), *run.hooks]
    if e.method.sample is not None and e.samples:
      drawn = lambda step: any((run.folder / "samples").glob(f"{sample_name(step)}.*"))
      self.hooks.append(Hook("sampling", e.sample_every, self.sample, drawn))
    evaluated = lambda step: run.folder.evaluation(step) is not None
    self.hooks.append(Hook("evaluating", e.evaluate_every if e.evaluators else None, self.evaluate, evaluated))
    if e.figures:
      drawn = lambda step: (run.folder / "figures" / sample_name(step)).exists()
      self.hooks.append(Hook("drawing", None, self.draw, drawn))
    if report is not None:
      self.hooks.append(Hook("writing the report", None, self.write_report, lambda step: False))

  def to_the_end(self, other_data: bool) -> dict[str, float]:
    """Starts or resumes training, and returns the numbers of the last step."""
    run, last = self.run, self.run.experiment.steps
    with contextlib.ExitStack() as stack:
      stack.callback(self.checkpoints.close)
      stack.enter_context(contextlib.closing(self.stream))
      self.restore(other_data)
      self.log = stack.enter_context(contextlib.closing(Log(run, self.step)))
      if self.step < last:
        stopped = self.session()
        if stopped is not None:
          raise Stopped(
            f"{signal.Signals(stopped).name}: saved {run.folder.path} at step {self.step} of {last}; "
            "the same command goes on from there",
            stopped,
          )
      self.act()
      self.progress.stop()
    return self.numbers.get(last) or run.folder.evaluation(last) or {}

  def restore(self, other_data: bool) -> None:
    """Restores the newest good checkpoint or makes the first state, and records this start in the folder."""
    run, folder, last = self.run, self.run.folder, self.run.experiment.steps

    def look() -> dict[str, Any]:
      start = start_of(run)
      if folder.exists():
        check_same(folder, run.config, run.arguments, run.seed)
        if not other_data:
          check_data(folder, start["data"])
      return start

    def begin() -> None:
      if not folder.exists():
        (folder / "samples").mkdir(parents=True, exist_ok=True)
        keep_config(run)  # first: run.json makes it a run, which a kill may leave so
        folder.write_info(describe(run, start))

    # Process 0 looks at the files and decides for all processes: they may not see the same files.
    start = by_main(look)
    with warnings.catch_warnings(record=True) as caught:
      warnings.simplefilter("always", UserWarning)
      restored = self.checkpoints.restore(run.program.abstract)
    for warning in caught:
      self.progress.say(str(warning.message))
    frozen = {}  # what a new run has read and saved
    if restored is None:
      first = self.stream.first()
      run.experiment.method.check(run.program.prepared(first))
      run.state = run.program.init(run.seed, first)
      by_main(begin)  # a refused batch, or teacher, leaves no run
      frozen = self.checkpoints.save_frozen(run.state)
    else:
      self.step, run.state = restored
      if self.step > last:
        raise UserError(f"{folder.path} has {self.step} steps already: --steps may be raised, not lowered to {last}")
      goes_on = f"{'resuming' if self.step else 'starting'} {folder.path} at step {self.step}"  # 0: imported
      self.progress.say(goes_on if self.step < last else f"{folder.path} is trained: step {last}")
    if self.main:
      damaged = folder.keep_metrics_until(self.step)
      if damaged:
        self.progress.say(f"{folder / 'metrics.jsonl'} had {damaged} damaged lines, which are left out from now on")
      record_start(run, start, self.step, frozen)

  def session(self) -> int | None:
    """Trains to the last step, or until a signal, which it returns. Records both steps in run.json."""
    try:
      self.act()  # hooks that were due when the run was killed
      stopped = self.loop()
      if stopped is not None:  # before the terminal is touched, which may be gone
        self.save(self.step)
        self.checkpoints.wait()
      return stopped
    except (Diverged, Lost, Stopped):
      raise
    except Exception:
      self.save_after_error()
      raise
    finally:
      self.progress.stop()
      if self.main:
        record_end(self.run.folder, self.step, time.time() - self.began)

  def loop(self) -> int | None:
    run, e, program = self.run, self.run.experiment, self.run.program
    began = time.perf_counter()
    _ = program.loop
    self.tell()  # whoever has compiled sooner waits here: on the devices it would do so for 30 s at most
    self.progress.say(f"compiled in {time.perf_counter() - began:.1f} s")
    self.window = Window(self.log, e.log_every, self.step, e.steps, program)
    self.progress.start(self.step, e.steps)
    requests = cuts(self.step, e.steps, e.updates_per_dispatch, self.hooks)
    self.signals.waiting = True
    try:
      with contextlib.closing(pipeline.prefetch(self.put, requests, depth=2)) as ready:
        for start, count, raws, error in ready:
          self.window.waited = ready.waited
          self.failed = self.failed or error
          run.state, metrics = program.dispatch(run.state, raws, 0 if self.failed else count)
          self.step = start + count
          self.pending.append((start, count, metrics))
          is_due = any(hook.is_due(self.step, e.steps) for hook in self.hooks)
          self.settle(keep=0 if is_due else 1)
          if self.step < e.steps:
            self.act()
          stopped = self.signals.wish()
          if stopped is not None:
            self.settle(keep=0)
            return stopped
    finally:
      self.signals.waiting = False
    self.tell()
    return None

  def put(self, cut: tuple[int, int]) -> tuple[int, int, Any, Exception | None]:
    """(first step, number of steps, batches on the devices, None) of a dispatch. In a job of several processes an error
    of the data is returned last, with batches that are not used: the others learn of it by a dispatch without
    updates."""
    try:
      return (*cut, self.run.program.put_many(self.stream.take(*cut)), None)
    except Exception as error:
      if jax.process_count() == 1:
        raise
      return (*cut, self.run.program.put_nothing(), error)

  def tell(self) -> None:
    """Ends all processes' training if one of them has met an error. All call it at the same step."""
    others = errors_of_all(self.failed)
    self.can_save = self.can_save or self.failed is not None or bool(others)
    if self.failed is not None:
      raise self.failed
    if others:
      raise UserError(others[0])

  def settle(self, keep: int) -> None:
    """Reads the metrics of all dispatches but the newest few.

    Raises:
      Diverged: too many updates in a row were skipped.
    """
    while len(self.pending) > keep:
      start, count, metrics = self.pending.popleft()
      host = {name: np.asarray(x)[:count] for name, x in jax.device_get(metrics).items()}
      if host["skipped"][0] == NOT_MADE:  # a process has met an error
        self.step = start
        self.pending.clear()
        self.tell()
      try:
        self.window.add(start, host)
      except OSError as error:  # only process 0 writes
        self.failed = error
        if jax.process_count() == 1:
          raise
      self.progress.update(start + count, float(next(x for name, x in host.items() if name.endswith("loss"))[-1]))
      skipped = host["skipped"].astype(int)
      self.skipping = skipped[-1] > 0
      if skipped.max() >= self.run.experiment.max_skipped:
        since = start + 1 + skipped.argmax() - (skipped.max() - 1)
        raise Diverged(
          f"stopped at step {start + count}: loss, gradient or update has not been finite since step {since} "
          f"({skipped.max()} updates skipped); the last good checkpoint in {self.run.folder.path} is kept; "
          "a lower learning rate or gradient clipping usually helps"
        )

  def act(self) -> None:
    """Runs the hooks that are due at this step and not done yet, in order."""
    for hook in self.hooks:
      if hook.is_due(self.step, self.run.experiment.steps) and not agreed(hook.is_done(self.step)):
        if hook.what:
          self.progress.status(hook.what)
          if jax.process_count() > 1:  # the others may hang if one fails, and then nothing could be saved
            self.save(self.step)
        try:
          hook.act(self.step)
        except (Lost, Stopped):  # after either of these, the processes cannot save together
          raise
        except Exception as error:
          if jax.process_count() == 1 or hook.act == self.save:
            raise
          self.failed = error
        self.tell()
        self.progress.status("training")

  def save_after_error(self) -> None:
    """Saves the newest state, if it is good, after an error that all processes know of."""
    if not self.can_save:
      return
    with contextlib.suppress(Exception):  # the error that ends the run is the one to report
      self.settle(keep=0)
      if not self.skipping:  # the state may be the cause
        self.save(self.step)
        self.checkpoints.wait()
        self.progress.say(f"saved {self.run.folder.path} at step {self.step}")

  def save(self, step: int) -> None:
    self.checkpoints.save(step, self.run.state)

  def sample(self, step: int) -> None:
    write_samples(self.run, self.run.sample(self.run.experiment.samples), step)

  def evaluate(self, step: int) -> None:
    numbers, best = self.run.evaluate(), self.run.experiment.best
    if best is not None:
      self.save(step)
      if best[0] not in numbers:  # `rehearse` could not tell
        raise UserError(f"config {self.run.config.name}: best={best[0]!r} is none of {', '.join(numbers)}")
      self.checkpoints.rate(step, numbers)
    self.log.write(step, "evaluate", numbers)  # last, because it marks the evaluation as done
    self.numbers[step] = numbers

  def draw(self, step: int) -> None:
    write_figures(self.run.folder, self.run.draw(), step)

  def write_report(self, step: int) -> None:
    if self.main:
      self.report(self.run)
