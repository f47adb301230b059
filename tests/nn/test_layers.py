"""The shared blocks against Flax's, which know nothing of ours, and against JAX's own derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxgen.core.errors import UserError
from jaxgen.nn.blocks.embeddings import timestep_embedding
from jaxgen.nn.blocks.layers import (
  BatchNorm,
  Conv,
  Dense,
  Dropout,
  GroupNorm,
  average,
  groups_for,
  max_pool,
)  # fmt: skip
from jaxgen.nn.blocks.residual import DropPath


def normal(seed, *shape, dtype=jnp.float64):
  return jax.random.normal(jax.random.key(seed), shape, dtype)


def randomised(params):
  leaves, tree = jax.tree.flatten(params)
  return jax.tree.unflatten(tree, [p + normal(i, *p.shape, dtype=p.dtype) for i, p in enumerate(leaves)])


def close(actual, expected, tolerance=1e-10):
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance), actual, expected)


def derivatives(function, *arguments):
  """Value and tangent, gradient, its tangent, and the gradient of a tangent, with respect to all arguments."""
  over = tuple(range(len(arguments)))
  ways = jax.tree.map(jnp.cos, arguments)
  gradient = jax.grad(lambda *a: jnp.sum(jnp.sin(function(*a))), over)
  tangent = lambda *a: jnp.sum(jnp.sin(jax.jvp(function, a, ways)[1]))
  return jax.jit(lambda *a: (jax.jvp(function, a, ways), jax.jvp(gradient, a, ways), jax.grad(tangent, over)(*a)))(
    *arguments
  )


@pytest.mark.parametrize("space", [(5, 3), (6,), (2, 3, 4)])
def test_group_norm_equals_flax(space, x64):
  ours, flax = GroupNorm(4, param_dtype=jnp.float64), nn.GroupNorm(4, epsilon=1e-6, param_dtype=jnp.float64)
  x, shift = 3 * normal(0, 2, *space, 12) + 5, normal(1, 2, 12)
  params = randomised(flax.init(jax.random.key(0), x)["params"])
  apply = lambda params, x, shift: ours.apply({"params": params}, x, shift)
  middle = tuple(range(1, x.ndim - 1))
  expected = lambda params, x, shift: flax.apply({"params": params}, x + jnp.expand_dims(shift, middle))
  close(derivatives(apply, params, x, shift), derivatives(expected, params, x, shift), 1e-8)
  close(ours.apply({"params": params}, x), flax.apply({"params": params}, x))


def test_group_norm_keeps_its_precision_under_a_large_shift():
  """E[x^2] - E[x]^2 over a group would lose all digits in float32."""
  x, shift = normal(0, 2, 4, 4, 8, dtype=jnp.float32), 3e3 * normal(1, 2, 8, dtype=jnp.float32)
  norm = GroupNorm(8)  # one channel a group: the shift has no effect at all
  params = norm.init(jax.random.key(0), x)
  close(norm.apply(params, x, shift), norm.apply(params, x), 2e-3)


@pytest.mark.parametrize("space", [(5, 3), ()])
def test_batch_norm_equals_flax(space, x64):
  ours = BatchNorm(0.8, param_dtype=jnp.float64)
  flax = nn.BatchNorm(momentum=0.8, param_dtype=jnp.float64, use_fast_variance=False)
  x = 3 * normal(0, 6, *space, 4) + 5
  variables = flax.init(jax.random.key(0), x, use_running_average=False)
  params = randomised(variables["params"])
  statistics = jax.tree.map(lambda s: s.astype(jnp.float64) + 0.3, variables["batch_stats"])
  assert jax.tree.map(jnp.shape, ours.init(jax.random.key(0), x, True)) == jax.tree.map(jnp.shape, variables)
  every = lambda params: {"params": params, "batch_stats": statistics}
  for train in (False, True):
    apply = lambda params, x, train=train: ours.apply(every(params), x, train, mutable="batch_stats")[0]
    expected = lambda params, x, train=train: flax.apply(
      every(params), x, use_running_average=not train, mutable="batch_stats"
    )[0]
    close(derivatives(apply, params, x), derivatives(expected, params, x), 1e-9)
  _, new = ours.apply(every(params), x, True, mutable="batch_stats")
  values, kept = np.asarray(x).reshape(-1, 4), statistics
  close(new["batch_stats"]["mean"], 0.8 * kept["mean"] + 0.2 * values.mean(0))
  close(new["batch_stats"]["var"], 0.8 * kept["var"] + 0.2 * values.var(0, ddof=1))


def test_batch_norm_keeps_its_precision_far_from_zero():
  x = np.asarray(1e3 + normal(0, 64, 4, dtype=jnp.float32))
  got = BatchNorm().init_with_output(jax.random.key(0), jnp.asarray(x), True)[0]
  wide = x.astype(np.float64)
  np.testing.assert_allclose(got, (wide - wide.mean(0)) / np.sqrt(wide.var(0) + 1e-5), atol=1e-3)


def test_group_norm_of_a_constant_has_finite_gradients():
  norm, x = GroupNorm(2), jnp.full((2, 3, 3, 4), 0.1)
  params = norm.init(jax.random.key(0), x)
  gradient = jax.grad(lambda x: jnp.sum(norm.apply(params, x) * normal(1, *x.shape, dtype=x.dtype)))(x)
  assert jnp.all(jnp.isfinite(gradient))


def test_group_norm_in_bfloat16_sums_in_float32():
  x = (normal(0, 2, 64, 64, 4, dtype=jnp.float32) + 1).astype(jnp.bfloat16)
  norm = GroupNorm(2, dtype=jnp.bfloat16)
  y = norm.apply(norm.init(jax.random.key(0), x), x)
  assert y.dtype == jnp.bfloat16
  assert jnp.abs(y.astype(jnp.float32).mean()) < 1e-3


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (1, 1), (1, 2)])
def test_conv_equals_flax(kernel, stride, x64):
  x, size = normal(0, 2, 5, 6, 3), (kernel, kernel)
  flax = nn.Conv(4, size, stride, param_dtype=jnp.float64)
  ours = Conv(4, kernel, stride, param_dtype=jnp.float64)
  params = randomised(flax.init(jax.random.key(0), x)["params"])
  apply = lambda module: lambda params, x: module.apply({"params": params}, x)
  close(derivatives(apply(ours), params, x), derivatives(apply(flax), params, x))


@pytest.mark.parametrize(("groups", "stride"), [(4, 1), (4, 2), (2, 2)])
def test_grouped_conv_equals_flax(groups, stride, x64):
  ours = Conv(4, 5, stride, groups=groups, param_dtype=jnp.float64)
  flax = nn.Conv(4, (5, 5), stride, feature_group_count=groups, param_dtype=jnp.float64)
  x = normal(0, 2, 7, 6, 4)
  params = randomised(flax.init(jax.random.key(0), x)["params"])
  apply = lambda module: lambda params, x: module.apply({"params": params}, x)
  close(derivatives(apply(ours), params, x), derivatives(apply(flax), params, x))


@pytest.mark.parametrize(
  ("window", "stride", "pads"),
  [(3, 2, ((1, 1), (1, 1))), (3, 1, ((1, 1), (1, 1))), (3, 2, ((0, 1), (0, 0))), (2, 3, ((1, 0), (0, 2)))],
)
def test_max_pool_equals_flax(window, stride, pads, x64):
  x = normal(0, 2, 8, 7, 3)
  flax = lambda x: nn.max_pool(x, (window, window), (stride, stride), pads)
  both = lambda pool: jax.jit(jax.value_and_grad(lambda x: jnp.sum(jnp.sin(pool(x)))))(x)
  close(max_pool(x, window, stride, pads), flax(x))
  close(both(lambda x: max_pool(x, window, stride, pads)), both(flax))


def test_max_pool_of_equal_values_takes_the_first():
  slope = jax.grad(lambda x: max_pool(x, 2, 2, ((0, 0), (0, 0))).sum())(jnp.zeros((1, 4, 6, 1)))
  np.testing.assert_array_equal(slope[0, :, :, 0], np.tile([[1, 0], [0, 0]], (2, 3)))


def test_average(x64):
  x = normal(0, 2, 3, 4, 5)
  close(derivatives(average, x), derivatives(lambda x: x.mean((1, 2)), x))


@pytest.mark.parametrize("rest", [(), (3,), (2, 3, 4)])
def test_dense_equals_flax(rest, x64):
  x = normal(0, *rest, 5)
  flax, ours = nn.Dense(4, param_dtype=jnp.float64), Dense(4, param_dtype=jnp.float64)
  params = randomised(flax.init(jax.random.key(0), x)["params"])
  apply = lambda module: lambda params, x: module.apply({"params": params}, x)
  close(derivatives(apply(ours), params, x), derivatives(apply(flax), params, x))


def test_vmap(x64):
  """Over parameters, over inputs and over both, of gradients and of tangents, against one after the other."""
  f64 = dict(param_dtype=float)
  module = nn.Sequential([Conv(4, 3, 2, **f64), GroupNorm(2, **f64), Conv(4, 3, double=True, **f64), Dense(3, **f64)])
  xs = normal(0, 2, 2, 5, 6, 3)
  one = randomised(module.init(jax.random.key(0), xs[0]))
  two = jax.tree.map(jnp.cos, one)
  loss = lambda params, x: jnp.sum(jnp.sin(module.apply(params, x)))
  tangent = lambda params, x: jax.jvp(loss, (params, x), (jax.tree.map(jnp.sin, params), jnp.sin(x)))[1]
  stack = lambda *trees: jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)
  both = lambda params, x: (jax.grad(loss, (0, 1))(params, x), jax.grad(tangent)(params, x))
  some = jax.jit(both)
  many = jax.jit(lambda axes, *arguments: jax.vmap(both, axes)(*arguments), static_argnums=0)
  separate = [[some(params, x) for x in xs] for params in (one, two)]
  close(many((None, 0), one, xs), stack(*separate[0]))
  close(many((0, None), stack(one, two), xs[0]), stack(separate[0][0], separate[1][0]))
  close(many((0, 0), stack(one, two), xs), stack(separate[0][0], separate[1][1]))
  total = jax.jit(jax.grad(lambda params: jax.vmap(loss, (None, 0))(params, xs).sum()))(one)
  close(total, jax.tree.map(jnp.add, separate[0][0][0][0], separate[0][1][0][0]))


def test_within_shard_map(x64):
  """Each device has its examples and the same parameters, whose gradient is the sum of the devices'."""
  mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
  module = nn.Sequential(
    [Conv(4, 3, 2, param_dtype=float), GroupNorm(2, param_dtype=float), Dense(3, param_dtype=float)]
  )
  x = normal(0, 8, 4, 4, 2)
  params = module.init(jax.random.key(0), x)
  loss = lambda params, x: jnp.sum(jnp.sin(module.apply(params, x)))
  tangent = lambda params, x: jax.jvp(loss, (params, x), (params, jnp.sin(x)))[1]
  both = lambda params, x: (jax.grad(loss)(params, x), jax.grad(tangent)(params, x))
  one, many = jax.P(), jax.P("data")
  shared = jax.shard_map(both, mesh=mesh, in_specs=(one, many), out_specs=one)
  close(jax.jit(shared)(params, x), jax.jit(both)(params, x))


def test_timestep_embedding():
  """Frequencies from 1 down to 1 / 10,000, sines first: Ho et al. 2020, their code."""
  out = np.asarray(timestep_embedding(jnp.array([0.0, 2.0]), 7))
  np.testing.assert_allclose(out[0], [0, 0, 0, 1, 1, 1, 0])
  angles = 2 * np.array([1, 0.01, 0.0001])
  np.testing.assert_allclose(out[1], [*np.sin(angles), *np.cos(angles), 0], rtol=1e-6)


def test_groups():
  assert [groups_for(c) for c in (1, 3, 8, 24, 40, 128, 96, 512)] == [1, 1, 2, 6, 10, 32, 24, 32]


def test_dropout_keeps_the_mean_and_drops_by_index():
  x, key = jnp.ones((4, 100, 100)), jax.random.key(3)
  apply = lambda x, index: Dropout(0.25).apply({}, x, index, rngs={"dropout": key})
  y = apply(x, jnp.arange(4))
  assert set(np.unique(y).tolist()) == {0.0, float(jnp.float32(1) / jnp.float32(0.75))}
  assert abs(float((y == 0).mean()) - 0.25) < 0.01  # 40,000 draws: 4.6 standard errors
  np.testing.assert_array_equal(apply(x[:2], jnp.array([3, 1])), y[jnp.array([3, 1])])
  assert len({y[i].tobytes() for i in range(4)}) == 4
  np.testing.assert_array_equal(apply(x, None), x)


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_rates_that_leave_nothing_are_refused(rate):
  x, key = jnp.ones((2, 3)), jax.random.key(0)
  with pytest.raises(UserError, match=r"dropout is a rate in \[0, 1\)"):
    Dropout(rate).apply({}, x, jnp.arange(2), rngs={"dropout": key})
  with pytest.raises(UserError, match=r"drop_path is a rate in \[0, 1\)"):
    DropPath().apply({}, x, rate, jnp.arange(2), rngs={"dropout": key})
