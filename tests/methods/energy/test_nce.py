import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from scipy import optimize, stats

from jaxgen.core.errors import UserError
from jaxgen.core.spec import Spec
from jaxgen.evaluation.partition import importance
from jaxgen.mcmc.langevin import mala
from jaxgen.mcmc.resampling import Chains
from jaxgen.methods.energy.nce import binary, conditional_nce, energies, flow_contrastive, log_density, nce, ranking
from jaxgen.methods.likelihood.autoregressive import autoregressive
from jaxgen.methods.likelihood.flow import flow
from jaxgen.nn.autoregressive.made import NADE, RNADE
from jaxgen.nn.flows.bijections import ActNorm, BatchNorm, Chain, Rescale
from jaxgen.probability.distributions import bernoulli, gaussian_mixture
from jaxgen.probability.noise import Noise, fitted_gaussian, of_method


class Quadratic(nn.Module):
  """E(x) = |L^T (x - m)|^2 / 2."""

  @nn.compact
  def __call__(self, x):
    m = self.param("m", nn.initializers.zeros, x.shape[1:], x.dtype)
    L = self.param("L", lambda key: jnp.eye(x.shape[1], dtype=x.dtype))
    return 0.5 * jnp.square((x - m) @ jnp.tril(L)).sum(axis=1)


def fixed_gaussian(mean, std):
  """N(mean, std^2 I), which is not fitted to anything."""
  mean = np.asarray(mean, np.float64)
  scale = std * np.eye(mean.size)
  return fitted_gaussian._replace(init=lambda key, x: {"mean": jnp.asarray(mean), "scale": jnp.asarray(scale)})


def reals(size, **options):
  return Spec((size,), feature="x", **options)


def batch_of(x):
  return {"x": jnp.asarray(x), "index": jnp.arange(len(x), dtype=jnp.int32)}


def trained(method, batch, steps):
  state = jax.jit(method.init)(jax.random.key(0), batch)
  return jax.jit(lambda state: jax.lax.fori_loop(0, steps, lambda _, s: method.step(s, batch)[0], state))(state)


MEAN, COVARIANCE = np.array([1.0, -0.5]), np.array([[1.0, 0.6], [0.6, 0.8]])
RATE = optax.cosine_decay_schedule(0.1, 200)
CONTRASTS = {
  "binary": partial(nce, nu=3),
  "ranking": partial(nce, nu=3, contrast=ranking),
  "conditional": partial(conditional_nce, stds=(1.0,), nu=3),
}


@pytest.fixture(scope="module")
def cloud():
  return np.random.default_rng(0).multivariate_normal(MEAN, COVARIANCE, 5_000)


@pytest.mark.parametrize("contrast", CONTRASTS)
def test_a_gaussian_and_its_normaliser_are_recovered(contrast, cloud, x64):
  start = fixed_gaussian([0, 0], 1.5)
  where = {"start": start} if contrast == "conditional" else {"noise": start}
  method = CONTRASTS[contrast](Quadratic(), **where, spec=reals(2), optimizer=optax.adam(RATE))
  network = trained(method, batch_of(cloud), 200).params["network"]
  L = np.tril(network["energy"]["L"])
  # As far as 5,000 examples know them: the sample's own moments have standard errors of 0.014 and 0.02. All but the
  # variances began more than 0.4 away.
  np.testing.assert_allclose(network["energy"]["m"], MEAN, atol=0.06)
  np.testing.assert_allclose(np.linalg.inv(L @ L.T), COVARIANCE, atol=0.09)
  if contrast == "binary":
    log_z = math.log(2 * math.pi) - np.linalg.slogdet(L)[1]
    assert abs(network["c"] - log_z) < 0.04
    assert abs(network["c"] - 0.5 * np.linalg.slogdet(2 * math.pi * COVARIANCE)[1]) < 0.06
  else:
    assert "c" not in network


# One dimension: data N(0.5, 0.8^2), noise N(0, 1.5^2); on a line of which sums over pairs are quick.
DATA, NOISE, STEP = stats.norm(0.5, 0.8), stats.norm(0, 1.5), stats.norm(0, 0.7)
LINE = np.linspace(-9, 9, 1201)
DX = LINE[1] - LINE[0]


def quadrature(contrast):
  p, q = DATA.pdf(LINE), NOISE.pdf(LINE)
  if contrast == "binary":
    return -(p * np.log(p / (p + 3 * q))).sum() * DX - 3 * (q * np.log(3 * q / (p + 3 * q))).sum() * DX
  if contrast == "ranking":
    r = p / q
    return -(np.outer(p, q) * np.log(r[:, None] / (r[:, None] + r))).sum() * DX**2
  joint = p[:, None] * STEP.pdf(LINE[:, None] - LINE)
  return -2 * (joint * np.log(p[:, None] / (p[:, None] + p))).sum() * DX**2


AT_THE_TRUTH = {
  "binary": partial(nce, noise=fixed_gaussian([0.0], 1.5), nu=3),
  "ranking": partial(nce, noise=fixed_gaussian([0.0], 1.5), contrast=ranking),
  "conditional": partial(conditional_nce, stds=(0.7,)),
}


@pytest.mark.parametrize("contrast", AT_THE_TRUTH)
def test_at_the_optimum_the_loss_is_its_closed_form_and_its_gradient_0(contrast, x64):
  method = AT_THE_TRUTH[contrast](Quadratic(), spec=reals(1), optimizer=optax.sgd(1.0))
  x = DATA.rvs((20, 4_000, 1), random_state=0)
  state = jax.jit(method.init)(jax.random.key(0), batch_of(x[0]))
  network = {"energy": {"m": jnp.array([0.5]), "L": jnp.array([[1 / 0.8]])}}
  if contrast == "binary":
    network["c"] = jnp.asarray(0.5 * math.log(2 * math.pi * 0.8**2))
  state = state.replace(params=state.params | {"network": network})

  @jax.jit
  def one(x, k):
    after, metrics = method.step(state.replace(key=jax.random.key(k)), batch_of(x))
    return metrics["loss"], jax.tree.map(jnp.subtract, network, after.params["network"])

  found = [one(x, k) for k, x in enumerate(x)]
  within = lambda values, expected: abs(np.mean(values) - expected) < 4 * np.std(values, ddof=1) / len(values) ** 0.5
  assert within([loss for loss, _ in found], quadrature(contrast))
  for gradients in zip(*(jax.tree.leaves(gradient) for _, gradient in found), strict=True):
    assert within(np.ravel(gradients), 0)


def actnorm_flow(size):
  return of_method(flow(Chain((ActNorm(jnp.float64),)), spec=reals(size), optimizer=optax.sgd(0.1)), reals(size))


def test_a_flow_and_an_energy_have_opposite_losses(x64):
  """The energy's is (N2) of densities that are known, by quadrature, and the flow goes up its slope."""
  method = flow_contrastive(
    Quadratic(), actnorm_flow(1), spec=reals(1), optimizer=optax.sgd(0.0), flow_optimizer=optax.sgd(1.0)
  )
  x = DATA.rvs((20, 4_000, 1), random_state=1)
  state = jax.jit(method.init)(jax.random.key(0), batch_of(x[0]))
  network = {"energy": {"m": jnp.array([0.5]), "L": jnp.array([[1 / 0.8]])}, "c": jnp.asarray(math.log(0.8))}
  network["c"] += 0.5 * math.log(2 * math.pi)

  def value(mean, std):
    """The energy's loss against N(mean, std^2): log 4 - 2 JSD."""
    p, q = DATA.pdf(LINE), stats.norm(mean, std).pdf(LINE)
    return -(p * np.log(p / (p + q))).sum() * DX - (q * np.log(q / (p + q))).sum() * DX

  # z = exp(log_s) x + b: the flow is N(-b exp(-log_s), exp(-log_s)^2).
  of_flow = lambda log_s, b: value(-b * np.exp(-log_s), np.exp(-log_s))
  log_s, b, h = -0.3, 0.2, 1e-4
  affine = {"log_s": jnp.array([log_s]), "b": jnp.array([b])}
  state = state.replace(params={"network": network, "noise": {"bijections_0": {"affine": affine}}})

  @jax.jit
  def one(x, k):
    after, metrics = method.step(state.replace(key=jax.random.key(k)), batch_of(x))
    return metrics, jax.tree.map(jnp.subtract, after.params["noise"], state.params["noise"])["bijections_0"]["affine"]

  found = [one(x, k) for k, x in enumerate(x)]
  close = lambda values, expected: abs(np.mean(values) - expected) < 4 * np.std(values, ddof=1) / len(values) ** 0.5
  assert close([m["network/loss"] for m, _ in found], of_flow(log_s, b))
  assert close([-m["noise/loss"] for m, _ in found], of_flow(log_s, b))
  # The best energy for this flow is where it is, so that the loss's gradient is the divergence's (envelope theorem).
  slopes = {
    "log_s": (of_flow(log_s + h, b) - of_flow(log_s - h, b)) / (2 * h),
    "b": (of_flow(log_s, b + h) - of_flow(log_s, b - h)) / (2 * h),
  }
  for name, slope in slopes.items():
    assert abs(slope) > 0.05
    assert close([float(step[name][0]) for _, step in found], slope)


def test_a_flow_learns_the_data_from_an_energy(cloud, x64):
  x = cloud[:2000]
  method = flow_contrastive(
    Quadratic(),
    actnorm_flow(2),
    spec=reals(2),
    optimizer=optax.adam(optax.cosine_decay_schedule(0.03, 300)),
    flow_optimizer=optax.adam(optax.cosine_decay_schedule(0.02, 300)),
  )
  batch = batch_of(x)
  # The flow starts from other data than it then sees.
  state = jax.jit(method.init)(jax.random.key(0), batch_of(1.5 * x + 0.3))
  loop = jax.jit(lambda state: jax.lax.fori_loop(0, 300, lambda _, s: method.step(s, batch)[0], state))
  mean, covariance = x.mean(0), np.cov(x.T, bias=True)
  # The normal density without correlation that is nearest in the divergence, by quadrature.
  side = np.linspace(-6, 6, 121)
  grid = np.stack(np.meshgrid(side, side), -1).reshape(-1, 2)
  p = stats.multivariate_normal([0, 0], covariance).pdf(grid)

  def value(stds):
    q = stats.norm(0, stds).pdf(grid).prod(1)
    return (p * np.log(p / (p + q)) + q * np.log(q / (p + q))).sum() * (side[1] - side[0]) ** 2

  best = optimize.minimize(value, [1.5, 1.5], method="Nelder-Mead").x
  moments = lambda state: jax.tree.leaves(state.params["noise"])  # z = exp(log_s) x + b
  (b, log_s), (_, log_s_0) = moments(loop(state)), moments(state)
  assert np.abs(np.exp(-log_s_0) - best).max() > 0.3
  np.testing.assert_allclose(np.exp(-log_s), best, atol=0.05)
  np.testing.assert_allclose(-b * np.exp(-log_s), mean, atol=0.05)
  # The energy does know the correlation.
  found = jax.jit(method.evaluate)(loop(state), batch, jax.random.key(0))
  entropy = 0.5 * np.linalg.slogdet(2 * math.pi * math.e * covariance)[1]
  assert abs(found["nll_nats_density_nce"].mean() - entropy) < 0.03
  assert found["nll_nats_density"].mean() > entropy + 0.2


def test_each_player_changes_its_own(x64):
  method = flow_contrastive(
    Quadratic(),
    actnorm_flow(2),
    spec=reals(2),
    optimizer=optax.sgd(0.0),
    flow_optimizer=optax.sgd(0.1),
    energy_steps=2,
  )
  batch = batch_of(np.random.default_rng(0).normal(size=(50, 2)))
  state = jax.jit(method.init)(jax.random.key(0), batch)
  after, _ = jax.jit(method.step)(state, batch)
  assert jax.tree.all(jax.tree.map(jnp.array_equal, state.params["network"], after.params["network"]))
  assert not jax.tree.all(jax.tree.map(jnp.array_equal, state.params["noise"], after.params["noise"]))


def test_noise_of_the_first_batch(x64):
  x = jnp.asarray(np.random.default_rng(0).multivariate_normal(MEAN, COVARIANCE, 20_000)).reshape(-1, 2, 1)
  params = fitted_gaussian.init(jax.random.key(0), x)
  density = stats.multivariate_normal(MEAN, COVARIANCE)
  np.testing.assert_allclose(fitted_gaussian.log_density(params, x[:20]), density.logpdf(x[:20, :, 0]), atol=0.05)
  y = fitted_gaussian.draw(params, jax.random.split(jax.random.key(1), 20_000))
  assert y.shape == x.shape
  np.testing.assert_allclose(np.cov(y[..., 0].T), COVARIANCE, atol=0.05)
  np.testing.assert_allclose(y.mean(0)[:, 0], MEAN, atol=0.04)
  # Fewer examples than dimensions: a density all the same.
  few = jnp.asarray(np.random.default_rng(1).normal(size=(4, 9)))
  assert np.isfinite(fitted_gaussian.log_density(fitted_gaussian.init(jax.random.key(0), few), few)).all()


def test_noise_that_is_trained_reaches_the_datas_moments(cloud, x64):
  x = cloud[:500]
  method = nce(
    Quadratic(),
    fixed_gaussian([0, 0], 2.0),
    spec=reals(2),
    optimizer=optax.adam(0.01),
    noise_optimizer=optax.adam(optax.cosine_decay_schedule(0.1, 200)),
  )
  state = trained(method, batch_of(x), 200)
  scale = np.tril(state.params["noise"]["scale"])
  np.testing.assert_allclose(state.params["noise"]["mean"], x.mean(0), atol=1e-3)
  np.testing.assert_allclose(scale @ scale.T, np.cov(x.T, bias=True), atol=1e-3)
  # Nothing is left to be told from data; the noise's loss is in nats per value, of which there are two.
  found = method.evaluate(state, batch_of(x), jax.random.key(0))
  entropy = 0.5 * np.linalg.slogdet(2 * math.pi * math.e * np.cov(x.T, bias=True))[1]
  np.testing.assert_allclose(found["nll_nats_density_noise"].mean(), entropy, atol=1e-4)
  np.testing.assert_allclose(2 * jax.jit(method.step)(state, batch_of(x))[1]["noise/loss"], entropy, atol=1e-4)


def test_methods_as_noise(x64):
  x = jnp.asarray(np.random.default_rng(0).normal(size=(30, 2)))
  known = of_method(flow(Chain((Rescale(2.0, -1.0),)), spec=reals(2), optimizer=optax.sgd(0.1)), reals(2))
  params = jax.jit(known.init)(jax.random.key(0), x)
  np.testing.assert_allclose(known.log_density(params, x), stats.norm(0.5, 0.5).logpdf(x).sum(1), rtol=1e-12)
  y = jax.jit(known.draw)(params, jax.random.split(jax.random.key(1), 4000))
  assert stats.kstest(np.ravel(y), stats.norm(0.5, 0.5).cdf).pvalue > 1e-3
  # An autoregressive model of two dimensions: its density integrates to 1.
  network = RNADE(gaussian_mixture(2).parameters, 4, dtype=jnp.float64, param_dtype=jnp.float64)
  model = autoregressive(network, gaussian_mixture(2), spec=reals(2), optimizer=optax.sgd(0.1))
  rnade = of_method(model, reals(2))
  params = jax.jit(rnade.init)(jax.random.key(0), x)
  side = np.linspace(-12, 12, 150)
  grid = jnp.asarray(np.stack(np.meshgrid(side, side), -1).reshape(-1, 2))
  mass = np.exp(jax.jit(rnade.log_density)(params, grid)).sum() * (side[1] - side[0]) ** 2
  assert abs(mass - 1) < 1e-3
  assert jax.jit(rnade.draw)(params, jax.random.split(jax.random.key(1), 5)).shape == (5, 2)


@pytest.fixture
def known():
  """An energy of N(0.5, 0.8^2), and of its c something wrong, with noise N(0, 1.5^2)."""

  def make(levels=None, **options):
    spec = reals(1, levels=levels)
    method = nce(Quadratic(), fixed_gaussian([0.0], 1.5), spec=spec, optimizer=optax.sgd(0.1), **options)
    state = jax.jit(method.init)(jax.random.key(0), batch_of(np.zeros((3, 1))))
    energy = {"m": jnp.array([0.5]), "L": jnp.array([[1 / 0.8]])}
    return method, state.replace(params=state.params | {"network": {"energy": energy, "c": jnp.asarray(7.0)}})

  return make


def test_samples_are_of_the_energy_and_not_of_the_noise(known, x64):
  keys = jax.random.split(jax.random.key(0), 4000)
  for chains in (Chains(100), Chains(20, partial(mala, step=0.3), 20)):
    method, state = known(chains=chains)
    x = np.ravel(jax.jit(method.sample)(state, keys))
    assert stats.kstest(x, DATA.cdf).pvalue > 1e-3
  method, state = known(chains=Chains(1))
  assert stats.kstest(np.ravel(method.sample(state, keys)), NOISE.cdf).pvalue > 1e-3


def test_importance_sampling_finds_the_partition_function(known, x64):
  method, state = known()
  exact = 0.5 * math.log(2 * math.pi * 0.8**2)
  partition = importance(energies(Quadratic()), fixed_gaussian([0.0], 1.5), reals(1), number=10_000)
  found = [partition(state, jax.random.key(k)) for k in range(20)]
  errors = np.array([float(log_z) - exact for log_z, _, _ in found])
  se = float(found[0][1])
  assert np.abs(errors).max() < 4 * se
  assert 0.5 < errors.std() / se < 1.6
  assert found[0][2] == "_density_importance_10000"
  wide = importance(energies(Quadratic()), fitted_gaussian, reals(1, levels=17), number=1000)
  assert wide(state, jax.random.key(0))[2] == "_dequantized_importance_1000"


def test_what_evaluation_says(known, x64):
  x = np.linspace(-1, 1, 5)[:, None]
  E = 0.5 * ((x[:, 0] - 0.5) / 0.8) ** 2
  method, state = known()
  found = method.evaluate(state, batch_of(x), jax.random.key(0))
  np.testing.assert_allclose(found["nll_nats_density_nce"], E + 7, rtol=1e-12)
  np.testing.assert_allclose(found["nll_nats_density_noise"], -NOISE.logpdf(x[:, 0]), rtol=1e-12)
  np.testing.assert_allclose(log_density(Quadratic())(state, jnp.asarray(x)), -E - 7, rtol=1e-12)
  method, state = known(contrast=ranking, levels=17)
  found = method.evaluate(state, batch_of(x), jax.random.key(0))
  np.testing.assert_allclose(found["unnormalised_nll_nats"], E + math.log(8.5), rtol=1e-12)


class Sloppy(nn.Module):
  @nn.compact
  def __call__(self, x):
    return nn.Dense(1)(x)


def test_bad_input():
  batch = batch_of(np.zeros((4, 2), np.float32))
  init = lambda method, batch=batch: jax.eval_shape(method.init, jax.random.key(0), batch)
  how = dict(spec=reals(2), optimizer=optax.sgd(0.1))
  make = partial(nce, Quadratic(), **how)
  implicit = Noise(fitted_gaussian.init, None, fitted_gaussian.draw)
  for build in (
    make,
    lambda noise: conditional_nce(Quadratic(), (1.0,), start=noise, **how),
    lambda noise: flow_contrastive(Quadratic(), noise, flow_optimizer=optax.sgd(0.1), **how),
  ):
    with pytest.raises(UserError, match="has no log-density"):
      build(noise=implicit)
  with pytest.raises(UserError, match="change nu"):
    make(nu=0)
  with pytest.raises(UserError, match="change nu"):
    conditional_nce(Quadratic(), (1.0,), nu=0, **how)
  with pytest.raises(UserError, match="standard deviations larger than 0"):
    conditional_nce(Quadratic(), (1.0, 0.0), **how)
  with pytest.raises(UserError, match="one number per example"):
    init(nce(Sloppy(), **how))
  with pytest.raises(UserError, match="this data has x"):
    init(make(spec=Spec((2,))))
  with pytest.raises(UserError, match="1 or more candidates"):
    make(chains=Chains(0))
  with pytest.raises(UserError, match="set both or neither"):
    make(chains=Chains(1, partial(mala, step=0.1)))
  with pytest.raises(UserError, match="take a multiple"):
    importance(energies(Quadratic()), fitted_gaussian, reals(1), number=1500)
  bits = autoregressive(NADE(4), bernoulli(), spec=reals(2, levels=2), optimizer=optax.sgd(0.1))
  with pytest.raises(UserError, match="a density that is known exactly, and this method gives nll_nats:"):
    init(make(noise=of_method(bits, reals(2))))
  with pytest.raises(UserError, match="this method gives no density:"):
    init(make(noise=of_method(bits._replace(evaluate=lambda state, batch, key: {}), reals(2))))
  normed = flow(Chain((BatchNorm(),)), **how)
  with pytest.raises(UserError, match="without batch statistics"):
    init(make(noise=of_method(normed, reals(2))))


def test_losses_of_numbers():
  G = jnp.zeros(3), jnp.zeros((3, 1))
  np.testing.assert_allclose(binary(*G), 2 * math.log(2), rtol=1e-6)
  np.testing.assert_allclose(ranking(*G), math.log(2), rtol=1e-6)
