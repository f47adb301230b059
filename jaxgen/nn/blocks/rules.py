"""Linear and bilinear operations with hand-written derivatives, as primitives.

JAX's derivatives are correct but sometimes slow: inside a loop or a cond, XLA's CPU backend runs JAX's gradients of a
convolution 10 to 300 times slower than elsewhere. A `custom_vjp` has no forward mode. These primitives support
everything that JAX's own support: jvp, linearize, transposition and vmap in any order and to any depth. Each is lowered
for the platform for which it is compiled, even if it is traced on another one.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import ShapedArray
from jax.extend.core import Jaxpr, JaxprEqn, Primitive
from jax.interpreters import ad, batching, mlir
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

Shape = tuple[int, ...]


def _primitive(name: str, run: Callable, abstract: Callable, several: bool) -> Primitive:
  """A primitive: `run` computes it from operands and parameters, and `abstract` gives its results' types."""
  primitive = Primitive(name)
  primitive.multiple_results = several
  bind = lambda *operands, **parameters: primitive.bind(*operands, **parameters)

  @primitive.def_impl
  def evaluate(*operands, **parameters):
    with jax.disable_jit(False):
      return jax.jit(bind, static_argnames=tuple(parameters))(*operands, **parameters)

  primitive.def_abstract_eval(abstract)
  mlir.register_lowering(primitive, mlir.lower_fun(run, multiple_results=several))
  return primitive


def _alike(arrays: Sequence[Array]) -> list[Array]:
  """Within `jax.shard_map`: makes all arrays vary over every mesh axis over which one of them varies."""
  axes = [jax.typeof(x).manual_axis_type.varying for x in arrays]
  every = frozenset().union(*axes)
  vary = lambda x, missing: lax.pcast(x, tuple(missing), to="varying") if missing else x
  return [vary(x, every - mine) for x, mine in zip(arrays, axes, strict=True)]


def _result(shape: Shape, dtype: Any, operand: ShapedArray) -> ShapedArray:
  """The abstract result, which varies over the mesh axes over which the operand varies."""
  sharding = operand.sharding.update(spec=PartitionSpec(*(None,) * len(shape)))
  return operand.update(shape=shape, dtype=dtype, weak_type=False, sharding=sharding)


# --- Bilinear ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bilinear:
  """y = f(x, w), linear in images x and in kernels w.

  Attributes:
    plain: f in operations that JAX differentiates. All platforms but CPUs use it and its transposes.
    cpu: functions for CPUs: (f(x, w, *options), dx(dy, w, x_shape, *options), dw(x, dy, w_shape, *options)). None in
      place of one of the last two stands for the transpose of the first, or of `transposed`.
    options: hashable further arguments of f.
    channelwise: each channel of y depends on the same channel of x, and not on all channels.
    transposed: f in other operations, whose transposes a CPU uses instead of those of the first function in `cpu`.
  """

  plain: Callable[..., Array]
  cpu: tuple[Callable[..., Array], Callable[..., Array] | None, Callable[..., Array] | None]
  options: tuple = ()
  channelwise: bool = False
  transposed: Callable[..., Array] | None = None

  def __call__(self, x: Float[Array, "B H W I"], w: Float[Array, "h w C O"]) -> Float[Array, "B P Q O"]:
    x, w = _alike((x, w))
    return _bilinear.bind(x, w, rule=self, result="y", x_shape=x.shape, w_shape=w.shape, batches=0)


# <dy, f(x, w)> is linear in dy, x and w. An operation takes two of them, in this order, and gives the third.
_OPERANDS = {"y": ("x", "w"), "x": ("y", "w"), "w": ("x", "y")}
# Each two of them have an axis in common: the batch, the channels of x or the channels of y.
_AXES = {("x", "y"): (-4, -4), ("x", "w"): (-1, -2), ("y", "w"): (-1, -1)}
_AXES |= {pair[::-1]: axes[::-1] for pair, axes in _AXES.items()}


@cache
def _shape_of_y(rule: Bilinear, x_shape: Shape, w_shape: Shape, dtype: Any) -> Shape:
  struct = partial(jax.ShapeDtypeStruct, dtype=dtype)
  return jax.eval_shape(lambda x, w: rule.plain(x, w, *rule.options), struct(x_shape), struct(w_shape)).shape


def _bilinear_abstract(a, b, *, rule, result, x_shape, w_shape, batches):
  shape = {"x": x_shape, "w": w_shape}.get(result) or _shape_of_y(rule, x_shape, w_shape, a.dtype)
  return _result(a.shape[:batches] + shape, a.dtype, a)


def _transposed(f: Callable, result: str, a: Array, b: Array, x_shape: Shape, w_shape: Shape) -> Array:
  """f's transpose with respect to x or w, applied to (dy, w) or (x, dy)."""
  struct = lambda shape: _result(shape, a.dtype, jax.typeof(a))
  if result == "x":
    return jax.linear_transpose(lambda x: f(x, b), struct(x_shape))(a)[0]
  return jax.linear_transpose(lambda w: f(a, w), struct(w_shape))(b)[0]


def _bilinear_plain(a, b, *, rule, result, x_shape, w_shape, batches):
  f = lambda x, w: rule.plain(x, w, *rule.options)
  if result != "y":
    f = partial(_transposed, f, result, x_shape=x_shape, w_shape=w_shape)
  for _ in range(batches):
    f = jax.vmap(f)
  return f(a, b)


def _bilinear_cpu(a, b, *, rule, result, x_shape, w_shape, batches):
  forward, images, kernels = rule.cpu
  f = lambda x, w: forward(x, w, *rule.options)
  own, shape = {"y": (None, None), "x": (images, x_shape), "w": (kernels, w_shape)}[result]
  if own is not None:
    f = lambda a, b: own(a, b, shape, *rule.options)
  elif result != "y":
    whole = rule.transposed or forward
    f = lambda x, w: whole(x, w, *rule.options)
    f = partial(_transposed, f, result, x_shape=x_shape, w_shape=w_shape)
  for _ in range(batches):
    f = jax.vmap(f)
  return f(a, b)


_bilinear = _primitive("bilinear", _bilinear_plain, _bilinear_abstract, several=False)
mlir.register_lowering(_bilinear, mlir.lower_fun(_bilinear_cpu, multiple_results=False), platform="cpu")


def _bilinear_transpose(position: int, cotangent, a, b, *, result, **parameters):
  wanted, other = _OPERANDS[result][position], _OPERANDS[result][1 - position]
  known = {result: cotangent, other: (a, b)[1 - position]}
  operands = _alike([known[name] for name in _OPERANDS[wanted]])
  return _bilinear.bind(*operands, result=wanted, **parameters)


ad.defbilinear(_bilinear, partial(_bilinear_transpose, 0), partial(_bilinear_transpose, 1))


def _bilinear_batch(operands, dims, *, rule, result, x_shape, w_shape, batches):
  """If one operand is batched, its batch joins the axis that it shares with the result; otherwise both are batched."""
  parameters = dict(rule=rule, result=result)
  position = 0 if dims[1] is None else 1 if dims[0] is None else None
  if position is not None:
    name = _OPERANDS[result][position]
    axis, of_result = _AXES[name, result]
    if not rule.channelwise or axis == -4:
      moved, n = operands[position], operands[position].shape[dims[position]]
      moved = jnp.moveaxis(moved, dims[position], moved.ndim - 1 + axis)
      shape = moved.shape[: axis - 1] + (n * moved.shape[axis],) + moved.shape[moved.ndim + axis + 1 :]
      operands = [moved.reshape(shape) if i == position else x for i, x in enumerate(operands)]
      longer = lambda shape, axis: tuple(n * k if i == len(shape) + axis else k for i, k in enumerate(shape))
      shapes = {"x": x_shape, "w": w_shape, "y": ()}
      for changed, at in ((name, axis), (result, of_result)):
        shapes[changed] = longer(shapes[changed], at)
      y = _bilinear.bind(*operands, x_shape=shapes["x"], w_shape=shapes["w"], batches=batches, **parameters)
      at = y.ndim + of_result
      return y.reshape(*y.shape[:at], n, y.shape[at] // n, *y.shape[at + 1 :]), at
  n = next(x.shape[d] for x, d in zip(operands, dims, strict=True) if d is not None)
  operands = [_batched(x, d, n) for x, d in zip(operands, dims, strict=True)]
  return _bilinear.bind(*operands, x_shape=x_shape, w_shape=w_shape, batches=batches + 1, **parameters), 0


def _batched(x: Array, dim: int | None, n: int) -> Array:
  return jnp.broadcast_to(x, (n, *x.shape)) if dim is None else jnp.moveaxis(x, dim, 0)


batching.primitive_batchers[_bilinear] = _bilinear_batch


# --- Linear -----------------------------------------------------------------------------------------------------------

Map = Callable[[tuple, tuple], tuple]


def linear(f: Map, transpose: Map, residuals: Sequence[Array], arguments: Sequence[Array]) -> list[Array]:
  """f(residuals, arguments), which is linear in the arguments, with transpose(residuals, cotangents) as its transpose.

  Both functions take tuples of arrays and are hashable. JAX must be able to differentiate both by the residuals.
  """
  operands = _alike([*residuals, *arguments])
  return _linear.bind(*operands, f=f, transpose=transpose, residuals=len(residuals))


def _linear_run(*operands, f, transpose, residuals):
  return tuple(f(operands[:residuals], operands[residuals:]))


@cache
def _linear_results(f: Map, residuals: int, operands: tuple[tuple[Shape, Any], ...]) -> list[tuple[Shape, Any]]:
  run = partial(_linear_run, f=f, transpose=None, residuals=residuals)
  results = jax.eval_shape(run, *[jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in operands])
  return [(r.shape, r.dtype) for r in results]


def _linear_abstract(*operands, f, transpose, residuals):
  results = _linear_results(f, residuals, tuple((x.shape, x.dtype) for x in operands))
  return [_result(shape, dtype, operands[0]) for shape, dtype in results]


_linear = _primitive("linear", _linear_run, _linear_abstract, several=True)


def _linear_jvp(primals, tangents, *, f, transpose, residuals):
  bind = partial(_linear.bind, f=f, transpose=transpose, residuals=residuals)
  zero = lambda t: type(t) is ad.Zero
  results, parts = bind(*primals), []
  if not all(map(zero, tangents[residuals:])):
    parts.append(bind(*_alike([*primals[:residuals], *map(ad.instantiate_zeros, tangents[residuals:])])))
  if not all(map(zero, tangents[:residuals])):
    of_residuals = lambda *kept: tuple(f(kept, primals[residuals:]))
    parts.append(jax.jvp(of_residuals, primals[:residuals], tuple(map(ad.instantiate_zeros, tangents[:residuals])))[1])
  return results, [sum(ts[1:], ts[0]) for ts in zip(*parts, strict=True)]


def _linear_transpose(cotangents, *operands, f, transpose, residuals):
  cotangents = _alike([*operands[:residuals], *map(ad.instantiate_zeros, cotangents)])
  found = _linear.bind(*cotangents, f=transpose, transpose=f, residuals=residuals)
  found = [d if ad.is_undefined_primal(x) else None for d, x in zip(found, operands[residuals:], strict=True)]
  return [None] * residuals + found


@dataclass(frozen=True)
class _Mapped:
  """f mapped over a leading axis of the arguments, and of those residuals that have one."""

  f: Map
  axes: tuple[int | None, ...]

  def __call__(self, residuals, arguments):
    return jax.vmap(lambda r, a: tuple(self.f(r, a)), in_axes=(self.axes, 0))(tuple(residuals), tuple(arguments))


def _linear_batch(operands, dims, *, f, transpose, residuals):
  n = next(x.shape[d] for x, d in zip(operands, dims, strict=True) if d is not None)
  axes = tuple(None if d is None else 0 for d in dims[:residuals])
  kept = [x if d is None else jnp.moveaxis(x, d, 0) for x, d in zip(operands, dims, strict=True)]
  kept[residuals:] = [_batched(x, d, n) for x, d in zip(operands[residuals:], dims[residuals:], strict=True)]
  results = _linear.bind(*kept, f=_Mapped(f, axes), transpose=_Mapped(transpose, axes), residuals=residuals)
  return results, [0] * len(results)


ad.primitive_jvps[_linear] = _linear_jvp
ad.primitive_transposes[_linear] = _linear_transpose
batching.primitive_batchers[_linear] = _linear_batch


def definition(equation: JaxprEqn) -> tuple[int, Jaxpr] | None:
  """(count, program) of an equation with one of these primitives: it evaluates the program that often. None for others.

  A transpose of a bilinear operation has as many multiplications as the operation.
  """
  if equation.primitive is _linear:
    run = partial(_linear_run, **equation.params)
    return 1, jax.make_jaxpr(run)(*[jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in equation.invars]).jaxpr
  if equation.primitive is not _bilinear:
    return None
  rule, batches, aval = equation.params["rule"], equation.params["batches"], equation.outvars[0].aval
  x, w = (jax.ShapeDtypeStruct(equation.params[f"{name}_shape"], aval.dtype) for name in "xw")
  return math.prod(aval.shape[:batches]), jax.make_jaxpr(lambda x, w: rule.plain(x, w, *rule.options))(x, w).jaxpr
