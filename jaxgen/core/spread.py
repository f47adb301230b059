"""Where activations lie on a mesh of devices: the one thing that a network says of the devices it is compiled for.

A batch is spread over the devices and, with fsdp, so are the parameters. Both cannot stay so within a product: one of
the two is gathered. Left to itself the compiler may gather the batch, which is the larger one in every Transformer, and
every device then computes on all examples. A network therefore says at the borders of its blocks that activations
stay spread by their examples.

A program is traced within its mesh's context (`jax.sharding.use_abstract_mesh`, see `engine.program`), and traces for
different meshes are kept apart by jax. Outside of one, networks are plain functions.
"""

import math

import jax
from jax.sharding import AxisType, PartitionSpec
from jaxtyping import Array, Shaped

BATCH_AXES = ("data", "fsdp")  # the mesh's axes that a batch is spread over


def _axes() -> tuple[tuple[str, ...], int]:
  """The axes of the mesh in whose context this is traced that a batch is spread over; and over how many devices."""
  mesh = jax.sharding.get_abstract_mesh()
  kinds = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
  axes = tuple(name for name in BATCH_AXES if kinds.get(name) == AxisType.Auto)
  return axes, math.prod(mesh.shape[name] for name in axes)


def over_batch(x: Shaped[Array, "batch *rest"]) -> Shaped[Array, "batch *rest"]:
  """x, and its derivatives, spread over the devices by the first axis; whole in the others.

  Nothing changes where there is no mesh, within `jax.shard_map` and `jax.pmap`, which spread it themselves, and where
  the first axis does not divide: a network that is mapped over its examples by `jax.vmap` sees one at a time.
  """
  axes, ways = _axes()
  if ways == 1 or x.shape[0] % ways:
    return x
  return jax.lax.with_sharding_constraint(x, PartitionSpec(axes, *[None] * (x.ndim - 1)))


def copies(array: Shaped[Array, "*rest"]) -> Shaped[Array, "ways *rest"]:
  """As many copies of an array as a batch has parts, each beside its part; one where there is no mesh.

  For what is used several times in a network. The gradients of all uses are added up on each device, and summed over
  the devices once; otherwise the compiler sums each use's. See `in_parts`.
  """
  _, ways = _axes()
  return over_batch(jax.numpy.broadcast_to(array, (ways, *array.shape)))


def in_parts(x: Shaped[Array, "batch *rest"], ways: int) -> Shaped[Array, "ways part *rest"]:
  """A batch in the parts that the copies of an array stand beside. `ways` divides it."""
  return over_batch(x.reshape(ways, x.shape[0] // ways, *x.shape[1:]))
