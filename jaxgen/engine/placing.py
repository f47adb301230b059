"""A state's and a batch's places on a mesh of devices."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jaxgen.core.environment import is_known
from jaxgen.core.method import Batch, State
from jaxgen.core.spread import BATCH_AXES
from jaxgen.engine.mesh import check_divides, rows
from jaxgen.engine.rules import AnyMesh, Rule, batch_ways


def shard_state(shapes: State, mesh: AnyMesh, rule: Rule) -> State:
  """The shapes of a state with shardings: by the rule, but for chains, `buffers["chains"]`, which are spread over the
  devices by their first axis, as a batch is.

  Raises:
    UserError: the chains do not divide over the devices.
  """

  def place(path: tuple, leaf: Any) -> jax.ShapeDtypeStruct:
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    sharding = rule(name, leaf, mesh)
    if name.startswith("buffers/") and "chains" in name.split("/"):
      check_divides(leaf.shape[0], mesh, "chains")
      sharding = NamedSharding(mesh, PartitionSpec(BATCH_AXES, *[None] * (leaf.ndim - 1)))
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

  return jax.tree_util.tree_map_with_path(place, shapes)


def put(raw: Mapping[str, np.ndarray], sharding: NamedSharding, axis: int) -> Batch:
  """Global batches on the devices, from this process's rows of them along an axis: those of `mesh.rows`."""
  if jax.process_count() == 1:
    return jax.device_put(dict(raw), sharding)
  ways = batch_ways(sharding.mesh)
  size = next(iter(raw.values())).shape[axis] * ways // len(rows(sharding.mesh, ways))
  own = rows(sharding.mesh, size)

  def array(x: np.ndarray) -> jax.Array:
    def part(index: tuple[slice, ...]) -> np.ndarray:
      first, stop, _ = index[axis].indices(size)
      low = np.searchsorted(own, first)  # a device's rows follow each other, and so do they among the process's
      return x[index[:axis] + (slice(low, low + stop - first),) + index[axis + 1 :]]

    return jax.make_array_from_callback((*x.shape[:axis], size, *x.shape[axis + 1 :]), sharding, part)

  return {name: array(x) for name, x in raw.items()}


def quick_options(platform: str) -> dict[str, int]:
  """XLA's options for a program that runs once, such as many small random draws: compiling them well takes longer than
  running them badly. On a GPU nothing is tried out on the device to choose among kernels. Those that jaxlib knows."""
  wanted = {"cpu": {"xla_backend_optimization_level": 0}, "gpu": {"xla_gpu_autotune_level": 0}}
  return {name: value for name, value in wanted.get(platform, {}).items() if is_known(f"--{name}={value}")}
