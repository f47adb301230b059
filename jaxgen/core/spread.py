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


def over_batch(x: Shaped[Array, "batch *rest"]) -> Shaped[Array, "batch *rest"]:
  """x, and its derivatives, spread over the devices by the first axis; whole in the others.

  Nothing changes where there is no mesh, within `jax.shard_map` and `jax.pmap`, which spread it themselves, and where
  the first axis does not divide: a network that is mapped over its examples by `jax.vmap` sees one at a time.
  """
  mesh = jax.sharding.get_abstract_mesh()
  kinds = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
  axes = tuple(name for name in BATCH_AXES if kinds.get(name) == AxisType.Auto)
  ways = math.prod(mesh.shape[name] for name in axes)
  if ways == 1 or x.shape[0] % ways:
    return x
  return jax.lax.with_sharding_constraint(x, PartitionSpec(axes, *[None] * (x.ndim - 1)))
