"""The mesh of devices, and what of a batch each process has on it."""

import functools

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from jaxgen.core.errors import UserError
from jaxgen.core.spread import BATCH_AXES, TENSOR
from jaxgen.engine.rules import AnyMesh, batch_ways
from jaxgen.engine.topology import arranged


def make_mesh(fsdp: int = 1, devices: list | int | None = None, tensor: int = 1) -> AnyMesh:
  """A (data, fsdp, tensor) mesh over all devices, arranged by `topology.arranged`.

  Args:
    fsdp: the number of devices that share one copy of the state.
    devices: the devices; by default all of the job's. A number gives a mesh of devices that need not exist: programs
      can be traced for it but not compiled.
    tensor: the number of devices that share the heads and hidden layers of networks, and have the same examples.

  Raises:
    UserError: the number of devices is no multiple of `fsdp` x `tensor`.
  """
  count = devices if isinstance(devices, int) else len(devices or jax.devices())
  if min(fsdp, tensor) < 1 or count % (fsdp * tensor):
    groups = f"--fsdp {fsdp}" + (f" x --tensor {tensor}" if tensor != 1 else "")
    raise UserError(f"{groups} does not divide the {count} devices")
  shape, names = (count // fsdp // tensor, fsdp, tensor), (*BATCH_AXES, TENSOR)
  if isinstance(devices, int):
    return AbstractMesh(shape, names, axis_types=(AxisType.Auto,) * 3)
  return Mesh(arranged(devices or jax.devices(), shape), names, axis_types=(AxisType.Auto,) * 3)


def check_divides(size: int, mesh: AnyMesh, what: str | None = None) -> None:
  """Raises a UserError if a batch, or `what` there are so many of, cannot be spread evenly over the mesh's devices."""
  ways = batch_ways(mesh)
  if size < 1 or size % ways:
    fit, over = (
      max(1, round(size / ways)) * ways,
      f"{ways} devices" if ways == mesh.size else f"{ways} groups of devices",
    )
    what = f"{size} {what} do" if what else f"a batch of {size} does"
    raise UserError(f"{what} not divide over the {over}: use a multiple of {ways}, such as {fit}")


@functools.cache
def rows(mesh: Mesh, batch_size: int) -> np.ndarray:
  """The rows of a global batch that this process's devices have, in their order: int32 [n]."""
  check_divides(batch_size, mesh)
  where = NamedSharding(mesh, PartitionSpec(BATCH_AXES)).addressable_devices_indices_map((batch_size,))
  every = np.arange(batch_size, dtype=np.int32)
  own = np.unique(np.concatenate([every[index] for index in where.values()]))
  own.setflags(write=False)
  return own
