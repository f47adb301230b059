"""`conv` against jax.lax.conv_general_dilated and JAX's own derivatives of it, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

from jaxgen.nn.blocks.conv import conv, conv_of_doubled, jax_derivatives

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
  x, dx = (jax.random.normal(k, (3, *space, 4), jnp.float64) for k in keys[:2])
  w, dw = (jax.random.normal(k, (*kernel, 4, 2), jnp.float64) for k in keys[2:])
  return x, w, dx, dw


def close(actual, expected):
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-11), actual, expected)


@pytest.mark.parametrize("case", CASES)
def test_value_gradient_and_gradient_of_gradient(case, x64):
  space, kernel, strides, padding = CASES[case]
  x, w, dx, dw = arrays(space, kernel)

  def everything(function):
    y = lambda x, w: function(x, w, strides, padding, dimension_numbers=NHWC)
    loss = lambda x, w: jnp.sum(jnp.sin(y(x, w)))
    gradient = jax.grad(loss, (0, 1))
    along = lambda x, w: sum(jnp.vdot(a, b) for a, b in zip(gradient(x, w), (dx, dw), strict=True))
    return jax.jit(lambda: (y(x, w), gradient(x, w), jax.grad(along, (0, 1))(x, w)))()

  close(everything(conv), everything(lax.conv_general_dilated))


@pytest.mark.parametrize("case", ["3x3", "even kernel", "stride 2, odd", "strides 2 and 3", "own padding"])
def test_depthwise(case, x64):
  space, kernel, strides, padding = CASES[case]
  x, w, dx, dw = arrays(space, kernel)
  w, dw = (v[..., :1].swapaxes(2, 3) for v in (w, dw))  # one output of each of the four channels

  def everything(function):
    y = lambda x, w: function(x, w, strides, padding, dimension_numbers=NHWC, feature_group_count=4)
    gradient = jax.grad(lambda x, w: jnp.sum(jnp.sin(y(x, w))), (0, 1))
    along = lambda x, w: sum(jnp.vdot(a, b) for a, b in zip(gradient(x, w), (dx, dw), strict=True))
    return jax.jit(lambda: (y(x, w), gradient(x, w), jax.grad(along, (0, 1))(x, w)))()

  close(everything(conv), everything(lax.conv_general_dilated))


def test_of_doubled(x64):
  x, w, dx, dw = arrays((3, 4), (3, 3))

  def plain(x, w):
    x = jax.image.resize(x, (3, 6, 8, 4), "nearest")
    return lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=NHWC)

  gradient = lambda function: jax.grad(lambda x, w: jnp.sum(jnp.sin(function(x, w))), (0, 1))(x, w)
  close(conv_of_doubled(x, w), plain(x, w))
  close(gradient(conv_of_doubled), gradient(plain))
  with jax_derivatives():
    close(conv_of_doubled(x, w), plain(x, w))


@pytest.mark.parametrize("axes", [(0, None), (None, 0), (0, 0)])
def test_vmap(axes, x64):
  x, w, dx, dw = arrays((5, 4), (3, 3))
  x, w = (v if axis is None else jnp.stack([v, d]) for v, d, axis in ((x, dx, axes[0]), (w, dw, axes[1])))

  def gradient(function):
    loss = lambda x, w: jnp.sum(jnp.sin(function(x, w, (2, 2), "SAME", dimension_numbers=NHWC)))
    return jax.jit(jax.vmap(jax.grad(loss, (0, 1)), axes))(x, w)

  close(gradient(conv), gradient(lax.conv_general_dilated))


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


def test_forward_mode_within_jax_derivatives(x64):
  x, w, dx, dw = arrays((5, 4), (3, 3))
  y = lambda x, w: conv(x, w, (2, 2), "SAME", dimension_numbers=NHWC)
  with pytest.raises(TypeError, match="custom_vjp"):
    jax.jvp(y, (x, w), (dx, dw))
  with jax_derivatives():
    _, forward = jax.jvp(y, (x, w), (dx, dw))
  _, reverse = jax.vjp(y, x, w)
  dy = jnp.cos(jnp.arange(forward.size).reshape(forward.shape))
  pulled = reverse(dy)
  close(jnp.vdot(dy, forward), jnp.vdot(pulled[0], dx) + jnp.vdot(pulled[1], dw))
