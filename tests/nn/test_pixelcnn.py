"""Networks of images: who sees whom, and that one pixel at a time is the same as all at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.core.errors import UserError
from jaxgen.nn.autoregressive.made import rerun
from jaxgen.nn.autoregressive.pixelcnn import GatedPixelCNN, PixelCNN
from jaxgen.nn.autoregressive.pixelcnnpp import PixelCNNpp
from jaxgen.nn.blocks import causal

WIDE = dict(dtype=jnp.float64, param_dtype=jnp.float64)
NETWORKS = {
  "PixelCNN": (PixelCNN(2, 12, 3, 48, first=3, **WIDE), (4, 5, 3)),
  "gated PixelCNN": (GatedPixelCNN(2, 12, 4, 48, first=3, **WIDE), (4, 5, 3)),
  "gated PixelCNN with labels": (GatedPixelCNN(1, 6, 3, 24, first=5, classes=3, **WIDE), (3, 4, 1)),
  "PixelCNN++": (PixelCNNpp(3, 8, 2, 2, dropout=0.0, **WIDE), (4, 6, 2)),
}
every_network = pytest.mark.parametrize("name", NETWORKS)


def example(name, n=2):
  network, shape = NETWORKS[name]
  rng = np.random.default_rng(1)
  x = jnp.asarray(rng.normal(size=(n, *shape)))
  options = {"label": jnp.arange(n) % 3} if getattr(network, "classes", None) else {}
  shapes = jax.eval_shape(network.init, jax.random.key(0), x, **options)["params"]
  params = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape) * (3 * p.size / p.shape[-1]) ** -0.4), shapes)
  return network, params, x, options


def sees(name):
  """[K, K, values]: whether draw k's parameters have a derivative by a value of draw l."""
  network, params, x, options = example(name, 12)
  apply = jax.jit(jax.jacrev(lambda x: network.apply({"params": params}, x, **options).sum(0)))
  jacobian = np.asarray(apply(x) != 0).any(axis=(1, 2))
  return jacobian.reshape(len(jacobian), len(jacobian), -1)


def positions(name):
  """Row, column and colour of each draw."""
  return np.stack(np.unravel_index(np.arange(np.prod(NETWORKS[name][1])), NETWORKS[name][1]))


@pytest.mark.parametrize("name", sorted(NETWORKS.keys() - {"PixelCNN"}))
def test_a_draw_sees_all_before_it_and_no_other(name, x64):
  found = sees(name)
  before = np.tri(len(found), k=-1, dtype=bool)
  np.testing.assert_array_equal(found, np.broadcast_to(before[..., None], found.shape))


def test_pixelcnn_has_a_blind_spot(x64):
  """With windows of side 3 it sees, of the pixels before, those at most one column to the right for each row up."""
  i, j, c = positions("PixelCNN")
  up, right = i[:, None] - i, j - j[:, None]
  before = np.tri(len(i), k=-1, dtype=bool)
  np.testing.assert_array_equal(sees("PixelCNN")[..., 0], before & (right <= up))
  assert (before & (right > up)).any()


@every_network
def test_one_pixel_at_a_time_gives_the_same(name, x64):
  network, params, x, options = example(name)
  whole = jax.jit(network.apply)({"params": params}, x, **options)
  step, carry = network.stepper(params, jnp.zeros_like(x), **options)
  step, (n, K) = jax.jit(step), whole.shape[:2]
  seen, values = jnp.zeros((n, x[0].size)), x.reshape(n, -1)
  each = values.shape[1] // K
  for k in range(K):
    parameters, carry = step(carry, seen, jnp.asarray(k))
    np.testing.assert_allclose(parameters, whole[:, k], rtol=1e-10, atol=1e-12)
    seen = seen.at[:, k * each : (k + 1) * each].set(values[:, k * each : (k + 1) * each])
  again, _ = rerun(network, params, x, **options)[0]((), x, jnp.asarray(K - 1))
  np.testing.assert_allclose(again, whole[:, -1], rtol=1e-10, atol=1e-12)


def test_bad_input():
  x = jnp.zeros((1, 4, 4, 1))
  with pytest.raises(UserError, match="set its classes, or the method's condition"):
    GatedPixelCNN(1, 4, 2, 4).init(jax.random.key(0), x, jnp.zeros(1, jnp.int32))
  with pytest.raises(UserError, match="sides divide by 4, and these are of 6x4"):
    PixelCNNpp(3, 4, 1).init(jax.random.key(0), jnp.zeros((1, 6, 4, 1)))
  with pytest.raises(UserError, match="set its classes, or the method's condition"):
    PixelCNNpp(3, 4, 1, classes=2).init(jax.random.key(0), x)


def test_normalised_weights_start_from_a_batch(x64):
  """Of a window with stride and mask: mean 0 and the given deviation of every output; and training changes the length
  without the direction."""
  rng = np.random.default_rng(0)
  x = jnp.asarray(3 + 5 * rng.normal(size=(6, 8, 6, 2)))
  mask = rng.integers(0, 2, (2, 3, 2, 5))
  window = causal.Window(5, (-1, 0), (-1, 1), stride=2, mask=mask, normalized=0.1, param_dtype=jnp.float64)
  y, variables = window.init_with_output(jax.random.key(0), x)
  np.testing.assert_allclose(y.mean((0, 1, 2)), 0, atol=1e-12)
  np.testing.assert_allclose(y.std((0, 1, 2)), 0.1, rtol=1e-8)
  params = variables["params"]
  zero_bias = {**params, "bias": jnp.zeros(5)}
  twice = {**zero_bias, "scale": 2 * params["scale"], "kernel": 7 * params["kernel"]}
  apply = lambda params: window.apply({"params": params}, x)
  np.testing.assert_allclose(apply(twice), 2 * apply(zero_bias), rtol=1e-12)
