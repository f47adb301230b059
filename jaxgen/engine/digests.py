"""The SHA-256 of a state's arrays. All processes compute it together; each reads only the parts that it holds.

An array is cut into blocks according to its shape only, so that its digest does not depend on the mesh. One of the
processes that hold a whole block hashes it. If no process holds a whole block, because the mesh cuts finer than the
blocks or along another dimension, its pieces are gathered, one block after the other. The digest of an array of one
block is the SHA-256 of its bytes; that of a larger array is the SHA-256 of its blocks' digests (32 bytes each).

Blocks: an array of up to 1 MiB is one block. A larger one is cut along the dimension that fsdp would cut 64 ways, or
else 32, 16, ...: the largest dimension that the number divides. It is cut into as many equal parts as a power of two
makes without going below 1 MiB, and these parts into parts of at most 4 MiB.
"""

import functools
import hashlib
import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from jaxgen.core.errors import UserError
from jaxgen.engine.cluster import coordination

BLOCK = 2**20  # bytes
WAYS = (64, 32, 16, 8, 4, 2, 1)
PATIENCE = 3600  # seconds that processes wait for each other's digests
GOOD, BAD = b"+", b"-"  # before a message between processes: digests follow, or why there are none
Box = tuple[tuple[int, int], ...]  # (first element, last element + 1) for each dimension

_turn = itertools.count()  # numbers the states that are hashed: all processes hash the same in the same order


@functools.cache
def blocks(shape: tuple[int, ...], itemsize: int) -> tuple[Box, ...]:
  """The blocks of an array, in order."""
  size = math.prod(shape) * itemsize
  whole = tuple((0, n) for n in shape)
  if size <= BLOCK:
    return (whole,)
  ways = next(ways for ways in WAYS if any(n % ways == 0 for n in shape))
  cut = max((d for d in range(len(shape)) if shape[d] % ways == 0), key=lambda d: shape[d])
  parts = 1
  while shape[cut] % (2 * parts) == 0 and size // (2 * parts) >= BLOCK:
    parts *= 2
  width = shape[cut] // parts
  most = max(1, 4 * BLOCK * shape[cut] // size)
  edges = [(a, min(a + most, b)) for b in range(width, shape[cut] + 1, width) for a in range(b - width, b, most)]
  return tuple((*whole[:cut], edge, *whole[cut + 1 :]) for edge in edges)


def _blocks(x: Any, version: int) -> tuple[Box, ...]:
  """The blocks that an array is hashed in. In manifests up to version 1 every array is one block."""
  return blocks(tuple(x.shape), x.dtype.itemsize) if version > 1 else (tuple((0, n) for n in x.shape),)


def _box(index: tuple[slice, ...], shape: tuple[int, ...]) -> Box:
  return tuple(s.indices(n)[:2] for s, n in zip(index, shape, strict=True))


def _common(a: Box, b: Box) -> Box | None:
  both = tuple((max(s[0], t[0]), min(s[1], t[1])) for s, t in zip(a, b, strict=True))
  return None if any(start >= stop for start, stop in both) else both


def _within(box: Box, outer: Box) -> tuple[slice, ...]:
  """The position of a box relative to the start of the outer one."""
  return tuple(slice(start - at, stop - at) for (start, stop), (at, _) in zip(box, outer, strict=True))


def _size(box: Box | None) -> int:
  return 0 if box is None else math.prod(stop - start for start, stop in box)


@functools.lru_cache(maxsize=2**12)
def _owners(
  shape: tuple[int, ...], cut: tuple[Box, ...], sharding: jax.sharding.Sharding, turn: int
) -> tuple[int | None, ...]:
  """The process that hashes each block; several that hold one take turns. None: no process holds the whole block."""
  held: dict[int, set[Box]] = {}
  for device, index in sharding.devices_indices_map(shape).items():
    held.setdefault(device.process_index, set()).add(_box(index, shape))
  if len(held) == 1:
    return tuple(held) * len(cut)
  owners = []
  for block in cut:
    whole = [p for p, boxes in sorted(held.items()) if sum(_size(_common(box, block)) for box in boxes) == _size(block)]
    owners.append(whole[turn % len(whole)] if whole else None)
  return tuple(owners)


def _shards(x: Any) -> Iterator[tuple[Box, Any, bool]]:
  """(box, values, whether this process is the first that holds it) of each part of the array that is held here."""
  if not isinstance(x, jax.Array):
    yield tuple((0, n) for n in np.shape(x)), np.asarray(x), True
    return
  held: dict[Box, list] = {}
  for shard in x.addressable_shards:
    held.setdefault(_box(shard.index, x.shape), []).append(shard)
  for box, shards in held.items():
    yield box, shards[0].data, any(shard.replica_id == 0 for shard in shards)


def _paste(pieces: list[tuple[Box, np.ndarray]], block: Box, dtype: np.dtype) -> np.ndarray:
  """Puts a block together from its pieces."""
  if len(pieces) == 1 and _size(pieces[0][0]) == _size(block):
    return pieces[0][1]
  out = np.zeros([stop - start for start, stop in block], dtype)
  for box, values in pieces:
    out[_within(box, block)] = values
  return out


def _bytes(x: np.ndarray) -> np.ndarray:
  """An array's bytes in C order, little-endian."""
  x = np.asarray(x)
  if x.dtype.byteorder == ">":
    x = x.astype(x.dtype.newbyteorder("<"))
  return np.ascontiguousarray(x).reshape(-1).view(np.uint8)


class Digests:
  """The digests of some arrays.

  All processes construct it, in their main threads. After that the arrays may be donated, and `local`, `send` and
  `whole` may run in any thread. It keeps views of arrays on the host and copies of arrays on a device.
  """

  def __init__(self, arrays: Mapping[str, Any], version: int = 2):
    """Starts the digests.

    Args:
      arrays: the arrays by name.
      version: the version of the manifest that the digests are for.
    """
    self._turn, self._owners, self._mine = next(_turn), {}, []
    own, several, shared = jax.process_index(), jax.process_count(), []
    for turn, (name, x) in enumerate(arrays.items()):
      cut = _blocks(x, version)
      spread = isinstance(x, jax.Array) and several > 1
      owners = _owners(tuple(x.shape), cut, x.sharding, turn % several) if spread else (own,) * len(cut)
      self._owners[name] = owners
      here, on_host = list(_shards(x)), {}
      for block, owner in zip(cut, owners, strict=True):
        if owner not in (own, None):
          continue
        pieces = []
        for i, (box, values, is_first) in enumerate(here):
          common = _common(box, block)
          if common is not None and (owner == own or is_first):
            host = on_host[i] if i in on_host else on_host.setdefault(i, np.asarray(values))
            pieces.append((common, host[(*_within(common, box), ...)]))
        if owner is None:
          shared.append(len(self._mine))
        self._mine.append((pieces, block, x.dtype))
    self._bring_together(shared)

  def _bring_together(self, shared: list[int]) -> None:
    """Gathers in process 0 the blocks (indices into `_mine`) that no process holds alone; about 4 MiB at a time."""
    while shared:
      now, size = [], 0
      while shared and size < 4 * BLOCK:
        now.append(shared.pop(0))
        size += _size(self._mine[now[-1]][1]) * self._mine[now[-1]][2].itemsize
      parts = [_bytes(_paste(*self._mine[at])) for at in now]
      whole = np.split(_together(np.concatenate(parts)), np.cumsum([len(part) for part in parts])[:-1])
      for at, block in zip(now, whole, strict=True):
        self._mine[at] = hashlib.sha256(block).digest() if jax.process_index() == 0 else None
    self._mine = [what for what in self._mine if what is not None]

  def local(self) -> bytes:
    """The concatenated digests of the blocks that this process hashes."""
    digest = lambda what: what if isinstance(what, bytes) else hashlib.sha256(_bytes(_paste(*what))).digest()
    found = b"".join(map(digest, self._mine))
    self._mine = []
    return found

  def send(self) -> None:
    """Hands the digests of this process's blocks to process 0, which calls `whole`; or reports that there are none.

    Raises:
      what `local` raises, once process 0 can hear of it: it would wait for an hour.
    """
    try:
      message = GOOD + self.local()
    except Exception as error:
      self._say(BAD + (str(error).strip() or type(error).__name__).encode())
      raise
    if jax.process_index() != 0:
      self._say(message)

  def _say(self, message: bytes) -> None:
    coordination().key_value_set_bytes(f"jaxgen/digests/{self._turn}/{jax.process_index()}", message)

  def whole(self, local: bytes, sent: bool = False) -> dict[str, str]:
    """SHA-256 of every array by name. Waits for all processes, which come here, or `sent` theirs to this one.

    Raises:
      UserError: another process could not hash its blocks.
    """
    parts = {jax.process_index(): local}
    if jax.process_count() > 1:
      if not sent:
        self._say(GOOD + local)
      wanted = {0 if owner is None else owner for owners in self._owners.values() for owner in owners}
      for p in sorted(wanted - parts.keys()):
        key = f"jaxgen/digests/{self._turn}/{p}"
        message = coordination().blocking_key_value_get_bytes(key, PATIENCE * 1000)
        if not message.startswith(GOOD):
          raise UserError(f"process {p} could not hash its part of the state: {message[1:].decode(errors='replace')}")
        parts[p] = message[1:]
        if sent:
          coordination().key_value_delete(key)  # the service would keep each save's until the job ends
    at, found = dict.fromkeys(parts, 0), {}
    for name, owners in self._owners.items():
      digests = []
      for owner in (0 if owner is None else owner for owner in owners):
        digests.append(parts[owner][at[owner] : at[owner] + 32])
        at[owner] += 32
      found[name] = (digests[0] if len(digests) == 1 else hashlib.sha256(b"".join(digests)).digest()).hex()
    return found


def digests(arrays: Mapping[str, Any], version: int = 2) -> dict[str, str]:
  """SHA-256 of every array by name. If arrays are spread over several processes, all of them call it."""
  found = Digests(arrays, version)
  return found.whole(found.local())


def _together(part: np.ndarray) -> np.ndarray:
  """The sum over the processes of bytes [n]; at each position at most one process has a non-zero byte. Collective."""
  mesh, add = _adder()
  room = np.zeros((1, 1 << (len(part) - 1).bit_length()), np.uint8)
  room[0, : len(part)] = part
  spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("process"))
  rows = jax.make_array_from_process_local_data(spread, room, (mesh.size, room.shape[1]))
  return np.asarray(add(rows).addressable_data(0))[: len(part)]


@functools.cache
def _adder() -> tuple[jax.sharding.Mesh, Any]:
  """(a mesh of one device per process, a function that sums over it)."""
  devices = {d.process_index: d for d in reversed(jax.devices())}
  mesh = jax.sharding.Mesh(np.array([devices[p] for p in sorted(devices)]), ("process",))
  everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  return mesh, jax.jit(lambda rows: rows.sum(0, dtype=np.uint8), out_shardings=everywhere)
