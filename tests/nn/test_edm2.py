"""EDM2's network: the paper's numbers of parameters, and magnitudes as measured."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgen import optimizers
from jaxgen.nn.unets import edm2
from jaxgen.nn.unets.edm2 import EDM2UNet, LogVariance

PUBLISHED = {
  "XS": 124_713_253,
  "S": 280_212_837,
  "M": 497_807_781,
  "L": 777_498_085,
  "XL": 1_119_283_749,
  "XXL": 1_523_164_773,
}


def trained_size(shapes):
  leaves = jax.tree_util.tree_leaves_with_path(shapes)
  return sum(x.size for path, x in leaves if path[-1].key not in ("frequencies", "phases"))


def test_the_papers_number_of_parameters():
  """On ImageNet's latents, the log-variance's among them. The other sizes are checked nightly."""
  check_size("XS")


@pytest.mark.nightly
@pytest.mark.parametrize("size", ["S", "M", "L", "XL", "XXL"])
def test_the_papers_numbers_of_parameters_of_the_others(size):
  check_size(size)


def check_size(size):
  network, key = EDM2UNet(edm2.SIZES[size], classes=1000), jax.random.key(0)
  x, one = jnp.zeros((1, 64, 64, 4)), jnp.zeros(1)
  shapes = jax.eval_shape(network.init, key, x, one, jnp.zeros(1, jnp.int32))
  uncertainty = jax.eval_shape(LogVariance().init, key, one)
  assert trained_size(shapes) + trained_size(uncertainty) == PUBLISHED[size]


def test_parts_keep_magnitudes(x64):
  """Of independent normal inputs, against the expectations 1; mp_cat lets both parts count as their t says."""
  a, b = jax.random.normal(jax.random.key(0), (2, 40_000, 8))
  magnitude = lambda x: float(jnp.sqrt(jnp.mean(x**2)))
  assert magnitude(edm2.mp_silu(a)) == pytest.approx(1, abs=0.01)
  for t in (0.3, 0.5, 0.9):
    assert magnitude(edm2.mp_sum(a, b, t)) == pytest.approx(1, abs=0.01)
    joined = edm2.mp_cat(a, b[:, :2], t)
    assert magnitude(joined) == pytest.approx(1, abs=0.01)
    parts = jnp.sum(joined[:, :8] ** 2), jnp.sum(joined[:, 8:] ** 2)
    assert float(parts[1] / parts[0]) == pytest.approx((t / (1 - t)) ** 2, rel=0.02)
  fourier = edm2.MPFourier(512)
  features = fourier.apply(fourier.init(jax.random.key(1), a[:, 0]), a[:300, 0])
  assert magnitude(features) == pytest.approx(1, abs=0.02)


SMALL = dict(channels=16, head_channels=16, multipliers=(1, 2), blocks=1, attention=(4,), classes=3, out_channels=2)


def test_unit_magnitudes_at_the_start_and_after_a_hundred_updates():
  """Every map in the network, and every output's weights, which `projected` holds to 1 while others drift."""
  network = EDM2UNet(**SMALL)
  x = jax.random.normal(jax.random.key(0), (16, 8, 8, 2))
  t, label = jax.random.normal(jax.random.key(1), (16,)), jnp.arange(16) % 4  # 3 is no label
  params = network.init(jax.random.key(2), x, t, label)["params"]
  assert not np.any(network.apply({"params": params}, x, t, label))  # its gain starts at 0

  def magnitudes(params):
    opened = {**params, "out_gain": jnp.ones(())}
    of_blocks = lambda module, _: type(module).__name__ in ("Block", "MPFourier", "EDM2UNet")
    run = jax.jit(lambda p: network.apply({"params": p}, x, t, label, capture_intermediates=of_blocks)[1])
    maps = jax.tree_util.tree_leaves_with_path(run(opened))
    return {jax.tree_util.keystr(path): float(jnp.sqrt(jnp.mean(m**2))) for path, m in maps}

  at_start = magnitudes(params)
  assert len(at_start) == 12
  assert all(0.75 < m < 1.3 for m in at_start.values()), at_start

  def train(optimizer):
    @jax.jit
    def run(params):
      def step(carry, _):
        params, state = carry
        loss = lambda p: jnp.mean((network.apply({"params": p}, x, t, label) - jnp.roll(x, 1, 1)) ** 2)
        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return (optax.apply_updates(params, updates), state), None

      return jax.lax.scan(step, (params, optimizer.init(params)), length=100)[0][0]

    return run(params)

  def weights(params):
    leaves = [w for path, w in jax.tree_util.tree_leaves_with_path(params) if path[-1].key == "weight"]
    assert len(leaves) == 47
    return np.concatenate([np.sqrt(np.mean(np.square(w), axis=tuple(range(w.ndim - 1)))) for w in leaves])

  np.testing.assert_allclose(weights(params), 1, atol=1e-3)
  held = train(optimizers.projected(optax.adam(2e-3), edm2.forced))
  np.testing.assert_allclose(weights(held), 1, atol=1e-3)
  grown = weights(train(optax.adam(1e-2)))
  assert np.abs(grown - 1).max() > 0.05
  after = {name: m for name, m in magnitudes(held).items() if name != "['intermediates']['__call__'][0]"}
  assert len(after) == 11  # all but the output, whose size is learned
  # Of maps on the way up too, whose branches have come to agree on these 16 pictures, so that their sums are longer.
  assert all(0.8 < m < 1.5 for name, m in after.items() if "up" not in name and "middle" not in name), after
  assert all(0.8 < m < 8 for m in after.values()), after


def test_labels_and_attention_reach_the_output(x64):
  """With random gains: classes differ, no label is a label outside, and a far pixel is seen through attention."""
  network = EDM2UNet(**SMALL, dtype=jnp.float64, param_dtype=jnp.float64)
  x = jax.random.normal(jax.random.key(0), (1, 8, 8, 2))
  params = network.init(jax.random.key(2), x, jnp.zeros(1), jnp.zeros(1, jnp.int32))["params"]
  gains = lambda path, p: jnp.ones_like(p) if "gain" in path[-1].key else p
  params = jax.tree_util.tree_map_with_path(gains, params)
  run = jax.jit(lambda x, label: network.apply({"params": params}, x, jnp.zeros(1), jnp.full(1, label)))
  assert np.abs(run(x, 0) - run(x, 1)).max() > 1e-3
  np.testing.assert_array_equal(run(x, 3), run(x, 7))
  assert np.abs(run(x.at[0, 7, 7].add(5.0), 0) - run(x, 0))[0, 0, 0].max() > 1e-6


def test_forced_leaves_the_rest_alone():
  params = {"a": {"weight": jnp.full((3, 2), 5.0), "gain": jnp.asarray(7.0)}, "frequencies": jnp.full(3, 9.0)}
  made = edm2.forced(params)
  np.testing.assert_allclose(made["a"]["weight"], 1, atol=1e-4)
  assert (float(made["a"]["gain"]), float(made["frequencies"][0])) == (7.0, 9.0)


def test_the_learning_rate_falls_as_the_inverse_root():
  rate = optimizers.inverse_root(0.01, 100, warmup=10)
  found = [float(rate(jnp.asarray(n, jnp.float32))) for n in (0, 5, 10, 100, 400, 10_000)]
  np.testing.assert_allclose(found, [0, 0.005, 0.01, 0.01, 0.005, 0.001], rtol=1e-6)
