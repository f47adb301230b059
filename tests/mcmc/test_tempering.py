import enumerated
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxgen import mcmc
from jaxgen.core.errors import UserError
from jaxgen.mcmc.gibbs import Positions
from jaxgen.mcmc.langevin import mala
from jaxgen.mcmc.rbm import kernel
from jaxgen.mcmc.tempering import tempering
from jaxgen.nn.energy.rbm import RBM

still = lambda beta: mcmc.Kernel(Positions, lambda carry, keys: (carry, jnp.ones(len(keys))))


def two_states():
  """A machine of whose time Gibbs sampling spends most in one of two states, seldom going to the other."""
  W = np.full((4, 3), 5.0)
  return enumerated.Enumerated(W, -W.sum(1) / 2 + 0.1, -W.sum(0) / 2 + 0.1)


def test_exchanges_alone_have_detailed_balance(x64):
  # Two copies that nothing else moves: the pair (i, j) becomes (j, i) with the probability of the ratio.
  betas, energies = (0.3, 1.0), np.array([0.0, 1.7, -0.4])
  U = lambda x, beta: beta * jnp.asarray(energies)[x[:, 0].astype(int)]
  n = 4_000
  start = np.array([(i, j) for i in range(3) for j in range(3)], float)
  x = jnp.asarray(np.repeat(start, n, axis=0))[..., None]
  kernel = tempering(still, U, betas)
  after, accepted = jax.jit(lambda: kernel.step(kernel.init(x), jax.random.split(jax.random.key(0), len(x))))()
  swapped = (np.asarray(after.x)[..., 0] != np.asarray(x)[..., 0]).any(axis=1).reshape(9, n).mean(axis=1)
  density = np.exp(-betas[0] * energies[:, None] - betas[1] * energies).ravel()
  ratio = density.reshape(3, 3).T.ravel() / density
  np.testing.assert_allclose(accepted.reshape(9, n), np.broadcast_to(np.minimum(1, ratio)[:, None], (9, n)))
  expected = np.where(start[:, 0] == start[:, 1], 0, np.minimum(1, ratio))
  assert (np.abs(swapped - expected) < 4 * np.sqrt(expected * (1 - expected) / n) + 1e-12).all()


def test_the_coldest_copies_have_the_machines_distribution_where_gibbs_sampling_has_not(x64):
  machine = two_states()
  network, params = RBM(4, 3), enumerated.params(machine)
  base, betas = jnp.zeros(4), np.linspace(0, 1, 6)
  energy = lambda v, beta: network.apply({"params": params}, v, beta, base, method="free_energy")
  exchange = tempering(lambda beta: kernel(network, params, beta, base), energy, betas)
  n = 2_000
  keys = jax.random.split(jax.random.key(0), n)
  ones = jnp.ones((n, 6, 4))
  x, accepted, _ = jax.jit(lambda: mcmc.run(exchange, ones, keys, 160))()
  counts = lambda x: np.bincount(machine.index(x), minlength=16)
  merge = lambda x: np.append(x[[0, 15]], x[1:15].sum())
  assert stats.chisquare(merge(counts(x[:, -1])), merge(machine.p * n)).pvalue > 1e-3
  middle = enumerated.Enumerated(betas[3] * machine.W, betas[3] * machine.b, betas[3] * machine.c)
  assert stats.chisquare(counts(x[:, 3]), middle.p * n).pvalue > 1e-3
  assert 0.05 < accepted.mean() < 1
  plain, *_ = jax.jit(lambda: mcmc.run(kernel(network, params), ones[:, 0], keys, 160))()
  assert counts(plain)[15] > 0.95 * n


def test_a_mixture_of_gaussians_by_langevin_steps():
  log_p = lambda x: jnp.logaddexp(-jnp.square(x + 4) / 2, -jnp.square(x - 4) / 2 + jnp.log(3.0))[:, 0]
  family = lambda x, beta: -beta * log_p(x)
  exchange = tempering(lambda beta: mala(lambda x: family(x, beta), 1.0), family, (0.05, 0.12, 0.25, 0.5, 1.0))
  n = 1_000
  x, *_ = jax.jit(lambda: mcmc.run(exchange, -4 * jnp.ones((n, 5, 1)), jax.random.split(jax.random.key(0), n), 500))()
  share = (np.asarray(x)[:, -1] > 0).mean()
  assert abs(share - 0.75) < 4 * np.sqrt(0.75 * 0.25 / n)


@pytest.mark.parametrize("betas", [(1.0,), (0.0, 0.5), (0.5, 0.5, 1.0), (-0.1, 1.0)])
def test_bad_temperatures(betas):
  with pytest.raises(UserError, match="rise from at least 0 to exactly 1"):
    tempering(still, lambda x, beta: beta, betas)
