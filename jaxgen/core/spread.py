"""Constraints on where activations lie on a mesh of devices. They are all that a network knows of the devices.

A batch is spread over the devices and, with fsdp, so are the parameters. A matrix product cannot keep both spread: one
of the two must be gathered. The compiler may choose to gather the batch, which is larger than the weights in every
Transformer, and then every device computes on all examples. Therefore networks constrain activations, at the borders of
their blocks, to stay spread over the examples.

The devices of an axis `tensor` have the same examples and share a block's width: its first products give each device
some heads or some of the hidden layer (`over_width`), its last one sums over them, once for attention and once for the
MLP (Shoeybi et al. 2019, Megatron-LM, https://arxiv.org/abs/1909.08053, section 3). Where a width does not divide, the
block's examples are spread over these devices too (`over_devices`), and `Notes` tell it.

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

BATCH_AXES = ("data", "fsdp")  # the mesh's axes that a batch is spread over
TENSOR = "tensor"  # the axis that heads and hidden layers are cut over


@dataclasses.dataclass
class Notes:
  """Notes of networks from their trace.

  Attributes:
    cut: something was cut over `tensor`.
    whole: what was not cut, a line for each kind.
  """

  cut: bool = False
  whole: list[str] = dataclasses.field(default_factory=list)


_notes: contextvars.ContextVar[Notes | None] = contextvars.ContextVar("notes", default=None)


@contextlib.contextmanager
def noted() -> Iterator[Notes]:
  """Collects what networks say that are traced within."""
  notes = Notes()
  token = _notes.set(notes)
  try:
    yield notes
  finally:
    _notes.reset(token)


def _axes(*wanted: str) -> tuple[tuple[str, ...], int]:
  """Those of the axes that the mesh in whose context this is traced has; and over how many devices they go."""
  mesh = jax.sharding.get_abstract_mesh()
  kinds = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
  axes = tuple(name for name in wanted if kinds.get(name) == AxisType.Auto)
  return axes, math.prod(mesh.shape[name] for name in axes)


def batch_axes() -> tuple[tuple[str, ...], int]:
  """The mesh's axes that a batch is spread over, and over how many devices; ((), 1) without a mesh."""
  return _axes(*BATCH_AXES)


def over_batch(x: Shaped[Array, "batch *rest"]) -> Shaped[Array, "batch *rest"]:
  """Constrains x, and its derivatives, to be spread over the devices along the first axis and whole along the others.

  It does nothing without a mesh; within `jax.shard_map` and `jax.pmap`, which spread x themselves; and if the first
  axis does not divide over the devices, as under `jax.vmap` over examples, where a network sees one at a time.
  """
  return _by_examples(x, *_axes(*BATCH_AXES))


def over_devices(x: Shaped[Array, "batch *rest"], always: bool = False) -> Shaped[Array, "batch *rest"]:
  """x spread by the first axis over all devices, those of `tensor` too, which then share examples and no width.

  Nothing changes where the first axis does not divide so, nor, unless `always`, where there is no such axis.
  """
  return x if _axes(TENSOR)[1] == 1 and not always else _by_examples(x, *_axes(*BATCH_AXES, TENSOR))


def joined(x: Shaped[Array, "batch *rest"]) -> Shaped[Array, "batch *rest"]:
  """What the devices of `tensor` have made together, a sum or the examples of each, on all of them: as `over_batch`.

  Nothing changes where there are none.
  """
  return x if _axes(TENSOR)[1] == 1 else over_batch(x)


def _by_examples(x: Array, axes: tuple[str, ...], ways: int) -> Array:
  if x.shape[0] % ways or _axes(*BATCH_AXES, TENSOR)[1] == 1:
    return x
  return jax.lax.with_sharding_constraint(x, PartitionSpec(axes, *[None] * (x.ndim - 1)))


def cuts(count: int, what: str) -> bool:
  """Whether `tensor` has several devices and cuts so many heads, or features of a hidden layer, among them."""
  ways, notes = _axes(TENSOR)[1], _notes.get()
  cut = ways > 1 and count % ways == 0
  if notes is not None and ways > 1:
    notes.cut |= cut
    line = f"{count} {what} over {ways}"
    notes.whole += [] if cut or line in notes.whole else [line]
  return cut


def over_width(x: Shaped[Array, "batch *rest"], axis: int = -1) -> Shaped[Array, "batch *rest"]:
  """x spread by its examples and, along another axis, over `tensor`, which must divide it: see `cuts`."""
  axes, ways = _axes(*BATCH_AXES)
  spec = [None] * x.ndim
  spec[0] = PartitionSpec.UNCONSTRAINED if x.shape[0] % ways else axes or None
  spec[axis] = TENSOR
  return jax.lax.with_sharding_constraint(x, PartitionSpec(*spec))


def in_columns(kernel: Shaped[Array, "*rest outputs"], parts: int) -> Shaped[Array, "*rest parts columns"]:
  """A kernel, or a bias, of `parts` side by side, each cut over `tensor` by its columns.

  Side by side they cannot be kept so: a device would have all of the queries and none of the values. What is kept of
  it, a part of its rows, is cut anew first, and gathered afterwards.
  """
  rows, ways = _axes("fsdp")
  inputs = [rows if kernel.shape[0] % ways == 0 else None] if kernel.ndim > 1 else []
  kernel = jax.lax.with_sharding_constraint(kernel, PartitionSpec(*inputs, None))
  kernel = kernel.reshape(*kernel.shape[:-1], parts, kernel.shape[-1] // parts)
  return jax.lax.with_sharding_constraint(kernel, PartitionSpec(*inputs, None, TENSOR))


def copies(array: Shaped[Array, "count *rest"], cut: bool) -> Shaped[Array, "ways count *rest"]:
  """As many copies of an array as a batch has parts, each beside its part; one where there is no mesh.

  For what is used several times in a network. The gradients of all uses are added up on each device, and summed over
  the devices once; otherwise the compiler sums each use's. See `in_parts`.

  Args:
    cut: each copy is cut over `tensor` along its first axis. Else the devices of `tensor` have parts of the batch, too.
  """
  axes, ways = _axes(*BATCH_AXES) if cut else _axes(*BATCH_AXES, TENSOR)
  several = jax.numpy.broadcast_to(array, (ways, *array.shape))
  return over_width(several, 1) if cut else _by_examples(several, axes, ways)


def in_parts(x: Shaped[Array, "batch *rest"], ways: int) -> Shaped[Array, "ways part *rest"]:
  """A batch in the parts that the copies of an array stand beside. `ways` divides it."""
  axes, every = _axes(*BATCH_AXES, TENSOR)
  x = x.reshape(ways, x.shape[0] // ways, *x.shape[1:])
  return _by_examples(x, axes, every) if ways == every else over_batch(x)
