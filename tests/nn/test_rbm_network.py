import conftest
import enumerated
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from jaxgen.core.errors import UserError
from jaxgen.nn.energy.rbm import RBM, bernoulli, gaussian, log_partition


def apply(network, params, method, *arguments):
  arrays = (jnp.asarray(x) if isinstance(x, np.ndarray) else x for x in arguments)
  return np.asarray(network.apply({"params": params}, *arrays, method=method))


@pytest.fixture(scope="module")
def binary():
  """(enumerated, network, parameters), 5 visible and 3 hidden."""
  machine = enumerated.random(5, 3)
  with conftest.enable_x64():
    yield machine, RBM(5, 3), enumerated.params(machine)


def test_energies_and_conditionals_are_those_of_the_table(binary):
  machine, network, params = binary
  v, h = machine.visible, machine.hidden
  both = np.repeat(v, len(h), 0), np.tile(h, (len(v), 1))
  np.testing.assert_allclose(apply(network, params, "energy", *both), machine.E.ravel(), rtol=1e-12)
  F = -np.log(machine.p) - machine.log_z
  np.testing.assert_allclose(apply(network, params, "free_energy", v), F, rtol=1e-12)
  of_hidden = -np.log(machine.joint.sum(0)) - machine.log_z
  np.testing.assert_allclose(apply(network, params, "free_energy_of_hidden", h), of_hidden, rtol=1e-12)
  given_v = machine.of_hidden @ h
  np.testing.assert_allclose(special.expit(apply(network, params, "hidden_logits", v)), given_v, rtol=1e-12)
  given_h = (machine.joint / machine.joint.sum(0)).T @ v
  np.testing.assert_allclose(special.expit(apply(network, params, "location", h)), given_h, rtol=1e-12)


def test_conditionals_are_drawn(binary):
  machine, network, params = binary
  n = 4_000
  keys = jax.random.split(jax.random.key(0), n)
  for method, given, probabilities in (
    ("draw_hidden", machine.visible[11], machine.of_hidden[11] @ machine.hidden),
    ("draw_visible", machine.hidden[5], (machine.joint[:, 5] / machine.joint[:, 5].sum()) @ machine.visible),
  ):
    x = apply(network, params, method, keys, np.tile(given, (n, 1)))
    assert set(np.unique(x)) == {0, 1}
    error = np.sqrt(probabilities * (1 - probabilities) / n)
    assert (np.abs(x.mean(0) - probabilities) < 4 * error).all()


def test_the_path_leads_from_independent_units_to_the_machine(binary):
  machine, network, params = binary
  base = np.linspace(-1, 1, 5)
  v, h = machine.visible, machine.hidden
  np.testing.assert_allclose(
    apply(network, params, "free_energy", v, 1.0, base), apply(network, params, "free_energy", v)
  )
  np.testing.assert_allclose(apply(network, params, "free_energy", v, 0.0, base), -v @ base - 3 * np.log(2))
  whole = special.logsumexp(-apply(network, params, "free_energy", v, 0.0, base))
  np.testing.assert_allclose(apply(network, params, "log_partition_at_base", base), whole)
  # In between it is a machine, too, and every row may have its own temperature.
  betas = np.linspace(0, 1, 32)
  F = apply(network, params, "free_energy", v, betas, base)
  locations = apply(network, params, "location", h, betas[:8], base)
  for beta in (3, 7):
    t = betas[beta]
    other = enumerated.Enumerated(t * machine.W, base + t * (machine.b - base), t * machine.c)
    np.testing.assert_allclose(F[beta], -np.log(other.p[beta]) - other.log_z, rtol=1e-12)
    expected = (other.joint / other.joint.sum(0)).T @ v
    np.testing.assert_allclose(special.expit(locations[beta]), expected[beta], rtol=1e-12)


@pytest.mark.parametrize("sizes", [(5, 3), (4, 7)])
def test_both_sides_give_the_partition_function(sizes, x64):
  machine = enumerated.random(*sizes, seed=1)
  network, params = RBM(*sizes), enumerated.params(machine)
  for side in (None, "visible", "hidden"):
    for chunk in (3, 4096):
      np.testing.assert_allclose(log_partition(network, params, side, chunk), machine.log_z, rtol=1e-12)


def test_many_states_in_float32():
  # Independent hidden units: Z is a product.
  rng = np.random.default_rng(0)
  b, c = rng.normal(size=40), rng.normal(size=17)
  params = {"W": jnp.zeros((40, 17)), "b": jnp.asarray(b, jnp.float32), "c": jnp.asarray(c, jnp.float32)}
  found = log_partition(RBM(40, 17), params, "hidden", 1024)
  np.testing.assert_allclose(found, np.logaddexp(0, b).sum() + np.logaddexp(0, c).sum(), rtol=1e-6)


@pytest.mark.parametrize("learned", [False, True])
def test_gaussian_units_against_integrals(learned, x64):
  rng = np.random.default_rng(2)
  sigma = np.array([0.8, 1.3]) if learned else np.array([0.7, 0.7])
  machine = enumerated.Enumerated(rng.normal(size=(2, 3)), rng.normal(size=2), rng.normal(size=3))
  network = RBM(2, 3, gaussian(None if learned else 0.7), jnp.float64)
  params = enumerated.params(machine, **({"z": np.log(sigma**2)} if learned else {}))

  # The trapezoidal rule on a fine grid is exact to rounding for what falls off as a Gaussian does.
  line = np.linspace(-16, 16, 401)
  grid = np.stack(np.meshgrid(line, line, indexing="ij"), -1)
  integral = lambda values: values.sum((0, 1)) * (line[1] - line[0]) ** 2

  def weight(v, h):
    u = (v - machine.b) / sigma
    E = (u**2 / 2).sum(-1) - machine.c @ h - u @ machine.W @ h
    return np.exp(-E)

  of_v = lambda v: sum(weight(v, h) for h in machine.hidden)
  v = rng.normal(size=(3, 2))
  np.testing.assert_allclose(apply(network, params, "free_energy", v), -np.log(of_v(v)), rtol=1e-12)
  mean = sum(weight(v, h)[:, None] * h for h in machine.hidden) / of_v(v)[:, None]
  np.testing.assert_allclose(special.expit(apply(network, params, "hidden_logits", v)), mean, rtol=1e-12)
  h = machine.hidden[5]
  over_v = integral(weight(grid, h))
  np.testing.assert_allclose(apply(network, params, "free_energy_of_hidden", h), -np.log(over_v), rtol=1e-10)
  mean = integral(grid * weight(grid, h)[..., None]) / over_v
  np.testing.assert_allclose(apply(network, params, "location", h), mean, rtol=1e-10)
  np.testing.assert_allclose(log_partition(network, params), np.log(integral(of_v(grid))), rtol=1e-10)
  base = np.array([0.3, -1.0])
  at_base = integral(np.exp(-((grid - base) ** 2 / (2 * sigma**2)).sum(-1))) * 2**3
  np.testing.assert_allclose(apply(network, params, "log_partition_at_base", base), np.log(at_base), rtol=1e-10)
  np.testing.assert_allclose(apply(network, params, "free_energy", base[None], 0.0, base), -3 * np.log(2), rtol=1e-12)
  n = 4_000
  x = apply(network, params, "draw_visible", jax.random.split(jax.random.key(0), n), np.tile(h, (n, 1)))
  assert (np.abs(x.mean(0) - mean) < 4 * sigma / np.sqrt(n)).all()
  assert (np.abs(x.std(0) / sigma - 1) < 4 / np.sqrt(2 * n)).all()


def test_initial_values():
  params = RBM(40, 30, gaussian(None)).init(jax.random.key(0), jnp.zeros((1, 40)))["params"]
  assert abs(params["W"].std() / 0.01 - 1) < 0.1
  assert not any(params[name].any() for name in "bcz")
  mean = jnp.asarray([0.0, 0.3, 1.0])
  np.testing.assert_allclose(special.expit(np.asarray(bernoulli().bias(mean))), [0.01, 0.3, 0.99], rtol=1e-5)


def test_bad_input():
  with pytest.raises(UserError, match="26 hidden units is too long, 25 at most"):
    log_partition(RBM(784, 26), {})
  with pytest.raises(UserError, match="real visible units have no states"):
    log_partition(RBM(3, 4, gaussian()), {}, "visible")
  with pytest.raises(UserError, match="sigma is larger than 0"):
    gaussian(0.0)
