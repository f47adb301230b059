"""Published weights into a run, and a run's weights out."""

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax
import jax
import numpy as np

from jaxgen.core.errors import UserError
from jaxgen.core.files import PathLike
from jaxgen.core.method import Frozen, Method, State
from jaxgen.engine.frozen import RunCheckpoints
from jaxgen.engine.provenance import describe, keep_config
from jaxgen.engine.run import Run, load
from jaxgen.interop import files, lora
from jaxgen.interop.layout import Entry, read, write
from jaxgen.methods.diffusion.teacher import LEARNS

NETWORK = "network"  # the entry of a state's params that layouts describe


def frozen(
  folder: str | os.PathLike, checkpoint: str | int = "last", check: Callable[[Method], None] = lambda method: None
) -> Frozen:
  """A trained run's network for a method that uses it and does not train it, a teacher for one; see `variables`."""
  return Frozen(f"the run {folder}", lambda: variables(folder, checkpoint, check))


def base(folder: str | os.PathLike, checkpoint: str | int = "last") -> Frozen:
  """The parameters of a trained run's network, for a method that changes it: the `base` of `gaussian_diffusion`.

  Its `load` raises a UserError if the run's network is one that changes another, or no diffusion model's.
  """

  def check(method: Method) -> None:
    if what := method.facts.get(LEARNS):
      raise UserError(f"the network of {folder} is {what}, and a base is one by itself: take the run of such a one")

  return Frozen(f"the run {folder}", lambda: variables(folder, checkpoint, check)["params"])


def variables(
  folder: str | os.PathLike, checkpoint: str | int = "last", check: Callable[[Method], None] = lambda method: None
) -> dict[str, Any]:
  """The variables of a trained run's network as numpy, with averaged parameters if the run has them.

  Args:
    checkpoint: as `jaxgen.load` takes it.
    check: called with the run's method; raises a UserError if it is not of the kind that is asked for.

  Returns:
    {"params": .., "batch_stats": .., ..}, as the network's `init` gives them.

  Raises:
    UserError: the folder is not a run, or has no network of that name.
  """
  run = load(folder, checkpoint=checkpoint)
  check(run.experiment.method)
  state = run.state
  if NETWORK not in state.params:
    raise UserError(f"{folder} has no network called {NETWORK!r}: it has {', '.join(state.params)}")
  return jax.tree.map(np.asarray, _averaged(state))


def _layout(run: Run, name: str | None, tensors: Mapping[str, Any] = {}) -> Sequence[Entry]:
  """The experiment's layout of that name, or the one that has most of the tensors' names."""
  layouts = dict(run.experiment.layouts)
  if tensors:  # of a LoRA alone no network can be made
    layouts = {key: entries for key, entries in layouts.items() if not isinstance(entries, lora.Layout)}
  if not layouts:
    raise UserError(f"config {run.config.name} names no layouts of published weights: its network has none here")
  if name is not None:
    if name not in layouts:
      raise UserError(f"config {run.config.name} has no layout {name!r}: it has {', '.join(layouts)}")
    return layouts[name]
  if not tensors:
    return next(iter(layouts.values()))
  known = lambda entries: sum(n in tensors for entry in entries for n in entry.theirs)
  return max(layouts.values(), key=known)


def _variables(state: State) -> dict[str, Any]:
  """The network's variables, its statistics included."""
  return {"params": state.params[NETWORK], **state.buffers}


def _averaged(state: State) -> dict[str, Any]:
  return {**_variables(state), "params": state.averaged(NETWORK)}


def import_weights(run: Run, file: PathLike, layout: str | None = None, fresh: Sequence[str] = ()) -> int:
  """Makes the run's folder, at step 0, out of published weights; returns the number of values read.

  Averaged copies, where the method keeps any, start from them too.

  Args:
    layout: one of the experiment's, or the one that fits the file's names.
    fresh: parameters that are initialised and not read, "params/head".

  Raises:
    UserError: the folder is a run already, or the file does not fit the network; nothing is written then.
  """
  if run.folder.exists():
    raise UserError(f"{run.folder.path} is a run already: choose another --name")
  tensors = files.load(file)
  entries = _layout(run, layout, tensors)
  shapes = jax.eval_shape(_variables, run.program.abstract)
  found = flax.traverse_util.flatten_dict(read(entries, tensors, shapes, fresh=fresh), sep="/")
  state = started(run, found)
  begin(run, state, {"imported": str(file)})
  return sum(x.size for x in found.values())


def import_model(run: Run, source: PathLike) -> int:
  """Makes the run's folder, at step 0, out of a model whose networks the experiment's `frozen` sources read.

  Returns:
    The number of values of all networks.

  Raises:
    UserError: the folder is a run already, or the source does not fit; nothing is written then.
  """
  if run.folder.exists():
    raise UserError(f"{run.folder.path} is a run already: choose another --name")
  nothing = jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), run.data.raw_spec(run.experiment.batch_size))
  state = run.program.init(run.seed, nothing)
  begin(run, state, {"imported": str(source)})
  return sum(x.size for name in state.params for x in jax.tree.leaves(state.params[name]))


def started(run: Run, found: Mapping[str, Any]) -> State:
  """The run's state at step 0, with these arrays in its network's place, and in that of every average of it.

  Args:
    found: by path, "params/block/conv/kernel"; parameters that are not among them keep their random initialisation.
  """
  nothing = jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), run.data.raw_spec(run.experiment.batch_size))
  state = run.program.init(run.seed, nothing)
  collections = {path.partition("/")[0] for path in found}

  def put(tree: Any, collection: str) -> Any:
    if collection not in collections:
      return tree
    flat = flax.traverse_util.flatten_dict(tree, sep="/")
    place = lambda name, x: jax.device_put(found.get(f"{collection}/{name}", x), x.sharding).astype(x.dtype)
    return flax.traverse_util.unflatten_dict({name: place(name, x) for name, x in flat.items()}, sep="/")

  return state.replace(
    params={**state.params, NETWORK: put(state.params[NETWORK], "params")},
    buffers={name: put(tree, name) for name, tree in state.buffers.items()},
    ema={name: put(tree, "params") if name.partition("/")[0] == NETWORK else tree for name, tree in state.ema.items()},
  )


def begin(run: Run, state: State, origin: Mapping[str, Any]) -> None:
  """Makes a new run's folder with this state at step 0; run.json names the source."""
  run.folder.lock()
  try:
    (run.folder / "samples").mkdir(parents=True, exist_ok=True)
    keep_config(run)
    frozen_of = run.experiment.method.frozen
    with contextlib.closing(RunCheckpoints(run.folder, frozen_of, keep=run.experiment.keep)) as checkpoints:
      saved = checkpoints.save_frozen(state)
      checkpoints.save(0, state)
      checkpoints.wait()
    run.folder.write_info(describe(run) | dict(origin) | ({"frozen": saved} if saved else {}))
  finally:
    run.folder.unlock()


def export_weights(run: Run, file: PathLike, layout: str | None = None, average: bool = True) -> int:
  """Writes the network's weights with the names of another library; returns the number of values.

  Args:
    layout: one of the experiment's; it may be left out where there is only one.
    average: write the averaged parameters, where the method keeps them.

  Raises:
    UserError: no such layout, or the file cannot be written.
  """
  if layout is None and len(run.experiment.layouts) > 1:
    raise UserError(f"say which layout to write, --layout {' or --layout '.join(run.experiment.layouts)}")
  entries = _layout(run, layout)
  if isinstance(entries, lora.Layout):
    state, name = run.state, entries.adapter.name
    found = state.averaged(name) if average else state.params[name]
    tensors = entries.tensors(jax.tree.map(np.asarray, found), state.params[NETWORK])
  else:
    tensors = write(entries, jax.tree.map(np.asarray, (_averaged if average else _variables)(run.state)))
  files.save(file, tensors)
  return sum(x.size for x in tensors.values())
