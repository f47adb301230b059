"""Sharding constraints on activations. They are all that a network knows of the mesh of devices.

A batch is sharded over the devices and, with fsdp, so are the parameters. A matrix product needs one of the two whole,
so it must be gathered. The compiler may choose to gather the batch, which is larger than the weights in every
Transformer, and then every device computes on all examples. Therefore networks constrain activations, before and after
their blocks, to stay sharded by example.

The devices of the axis `tensor` have the same examples and divide a block's width among them: its first products give
each device some heads or a part of the hidden layer (`over_width`), and its last product is summed over the devices,
once for attention and once for the MLP (Shoeybi et al. 2019, Megatron-LM, https://arxiv.org/abs/1909.08053, section 3).
If a width is not divisible, the block's examples are sharded over these devices instead (`over_devices`), and `Notes`
record it.

A program is traced within its mesh's context (`jax.sharding.use_abstract_mesh`, see `engine.program`), and jax keeps
traces for different meshes apart. Outside of such a context, networks are plain functions.
"""

import contextlib
import contextvars
import dataclasses
import math
from collections.abc import Iterator

import jax
from jax.sharding import AxisType, PartitionSpec
from jaxtyping import Array, Shaped

BATCH_AXES = ("data", "fsdp")  # the mesh's axes over which a batch is sharded
TENSOR = "tensor"  # the axis over which heads and hidden layers are sharded


@dataclasses.dataclass
class Notes:
  """What networks have noted while they were traced.

  Attributes:
    cut: whether something was sharded over `tensor`.
    whole: what was not sharded, a line for each kind.
  """

  cut: bool = False
  whole: list[str] = dataclasses.field(default_factory=list)


_notes: contextvars.ContextVar[Notes | None] = contextvars.ContextVar("notes", default=None)


@contextlib.contextmanager
def noted() -> Iterator[Notes]:
  """Collects the notes of networks that are traced in this context."""
  notes = Notes()
  token = _notes.set(notes)
  try:
    yield notes
  finally:
    _notes.reset(token)


def _axes(*wanted: str) -> tuple[tuple[str, ...], int]:
  """(those of these axes that the current mesh has, their number of devices)."""
  mesh = jax.sharding.get_abstract_mesh()
  kinds = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
  axes = tuple(name for name in wanted if kinds.get(name) == AxisType.Auto)
  return axes, math.prod(mesh.shape[name] for name in axes)


def batch_axes() -> tuple[tuple[str, ...], int]:
  """(the mesh's axes over which a batch is sharded, their number of devices); ((), 1) without a mesh."""
  return _axes(*BATCH_AXES)


def over_batch(x: Shaped[Array, "batch *rest"]) -> Shaped[Array, "batch *rest"]:
  """Constrains x, and its derivatives, to be sharded along the first axis and unsharded along the others.

  It does nothing without a mesh; within `jax.shard_map` and `jax.pmap`, which shard x themselves; and if the devices do
  not divide the first axis, as under `jax.vmap` over examples, where a network gets one example at a time.
  """
  return _by_examples(x, *_axes(*BATCH_AXES))


def over_devices(x: Shaped[Array, "batch *rest"], always: bool = False) -> Shaped[Array, "batch *rest"]:
  """x, sharded along its first axis over all devices, including those of `tensor`, which then have different examples.

  It does nothing if the devices do not divide the first axis or, without `always`, if the mesh has no axis `tensor`.
  """
  return x if _axes(TENSOR)[1] == 1 and not always else _by_examples(x, *_axes(*BATCH_AXES, TENSOR))


def joined(x: Shaped[Array, "batch *rest"]) -> Shaped[Array, "batch *rest"]:
  """x, a sum over the devices of `tensor` or their different examples, with the sharding of `over_batch` again.

  It does nothing without an axis `tensor`.
  """
  return x if _axes(TENSOR)[1] == 1 else over_batch(x)


def _by_examples(x: Array, axes: tuple[str, ...], ways: int) -> Array:
  if x.shape[0] % ways or _axes(*BATCH_AXES, TENSOR)[1] == 1:
    return x
  return jax.lax.with_sharding_constraint(x, PartitionSpec(axes, *[None] * (x.ndim - 1)))


def cuts(count: int, what: str) -> bool:
  """Whether `tensor` has several devices that divide `count`, a number of heads or of hidden features."""
  ways, notes = _axes(TENSOR)[1], _notes.get()
  cut = ways > 1 and count % ways == 0
  if notes is not None and ways > 1:
    notes.cut |= cut
    line = f"{count} {what} over {ways}"
    notes.whole += [] if cut or line in notes.whole else [line]
  return cut


def over_width(x: Shaped[Array, "batch *rest"], axis: int = -1) -> Shaped[Array, "batch *rest"]:
  """x, sharded by example and, along another axis, over `tensor`, which must divide that axis: see `cuts`."""
  axes, ways = _axes(*BATCH_AXES)
  spec = [None] * x.ndim
  spec[0] = PartitionSpec.UNCONSTRAINED if x.shape[0] % ways else axes or None
  spec[axis] = TENSOR
  return jax.lax.with_sharding_constraint(x, PartitionSpec(*spec))


def in_columns(kernel: Shaped[Array, "*rest outputs"], parts: int) -> Shaped[Array, "*rest parts columns"]:
  """A kernel or a bias that has `parts` side by side (queries, keys, values), each sharded by columns over `tensor`.

  Sharding the whole array by columns would give a device all of the queries and none of the values. It is therefore
  stored sharded by rows, is resharded first, while a device's part is small, and gathered over `fsdp` afterwards.
  """
  rows, ways = _axes("fsdp")
  inputs = [rows if kernel.shape[0] % ways == 0 else None] if kernel.ndim > 1 else []
  kernel = jax.lax.with_sharding_constraint(kernel, PartitionSpec(*inputs, None))
  kernel = kernel.reshape(*kernel.shape[:-1], parts, kernel.shape[-1] // parts)
  return jax.lax.with_sharding_constraint(kernel, PartitionSpec(*inputs, None, TENSOR))


def copies(array: Shaped[Array, "count *rest"], cut: bool) -> Shaped[Array, "ways count *rest"]:
  """Copies of an array, one for each shard of the batch and on its device; one copy if there is no mesh.

  Use it for an array that a network uses several times. Then each device adds up the gradients of all uses, and they
  are summed over the devices once; otherwise the compiler sums every use's gradient. See `in_parts`.

  Args:
    cut: each copy is sharded over `tensor` along its first axis. Otherwise the devices of `tensor` shard the batch.
  """
  axes, ways = _axes(*BATCH_AXES) if cut else _axes(*BATCH_AXES, TENSOR)
  several = jax.numpy.broadcast_to(array, (ways, *array.shape))
  return over_width(several, 1) if cut else _by_examples(several, axes, ways)


def in_parts(x: Shaped[Array, "batch *rest"], ways: int) -> Shaped[Array, "ways part *rest"]:
  """A batch, cut into the shards that belong to the copies of `copies`. `ways` must divide its size."""
  axes, every = _axes(*BATCH_AXES, TENSOR)
  x = x.reshape(ways, x.shape[0] // ways, *x.shape[1:])
  return _by_examples(x, axes, every) if ways == every else over_batch(x)
