"""Published weights under their publishers' names and axes, as a list of entries that is read in both directions.

A layout is a function of a network (a Flax module) that returns its entries, one per parameter or buffer of ours.
`write` is the inverse of `read`, so one list serves `jaxgen import` and `jaxgen export`.

    [conv("stem.weight", "params/stem/kernel"), same("norm.running_mean", "batch_stats/norm/mean")]
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax
import numpy as np

from jaxgen.core.errors import UserError


class Entry(NamedTuple):
  """Theirs and ours.

  Attributes:
    theirs: names of the tensors that make up ours, usually one.
    ours: path of the array among the network's variables, "params/block/conv/kernel"; "" where the network has none,
      see `beside`.
    join: (their arrays) -> ours.
    split: (ours) -> their arrays.
    fit: (theirs, the shape wanted) -> theirs in that shape, for what may be resized: positions; None for what may not.
  """

  theirs: tuple[str, ...]
  ours: str
  join: Callable[[Sequence[np.ndarray]], np.ndarray]
  split: Callable[[np.ndarray], Sequence[np.ndarray]]
  fit: Callable[[np.ndarray, tuple[int, ...]], np.ndarray] | None = None


def same(theirs: str, ours: str) -> Entry:
  """An array without a change: biases, gains, tables, running statistics."""
  return Entry((theirs,), ours, lambda a: a[0], lambda x: [x])


def moved(theirs: str, ours: str, axes: Sequence[int]) -> Entry:
  """Ours is theirs with its axes in another order: ours = theirs.transpose(axes)."""
  return Entry((theirs,), ours, lambda a: a[0].transpose(axes), lambda x: [x.transpose(np.argsort(axes))])


def beside(*theirs: str) -> Entry:
  """Tensors that files may hold and that we have no use for: counters, tables of constants, a table once more."""
  return Entry(theirs, "", lambda a: a[0], lambda x: [])


def dense(theirs: str, ours: str) -> Entry:
  """PyTorch's [out, in] and our [in, out]."""
  return moved(theirs, ours, (1, 0))


def conv(theirs: str, ours: str) -> Entry:
  """PyTorch's [out, in, height, width] and our [height, width, in, out]; grouped ones as well."""
  return moved(theirs, ours, (2, 3, 1, 0))


def shaped(entry: Entry, theirs: Sequence[int], ours: Sequence[int]) -> Entry:
  """Like `entry`, for arrays whose shapes differ between the library and here, after a transposition."""
  return entry._replace(join=lambda a: entry.join(a).reshape(ours), split=lambda x: [entry.split(x)[0].reshape(theirs)])


def joined(entries: Sequence[Entry], axis: int = -1) -> Entry:
  """Several of theirs side by side in one of ours, in equal parts: query, key and value in "qkv"."""
  (ours,) = {entry.ours for entry in entries}

  def join(arrays):
    return np.concatenate([e.join([a]) for e, a in zip(entries, arrays, strict=True)], axis=axis)

  def split(x):
    return [e.split(part)[0] for e, part in zip(entries, np.split(x, len(entries), axis=axis), strict=True)]

  return Entry(tuple(entry.theirs[0] for entry in entries), ours, join, split)


def swapped(entry: Entry) -> Entry:
  """Like `entry`, for arrays whose last axis has two halves that are swapped between the library and here."""
  turn = lambda x: np.roll(x, x.shape[-1] // 2, axis=-1)
  return entry._replace(join=lambda a: turn(entry.join(a)), split=lambda x: entry.split(turn(x)))


def repeated(copies: Sequence[Sequence[Entry]]) -> list[Entry]:
  """An array that the library has several times and we have once; `join` raises a UserError if they differ."""
  return [_once(same_place) for same_place in zip(*copies, strict=True)]


def _once(entries: Sequence[Entry]) -> Entry:
  (ours,), names = {entry.ours for entry in entries}, tuple(entry.theirs[0] for entry in entries)

  def join(arrays):
    for name, array in zip(names, arrays, strict=True):
      if not np.array_equal(array, arrays[0]):
        raise UserError(f"the tensors {names[0]!r} and {name!r} differ, and the network has one for both")
    return entries[0].join(arrays[:1])

  return Entry(names, ours, join, lambda x: [e.split(x)[0] for e in entries])


def stacked(blocks: Sequence[Sequence[Entry]]) -> list[Entry]:
  """Of blocks that are one scan here: each of ours [...] becomes [depth, ...]; see `nn.blocks.attention.Blocks`."""
  return [_stack(same_place) for same_place in zip(*blocks, strict=True)]


def _stack(entries: Sequence[Entry]) -> Entry:
  (ours,) = {entry.ours for entry in entries}
  count = len(entries[0].theirs)

  def join(arrays):
    return np.stack([e.join(arrays[i * count : (i + 1) * count]) for i, e in enumerate(entries)])

  def split(x):
    return [a for e, part in zip(entries, x, strict=True) for a in e.split(part)]

  return Entry(tuple(name for entry in entries for name in entry.theirs), ours, join, split)


class Later:
  """An array that is made each time it is asked for.

  Attributes:
    shape, dtype: of the array.
    make: () -> the array, in any dtype.
  """

  def __init__(self, shape: tuple[int, ...], dtype: Any, make: Callable[[], np.ndarray]):
    self.shape, self.dtype, self.make = shape, np.dtype(dtype), make

  def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
    return self.make().astype(dtype or self.dtype, copy=False)


def read(
  entries: Sequence[Entry],
  tensors: Mapping[str, Any],
  shapes: Any,
  fresh: Sequence[str] = (),
  later: bool = False,
) -> dict[str, Any]:
  """The network's variables out of published tensors.

  Args:
    tensors: arrays, or `Later`s, by their names.
    shapes: the network's variables as `jax.eval_shape` gives them: shapes and dtypes that are wanted.
    fresh: beginnings of paths of ours that are not read and left out of the result, whether the file has them or not: a
      head for other classes.
    later: give `Later`s, each of which reads its tensors when it is turned into an array: of a large file no more than
      a tensor is in memory. All shapes are checked now.

  Raises:
    UserError: a tensor that is missing, of another shape, or that nothing wants; it is named.
  """
  wanted = flax.traverse_util.flatten_dict(shapes, sep="/")
  for start in fresh:
    if not any(_within(path, start) for path in wanted):
      raise UserError(f"the network has no parameter {start!r} to leave fresh: it has {', '.join(_tops(wanted))}")
  if missing := wanted.keys() - {entry.ours for entry in entries}:
    raise ValueError(f"the layout has no entry for {sorted(missing)}")
  found = {}
  for entry in entries:
    if not entry.ours or any(_within(entry.ours, start) for start in fresh):
      continue
    for name in entry.theirs:
      if name not in tensors:
        raise UserError(f"the weights have no tensor {name!r}: they are of another network, or of another layout")
    want = wanted[entry.ours]
    arrays = [_stand_in(tensors[name]) if later else np.asarray(tensors[name]) for name in entry.theirs]
    # Their shapes, from ours: a shape of the wrong length cannot be transposed.
    expected = [np.shape(x) for x in entry.split(np.broadcast_to(np.zeros((), np.int8), want.shape))]
    arrays = _fitted(entry, arrays, expected)
    for name, array, shape in zip(entry.theirs, arrays, expected, strict=True):
      if array.shape != shape:
        raise UserError(
          f"the tensor {name!r} is of shape {array.shape} and the network's is {shape}: "
          "change the config's sizes, or take the weights of this size"
        )
    if later:
      read_now = lambda entry=entry, expected=expected: entry.join(
        _fitted(entry, [np.asarray(tensors[name]) for name in entry.theirs], expected)
      )
      found[entry.ours] = Later(tuple(want.shape), want.dtype, read_now)
    else:
      found[entry.ours] = entry.join(arrays).astype(want.dtype)
  used = {name for entry in entries for name in entry.theirs}
  for name in tensors:
    if name not in used:
      raise UserError(f"the network has no place for the tensor {name!r} of shape {np.shape(tensors[name])}")
  return flax.traverse_util.unflatten_dict(found, sep="/")


def _stand_in(tensor: Any) -> np.ndarray:
  """An array of that shape, of one byte."""
  return np.broadcast_to(np.zeros((), np.int8), tensor.shape)


def _fitted(entry: Entry, arrays: Sequence[np.ndarray], expected: Sequence[tuple[int, ...]]) -> list[np.ndarray]:
  if entry.fit is None:
    return list(arrays)
  return [a if a.shape == s else entry.fit(a, s) for a, s in zip(arrays, expected, strict=True)]


def _within(path: str, start: str) -> bool:
  return path == start or path.startswith(f"{start}/")


def _tops(paths: Any) -> list[str]:
  return sorted({"/".join(path.split("/")[:2]) for path in paths})


def write(entries: Sequence[Entry], variables: Any) -> dict[str, np.ndarray]:
  """The published tensors out of the network's variables: the inverse of `read`."""
  flat = flax.traverse_util.flatten_dict(variables, sep="/")
  return {
    name: np.asarray(array, order="C")
    for entry in entries
    if entry.ours
    for name, array in zip(entry.theirs, entry.split(np.asarray(flat[entry.ours])), strict=True)
  }
