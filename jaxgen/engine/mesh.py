"""The mesh of devices, and the rules that place a state on it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxgen.core.errors import UserError
from jaxgen.core.method import State

BATCH_AXES = ("data", "fsdp")
FSDP_MIN_SIZE = 1024  # elements; cutting smaller arrays costs more communication than it saves memory


def make_mesh(fsdp: int = 1, devices: list | None = None) -> Mesh:
  """A (data, fsdp) mesh over all devices, in the order of their processes, so that a process's rows are neighbours.

  Args:
    fsdp: the number of devices that share one copy of the state.
    devices: all of the job's by default.

  Raises:
    UserError: the devices do not divide by `fsdp`.
  """
  devices = sorted(devices or jax.devices(), key=lambda d: (d.process_index, d.id))
  if fsdp < 1 or len(devices) % fsdp:
    raise UserError(f"--fsdp {fsdp} does not divide the {len(devices)} devices")
  grid = np.array(devices).reshape(-1, fsdp)
  return Mesh(grid, BATCH_AXES, axis_types=(AxisType.Auto,) * 2)


Rule = Callable[[Any, Mesh], NamedSharding]


def replicate(leaf: Any, mesh: Mesh) -> NamedSharding:
  """The rule that gives every device the whole array."""
  return NamedSharding(mesh, PartitionSpec(*[None] * leaf.ndim))


def fsdp(leaf: Any, mesh: Mesh) -> NamedSharding:
  """The rule that cuts an array's largest dimension that the axis `fsdp` divides, and replicates if there is none."""
  ways = mesh.shape["fsdp"]
  spec = [None] * leaf.ndim
  if ways > 1 and leaf.size >= FSDP_MIN_SIZE and not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
    fitting = [d for d in range(leaf.ndim) if leaf.shape[d] % ways == 0]
    if fitting:
      spec[max(fitting, key=lambda d: leaf.shape[d])] = "fsdp"
  return NamedSharding(mesh, PartitionSpec(*spec))


def check_divides(batch_size: int, mesh: Mesh) -> None:
  """Raises a UserError if a batch cannot be spread evenly over the mesh's devices."""
  _check_divides(f"a batch of {batch_size} does", batch_size, mesh)


def _check_divides(what: str, size: int, mesh: Mesh) -> None:
  if size < 1 or size % mesh.size:
    fit = max(1, round(size / mesh.size)) * mesh.size
    raise UserError(f"{what} not divide over the {mesh.size} devices: use a multiple of {mesh.size}, such as {fit}")


def shard_state(shapes: State, mesh: Mesh, rule: Rule) -> State:
  """The shapes of a state with shardings: by the rule, but for chains, `buffers["chains"]`, which are spread over all
  devices by their first axis, as a batch is.

  Raises:
    UserError: the chains do not divide over the devices.
  """

  def place(path: tuple, leaf: Any) -> jax.ShapeDtypeStruct:
    sharding = rule(leaf, mesh)
    if any(isinstance(key, jax.tree_util.DictKey) and key.key == "chains" for key in path):
      _check_divides(f"{leaf.shape[0]} chains do", leaf.shape[0], mesh)
      sharding = NamedSharding(mesh, PartitionSpec(BATCH_AXES, *[None] * (leaf.ndim - 1)))
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

  placed = jax.tree.map(lambda x: place((), x), shapes.replace(buffers={}))
  return placed.replace(buffers=jax.tree_util.tree_map_with_path(place, shapes.buffers))
