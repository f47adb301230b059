"""A run: an experiment, its folder, and its state at some step."""

import contextlib
import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from jaxgen.core.errors import UserError
from jaxgen.data import Dataset, pipeline
from jaxgen.engine.config import Config, load_kept
from jaxgen.engine.experiment import Experiment
from jaxgen.engine.folder import Folder
from jaxgen.engine.frozen import RunCheckpoints
from jaxgen.engine.hashing import Leaf, difference, named_leaves
from jaxgen.engine.mesh import check_divides, make_mesh
from jaxgen.engine.program import Program


class Run:
  """A run: an experiment, its folder, and its state at some step.

  Attributes:
    folder: the run's folder.
    config: its config.
    arguments: the config's arguments, those given here included.
    experiment: what they build.
    seed: the run's seed.
    state: the training state; a finished run's is restored when it is first asked for.
  """

  def __init__(self, folder: Folder, config: Config, arguments: Mapping[str, Any], seed: int, *, fsdp: int = 1):
    self.folder, self.config, self.seed = folder, config, seed
    self.arguments = config.cast({**config.defaults(), **arguments})
    self.experiment = config.build(**self.arguments)
    self._fsdp = fsdp
    self._program = None
    self._state = None

  @property
  def name(self) -> str:
    return self.folder.path.name

  @property
  def data(self) -> Dataset:
    return self.experiment.data

  @property
  def program(self):
    """The method compiled for this machine's devices."""
    if self._program is None:
      e = self.experiment
      mesh = make_mesh(self._fsdp)
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
      except (ValueError, TypeError, ArithmeticError) as error:
        raise UserError(f"config {self.config.name}: {str(error).splitlines()[0]}") from error
    return self._program

  @property
  def state(self):
    if self._state is None:
      with contextlib.closing(RunCheckpoints(self.folder, self.experiment.method.frozen)) as checkpoints:
        restored = checkpoints.restore(self.program.abstract)
      if restored is None:
        raise UserError(
          f"{self.folder.path} has no checkpoint yet: train it first, with `jaxgen train {self.config.name}`"
        )
      self._state = restored[1]
    return self._state

  @state.setter
  def state(self, state):
    self._state = state

  @property
  def step(self) -> int:
    """Training steps that the state has behind it."""
    return int(self.state.step)

  def conditions(self, index) -> dict[str, Any]:
    """The conditions of the samples with these indices [N]: {name: [N, ...]}."""
    return dict(self.experiment.conditions(index)) if self.experiment.conditions else {}

  def render(self, samples, first: int = 0) -> dict[str, bytes]:
    """What shows the samples first .. first + N - 1: {suffix of a file: its contents}."""

    return self.experiment.render(samples, self.conditions(np.arange(first, first + len(samples))))

  def suffixes(self) -> list[str]:
    """The suffixes of the files that show samples; no sample is drawn for it."""

    e, first = self.experiment, np.arange(1)
    if e.method.sample is None:
      return []
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1))
    like = jax.eval_shape(e.method.sample, self.program.abstract, keys, **self.conditions(first))
    return list(e.render(np.zeros(like.shape, like.dtype), self.conditions(first)))

  def sample(
    self, n: int, *, seed: int = 0, first: int = 0, progress: Callable[[int], Any] | None = None, **conditions: Any
  ):
    """Samples first .. first + n - 1 of a seed: [n, ...] numpy, images in [-1, 1].

    Sample i depends on (seed, i) and its condition, not on n, on `first`, or on the number of devices: whole chunks of
    samples, aligned at multiples of the chunk's size, are computed and cut.

    Args:
      conditions: values [n, ...] by name, instead of the experiment's own.
      progress: called with the number of samples done.

    Raises:
      UserError: the method generates nothing, or n < 1 or first < 0.
    """

    e = self.experiment
    if e.method.sample is None:
      raise UserError(f"config {self.config.name} does not generate samples")
    if n < 1 or first < 0 or first + n > 2**31:
      raise UserError(
        f"cannot draw {n} samples from number {first} on: n must be at least 1, first at least 0, and the last number "
        "below 2^31"
      )
    size, key = e.sample_chunk, jax.random.key(seed)
    chunks = []
    for start in range(first - first % size, first + n, size):
      index = np.arange(start, start + size)
      values = self.conditions(index)
      for name, value in conditions.items():
        value = np.asarray(value)
        if len(value) != n:
          raise UserError(f"condition {name!r} has {len(value)} values for {n} samples")
        values[name] = value[np.clip(index - first, 0, n - 1)]
      keys = jax.vmap(jax.random.fold_in, (None, 0))(key, index)
      chunk = jax.tree.map(np.asarray, self.program.sample(self.state, keys, values))
      low, high = max(first - start, 0), min(first + n - start, size)
      chunks.append(jax.tree.map(lambda x, low=low, high=high: x[low:high], chunk))
      if progress is not None:
        progress(start + high - first)
    return jax.tree.map(lambda *xs: np.concatenate(xs), *chunks)

  def evaluate_split(self, split: str | None = None, *, seed: int = 0) -> dict[str, Any]:
    """`Method.evaluate` for every example of a split, in order: {name: [N] numpy}. Default: the data's test split."""

    e = self.experiment
    source = e.data.source(split or e.data.test)
    key = jax.random.key(seed)
    rows = []
    size = e.evaluate_batch or e.batch_size
    in_order = pipeline.in_order(source, size, jax.process_index(), jax.process_count())
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


def load(folder: str | os.PathLike, *, fsdp: int = 1, **overrides: Any) -> Run:
  """Loads a run, with some of its config's arguments changed. This runs the config's code that the folder keeps.

  Raises:
    UserError: the folder is not a run, or an override is not an argument of its config, or one changes the state.
  """
  folder = Folder(folder)
  info = folder.info()
  config = load_kept(folder.path, info["config"])
  run = Run(folder, config, {**info["arguments"], **overrides}, info["seed"], fsdp=fsdp)
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
