import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import integrate, stats

from jaxgen.core.errors import UserError
from jaxgen.core.spec import Spec
from jaxgen.diffusion import dpmpp_2m, heun, linspace
from jaxgen.methods.diffusion.vdm import vdm
from jaxgen.nn.unets.vdm import LinearGamma, MonotoneGamma

FIRST, LAST = -3.0, 4.0  # gamma's ends
P = 0.3  # of a white pixel


class Linear(nn.Module):
  """eps_hat = w(gamma) z: a wrong network, of which all integrals are known."""

  @nn.compact
  def __call__(self, z, gamma, label=None, index=None):
    a = self.param("a", nn.initializers.constant(0.3), (), z.dtype)
    return (a + 0.1 * gamma)[:, None, None, None] * z


class Exact(nn.Module):
  """eps given z, for a pixel that is 1 with probability P and else -1: Bayes's rule."""

  @nn.compact
  def __call__(self, z, gamma, label=None, index=None):
    alpha, sigma = (jnp.sqrt(jax.nn.sigmoid(g))[:, None, None, None] for g in (-gamma, gamma))
    log_odds = 2 * alpha * z / sigma**2 + np.log(P / (1 - P))
    self.param("unused", nn.initializers.zeros, (), z.dtype)
    return (z - alpha * jnp.tanh(log_odds / 2)) / sigma


def method(network=None, gamma=None, levels=5, **options):
  options = {"optimizer": optax.sgd(0.0), "batch_size": 64, "sampling_steps": 40, "terms": 16, **options}
  return vdm(network or Linear(), gamma or LinearGamma(FIRST, LAST), Spec((1, 1, 1), levels), **options)


def batch(x, n):
  return {"image": jnp.full((n, 1, 1, 1), x), "index": jnp.arange(n)}


def squares(gamma):
  return 1 / (1 + np.exp(gamma)), 1 / (1 + np.exp(-gamma))  # alpha^2, sigma^2


def exact_bound(x, gamma, d_gamma, levels):
  """(V1) of `Linear` for one pixel, by quadrature."""

  def integrand(t):
    alpha2, sigma2 = squares(gamma(t))
    w = 0.3 + 0.1 * gamma(t)
    return 0.5 * d_gamma(t) * ((1 - w * np.sqrt(sigma2)) ** 2 + w**2 * alpha2 * x**2)

  r = np.exp(gamma(0.0) / 2)
  values = np.linspace(-1, 1, levels)

  def log_p(z):
    away = -0.5 * ((z - values) / r) ** 2
    return -0.5 * ((z - x) / r) ** 2 - np.log(np.sum(np.exp(away - away.max()))) - away.max()

  decoder = -integrate.quad(lambda z: stats.norm.pdf(z, x, r) * log_p(z), x - 9 * r, x + 9 * r, limit=200)[0]
  alpha2, sigma2 = squares(gamma(1.0))
  prior = 0.5 * (alpha2 * x**2 + sigma2 - 1 - np.log(sigma2))
  return prior + decoder + integrate.quad(integrand, 0, 1)[0]


@pytest.mark.parametrize("x", [-1.0, 0.5])
@pytest.mark.parametrize("monotone", [False, True])
def test_bound_is_its_integrals(x, monotone, x64):
  n = 4096
  gamma = MonotoneGamma(FIRST, LAST, hidden=8) if monotone else LinearGamma(FIRST, LAST)
  made = method(gamma=gamma, batch_size=n)
  state = made.init(jax.random.key(0), batch(x, 1))
  rng = np.random.default_rng(1)
  random = jax.tree.map(lambda p: p + jnp.asarray(rng.normal(size=p.shape), p.dtype), state.params["network"]["gamma"])
  state = state.replace(params={"network": {**state.params["network"], "gamma": random}})
  apply = jax.jit(lambda t: gamma.apply({"params": random}, t))
  slope = jax.jit(jax.grad(apply))
  expected = exact_bound(x, lambda t: float(apply(t)), lambda t: float(slope(t)), 5)
  nats = np.asarray(jax.jit(made.evaluate)(state, batch(x, n), jax.random.key(2))["nll_nats"])
  assert abs(nats.mean() - expected) < 4 * nats.std() / n**0.5
  assert nats.std() / n**0.5 < 0.05 * expected
  # Training estimates the same number, per dimension, from one t for each example.
  losses = [jax.jit(made.step)(state.replace(key=jax.random.key(i)), batch(x, n))[1]["loss"] for i in range(3)]
  assert abs(np.mean(losses) - expected) < 0.05 * expected


def test_samples_follow_the_data():
  n = 4000
  for options in ({}, {"solver": heun, "grid": linspace, "sampling_steps": 30}):
    made = method(Exact(), levels=2, gamma=LinearGamma(-8.0, 6.0), **options)
    state = made.init(jax.random.key(0), batch(1.0, 1))
    x = np.asarray(jax.jit(made.sample)(state, jax.random.split(jax.random.key(3), n)))
    assert set(np.unique(x)) == {-1.0, 1.0}
    assert abs((x > 0).mean() - P) < 4 * (P * (1 - P) / n) ** 0.5 + 0.01


def test_the_exact_network_has_the_datas_entropy(x64):
  # With gamma's ends far out nothing is lost, and the bound is tight: H(P) on average.
  made = method(Exact(), levels=2, gamma=LinearGamma(-10.0, 12.0), terms=64)
  state = made.init(jax.random.key(0), batch(1.0, 1))
  n = 8192
  nats = [np.asarray(jax.jit(made.evaluate)(state, batch(x, n), jax.random.key(4))["nll_nats"]) for x in (-1.0, 1.0)]
  mean = (1 - P) * nats[0].mean() + P * nats[1].mean()
  error = max(v.std() for v in nats) / n**0.5
  assert abs(mean - -(P * np.log(P) + (1 - P) * np.log(1 - P))) < 4 * error + 2e-3
  assert error < 0.02


def test_training_moves_the_schedule_and_the_network():
  made = method(optimizer=optax.sgd(0.1))
  state = made.init(jax.random.key(0), batch(0.5, 1))
  after, metrics = jax.jit(made.step)(state, batch(0.5, 64))
  moved = jax.tree.map(lambda a, b: bool(jnp.abs(a - b) > 1e-4), after.params, state.params)
  assert all(jax.tree.leaves(moved))
  np.testing.assert_allclose([metrics["gamma_0"], metrics["gamma_1"]], [FIRST, LAST], rtol=1e-5)


def test_bad_input():
  with pytest.raises(UserError, match="2 or more levels"):
    method(levels=1)
  with pytest.raises(UserError, match="takes 2 steps or more"):
    method(solver=dpmpp_2m, sampling_steps=1)
  with pytest.raises(UserError, match="own spec"):
    method().init(jax.random.key(0), {"image": jnp.zeros((1, 2, 2, 1)), "index": jnp.arange(1)})
