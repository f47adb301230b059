"""Constraints on where activations lie on a mesh of devices. They are all that a network knows of the devices.

A batch is spread over the devices and, with fsdp, so are the parameters. A matrix product cannot keep both spread: one
of the two must be gathered. The compiler may choose to gather the batch, which is larger than the weights in every
Transformer, and then every device computes on all examples. Therefore networks constrain activations, at the borders of
their blocks, to stay spread over the examples.

A program is traced within its mesh's context (`jax.sharding.use_abstract_mesh`, see `engine.program`), and jax keeps
traces for different meshes apart. Outside of such a context, networks are plain functions.
"""

import math

import jax
from jax.sharding import AxisType, PartitionSpec
from jaxtyping import Array, Shaped

BATCH_AXES = ("data", "fsdp")  # the mesh's axes that a batch is spread over


def _axes() -> tuple[tuple[str, ...], int]:
  """The axes of the current mesh that a batch is spread over, and the number of devices along them."""
  mesh = jax.sharding.get_abstract_mesh()
  kinds = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
  axes = tuple(name for name in BATCH_AXES if kinds.get(name) == AxisType.Auto)
  return axes, math.prod(mesh.shape[name] for name in axes)


def over_batch(x: Shaped[Array, "batch *rest"]) -> Shaped[Array, "batch *rest"]:
  """Constrains x, and its derivatives, to be spread over the devices along the first axis and whole along the others.

  It does nothing without a mesh; within `jax.shard_map` and `jax.pmap`, which spread x themselves; and if the first
  axis does not divide over the devices, as under `jax.vmap` over examples, where a network sees one at a time.
  """
  axes, ways = _axes()
  if ways == 1 or x.shape[0] % ways:
    return x
  return jax.lax.with_sharding_constraint(x, PartitionSpec(axes, *[None] * (x.ndim - 1)))


def copies(array: Shaped[Array, "*rest"]) -> Shaped[Array, "ways *rest"]:
  """A copy of an array for each part of the batch, on the same devices as the part; one copy without a mesh.

  For an array that a network uses several times. With copies, the gradients of all uses are added on each device and
  summed over the devices once; without, the compiler sums over the devices for each use. See `in_parts`.
  """
  _, ways = _axes()
  return over_batch(jax.numpy.broadcast_to(array, (ways, *array.shape)))


def in_parts(x: Shaped[Array, "batch *rest"], ways: int) -> Shaped[Array, "ways part *rest"]:
  """A batch cut into parts, one for each of the `copies`. `ways` must divide the batch."""
  return over_batch(x.reshape(ways, x.shape[0] // ways, *x.shape[1:]))
