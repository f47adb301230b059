"""Checkpoints: the state of a run, saved and restored on any mesh and by any number of processes.

A checkpoint is a folder named after its step. Orbax writes it in the background under a temporary name and renames it
when it is complete, so that a run killed at any moment leaves whole checkpoints and at most one temporary folder. The
arrays are stored under their names, and a manifest beside them has the hashes of everything (`engine.hashing`). Every
process writes, hashes and reads only the parts of the arrays that it holds.

Orbax and the file system do not notice a flipped bit. Therefore `restore` hashes what it has read, and uses the
previous checkpoint if the hash differs from the saved one.
"""

import concurrent.futures
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Literal, SupportsFloat

import jax
import numpy as np
from jaxtyping import PyTree

from jaxgen.core import files
from jaxgen.core.errors import UserError, is_disk_full
from jaxgen.engine.cluster import agreed
from jaxgen.engine.digests import Digests, digests
from jaxgen.engine.hashing import (
  Leaf,
  add_to_manifest,
  difference,
  files_of,
  from_data,
  named_leaves,
  read_manifest,
  to_data,
  write_manifest,
)
from jaxgen.engine.orbax import async_writer, delete, is_leftover, is_whole, orbax_parts, set_aside


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
  """{"a/b": x} -> {"a": {"b": x}}: what Orbax stores, readable without this project."""
  tree: dict[str, Any] = {}
  for name, x in flat.items():
    *parents, last = name.split("/")
    node = tree
    for part in parents:
      node = node.setdefault(part, {})
    node[last] = x
  return tree


def _sharding(x) -> jax.sharding.Sharding:
  return getattr(x, "sharding", None) or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])


class _Damaged(Exception):
  """A checkpoint cannot be used; the message says why, without the checkpoint's name."""


def _check(problem: str | None) -> None:
  """Raises _Damaged in every process if any of them has met a problem."""
  if jax.process_count() > 1:
    from jax.experimental import multihost_utils

    somewhere = np.any(multihost_utils.process_allgather(np.bool_(problem is not None)))
    problem = problem or ("another process cannot read it" if somewhere else None)
  if problem is not None:
    raise _Damaged(problem)


class Checkpoints:
  """The checkpoints in one folder. Every method is called by all processes.

  Reading (`steps`, `manifest`, `restore`) never changes the folder, so that samples can be drawn from a run that is
  training. The first `save` removes what an interrupted save has left.

  Args:
    folder: the folder; the first save makes it.
    keep: number of newest checkpoints to keep, at least 1. An older one is deleted when a newer one is on the disk.
    best: (name of a metric, "min" or "max"): of the checkpoints that were evaluated, the one with the best value is
      also kept.
    meta: JSON data to keep in every checkpoint's manifest.
    check: is called before anything is written or deleted, and raises where nothing may be.
  """

  def __init__(
    self,
    folder: files.PathLike,
    *,
    keep: int = 2,
    best: tuple[str, Literal["min", "max"]] | None = None,
    meta: Mapping[str, Any] | None = None,
    check: Callable[[], Any] = lambda: None,
  ):
    if keep < 1:
      raise ValueError(f"keep must be at least 1, not {keep}")
    self.folder = files.place(folder).absolute()
    self._keep, self._best, self._meta, self._may_write = keep, best, dict(meta or {}), check
    self._good: set[int] = set()  # steps that this object has saved or verified
    self._damaged: set[int] = set()
    self._saving: int | None = None  # the step that is being written in the background
    self._writer = None  # Orbax's AsyncCheckpointer, from the first save on
    self._hashing = None  # the future of its digests
    self._hasher = concurrent.futures.ThreadPoolExecutor(1, "jaxgen-hash")

  def _path(self, step: int) -> files.Place:
    return self.folder / f"{step:08d}"

  def steps(self) -> list[int]:
    """Steps of the checkpoints in the folder, ascending, damaged ones included."""
    if not self.folder.is_dir():
      return []
    named = (path for path in self.folder.iterdir() if path.name.isascii() and path.name.isdigit())
    return sorted(int(path.name) for path in named if is_whole(path))

  def manifest(self, step: int) -> dict[str, Any]:
    """A checkpoint's manifest: step, sha256 (`state_hash`), metrics, meta, leaves ({name: `Leaf`}).

    Raises:
      UserError: there is no such checkpoint, or it is damaged.
    """
    try:
      return read_manifest(self._path(step), step)
    except ValueError as e:
      raise UserError(f"checkpoint {self._path(step)} cannot be used: {e}") from e

  # Saving

  def save(self, step: int, state: PyTree) -> None:
    """Starts to save a state. Returns when the state may be changed or donated; the rest is done in the background.

    A step that has a good checkpoint is not saved again.

    Raises:
      UserError: the disk is full or the folder cannot be written, in this save or in the one before.
    """
    self.wait()
    self._may_write()
    step = int(step)
    if agreed(step in self.steps()):
      if step not in self._good:
        self._look(step, state)
      if step in self._good:
        return
    named = named_leaves(state)
    data = {name: to_data(x) for name, x in named.items()}
    # Hashed in the background: on a CPU `hashed` has views, which keep the memory from being written to by whoever the
    # state is donated to.
    is_first, hashed = jax.process_index() == 0, Digests(data)
    described = {name: (str(x.dtype), tuple(x.shape)) for name, x in named.items()}
    local = self._hashing = self._hasher.submit(hashed.local if is_first else hashed.send)

    def describe(folder: files.Place) -> None:  # in process 0
      found = hashed.whole(local.result(), sent=True)
      leaves = {name: Leaf(*described[name], found[name]) for name in found}
      self._may_write()  # afterwards the checkpoint is whole
      write_manifest(folder, leaves, step=step, metrics={}, meta=self._meta)

    _, _, Save, _ = orbax_parts()
    self._saving = step
    with self._errors():
      if self._writer is None:
        self._writer = async_writer(self.folder)
        if is_first:
          self.folder.mkdir(parents=True, exist_ok=True)
          self._remove_leftovers()
      if is_first and step in self._damaged:
        self._delete(step)
      if is_first:
        set_aside(self._path(step))
      self._writer.handler.describe = describe
      self._writer.save(str(self._path(step)), args=Save(_nested(data)))

  def rate(self, step: int, metrics: Mapping[str, SupportsFloat]) -> None:
    """Adds an evaluation's numbers to the saved checkpoint of its step; `best` is chosen by them.

    Raises:
      UserError: there is no such checkpoint, or it cannot be written.
    """
    self.wait()
    if jax.process_index() != 0:
      return
    metrics = {name: float(value) for name, value in metrics.items()}
    self._may_write()
    try:
      add_to_manifest(self._path(step), step, metrics=metrics)
    except (ValueError, OSError) as e:
      raise UserError(f"checkpoint {self._path(step)} cannot be rated: {e}") from e
    self._delete_old(step)

  def wait(self) -> None:
    """Returns when the last save is on the disk.

    Raises:
      UserError: it could not be written, because the disk is full or for another reason.
    """
    if self._saving is None:
      return
    with self._errors():
      if jax.process_index() != 0:  # process 0 has heard of an error, and would not let the writer finish
        self._hashing.result()
      self._writer.wait_until_finished()
    self._good.add(self._saving)
    self._damaged.discard(self._saving)
    if jax.process_index() == 0:
      self._delete_old(self._saving)
    self._saving = None

  def close(self) -> None:
    """Waits for the last save and raises its errors. Call it before the program ends."""
    self.wait()

  @contextmanager
  def _errors(self) -> Iterator[None]:
    """Turns errors of a save into a UserError, removes what the save has written, and allows the next save."""
    try:
      yield
    except Exception as e:
      step, self._saving = self._saving, None
      self._writer = None  # it would raise what is left of this error at its next save
      if jax.process_index() == 0:
        self._remove_leftovers()
      what = f"checkpoint of step {step} could not be written to {self.folder}"
      if is_disk_full(e):
        raise UserError(
          f"{what}: the disk is full; the earlier ones are intact, free some space and start again"
        ) from e
      if isinstance(e, OSError):
        raise UserError(f"{what}: {e.strerror or e}; the earlier ones are intact") from e
      raise

  def _remove_leftovers(self) -> None:
    self._may_write()
    with suppress(OSError):
      for path in self.folder.iterdir():
        if is_leftover(path):
          files.remove_folder(path)

  def _delete(self, step: int) -> None:
    self._may_write()
    with suppress(OSError):
      delete(self._path(step))

  def _delete_old(self, newest: int) -> None:
    steps = self.steps()
    kept = {newest, *[s for s in steps if s not in self._damaged][-self._keep :]}
    if self._best:
      kept |= self._best_step(steps)
    for step in steps:
      if step not in kept:
        self._delete(step)

  def _best_step(self, steps: list[int]) -> set[int]:
    """The step with the best metric, the later one of equals; empty if no checkpoint has a number for the metric."""
    name, mode = self._best
    values = {}
    for step in steps:
      with suppress(ValueError):
        value = read_manifest(self._path(step), step)["metrics"].get(name, float("nan"))
        if step not in self._damaged and value == value:
          values[step] = -value if mode == "min" else value
    return {max(values, key=lambda s: (values[s], s))} if values else set()

  # Restoring

  def restore(self, like: PyTree, step: int | None = None) -> tuple[int, PyTree] | None:
    """Restores the newest good checkpoint, or that of a given step.

    Args:
      like: the state's structure with shapes, dtypes and shardings (arrays or `jax.ShapeDtypeStruct`). An array
        without a sharding goes to the first local device. The mesh may differ from the one that saved.

    Returns:
      (its step, the state); None if there are no checkpoints. If a checkpoint is damaged, a warning says so and the one
      before it is used.

    Raises:
      UserError: no checkpoint is good, it is of another configuration, or there is none of `step`.
    """
    self.wait()
    problems: dict[int, str] = {}
    while True:
      open_steps = [s for s in self.steps() if s not in problems and step in (None, s)]
      newest = agreed(max(open_steps, default=-1))
      if newest < 0:
        break
      state, problem = self._look(newest, like)
      if problem is None:
        return newest, state
      if not agreed(self._path(newest).exists()):
        continue  # not damaged: a run that is training has deleted it meanwhile
      problems[newest] = problem
      if step is None:
        warnings.warn(f"checkpoint {self._path(newest)} is damaged ({problem}): using the one before", stacklevel=2)
    if problems:
      found = "; ".join(f"{self._path(s).name}: {problem}" for s, problem in problems.items())
      raise UserError(f"no checkpoint in {self.folder} can be used ({found}): put back a copy, or delete the folder")
    if step is not None:
      raise UserError(f"no checkpoint of step {step} in {self.folder}: there are {self.steps() or 'none'}")
    return None

  def _look(self, step: int, like: PyTree) -> tuple[PyTree, str | None]:
    """(the state of a step, None) or (None, what is wrong with it), remembered for later saves.

    Raises:
      UserError: the checkpoint is of another configuration.
    """
    try:
      state = self._load(step, like)
    except _Damaged as e:
      self._good.discard(step)
      self._damaged.add(step)
      return None, str(e)
    self._good.add(step)
    self._damaged.discard(step)
    return state, None

  def _load(self, step: int, like: PyTree) -> PyTree:
    path, problem, manifest, data, names = self._path(step), None, None, None, named_leaves(like)
    try:
      manifest = read_manifest(path, step)
      found = files_of(path)
      changed = [name for name, there in manifest["files"].items() if found.get(name) != there]
      problem = f"{changed[0]} is missing or not what was written" if changed else None
    except (ValueError, OSError) as e:
      problem = str(e)
    _check(problem)
    other = difference(manifest["leaves"], names)
    if other:
      raise UserError(
        f"checkpoint {path} is of another configuration: {other}; use the configuration it was saved with, or "
        "another folder"
      )

    ocp, Handler, _, Restore = orbax_parts()
    from etils import epath  # Orbax's paths

    stored = {name: jax.eval_shape(to_data, jax.ShapeDtypeStruct(x.shape, x.dtype)) for name, x in names.items()}
    targets = {name: _sharding(x) for name, x in names.items()}
    restore_args = {
      name: ocp.ArrayRestoreArgs(sharding=targets[name], global_shape=x.shape, dtype=x.dtype)
      for name, x in stored.items()
    }
    try:
      # Not the checkpointer's restore: it ends with a barrier that a process with an error never reaches.
      largest = max((x.size * x.dtype.itemsize for x in stored.values()), default=0)
      restored = Handler(largest).restore(epath.Path(str(path)), args=Restore(_nested(stored), _nested(restore_args)))
      data = named_leaves(restored)
    except Exception as e:  # whatever a damaged file makes TensorStore, Orbax or the json module raise
      problem = f"it cannot be read: {type(e).__name__}"
    _check(problem)

    state = {name: from_data(data[name], x) for name, x in names.items()}
    found = digests({name: data[name] for name in names}, manifest["format"])
    for name, leaf in manifest["leaves"].items():
      if found[name] != leaf.sha256 and problem is None:
        problem = f"{name} is not what was saved"
    _check(problem)
    flat, tree = jax.tree_util.tree_flatten_with_path(like)
    return tree.unflatten(state[jax.tree_util.keystr(p, simple=True, separator="/")] for p, _ in flat)
