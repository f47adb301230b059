"""Convolutions against jax.lax.conv_general_dilated and JAX's own derivatives of it, in float64."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

from jaxgen.engine.flops import flops
from jaxgen.nn.blocks.conv import conv, conv_of_doubled
from jaxgen.nn.blocks.transposed import conv_transposed

NHWC = ("NHWC", "HWIO", "NHWC")
CASES = {  # (height, width), kernel, strides, padding
  "3x3": ((5, 7), (3, 3), (1, 1), "SAME"),
  "valid": ((5, 7), (3, 2), (1, 1), "VALID"),
  "even kernel": ((6, 5), (4, 2), (1, 1), "SAME"),
  "stride 2, even": ((6, 8), (3, 3), (2, 2), "SAME"),
  "stride 2, odd": ((7, 5), (3, 3), (2, 2), "SAME"),
  "strides 2 and 3": ((7, 8), (3, 5), (2, 3), "VALID"),
  "own padding": ((5, 6), (3, 3), (1, 2), ((0, 3), (2, 1))),
  "padding beyond the kernel": ((4, 4), (3, 3), (1, 1), ((4, 3), (0, 5))),
  "cropping": ((7, 7), (3, 3), (1, 1), ((-1, 1), (1, -2))),
  "stride larger than kernel": ((9, 8), (2, 1), (3, 4), ((1, 0), (2, 2))),
  "strided, cropping": ((9, 8), (3, 3), (2, 2), ((-1, 1), (1, -2))),
  "more output than input": ((3, 8), (2, 2), (1, 1), ((3, 3), (4, -1))),
  "1x1": ((4, 3), (1, 1), (1, 1), "SAME"),
  "1x1, stride 2": ((5, 4), (1, 1), (2, 2), "SAME"),
  "kernel larger than image": ((2, 3), (5, 5), (1, 1), "SAME"),
}


def arrays(space, kernel):
  keys = jax.random.split(jax.random.key(0), 4)
  x, dx = (jax.random.normal(k, (3, *space, 4), float) for k in keys[:2])
  w, dw = (jax.random.normal(k, (*kernel, 4, 2), float) for k in keys[2:])
  return x, w, dx, dw


def close(actual, expected):
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10), actual, expected)


def everything(f, x, w, dx, dw):
  """Value, tangent, gradient, and both orders of the two together."""
  both = lambda g: jax.jvp(g, (x, w), (dx, dw))
  gradient = jax.grad(lambda x, w: jnp.sum(jnp.sin(f(x, w))), (0, 1))
  tangent = lambda x, w: jnp.sum(jnp.sin(jax.jvp(f, (x, w), (dx, dw))[1]))
  along = lambda x, w: sum(jnp.vdot(a, b) for a, b in zip(gradient(x, w), (dx, dw), strict=True))
  return both(f), both(gradient), jax.grad(tangent, (0, 1))(x, w), jax.grad(along, (0, 1))(x, w)


def both_ways(ours, plain, *arrays):
  close(*(jax.jit(partial(everything, f))(*arrays) for f in (ours, plain)))


def depthwise_arrays(space, kernel):
  """One output of each of the four channels."""
  x, w, dx, dw = arrays(space, kernel)
  return x, w[..., :1].swapaxes(2, 3), dx, dw[..., :1].swapaxes(2, 3)


@pytest.mark.parametrize("case", CASES)
def test_derivatives(case, x64):
  space, kernel, strides, padding = CASES[case]
  both_ways(*(
    lambda x, w, f=f: f(x, w, strides, padding, dimension_numbers=NHWC) for f in (conv, lax.conv_general_dilated)
  ), *arrays(space, kernel))  # fmt: skip


@pytest.mark.parametrize("case", ["3x3", "even kernel", "stride 2, odd", "strides 2 and 3", "own padding"])
def test_depthwise(case, x64):
  space, kernel, strides, padding = CASES[case]
  options = dict(dimension_numbers=NHWC, feature_group_count=4)
  both_ways(*(
    lambda x, w, f=f: f(x, w, strides, padding, **options) for f in (conv, lax.conv_general_dilated)
  ), *depthwise_arrays(space, kernel))  # fmt: skip


def doubled_plainly(x, w):
  x = jax.image.resize(x, (x.shape[0], 2 * x.shape[1], 2 * x.shape[2], x.shape[3]), "nearest")
  return lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=NHWC)


def transposed_plainly(x, w):
  """JAX's own, whose kernel is not turned, padded as PyTorch's is."""
  low = w.shape[0] - 1 - (w.shape[0] - 1) // 2
  padding = ((low, (w.shape[0] - 1) // 2 + 1),) * 2
  return lax.conv_transpose(x, w[::-1, ::-1], (2, 2), padding, dimension_numbers=NHWC)


def test_of_doubled(x64):
  both_ways(conv_of_doubled, doubled_plainly, *arrays((3, 4), (3, 3)))


@pytest.mark.parametrize("size", [3, 4])
def test_transposed(size, x64):
  both_ways(conv_transposed, transposed_plainly, *arrays((3, 4), (size, size)))


OPERATIONS = {  # ours, JAX's, arrays
  "plain": (conv, lax.conv_general_dilated, arrays, {}),
  "strided": (conv, lax.conv_general_dilated, arrays, dict(window_strides=(2, 2))),
  "depthwise": (conv, lax.conv_general_dilated, depthwise_arrays, dict(feature_group_count=4)),
  "doubled": (conv_of_doubled, doubled_plainly, arrays, None),
}


@pytest.mark.parametrize("axes", [(0, None), (None, 1), (-1, 0)])
@pytest.mark.parametrize("name", OPERATIONS)
def test_vmap(name, axes, x64):
  """Of derivatives, and derivatives of it; over images, over kernels, over both."""
  *functions, made, options = OPERATIONS[name]
  if options is not None:
    options = dict(window_strides=(1, 1), padding="SAME", dimension_numbers=NHWC) | options
    functions = [partial(f, **options) for f in functions]
  x, w, dx, dw = made((5, 4), (3, 3))
  stack = lambda v, d, axis: v if axis is None else jnp.stack([v, d, v + d], axis)
  x, w, dx, dw = stack(x, dx, axes[0]), stack(w, dw, axes[1]), stack(dx, x, axes[0]), stack(dw, w, axes[1])

  def results(f):
    inside = jax.vmap(partial(everything, f), axes + axes)(x, w, dx, dw)
    twice = jax.vmap(jax.vmap(jax.grad(lambda x, w: jnp.sum(jnp.sin(f(x, w))), (0, 1)), axes), (0, None))
    copies = jnp.stack([x, 2 * x])
    outside = everything(jax.vmap(f, axes), x, w, dx, dw)
    return inside, outside, twice(copies, w)

  close(*(jax.jit(partial(results, f))() for f in functions))


def test_inside_a_loop(x64):
  x, w, *_ = arrays((4, 4), (3, 3))

  def descend(function):
    loss = lambda w: jnp.sum(function(x, w, (2, 2), "SAME", dimension_numbers=NHWC) ** 2)
    return jax.jit(lambda n: lax.fori_loop(0, n, lambda _, w: w - 1e-3 * jax.grad(loss)(w), w))(3)

  close(descend(conv), descend(lax.conv_general_dilated))


@pytest.mark.parametrize(
  "options", [dict(kernel_dilation=2), dict(feature_group_count=2), dict(input_dilation=2, padding=1)]
)
def test_passes_on_what_it_does_not_cover(options, x64):
  x, *_ = arrays((6, 6), (3, 3))
  ours = nn.Conv(4, (3, 3), conv_general_dilated=conv, **options)
  plain = nn.Conv(4, (3, 3), **options)
  params = plain.init(jax.random.key(0), x)
  close(ours.apply(params, x), plain.apply(params, x))


@pytest.mark.parametrize("name", OPERATIONS)
def test_is_compiled_for_the_platform_that_is_asked_for(name):
  """A CPU gets convolutions of the one form that is fast there; others get JAX's own, whatever traces the program."""
  ours, plain, made, options = OPERATIONS[name]
  if options is not None:
    options = dict(window_strides=(1, 1), padding="SAME", dimension_numbers=NHWC) | options
    ours, plain = partial(ours, **options), partial(plain, **options)
  structs = [jax.ShapeDtypeStruct(a.shape, jnp.float32) for a in made((5, 4), (3, 3))[:2]]
  gradient = lambda f: jax.jit(jax.grad(lambda x, w: jnp.sum(f(x, w) ** 2), (0, 1))).trace(*structs)

  def convolutions(f, platform):
    text = gradient(f).lower(lowering_platforms=(platform,)).as_text()
    return sorted(line.split("dim_numbers")[1] for line in text.splitlines() if "stablehlo.convolution" in line)

  strided = lambda c: name == "strided" and "{stride = [2, 2]" in c and "lhs_dilate = [1, 1]" in c
  fast = lambda c: (
    "[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]" in c
    and c.count("[1, 1], rhs") == 1
    and ("{stride = [1" in c or strided(c))  # its forward pass
  )
  own = convolutions(ours, "cpu")
  assert len(own) == (0 if name == "depthwise" else 3)
  assert all(fast(c) and "feature_group_count = 1" in c and "rhs_dilate = [1" in c for c in own)
  assert sum(map(strided, own)) == (name == "strided")
  for platform in ("tpu", "cuda"):
    others = convolutions(ours, platform)
    assert not all(map(fast, others))
    # (Of the doubled one JAX's images are doubled by another operation.)
    assert others == convolutions(plain, platform) or name == "doubled"


def test_half_precision_and_recomputation():
  x, w, *_ = (a.astype(jnp.bfloat16) for a in arrays((5, 4), (3, 3)))
  y = lambda x, w: conv(x, w, (2, 2), "SAME", dimension_numbers=NHWC)
  loss = lambda f: jax.jit(jax.grad(lambda x, w: jnp.sum(f(x, w).astype(jnp.float32) ** 2), (0, 1)))
  kept, again = loss(y)(x, w), loss(jax.checkpoint(y))(x, w)
  exact = loss(y)(x.astype(jnp.float32), w.astype(jnp.float32))
  for a, b, c in zip(kept, again, exact, strict=True):
    assert a.dtype == jnp.bfloat16
    np.testing.assert_array_equal(a, b)
    assert jnp.linalg.norm(a - c) < 8 * jnp.finfo(jnp.bfloat16).eps * jnp.linalg.norm(c)


def test_counts_as_it_is_defined():
  """Of a strided convolution and its two transposes: the products of its outputs, none of zeros put between."""
  x, w = jnp.zeros((3, 8, 6, 4)), jnp.zeros((3, 3, 4, 2))
  y = lambda x, w: conv(x, w, (2, 2), "SAME", dimension_numbers=NHWC)
  assert flops(jax.make_jaxpr(y)(x, w).jaxpr) == 2 * (3 * 4 * 3 * 2) * (9 * 4)
  both = jax.make_jaxpr(lambda x, w: jax.vjp(y, x, w)[1](y(x, w)))(x, w).jaxpr
  assert flops(both) == 4 * 2 * (3 * 4 * 3 * 2) * (9 * 4)
  assert flops(jax.make_jaxpr(jax.vmap(y))(x[None, :], w[None]).jaxpr) == 2 * (3 * 4 * 3 * 2) * (9 * 4)
  assert flops(jax.make_jaxpr(conv_transposed)(x, jnp.zeros((4, 4, 4, 2))).jaxpr) == 2 * x.size * 16 * 2
