"""A method's step for those who use `jax.pmap`."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxgen.core.method import Batch, Method, Metrics, State

AXIS = "devices"


def pmap_step(method: Method, devices: list | None = None) -> Callable[[State, Batch], tuple[State, Metrics]]:
  """The method's step under `jax.pmap`, for a state and batch from `stack_state` and `shard_batch`.

  It equals the jit step on the same global batch, noise included, up to the order of summation. The state is donated.

  Raises:
    ValueError: the method's loss is not a mean over examples, or the method has buffers, which would differ by device.
  """
  if not method.mean:
    raise ValueError(
      "this method's loss is not a mean over examples, so devices cannot average it: use jit over a mesh"
    )

  def step(state: State, batch: Batch) -> tuple[State, Metrics]:
    if jax.tree.leaves(state.buffers):
      raise ValueError("this method's buffers would differ by device under pmap: use jit over a mesh")
    return method.step(state, batch, axis=AXIS)

  return jax.pmap(step, axis_name=AXIS, devices=devices, donate_argnums=0)


def stack_state(state: State, devices: list | None = None) -> State:
  """A copy of the state on each device, leaves [D, ...], as `pmap_step` takes it."""
  devices = devices or jax.local_devices()
  sharding = NamedSharding(Mesh(np.array(devices), ("devices",)), PartitionSpec("devices"))
  return jax.tree.map(lambda x: jax.device_put(jnp.stack([x] * len(devices)), sharding), state)


def unstack_state(state: State) -> State:
  """The first device's copy of a stacked state."""
  return jax.tree.map(lambda x: x[0], state)


def shard_batch(batch: Mapping[str, Any], devices: int) -> dict[str, Any]:
  """Cuts a global batch for pmap: leaves [B, ...] -> [D, B / D, ...]. Device d gets the d-th contiguous part."""
  return jax.tree.map(lambda x: x.reshape(devices, x.shape[0] // devices, *x.shape[1:]), batch)
