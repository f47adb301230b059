"""Frozen networks in a run. They are read once from their source, saved once, and restored with each checkpoint.

Trained networks that begin with the values of a source are read here, too (`filled`); from then on they are the run's.

RUN/frozen/           their values, as a checkpoint of its own
RUN/checkpoints/      the state without them
RUN/run.json          "frozen": {name: {"source", "sha256"}}
"""

import contextlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from jaxgen.core.errors import UserError
from jaxgen.core.method import Frozen, Method, State
from jaxgen.engine.checkpoint import Checkpoints
from jaxgen.engine.folder import Folder
from jaxgen.engine.hashing import state_hash


def filled(state: State, method: Method, like: State) -> State:
  """A run's first state with the values of frozen networks, and the first values of trained ones that have a source.

  A network's averages begin as it does.

  Args:
    state: as the method's `init` makes it.
    like: its shapes, dtypes and shardings.

  Raises:
    UserError: a source's arrays do not fit the network.
  """
  values = load(method.frozen, like.params)
  for name, network in method.begun.items():
    values |= {name: _placed(name, network.source, network.load(), like.params[name], state.params[name])}
  copied = lambda a, p: jax.device_put(jnp.array(p, a.dtype, copy=True), a.sharding)
  begins = lambda label: label.partition("/")[0] in method.begun
  ema = {
    label: jax.tree.map(copied, tree, values[label.partition("/")[0]]) if begins(label) else tree
    for label, tree in state.ema.items()
  }
  return state.replace(params={**state.params, **values}, ema=ema)


def load(frozen: Mapping[str, Frozen], like: Mapping[str, PyTree]) -> dict[str, PyTree]:
  """The values of frozen networks, on the devices.

  Args:
    like: the shapes, dtypes and shardings from the method's `init`, by name.

  Raises:
    UserError: a source's arrays do not fit the network.
  """
  return {name: _placed(name, network.source, network.load(), like[name]) for name, network in frozen.items()}


def _placed(name: str, source: str, values: PyTree, like: PyTree, own: PyTree | None = None) -> PyTree:
  """The values on the devices. Where there are values of its own, those stay that the source lacks."""
  keyed = lambda tree: {
    jax.tree_util.keystr(path, simple=True, separator="/"): x for path, x in jax.tree_util.tree_leaves_with_path(tree)
  }
  found, wanted = keyed(values), keyed(like)
  kept = {} if own is None else {leaf: x for leaf, x in keyed(own).items() if leaf not in found}
  found |= kept
  for leaf in sorted(found.keys() | wanted.keys()):
    a, b = found.get(leaf), wanted.get(leaf)
    if a is None or b is None or np.shape(a) != b.shape:
      there, here = ("absent" if x is None else list(np.shape(x)) for x in (a, b))
      raise UserError(f"the network {name!r} is not that of {source}: {leaf} is {there} there and {here} here")

  def put(leaf: str, x: Any) -> jax.Array:
    if leaf in kept:
      return kept[leaf]
    host = np.asarray(found[leaf]).astype(x.dtype)
    return jax.make_array_from_callback(host.shape, x.sharding, lambda index: host[index])

  flat, tree = jax.tree_util.tree_flatten_with_path(like)
  return tree.unflatten(put(jax.tree_util.keystr(path, simple=True, separator="/"), x) for path, x in flat)


class RunCheckpoints(Checkpoints):
  """A run's checkpoints. They have the state without the frozen networks, which are saved apart, once."""

  def __init__(self, folder: Folder, frozen: Mapping[str, Frozen], **options: Any):
    super().__init__(folder / "checkpoints", check=folder.check, **options)
    self._run, self._frozen, self._apart = folder, frozen, folder / "frozen"

  def save_frozen(self, state: State) -> dict[str, dict[str, str]]:
    """Saves a new run's frozen networks and returns their entry in run.json; {} if there are none."""
    if not self._frozen:
      return {}
    values = {name: state.params[name] for name in self._frozen}
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
    super().save(step, self._without(state), *rest)

  def restore(self, like: State, step: int | None = None) -> tuple[int, State] | None:
    restored = super().restore(self._without(like), step)
    if restored is None or not self._frozen:
      return restored
    with contextlib.closing(Checkpoints(self._apart)) as apart:
      found = apart.restore({name: like.params[name] for name in self._frozen})
    if found is None:
      raise UserError(f"{self._apart} is missing, where the run keeps its frozen networks: put back a copy")
    step, state = restored
    return step, state.replace(params={**state.params, **found[1]})

  def _without(self, state: State) -> State:
    kept = {name: params for name, params in state.params.items() if name not in self._frozen}
    return state.replace(params=kept) if self._frozen else state
