"""Rules that place a state's arrays on a mesh, by an array's path, shape and dtype.

    axis     what is cut over it
    data     batches
    fsdp     batches, and each large array of the state: parameters, optimizer, averages
    tensor   heads, hidden layers, channels and vocabularies of networks, and with them the state: `FAMILIES`

A rule is (path, array or its structure, mesh) -> its sharding. A path is "params/network/encoder/blocks/mlp/in/kernel".
"""

import functools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from jaxgen.core.spread import BATCH_AXES, TENSOR

AnyMesh = Mesh | AbstractMesh
Rule = Callable[[str, Any, AnyMesh], NamedSharding]
MIN_SIZE = 1024  # elements; cutting smaller arrays costs more communication than it saves memory
STACK = "blocks"  # under it, `nn.blocks.attention.Blocks` has its layers' parameters, along the first dimension


class Cut(NamedTuple):
  """How an array is cut that `tensor`'s devices share in use.

  Attributes:
    tensor: the dimension, counted from the last; None where it is kept in other parts than it is used in.
    fsdp: the dimension that `fsdp` cuts, if it divides it; None: the largest.
  """

  tensor: int | None = None
  fsdp: int | None = None


COLUMNS, ROWS = Cut(-1), Cut(-2)
# By the end of a path, for each family: a block's first products give a device some columns, the last one sums over the
# devices what each makes of its rows. Queries, keys and values lie side by side: see `core.spread.in_columns`.
FAMILIES: Mapping[str, Mapping[str, Cut]] = {
  "Transformers: language models, ViT, Swin, CaiT, T2T, DiT, MMDiT, U-ViT": {
    r"(attention|context|dual)/((picture|text)_)?(qkv|q|kv)/kernel": Cut(fsdp=-2),
    r"(attention|context|dual)/((picture|text)_)?out/kernel": ROWS,
    r"mlp/in/kernel": COLUMNS,
    r"mlp/out/kernel": ROWS,
    r"embedding/table": ROWS,  # by tokens: by features each device would have a share of every logit
  },
  "U-Nets: DDPM's, ADM's, Song's, VDM's": {
    r"(down|middle|up)_\w*/conv_1/kernel": COLUMNS,
    r"(down|middle|up)_\w*/conv_2/kernel": ROWS,
    r"attention/(query|key|value)/kernel": COLUMNS,
  },
}


@functools.cache
def in_use(path: str) -> Cut | None:
  """How the devices of `tensor` divide an array when it is used; None where each uses all of it."""
  for table in FAMILIES.values():
    for end, cut in table.items():
      if re.search(rf"(^|[/_]){end}$", path):
        return cut
  return None


def replicate(path: str, leaf: Any, mesh: AnyMesh) -> NamedSharding:
  """The rule that gives every device the whole array."""
  return NamedSharding(mesh, PartitionSpec(*[None] * leaf.ndim))


def shared(path: str, leaf: Any, mesh: AnyMesh) -> NamedSharding:
  """The rule that cuts large arrays over the axes `fsdp` and `tensor`.

  Over each it cuts the largest dimension that the axis divides, unless `FAMILIES` names another. If there is none, it
  cuts each dimension by the common factors, the largest dimension first: [50257, 768] over 1,024 devices in 256 parts,
  [12, 768, 2304] in 4 x 256. An array without common factors stays whole. Layers that a loop runs over are not cut
  along the loop.
  """
  if leaf.size < MIN_SIZE or jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
    return replicate(path, leaf, mesh)
  first, shape = int(STACK in path.split("/")), list(leaf.shape)
  names: list[list[str]] = [[] for _ in shape]
  divided: dict[str, list[int]] = {}
  cut = in_use(path) if mesh.shape.get(TENSOR, 1) > 1 else None
  order = [(TENSOR, cut.tensor), ("fsdp", None)] if cut and cut.tensor else [("fsdp", cut and cut.fsdp), (TENSOR, None)]
  for axis, wanted in order:
    ways = mesh.shape.get(axis, 1)
    if ways == 1:
      continue
    # Not twice along one dimension if there is another: an array that `fsdp` cuts within `tensor` is gathered by both.
    dims = sorted(range(first, len(shape)), key=lambda d: (bool(names[d]), -shape[d]))
    dims.sort(key=lambda d: wanted is not None and d != len(shape) + wanted)
    parts = _cuts(shape, ways, dims)
    if list(parts.values()) != [ways] and parts:
      divided[axis] = list(parts.values())
    for number, (dim, count) in enumerate(parts.items()):
      names[dim].append(f"{axis}/{number}" if axis in divided else axis)
      shape[dim] //= count
  entries = [tuple(axes) if len(axes) > 1 else axes[0] if axes else None for axes in names]
  return NamedSharding(_divided(mesh, divided), PartitionSpec(*entries))


def parts(leaf: Any) -> int:
  """The number of different parts that an array is cut into by its sharding."""
  return math.prod(leaf.shape) // max(1, math.prod(leaf.sharding.shard_shape(leaf.shape)))


def batch_ways(mesh: AnyMesh) -> int:
  """The number of parts that a mesh spreads a batch in."""
  return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def _cuts(shape: Sequence[int], ways: int, dims: Sequence[int]) -> dict[int, int]:
  """{dimension: number of parts}, of at most `ways` parts together; the first ones of `dims` are preferred."""
  for dim in dims:
    if shape[dim] % ways == 0:
      return {dim: ways}
  cuts = {}
  for dim in dims:
    part = math.gcd(shape[dim], ways)
    if part > 1:
      cuts[dim], ways = part, ways // part
  return cuts


def _divided(mesh: AnyMesh, axes: Mapping[str, Sequence[int]]) -> AnyMesh:
  """The same devices in the same order, with some axes as several, of these sizes and what is left."""
  if not axes:
    return mesh
  shape, names, kinds = [], [], []
  for name, kind in zip(mesh.axis_names, mesh.axis_types, strict=True):
    sizes = axes.get(name)
    inner = [mesh.shape[name]] if sizes is None else [*sizes, mesh.shape[name] // math.prod(sizes)]
    shape += inner
    names += [name] if sizes is None else [f"{name}/{i}" for i in range(len(inner))]
    kinds += [kind] * len(inner)
  if isinstance(mesh, AbstractMesh):
    return AbstractMesh(tuple(shape), tuple(names), axis_types=tuple(kinds))
  return Mesh(mesh.devices.reshape(shape), tuple(names), axis_types=tuple(kinds))
