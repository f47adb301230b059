"""The small classifier."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxgen.nn.vision.convnet import ConvNet, halve


@pytest.mark.parametrize("shape", [(8, 8, 1), (9, 7, 3)])
def test_shapes(shape):
  network, x = ConvNet(10, channels=(4, 6), hidden=5), jnp.ones((2, *shape))
  params = network.init(jax.random.key(0), x)
  assert network.apply(params, x).shape == (2, 10)
  assert network.apply(params, x, method="features").shape == (2, 5)


@pytest.mark.parametrize("shape", [(4, 6), (5, 7)])
def test_halving_is_average_pooling(shape):
  x = jax.random.normal(jax.random.key(0), (2, *shape, 3))
  np.testing.assert_allclose(halve(x), nn.avg_pool(x, (2, 2), (2, 2)), rtol=1e-6, atol=1e-6)


def test_each_example_on_its_own():
  """No batch statistics: what a network says of one example does not depend on the others."""
  network, x = ConvNet(3, channels=(4,), hidden=5), jax.random.normal(jax.random.key(0), (4, 6, 6, 1))
  params = network.init(jax.random.key(1), x)
  np.testing.assert_allclose(network.apply(params, x)[:2], network.apply(params, x[:2]), atol=1e-5)


def test_dropout_is_off_without_index():
  network, x = ConvNet(3, channels=(4,), hidden=32, dropout=0.5), jnp.ones((2, 6, 6, 1))
  params = network.init(jax.random.key(1), x)
  apply = lambda index: network.apply(params, x, index, rngs={"dropout": jax.random.key(2)})
  np.testing.assert_array_equal(apply(None)[0], apply(None)[1])
  assert not np.allclose(*apply(jnp.arange(2)))
