"""Costs of programs whose FLOPs are known."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.engine.flops import flops
from jaxgen.inspection import device_bytes, nbytes


def count(f, *shapes):
  return flops(jax.make_jaxpr(f)(*[jax.ShapeDtypeStruct(s, np.float32) for s in shapes]).jaxpr)


def test_flops_of_products_convolutions_and_loops():
  assert count(jnp.matmul, (3, 5), (5, 7)) == 2 * 3 * 5 * 7
  assert count(lambda a, b: jnp.einsum("bij,bjk->bik", a, b), (4, 3, 5), (4, 5, 7)) == 4 * 2 * 3 * 5 * 7
  conv = lambda x, w: jax.lax.conv_general_dilated(x, w, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
  assert count(conv, (2, 8, 8, 3), (3, 3, 3, 5)) == 2 * (2 * 4 * 4 * 5) * (3 * 3 * 3)

  def repeated(x, w):
    return jax.lax.scan(lambda x, _: (jnp.tanh(x @ w), None), x, length=6)[0]

  assert count(repeated, (3, 5), (5, 5)) == 6 * 2 * 3 * 5 * 5
  assert count(jax.jit(repeated), (3, 5), (5, 5)) == 6 * 2 * 3 * 5 * 5
  # Backward through x @ w: two more products of the same size, in as many steps.
  loss = lambda w, x: repeated(x, w).sum()
  assert count(jax.grad(loss), (5, 5), (3, 5)) == 3 * 6 * 2 * 3 * 5 * 5
  branches = lambda x: jax.lax.cond(x[0, 0] > 0, lambda x: x @ x @ x, lambda x: x @ x, x)
  assert count(branches, (4, 4)) == 2 * 2 * 4**3


def test_bytes():
  mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
  cut = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
  tree = {"a": jax.ShapeDtypeStruct((16, 3), np.float32, sharding=cut)}
  assert nbytes(tree) == 16 * 3 * 4
  assert device_bytes(tree) == 2 * 3 * 4
