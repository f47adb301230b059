"""A run's checkpoints, and the parts of the state that are stored separately: frozen networks, and averages for later.

Frozen networks are read once from their source, saved once, and restored with each checkpoint. Averages by power
functions are kept from every checkpoint, so that `engine.averages` can make others of them.

RUN/frozen/           their values, as a checkpoint of its own
RUN/checkpoints/      the state without them
RUN/averages/         the averages of each checkpoint's step, as checkpoints of their own
RUN/run.json          "frozen": {name: {"source", "sha256"}}
"""

import contextlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from jaxgen.core.errors import UserError
from jaxgen.core.method import Frozen, State
from jaxgen.engine.checkpoint import Checkpoints
from jaxgen.engine.folder import Folder
from jaxgen.engine.hashing import state_hash

AVERAGES = "averages"
ALL = 2**31  # checkpoints to keep


def start(frozen: Mapping[str, Frozen], state: State) -> State:
  """A new run's state with the values of frozen networks, and with the networks and averages that start from them.

  A source is not stored if the method's params have no entry with its name: networks start from it, and it may lack a
  part of them, such as a head, which stays as it is initialised.

  Raises:
    UserError: a source's arrays do not fit the network, or a network that should start from it.
  """
  params, ema = dict(state.params), dict(state.ema)
  for name, network in frozen.items():
    values = network.load()
    if is_kept := name in params:
      params[name] = _placed(f"the frozen network {name!r}", network.source, values, params[name])
    for trained in network.starts:
      title = f"the network {trained!r}, which starts from the {'frozen one' if is_kept else 'source'},"

      def place(tree: PyTree, network: Frozen = network, given=values, title: str = title, partly: bool = not is_kept):
        fresh = {part: tree[part] for part in network.fresh if part in tree}
        rest = {part: x for part, x in tree.items() if part not in fresh} if fresh else tree
        placed = _placed(title, network.source, given["params"], rest, partly)
        return {**placed, **fresh} if fresh else placed

      params[trained] = place(params[trained])
      ema |= {average: place(tree) for average, tree in ema.items() if average.partition("/")[0] == trained}
  return state.replace(params=params, ema=ema)


def _placed(title: str, source: str, values: PyTree, like: PyTree, partly: bool = False) -> PyTree:
  keyed = lambda tree: {
    jax.tree_util.keystr(path, simple=True, separator="/"): x for path, x in jax.tree_util.tree_leaves_with_path(tree)
  }
  found, wanted = keyed(values), keyed(like)
  if partly and found.keys() & wanted.keys():
    found = wanted | found
  for leaf in sorted(found.keys() | wanted.keys()):
    a, b = found.get(leaf), wanted.get(leaf)
    if a is None or b is None or np.shape(a) != b.shape:
      there, here = ("absent" if x is None else list(np.shape(x)) for x in (a, b))
      raise UserError(f"{title} is not that of {source}: {leaf} is {there} there and {here} here")

  def put(leaf: str, x: Any) -> jax.Array:
    if found[leaf] is x:
      return x
    host = np.asarray(found[leaf]).astype(x.dtype)
    return jax.make_array_from_callback(host.shape, x.sharding, lambda index: host[index])

  flat, tree = jax.tree_util.tree_flatten_with_path(like)
  return tree.unflatten(put(jax.tree_util.keystr(path, simple=True, separator="/"), x) for path, x in flat)


class RunCheckpoints(Checkpoints):
  """A run's checkpoints. They have the state without the frozen networks, which are saved apart, once."""

  def __init__(
    self, folder: Folder, frozen: Mapping[str, Frozen], profiles: Mapping[str, float] = MappingProxyType({}), **options
  ):
    super().__init__(folder / "checkpoints", check=folder.check, **options)
    self._run, self._frozen, self._apart, self._profiles = folder, frozen, folder / "frozen", profiles

  def save_frozen(self, state: State) -> dict[str, dict[str, str]]:
    """Saves a new run's frozen networks and returns their entry in run.json; {} if there are none."""
    if not (values := self._of(state)):
      return {}
    with contextlib.closing(Checkpoints(self._apart, keep=1, check=self._run.check)) as apart:
      apart.save(0, values)
      apart.wait()
    sources = {name: network.source for name, network in self._frozen.items()}
    return {name: {"source": sources[name], "sha256": state_hash(values[name])} for name in values}

  def best(self) -> int | None:
    """The step of the best rated checkpoint; None: no checkpoint was rated."""
    return min(self._best_step(self.steps()), default=None) if self._best else None

  def save(self, step: int, state: State, *rest: Any) -> None:
    self._run.flush()
    if self._profiles:  # before the checkpoint, so that a run that continues from it has all averages
      with contextlib.closing(Checkpoints(self._run / AVERAGES, keep=ALL, check=self._run.check)) as averages:
        averages.save(step, {name: state.ema[name] for name in self._profiles})
    super().save(step, self._without(state), *rest)

  def restore(self, like: State, step: int | None = None) -> tuple[int, State] | None:
    restored = super().restore(self._without(like), step)
    if restored is None or not (wanted := self._of(like)):
      return restored
    with contextlib.closing(Checkpoints(self._apart)) as apart:
      found = apart.restore(wanted)
    if found is None:
      raise UserError(f"{self._apart} is missing, where the run keeps its frozen networks: put back a copy")
    step, state = restored
    return step, state.replace(params={**state.params, **found[1]})

  def _of(self, state: State) -> dict[str, PyTree]:
    """A state's frozen networks."""
    return {name: state.params[name] for name in self._frozen if name in state.params}

  def _without(self, state: State) -> State:
    kept = {name: params for name, params in state.params.items() if name not in self._frozen}
    return state.replace(params=kept) if self._frozen else state
