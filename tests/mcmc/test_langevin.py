import math
from functools import partial

import conftest
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.core.errors import UserError
from jaxgen.mcmc import run
from jaxgen.mcmc.diagnostics import effective_sample_size
from jaxgen.mcmc.langevin import hmc, langevin, log_proposal, mala, underdamped, value_and_gradient

gaussian = lambda x: 0.5 * jnp.square(x).reshape(len(x), -1).sum(axis=1)
KERNELS = {
  "langevin": partial(langevin, step=0.5),
  "mala": partial(mala, step=0.5),
  "underdamped": partial(underdamped, step=0.5),
  "hmc": partial(hmc, step=0.5, leapfrogs=3),
}
every_kernel = pytest.mark.parametrize("name", KERNELS)


@pytest.fixture(scope="module")
def judge():
  with np.load(conftest.REPOSITORY / "tests" / "fixtures" / "mcmc.npz") as file:
    return dict(file)


def fixture_energy(x):
  """The energy of tests/fixtures/make_mcmc.py."""
  return (x**4).sum(-1) / 4 + x[:, 0] * jnp.sin(x[:, 1]) + 0.5 * x[:, 2] ** 2 - x[:, 1]


def keys_of(seed, n):
  return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), jnp.arange(n))


def draws(kernel, x, steps, burn=100, keep=lambda carry: carry.x, seed=0):
  """(what is kept of every step after the first ones, mean acceptance)."""
  go = jax.jit(lambda x: run(kernel, x, keys_of(seed, len(x)), steps, keep))
  _, accepted, kept = go(x)
  return np.asarray(kept)[burn:], float(accepted.mean())


def moment(x, power):
  """The mean of x^power over draws and chains [draws, chains], and its standard error."""
  y = np.asarray(x, np.float64) ** power
  return y.mean(), y.std() / math.sqrt(effective_sample_size(y))


def agrees(x, power, expected):
  mean, error = moment(x, power)
  assert error < 0.02 * max(1, expected)
  assert abs(mean - expected) < 4 * error, (mean, expected, error)


@pytest.mark.parametrize("h", [0.2, 1.0, 2.0])
def test_the_unadjusted_chain_widens_a_gaussian(h):
  x, accepted = draws(langevin(gaussian, h), jnp.zeros((200, 1)), 1_000)
  agrees(x[..., 0], 1, 0)
  agrees(x[..., 0], 2, 1 / (1 - h / 4))
  assert accepted == 1


@pytest.mark.parametrize("h", [0.2, 1.0, 2.0])
def test_the_adjusted_chain_does_not(h):
  x, _ = draws(mala(gaussian, h), jnp.zeros((200, 1)), 1_500)
  agrees(x[..., 0], 1, 0)
  agrees(x[..., 0], 2, 1)
  agrees(x[..., 0], 4, 3)


def test_the_adjusted_chain_keeps_a_skewed_density():
  """exp(-U) with U = e^x - 2 x is the density of the logarithm of a Gamma(2): its mean is digamma(2) = 1 - gamma."""
  x, accepted = draws(mala(lambda x: jnp.exp(x[:, 0]) - 2 * x[:, 0], 1.0), jnp.zeros((300, 1)), 1_500)
  assert 0.5 < accepted < 0.95  # something is rejected
  agrees(x[..., 0], 1, 1 - np.euler_gamma)
  agrees(np.exp(x[..., 0]), 1, 2)


def test_all_is_accepted_as_the_step_goes_to_0():
  rejected = []
  for h in (0.4, 0.1, 0.025):
    _, accepted = draws(mala(gaussian, h), jax.random.normal(jax.random.key(0), (500, 4)), 200, seed=3)
    rejected.append(1 - accepted)
  for large, small in zip(rejected, rejected[1:], strict=False):
    assert 6 < large / small < 10  # as h^(3/2)


@pytest.mark.parametrize("friction", [0.5, 2.0])
def test_underdamped_has_the_right_positions_at_a_large_step(friction):
  h = 1.2
  both = lambda carry: jnp.stack([carry.x, carry.v])
  found, _ = draws(underdamped(gaussian, h, friction), jnp.zeros((300, 1)), 1_000, keep=both)
  x, v = found[:, 0, :, 0], found[:, 1, :, 0]
  agrees(x, 2, 1)
  agrees(v, 2, 1 - h**2 / 4)
  agrees(x * v, 1, 0)


def test_underdamped_without_noise_conserves_the_energy(x64):
  # With hardly any friction it is velocity Verlet.
  kernel = underdamped(gaussian, 0.05, 1e-12)
  x = jnp.asarray(np.random.default_rng(0).normal(size=(5, 3)))
  total = lambda carry: gaussian(carry.x) + gaussian(carry.v)
  kept, _ = draws(kernel, x, 500, burn=0, keep=total)
  np.testing.assert_allclose(kept, np.broadcast_to(gaussian(x), kept.shape), rtol=2e-3)


def test_hmc_keeps_its_density():
  x, accepted = draws(hmc(gaussian, 1.3, 3), jnp.zeros((200, 1)), 800)
  assert accepted < 0.97
  agrees(x[..., 0], 2, 1)
  agrees(x[..., 0], 4, 3)


def test_the_splitting_is_another_codes_without_its_noise(judge, x64):
  """BAOAB without O is velocity Verlet."""
  kernel, x = underdamped(fixture_energy, 0.2, 1e-14), jnp.asarray(judge["x"])
  carry = kernel.init(x)._replace(v=jnp.asarray(judge["y"]))
  for k in range(5):
    carry, _ = kernel.step(carry, keys_of(k, len(x)))
    np.testing.assert_allclose(carry.x, judge["flow_x"][k], rtol=0, atol=1e-5)
    np.testing.assert_allclose(carry.v, judge["flow_v"][k], rtol=0, atol=1e-5)


def test_a_leapfrog_step_is_a_step_of_mala(judge, x64):
  """hmc with one leapfrog of size h, and MALA of size h^2: the same proposals from the same noise, and acceptance."""
  x = jnp.asarray(judge["x"])
  one, other = hmc(fixture_energy, 0.3, 1), mala(fixture_energy, 0.09)
  a, p = one.step(one.init(x), keys_of(0, len(x)))
  b, q = other.step(other.init(x), keys_of(0, len(x)))
  np.testing.assert_allclose(p, q, rtol=1e-9)
  np.testing.assert_allclose(a.x, b.x, rtol=1e-9)
  assert (np.asarray(q) < 0.99).any()


def test_the_probability_of_acceptance_is_another_codes(judge, x64):
  h, x, y = 0.3, jnp.asarray(judge["x"]), jnp.asarray(judge["y"])
  (U, g), (V, f) = value_and_gradient(fixture_energy, x), value_and_gradient(fixture_energy, y)
  log_a = U - V + log_proposal(y, f, x, h) - log_proposal(x, g, y, h)
  np.testing.assert_allclose(np.minimum(1, np.exp(log_a)), judge["accept"], rtol=1e-9)
  assert (judge["accept"] < 0.9).sum() > 3


def test_mala_is_in_detailed_balance(x64):
  """p(x) q(y | x) a(x, y) = p(y) q(x | y) a(y, x) on a grid, with whole densities; and a(x, y) is what the kernel says
  of the proposals that it makes."""
  h, line = 0.7, np.linspace(-3, 3, 61)
  U = lambda x: (x[:, 0] ** 4 - 2 * x[:, 0] ** 2 + x[:, 0]) / 2
  x, y = (jnp.asarray(v.reshape(-1, 1)) for v in np.meshgrid(line, line, indexing="ij"))
  slope = lambda v: (4 * v**3 - 4 * v + 1) / 2
  q = lambda to, start: np.exp(-((to - start + h / 2 * slope(start)) ** 2) / (2 * h)) / math.sqrt(2 * np.pi * h)
  p = lambda v: np.exp(-(v**4 - 2 * v**2 + v) / 2)
  kernel_x, kernel_y = (value_and_gradient(U, jnp.asarray(v)) for v in (x, y))
  ratio = kernel_x[0] - kernel_y[0] + log_proposal(y, kernel_y[1], x, h) - log_proposal(x, kernel_x[1], y, h)
  a, b = (np.minimum(1, np.exp(np.asarray(r)))[:, None] for r in (ratio, -ratio))
  np.testing.assert_allclose(p(x) * q(y, x) * a, p(y) * q(x, y) * b, rtol=1e-10)
  # The kernel's own number, of the proposal that its key makes.
  kernel, start = mala(U, h), jnp.asarray(line[:, None])
  found = kernel.step(kernel.init(start), keys_of(0, 61))[1]
  noise = jax.vmap(lambda key: jax.random.normal(jax.random.split(key)[0], (1,), start.dtype))(keys_of(0, 61))
  to = line[:, None] - h / 2 * slope(line[:, None]) + math.sqrt(h) * np.asarray(noise)
  expected = np.minimum(1, p(to) * q(line[:, None], to) / (p(line[:, None]) * q(to, line[:, None])))
  np.testing.assert_allclose(found, expected[:, 0], rtol=1e-9)
  assert (expected < 0.9).any()


@every_kernel
def test_chains_are_their_own(name):
  energy = lambda x: (x**4).sum((1, 2)) / 40 + x[:, 0, 0] * x[:, 1, 0]
  kernel = KERNELS[name](energy)
  x = jax.random.normal(jax.random.key(1), (6, 2, 3))
  go = jax.jit(lambda x, keys: run(kernel, x, keys, 20)[0])
  keys = keys_of(0, 6)
  found = go(x, keys)
  assert np.abs(found - x).max() > 0.1
  np.testing.assert_array_equal(go(x.at[:3].set(0.5), jnp.concatenate([keys_of(9, 3), keys[3:]]))[3:], found[3:])
  order = np.array([4, 2, 0, 5, 1, 3])
  np.testing.assert_array_equal(go(x[order], keys[order]), found[order])


def test_temperature_is_noise_squared_over_step():
  h, noise = 0.1, 0.2
  x, _ = draws(langevin(gaussian, h, noise=noise), jnp.zeros((200, 1)), 2_000)
  agrees(x[..., 0], 2, noise**2 / h / (1 - h / 4))


def test_clipping_and_a_box():
  still = langevin(lambda x: 10 * x.sum(axis=1), 1.0, noise=0.0, clip=0.5)
  x, _, _ = run(still, jnp.zeros((3, 2)), keys_of(0, 3), 4)
  np.testing.assert_allclose(x, -4 * 0.5 * 0.5)
  boxed = langevin(lambda x: 10 * x.sum(axis=1), 1.0, box=(-0.3, 0.7))
  x, _, _ = run(boxed, jnp.zeros((3, 2)), keys_of(0, 3), 4)
  np.testing.assert_allclose(x, -0.3)


def test_a_proposal_that_is_not_a_number_is_rejected():
  energy = lambda x: jnp.where(x[:, 0] > 1, jnp.nan, 0.0 * x[:, 0])
  x, accepted = draws(mala(energy, 1.0), jnp.zeros((50, 1)), 100, burn=0)
  assert np.isfinite(x).all()
  assert x.max() <= 1
  assert 0.1 < accepted < 1


@every_kernel
def test_bad_input(name):
  make = KERNELS[name]
  for step in (0.0, -0.1, math.nan):
    with pytest.raises(UserError, match="step is larger than 0"):
      make(gaussian, step=step)
  images = jnp.zeros((3, 4, 4, 1))
  for energy in (lambda x: x.sum((1, 2)), lambda x: x.sum()):
    kernel = make(energy)
    with pytest.raises(UserError, match="one number per example"):
      kernel.step(kernel.init(images), keys_of(0, 3))


def test_bad_options():
  with pytest.raises(UserError, match="at least 0"):
    langevin(gaussian, 0.1, noise=-1.0)
  with pytest.raises(UserError, match="clipped to more than 0"):
    langevin(gaussian, 0.1, clip=0.0)
  with pytest.raises(UserError, match="from 1 to 0"):
    langevin(gaussian, 0.1, box=(1.0, 0.0))
  with pytest.raises(UserError, match="friction"):
    underdamped(gaussian, 0.1, 0.0)
  with pytest.raises(UserError, match="leapfrog"):
    hmc(gaussian, 0.1, 0)
  with pytest.raises(UserError, match="1 or more steps"):
    run(langevin(gaussian, 0.1), jnp.zeros((1, 1)), keys_of(0, 1), 0)
