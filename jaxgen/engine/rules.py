"""Rules that place a state's arrays on a mesh, by an array's path, shape and dtype.

    axis     what is cut over it
    data     batches
    fsdp     batches, and each large array of the state: parameters, optimizer, averages

A rule is (path, array or its structure, mesh) -> its sharding. A path is "params/network/encoder/blocks/mlp/in/kernel".
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

AnyMesh = Mesh | AbstractMesh
Rule = Callable[[str, Any, AnyMesh], NamedSharding]
FSDP_MIN_SIZE = 1024  # elements; cutting smaller arrays costs more communication than it saves memory
STACK = "blocks"  # under it, `nn.blocks.attention.Blocks` has its layers' parameters, along the first dimension


def replicate(path: str, leaf: Any, mesh: AnyMesh) -> NamedSharding:
  """The rule that gives every device the whole array."""
  return NamedSharding(mesh, PartitionSpec(*[None] * leaf.ndim))


def fsdp(path: str, leaf: Any, mesh: AnyMesh) -> NamedSharding:
  """The rule that cuts large arrays over the axis `fsdp`.

  It cuts the largest dimension that the axis divides. If there is none, it cuts each dimension by the common factors,
  the largest dimension first: [50257, 768] over 1,024 devices in 256 parts, [12, 768, 2304] in 4 x 256. An array
  without common factors stays whole. Layers that a loop runs over are not cut along the loop.
  """
  ways = mesh.shape["fsdp"]
  is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
  if ways == 1 or leaf.size < FSDP_MIN_SIZE or is_key:
    return replicate(path, leaf, mesh)
  cuts = _cuts(leaf.shape, ways, first=int(STACK in path.split("/")))
  spec: list[str | None] = [None] * leaf.ndim
  if list(cuts.values()) == [ways]:
    spec[next(iter(cuts))] = "fsdp"
    return NamedSharding(mesh, PartitionSpec(*spec))
  for number, dim in enumerate(cuts):
    spec[dim] = f"fsdp/{number}"
  return NamedSharding(_divided(mesh, list(cuts.values())), PartitionSpec(*spec))


def parts(leaf: Any) -> int:
  """The number of different parts that an array is cut into by its sharding."""
  return math.prod(leaf.shape) // max(1, math.prod(leaf.sharding.shard_shape(leaf.shape)))


def _cuts(shape: tuple[int, ...], ways: int, first: int) -> dict[int, int]:
  """{dimension: number of parts} for dimensions from `first` on; at most `ways` parts in total."""
  dims = sorted(range(first, len(shape)), key=lambda d: -shape[d])
  for dim in dims:
    if shape[dim] % ways == 0:
      return {dim: ways}
  cuts = {}
  for dim in dims:
    part = math.gcd(shape[dim], ways)
    if part > 1:
      cuts[dim], ways = part, ways // part
  return cuts


def _divided(mesh: AnyMesh, sizes: list[int]) -> AnyMesh:
  """The same devices in the same order, with the axis `fsdp` split into axes of these sizes and a rest."""
  sizes = [*sizes, mesh.shape["fsdp"] // math.prod(sizes)]
  shape, names, kinds = [], [], []
  for name, kind in zip(mesh.axis_names, mesh.axis_types, strict=True):
    inner = sizes if name == "fsdp" else [mesh.shape[name]]
    shape += inner
    names += [f"fsdp/{i}" for i in range(len(sizes))] if name == "fsdp" else [name]
    kinds += [kind] * len(inner)
  if isinstance(mesh, AbstractMesh):
    return AbstractMesh(tuple(shape), tuple(names), axis_types=tuple(kinds))
  return Mesh(mesh.devices.reshape(shape), tuple(names), axis_types=tuple(kinds))
