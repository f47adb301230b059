"""A run: an experiment, its folder, and its state at some step."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxgen.core import files
from jaxgen.core.errors import TooSmall, UserError
from jaxgen.core.keys import check_seed, root
from jaxgen.data import Dataset, pipeline
from jaxgen.engine.config import Config, load_kept
from jaxgen.engine.drawing import stream
from jaxgen.engine.experiment import Experiment
from jaxgen.engine.folder import Folder
from jaxgen.engine.frozen import RunCheckpoints
from jaxgen.engine.hashing import Leaf, difference, named_leaves
from jaxgen.engine.mesh import check_divides, make_mesh
from jaxgen.engine.program import Program

TRACING = (ValueError, TypeError, ArithmeticError)  # what wrong shapes and sizes raise


class Run:
  """A run: an experiment, its folder, and its state at some step.

  Attributes:
    folder: the run's folder.
    config: its config.
    arguments: all of the config's arguments.
    experiment: the experiment that they build.
    seed: the run's seed.
    state: the training state; a finished run's is restored when it is first asked for.
    workers: processes that read data which is not in memory; 0: threads of this process.
    hooks: further hooks of the training loop, see `engine.loop.Hook`.
    on_metrics: functions of (step, "train" or "evaluate", numbers by name), called by process 0 with every line of
      metrics.jsonl after it is written; one that has `close` is closed when training ends. If one raises an exception,
      training saves its state and ends: an Optuna trial is pruned so.
  """

  def __init__(
    self,
    folder: Folder,
    config: Config,
    arguments: Mapping[str, Any],
    seed: int,
    *,
    fsdp: int = 1,
    tensor: int = 1,
    checkpoint: str | int = "last",
    devices: list | int | None = None,
    workers: int = 0,
  ):
    """Builds the experiment; the state is made or restored when it is first asked for.

    Args:
      folder: the run's folder.
      config: its config.
      arguments: the config's arguments that differ from its defaults.
      seed: the run's seed.
      fsdp, tensor, devices: as in `make_mesh`.
      checkpoint: the checkpoint that `state` is restored from, see `load`.
      workers: as in `pipeline.Stream`.
    """
    check_seed(seed)
    self.folder, self.config, self.seed = folder, config, seed
    self.arguments = config.cast({**config.defaults(), **arguments})
    self.experiment = config.build(**self.arguments)
    self._mesh, self._checkpoint, self.workers = (fsdp, devices, tensor), str(checkpoint), workers
    self._program = None
    self._state = None
    self.hooks: list[Any] = []
    self.on_metrics: list[Callable[[int, str, dict[str, float]], Any]] = []
    self.rehearsed: tuple[list[str] | None] | None = None  # the result of `rehearsal.rehearse`

  @property
  def name(self) -> str:
    return self.folder.path.name

  @property
  def data(self) -> Dataset:
    return self.experiment.data

  @property
  def program(self):
    """The `Program`: the method compiled for this machine's devices, or for the given ones."""
    if self._program is None:
      e = self.experiment
      mesh = make_mesh(*self._mesh)
      check_divides(e.evaluate_batch or e.batch_size, mesh)
      try:
        self._program = Program(
          e.method,
          e.data.raw_spec(e.batch_size),
          mesh,
          prepare=e.data.transform,
          updates=e.updates_per_dispatch,
          microbatches=e.microbatches,
        )
      except (UserError, *TRACING) as error:
        if isinstance(error, UserError) and not (isinstance(error, TooSmall) and self._small()):
          raise
        raise self.refusal(error) from error
      if any(x.size == 0 for x in jax.tree.leaves(self._program.abstract.params)):
        self._program = None
        raise self.refusal(ValueError("a network has an empty parameter, which cannot be saved"))
    return self._program

  def refusal(self, error: Exception) -> UserError:
    """A UserError for an error that occurred while the program was traced with the config's arguments."""
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    if small := self._small():
      given = ", ".join(f"{name}={self.arguments[name]!r}" for name in small)
      text = f"{given} makes no program, for sizes are 1 or more ({text})"
    return UserError(f"config {self.config.name}: {text}")

  def _small(self) -> list[str]:
    """Arguments that were given as sizes of 0 or less, or may be taken for some."""
    defaults = self.config.defaults()
    sizes = lambda value: [x for x in (value if isinstance(value, (tuple, list)) else [value]) if type(x) is int]
    given = {name: value for name, value in self.arguments.items() if value != defaults.get(name)}
    return [name for name, value in given.items() if min(sizes(value), default=1) < 1]

  @property
  def state(self):
    if self._state is None:
      e = self.experiment
      with contextlib.closing(RunCheckpoints(self.folder, e.method.frozen, best=e.best)) as checkpoints:
        restored = checkpoints.restore(self.program.abstract, self._chosen(checkpoints))
      if restored is None:
        raise UserError(
          f"{self.folder.path} has no checkpoint yet: train it first, with `jaxgen train {self.config.name}`"
        )
      self._state = restored[1]
    return self._state

  @state.setter
  def state(self, state):
    self._state = state

  def _chosen(self, checkpoints: RunCheckpoints) -> int | None:
    """The step of the requested checkpoint; None: the newest."""
    if self._checkpoint == "last":
      return None
    if self._checkpoint == "best":
      if self.experiment.best is None:
        raise UserError(f"config {self.config.name} keeps no best checkpoint: --checkpoint last, or a step")
      step = checkpoints.best()
      if step is None:
        raise UserError(f"no checkpoint of {self.folder.path} has been evaluated: --checkpoint last, or a step")
      return step
    if not (self._checkpoint.isascii() and self._checkpoint.isdigit()):
      raise UserError(f"--checkpoint {self._checkpoint}: it is last, best, or the step of one")
    return int(self._checkpoint)

  @property
  def step(self) -> int:
    """The state's number of training steps."""
    return int(self.state.step)

  def batches(self) -> pipeline.Stream:
    """This process's rows of the batches that the run trains on."""
    data, size = self.data, self.experiment.batch_size
    return pipeline.Stream(data.training(), self.seed, size, self.program.rows(size), data.repeats, self.workers)

  def conditions(self, index) -> dict[str, Any]:
    """The conditions of the samples with these indices [N]: {name: [N, ...]}."""
    return dict(self.experiment.conditions(index)) if self.experiment.conditions else {}

  def render(self, samples, first: int = 0) -> dict[str, bytes]:
    """Files that show the samples first .. first + N - 1: {a file's suffix: its contents}."""

    return self.experiment.render(samples, self.conditions(np.arange(first, first + len(samples))))

  def suffixes(self) -> list[str]:
    """The suffixes of the files that show samples. No sample is drawn."""

    e, first = self.experiment, np.arange(1)
    if e.method.sample is None:
      return []
    like = self.program.sample_shapes(1, self.conditions(first))
    return list(e.render(np.zeros(like.shape, like.dtype), self.conditions(first)))

  def conditions_of_chunk(self, index, first: int, n: int, given: Mapping[str, Any]) -> dict[str, Any]:
    """The conditions of the samples with these indices; `given` has values for the samples first .. first + n - 1.

    Raises:
      UserError: a given condition does not have n values.
    """
    values = self.conditions(index)
    for name, value in given.items():
      value = np.asarray(value)
      if len(value) != n:
        raise UserError(f"condition {name!r} has {len(value)} values for {n} samples")
      values[name] = value[np.clip(index - first, 0, n - 1)]
    return values

  def sample(
    self,
    n: int,
    *,
    seed: int = 0,
    first: int = 0,
    batch: int | None = None,
    progress: Callable[[int], Any] | None = None,
    prompt: str | Sequence[str] | None = None,
    negative: str | Sequence[str] | None = None,
    **conditions: Any,
  ):
    """Samples first .. first + n - 1 of a seed: [n, ...] numpy, images in [-1, 1].

    Sample i depends on (seed, i) and its condition, not on n, `first` or the number of devices. `engine.drawing.stream`
    yields the samples piece by piece.

    Args:
      batch: the number of samples that are computed at once; by default the experiment's `sample_chunk`.
      prompt: the text that samples are of, or n texts, for models that are told one.
      negative: the text, or n texts, that they are guided away from.
      conditions: values [n, ...] by name, in place of the experiment's own, or a number for all: "weight", "strength".
      progress: called with the number of samples done.

    Raises:
      UserError: the method generates nothing, or n < 1 or first < 0.
    """

    conditions |= self.told(n, prompt, negative)
    conditions = {k: np.full(n, v, np.float32) if np.ndim(v) == 0 else v for k, v in conditions.items()}
    pieces, done = [], 0
    for piece in stream(self, n, seed=seed, first=first, batch=batch, **conditions):
      pieces.append(piece)
      done += len(jax.tree.leaves(piece)[0])
      if progress is not None:
        progress(done)
    return jax.tree.map(lambda *xs: np.concatenate(xs), *pieces)

  def told(self, n: int, prompt: str | Sequence[str] | None, negative: str | Sequence[str] | None) -> dict[str, Any]:
    """The conditions of n samples of texts: {"tokens": .., "negative_tokens": ..}, those that are given.

    Raises:
      UserError: the model is told no text, there are not n texts, or the run cannot read them.
    """
    found = {}
    for name, flag, texts in (("tokens", "prompt", prompt), ("negative_tokens", "negative", negative)):
      if texts is None:
        continue
      read = self.experiment.prompts
      if read is None:
        raise UserError(f"config {self.config.name} is told no text: sample without --{flag}")
      texts = [texts] if isinstance(texts, str) else list(texts)
      if len(texts) not in (1, n):
        raise UserError(f"there are {len(texts)} texts for {n} samples: give one, or as many")
      tokens = read(self, texts)
      found[name] = np.broadcast_to(tokens, (n, *tokens.shape[1:])) if len(texts) == 1 else tokens
    return found

  def evaluate_split(self, split: str | None = None, *, seed: int = 0) -> dict[str, Any]:
    """`Method.evaluate` for every example of a split, in order: {name: [N] numpy}. By default of the test split."""

    e = self.experiment
    source = e.data.source(split or e.data.test)
    key = root(seed, "evaluation")
    rows = []
    size = e.evaluate_batch or e.batch_size
    in_order = pipeline.in_order(source, size, self.program.rows(size), self.workers)
    with pipeline.prefetch(lambda batch: batch, in_order) as ahead:
      for batch, count in ahead:
        values = self.program.evaluate(self.state, batch, key)
        rows.append({name: np.asarray(value)[:count] for name, value in values.items()})
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}

  def evaluate(self) -> dict[str, float]:
    """The numbers of all the experiment's evaluators."""
    numbers = {}
    for evaluator in self.experiment.evaluators:
      numbers |= evaluator(self)
    return numbers

  def draw(self) -> dict[str, bytes]:
    """The files of all the experiment's figures, by name."""
    drawn = {}
    for figure in self.experiment.figures:
      drawn |= figure(self)
    return drawn


def load(
  folder: files.PathLike,
  *,
  fsdp: int = 1,
  tensor: int = 1,
  checkpoint: str | int = "last",
  workers: int = 0,
  devices: list | int | None = None,
  **overrides: Any,
) -> Run:
  """Loads a run, with some of its config's arguments changed. This runs the config's code that the folder keeps.

  Args:
    folder: the run's folder.
    fsdp, tensor, devices: as in `make_mesh`.
    checkpoint: "last"; "best", by the metric in `Experiment.best`; or a step.
    workers: as in `pipeline.Stream`.
    **overrides: the config's arguments to change.

  Raises:
    UserError: the folder is not a run, or an override is not an argument of its config or changes the state.
  """
  folder = Folder(folder)
  info = folder.info()
  config = load_kept(folder.path, info["config"])
  arguments, options = {**info["arguments"], **overrides}, {"checkpoint": checkpoint, "workers": workers}
  run = Run(folder, config, arguments, info["seed"], fsdp=fsdp, tensor=tensor, devices=devices, **options)
  if overrides:
    before = Run(folder, config, info["arguments"], info["seed"])
    leaves = {name: Leaf(str(x.dtype), x.shape, "") for name, x in state_shapes(before.experiment).items()}
    change = difference(leaves, state_shapes(run.experiment))
    if change:
      flags = ", ".join(f"{k}={v!r}" for k, v in overrides.items())
      raise UserError(f"{flags} changes the state of {folder.path}: {change}")
  return run


def state_shapes(experiment: Experiment) -> dict[str, jax.ShapeDtypeStruct]:
  """Shape and dtype of every array of an experiment's state, by name; nothing is computed."""
  spec = experiment.data.batch_spec(experiment.batch_size, train=True)
  return named_leaves(jax.eval_shape(experiment.method.init, jax.eval_shape(lambda: jax.random.key(0)), spec))
