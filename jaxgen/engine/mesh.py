"""The mesh of devices, and a state placed on it."""

from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from jaxgen.core.errors import UserError
from jaxgen.core.method import State
from jaxgen.core.spread import BATCH_AXES
from jaxgen.engine.rules import AnyMesh, Rule


def make_mesh(fsdp: int = 1, devices: list | int | None = None) -> AnyMesh:
  """A (data, fsdp) mesh over all devices, in the order of their processes, so that a process's rows are neighbours.

  Args:
    fsdp: the number of devices that share one copy of the state.
    devices: the devices; by default all of the job's. A number gives a mesh of devices that need not exist: programs
      can be traced for it but not compiled.

  Raises:
    UserError: the number of devices is no multiple of `fsdp`.
  """
  count = devices if isinstance(devices, int) else len(devices or jax.devices())
  if fsdp < 1 or count % fsdp:
    raise UserError(f"--fsdp {fsdp} does not divide the {count} devices")
  shape, kinds = (count // fsdp, fsdp), (AxisType.Auto,) * 2
  if isinstance(devices, int):
    return AbstractMesh(shape, BATCH_AXES, axis_types=kinds)
  devices = sorted(devices or jax.devices(), key=lambda d: (d.process_index, d.id))
  return Mesh(np.array(devices).reshape(shape), BATCH_AXES, axis_types=kinds)


def check_divides(batch_size: int, mesh: AnyMesh) -> None:
  """Raises a UserError if a batch cannot be spread evenly over the mesh's devices."""
  _check_divides(f"a batch of {batch_size} does", batch_size, mesh)


def _check_divides(what: str, size: int, mesh: AnyMesh) -> None:
  if size < 1 or size % mesh.size:
    fit = max(1, round(size / mesh.size)) * mesh.size
    raise UserError(f"{what} not divide over the {mesh.size} devices: use a multiple of {mesh.size}, such as {fit}")


def shard_state(shapes: State, mesh: AnyMesh, rule: Rule) -> State:
  """Adds shardings to a state's shapes: the rule's, but chains (`buffers["chains"]`) are spread like a batch.

  Raises:
    UserError: the chains do not divide over the devices.
  """

  def place(path: tuple, leaf: Any) -> jax.ShapeDtypeStruct:
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    sharding = rule(name, leaf, mesh)
    if name.startswith("buffers/") and "chains" in name.split("/"):
      _check_divides(f"{leaf.shape[0]} chains do", leaf.shape[0], mesh)
      sharding = NamedSharding(mesh, PartitionSpec(BATCH_AXES, *[None] * (leaf.ndim - 1)))
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

  return jax.tree_util.tree_map_with_path(place, shapes)
