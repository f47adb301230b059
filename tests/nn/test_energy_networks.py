import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.core.errors import UserError
from jaxgen.nn.energy.ebm import EnergyConvNet, EnergyMLP, leaky_relu

NETWORKS = {
  "points": (lambda **o: EnergyMLP((16, 8), **o), (2,)),
  "images as vectors": (lambda **o: EnergyMLP((16,), **o), (4, 6, 1)),
  "images": (lambda **o: EnergyConvNet(((4, 3, 1), (6, 4, 2)), **o), (6, 8, 2)),
  "images, pooled": (lambda **o: EnergyConvNet(((4, 5, 2), (6, 3, 1)), pooled=True, **o), (7, 9, 1)),
}
every_network = pytest.mark.parametrize("name", NETWORKS)
F64 = dict(dtype=jnp.float64, param_dtype=jnp.float64)


def made(name, n=5, seed=0, **options):
  """(network, parameters that are all away from their start, examples)."""
  build, shape = NETWORKS[name]
  network, rng = build(**options), np.random.default_rng(seed)
  x = jnp.asarray(rng.normal(size=(n, *shape)))
  params = network.init(jax.random.key(0), x)["params"]
  return network, jax.tree.map(lambda p: p + 0.3 * jnp.asarray(rng.normal(size=p.shape)), params), x


@every_network
def test_an_energy_is_one_number_of_its_example_alone(name, x64):
  network, params, x = made(name, **F64)
  U = network.apply({"params": params}, x)
  assert U.shape == (5,)
  assert U.dtype == jnp.float64
  np.testing.assert_allclose(network.apply({"params": params}, x[3:4]), U[3:4], rtol=1e-12)
  assert np.ptp(U) > 0.1


@every_network
def test_gradients_in_x_are_differences_and_differentiable(name, x64):
  """The chain's gradient in x, and its derivative in the parameters, which score matching and penalties take."""
  network, params, x = made(name, **F64)
  U = lambda params, x: network.apply({"params": params}, x).sum()
  rng, h = np.random.default_rng(1), 1e-5
  v = jnp.asarray(rng.normal(size=x.shape))
  slope = lambda params: (jax.grad(U, argnums=1)(params, x) * v).sum()
  np.testing.assert_allclose(slope(params), (U(params, x + h * v) - U(params, x - h * v)) / (2 * h), rtol=1e-6)
  way = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape)), params)
  to = lambda t: jax.tree.map(lambda p, w: p + t * w, params, way)
  twice = jax.grad(slope)(params)
  found = sum(jnp.vdot(a, b) for a, b in zip(jax.tree.leaves(twice), jax.tree.leaves(way), strict=True))
  np.testing.assert_allclose(found, (slope(to(h)) - slope(to(-h))) / (2 * h), rtol=1e-6)


@every_network
def test_a_reference_adds_a_gaussians_energy(name, x64):
  network, params, x = made(name, **F64)
  other, _, _ = made(name, reference=1.5, **F64)
  added = other.apply({"params": params}, x) - network.apply({"params": params}, x)
  np.testing.assert_allclose(added, np.square(x).reshape(5, -1).sum(1) / 4.5, rtol=1e-9)


def test_the_slope_below_0():
  np.testing.assert_allclose(leaky_relu(jnp.array([-2.0, 3.0])), [-0.4, 3.0])


@pytest.mark.parametrize("reference", [0.0, -1.0, float("nan")])
def test_bad_reference(reference):
  for network in (EnergyMLP, EnergyConvNet):
    with pytest.raises(UserError, match="larger than 0"):
      network(reference=reference)
