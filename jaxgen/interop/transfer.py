"""Starting a run from another run's weights, by path: for fine-tuning, or to continue with other data or another
method.

    jaxgen train backbone_digits --backbone resnet --from runs/simclr_digits

Arrays with the same path and shape are taken, position embeddings are resized, and the rest is initialised at random.
If a backbone is a part of one network and the whole of the other, the two are matched without naming the part.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax
import jax
import numpy as np

from jaxgen.core.errors import UserError
from jaxgen.core.method import State
from jaxgen.engine.hashing import state_hash
from jaxgen.engine.run import Run, load
from jaxgen.interop.runs import NETWORK, begin, started
from jaxgen.nn.vision.vit import resize_positions

BACKBONE = "backbone"
Flat = dict[str, Any]  # arrays by path, "params/block_1_1/conv_1/kernel"


class Transfer(NamedTuple):
  """The parameters that a new run's network takes from another's.

  Attributes:
    taken, resized, fresh: paths within the new network.
    values: the number of values that were taken or resized.
  """

  taken: list[str]
  resized: list[str]
  fresh: list[str]
  values: int

  def __str__(self) -> str:
    tops = lambda paths: ", ".join(sorted({"/".join(path.split("/")[1:3]) for path in paths})) or "nothing"
    return (
      f"{self.values:,} values taken ({len(self.taken)} arrays); resized: {tops(self.resized)}; "
      f"fresh: {tops(self.fresh)}"
    )


def parse(source: str) -> tuple[str, str]:
  """(run, path in its parameters) of "RUN:PATH" or "RUN", whose path is "network"."""
  run, sep, path = source.rpartition(":")
  return (run, path) if sep and not path.startswith("//") else (source, NETWORK)


def _variables(state: State, path: str, folder: str) -> Flat:
  """A network's arrays, or those of a part of it, without the part's path: parameters, averaged ones where the run
  keeps them, and statistics.

  Raises:
    UserError: the run has nothing of this path.
  """
  name, _, part = path.partition("/")
  if name not in state.params:
    raise UserError(f"{folder} has no network called {name!r}: it has {', '.join(state.params)}")
  buffers = state.buffers if isinstance(state.buffers, Mapping) else {}
  trees = {"params": state.averaged(name), **(buffers if name == NETWORK else {})}
  flat = flax.traverse_util.flatten_dict(trees, sep="/")
  found = _within(flat, part) if part else flat
  if not any(key.startswith("params/") for key in found):
    raise UserError(f"{folder} has nothing called {path!r} among its parameters: name a network, or a part of one")
  return found


def _within(flat: Flat, part: str) -> Flat:
  """The arrays below a part, without its path: "params/backbone/x" becomes "params/x"."""
  found = {}
  for key, value in flat.items():
    collection, _, rest = key.partition("/")
    if rest.startswith(f"{part}/"):
      found[f"{collection}/{rest.removeprefix(f'{part}/')}"] = value
  return found


def _is_whole(flat: Flat) -> bool:
  return not any(key.startswith(f"params/{BACKBONE}/") for key in flat)


def _resized(theirs: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
  """Position embeddings of square pictures, resized for another size; None if it is another array or width."""
  if theirs.ndim != 2 or len(shape) != 2 or theirs.shape[1] != shape[1]:
    return None
  for tokens in range(3):
    old, new = (math.isqrt(max(n - tokens, 0)) for n in (theirs.shape[0], shape[0]))
    if old > 0 and new > 0 and old**2 + tokens == theirs.shape[0] and new**2 + tokens == shape[0]:
      return np.asarray(resize_positions(theirs, (old, old), (new, new)))
  return None


def moved(ours: Flat, theirs: Flat) -> tuple[Flat, Transfer]:
  """(new values by our paths, what came of each path) of a network's arrays out of another's."""
  prefix = ""
  if _is_whole(ours) and not _is_whole(theirs):
    theirs = _within(theirs, BACKBONE)
  elif _is_whole(theirs) and not _is_whole(ours):
    prefix = f"{BACKBONE}/"
  found, taken, resized, fresh = {}, [], [], []
  for key, like in ours.items():
    collection, _, path = key.partition("/")
    value = theirs.get(f"{collection}/{path.removeprefix(prefix)}") if path.startswith(prefix) else None
    value = None if value is None else np.asarray(value)
    if value is not None and value.shape == tuple(like.shape):
      taken.append(key)
    elif value is not None and path.endswith("positions") and (other := _resized(value, like.shape)) is not None:
      value = other
      resized.append(key)
    else:
      fresh.append(key)
      continue
    found[key] = value
  return found, Transfer(taken, resized, fresh, sum(x.size for x in found.values()))


def is_from(run: Run, source: str) -> bool:
  """Whether the run exists and was started from this source, so that it can continue."""
  started = run.folder.info().get("from", {}) if run.folder.exists() else {}
  return started.get("source") == source


def start_from(run: Run, source: str) -> Transfer:
  """Makes the run's folder, at step 0, with another run's weights; `loop.train` continues from there.

  run.json has "from": the source, the step and the SHA-256 of the run's state. Averages start from the same weights.

  Args:
    run: the new run.
    source: RUN or RUN:PATH, see `parse`.

  Raises:
    UserError: there are several processes, the folder is already a run, the source is not a run, or no array of it
      fits.
  """
  if jax.process_count() > 1:
    raise UserError(
      "--from needs a single process: begin the run in one, with a small --steps, and continue without --from"
    )
  if run.folder.exists():
    raise UserError(f"{run.folder.path} is already a run: choose another --name, or leave --from out to continue it")
  folder, path = parse(source)
  origin = load(folder)
  theirs = _variables(origin.state, path, folder)
  if NETWORK not in run.program.abstract.params:
    raise UserError(f"config {run.config.name} has no network called {NETWORK!r} that could start from another")
  like = run.program.abstract
  statistics = {name: tree for name, tree in like.buffers.items() if name == "batch_stats"}
  ours = flax.traverse_util.flatten_dict({"params": like.params[NETWORK], **statistics}, sep="/")
  found, transfer = moved(ours, theirs)
  if not any(key.startswith("params/") for key in found):
    raise UserError(f"nothing of {source} fits the network of config {run.config.name}: they are different networks")
  begin(run, started(run, found), {"from": {"source": source, "step": origin.step, "sha256": state_hash(origin.state)}})
  return transfer
