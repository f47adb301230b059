from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from jax.flatten_util import ravel_pytree
from scipy import stats

from jaxgen import diffusion
from jaxgen.core.errors import UserError
from jaxgen.core.keys import example_keys
from jaxgen.core.spec import Spec
from jaxgen.diffusion import losses
from jaxgen.diffusion.closed_form import gaussian
from jaxgen.diffusion.solvers.annealed_langevin import annealed_langevin
from jaxgen.mcmc.langevin import langevin, mala
from jaxgen.mcmc.resampling import Chains
from jaxgen.methods.diffusion.gaussian import gaussian_diffusion
from jaxgen.methods.diffusion.objective import Objective
from jaxgen.methods.diffusion.sampler import Sampler
from jaxgen.methods.energy.score_matching import denoising, energies, implicit, score_matching, sliced
from jaxgen.nn.energy.ebm import EnergyConvNet
from jaxgen.nn.energy.score import Score

MEAN, COVARIANCE = np.array([1.0, -0.5, 0.3]), np.array([[1.0, 0.6, 0.0], [0.6, 0.8, 0.2], [0.0, 0.2, 0.5]])


class Linear(nn.Module):
  """s(x) = b - x A, as a score, or E(x) = x A x^T / 2 - b x, whose score is b - x (A + A^T) / 2."""

  energy: bool

  @nn.compact
  def __call__(self, x):
    D = x.shape[1]
    A = self.param("A", lambda key: jax.random.normal(key, (D, D), x.dtype))
    b = self.param("b", nn.initializers.zeros, (D,), x.dtype)
    if self.energy:
      return 0.5 * jnp.sum((x @ A) * x, axis=1) - x @ b
    return b - x @ A


def reals(size, levels=None):
  return Spec((size,), levels, feature="x")


def batch_of(x):
  return {"x": jnp.asarray(x), "index": jnp.arange(len(x), dtype=jnp.int32)}


def minimisers(objective, x, draws=1, energy=False):
  """(A, b) where the method's loss is smallest, for each of so many draws of its noise; stacked.

  The loss is quadratic in them, so that Newton's step is exact.
  """
  network = Linear(energy)
  method = score_matching(network, objective, energy=energy, spec=reals(3), optimizer=optax.sgd(1.0))
  batch = batch_of(x)
  state = jax.jit(method.init)(jax.random.key(1), batch)
  start, unravel = ravel_pytree(state.params["network"])

  @jax.jit
  def newton(key):
    def gradient(flat):
      at = state.replace(params={"network": unravel(flat)}, key=key)
      return flat - ravel_pytree(method.step(at, batch)[0].params["network"])[0]

    # Of an energy's A the antisymmetric part is free, so that the Hessian has no inverse: the shortest step is taken.
    return start - jnp.linalg.pinv(jax.jacrev(gradient)(start), rtol=1e-10) @ gradient(start)

  networks = jax.lax.map(lambda key: unravel(newton(key)), jax.random.split(jax.random.key(0), draws))
  networks = networks["energy"] if energy else networks
  A = np.asarray(networks["A"])
  return (A + A.swapaxes(1, 2)) / 2 if energy else A, np.asarray(networks["b"])


@pytest.fixture(scope="module")
def cloud():
  return np.random.default_rng(0).multivariate_normal(MEAN, COVARIANCE, 400)


@pytest.mark.parametrize("energy", [False, True])
def test_the_minimiser_on_gaussian_data_is_the_inverse_sample_covariance(energy, cloud, x64):
  (A,), (b,) = minimisers(implicit(), cloud, energy=energy)
  inverse = np.linalg.inv(np.cov(cloud.T, bias=True))
  np.testing.assert_allclose(A, inverse, atol=1e-9)
  np.testing.assert_allclose(b, inverse @ cloud.mean(0), atol=1e-9)


def test_sliced_tends_to_it_as_projections_grow(cloud, x64):
  x = cloud[:100]
  inverse = np.linalg.inv(np.cov(x.T, bias=True))
  away = lambda draws, **options: (
    np.square(minimisers(sliced(**options), x, draws)[0] - inverse).sum((1, 2)).mean() ** 0.5
  )
  one, many = away(50, projections=1), away(50, projections=100)
  assert 1 / 14 < many / one < 1 / 7  # like the root of their number, a tenth
  assert away(50, projections=1, reduced=False) > 1.3 * one
  assert away(3, projections=10_000, reduced=False, directions="gaussian") < one / 10


def test_reduced_slices_have_less_variance_and_the_same_mean(cloud, x64):
  """Of one example's loss over directions, where the second term's variance is known."""
  x, score = jnp.asarray(cloud[:1]), lambda x: 1.0 - 2.0 * x
  keys = jax.random.split(jax.random.key(0), 10_000)
  values = lambda objective: np.asarray(jax.jit(jax.vmap(lambda key: objective.loss(score, x, key[None])[0]))(keys))
  reduced, plain, exact = (values(o) for o in (sliced(), sliced(reduced=False), implicit()))
  s2 = float(jnp.square(score(x)).sum())
  np.testing.assert_allclose(exact, -6 + s2 / 2, rtol=1e-12)
  np.testing.assert_allclose(reduced, exact, rtol=1e-12)  # J is diagonal: signs have no variance in v^T J v
  assert abs(plain.mean() - exact[0]) < 4 * plain.std() / len(plain) ** 0.5
  s4 = float((jnp.square(score(x)) ** 2).sum())
  np.testing.assert_allclose(plain.var(), (s2**2 - s4) / 2, rtol=0.05)  # of (v^T s)^2 / 2, v signs


@pytest.mark.parametrize("energy", [False, True])
def test_denoising_finds_the_score_of_the_blurred_density(energy, x64):
  x = np.random.default_rng(0).multivariate_normal(MEAN, COVARIANCE, 40_000)
  (A,), (b,) = minimisers(denoising(0.7), x, energy=energy)
  inverse = np.linalg.inv(np.cov(x.T, bias=True) + 0.49 * np.eye(3))
  assert np.abs(inverse - np.linalg.inv(COVARIANCE)).max() > 0.5
  # A regression of noise, of deviation 1 / 0.7, on the 40,000 blurred points: within four of its standard errors.
  error, mean = 1 / 0.7 / 200, x.mean(0)
  np.testing.assert_allclose(A, inverse, atol=4 * error * np.sqrt(inverse.diagonal().max()))
  np.testing.assert_allclose(b, inverse @ mean, atol=4 * error * np.sqrt(1 + mean @ inverse @ mean))


def test_denoising_is_the_loss_of_diffusion_at_one_noise_level(x64):
  x, keys = jnp.asarray(np.random.default_rng(0).normal(size=(5, 4, 4, 1))), jax.random.split(jax.random.key(0), 5)
  process = diffusion.geometric(10, 0.1, 3.0)
  score, t = lambda x: jnp.sin(3 * x), jnp.full(5, 4.0)
  at = process.at(t)
  prediction, weighting = diffusion.PREDICTIONS["score"], diffusion.WEIGHTINGS["eps"]
  x_t, eps = losses.diffuse(process, x, t, keys)
  theirs = weighting(prediction, at) * losses.simple(score(x_t), prediction.target(x, eps, at.like(x)))
  sigma = float(at.sigma[0])
  np.testing.assert_allclose(denoising(sigma).loss(score, x, keys) * 2 * sigma**2 / 16, theirs, rtol=1e-12)


def test_implicit_is_the_distance_of_scores_but_for_a_constant(x64):
  """Half the mean squared distance from the data's score, and (S1) of that score itself, which is -E|score|^2 / 2."""
  data = gaussian(np.array([0.5, -1.0]), 0.8)
  x = data.sample(jax.random.split(jax.random.key(0), 20_000))
  score = lambda x: jnp.tanh(x) - x * jnp.roll(x, 1, axis=1)
  keys = jax.random.split(jax.random.key(0), len(x))
  each = implicit().loss(score, x, keys) - 0.5 * jnp.square(score(x) - data.score(x)).sum(1)
  each = each + 0.5 * jnp.square(data.score(x)).sum(1)
  assert np.std(each) > 1
  assert abs(each.mean()) < 4 * np.std(each) / len(x) ** 0.5


class NoisyEnergy(nn.Module):
  """An energy that is told the noise level."""

  dtype: str = "float64"

  @nn.compact
  def __call__(self, x, t, label=None, index=None):
    dtypes = dict(dtype=self.dtype, param_dtype=self.dtype)
    h = jnp.concatenate([x.reshape(len(x), -1), t[:, None]], axis=-1)
    return nn.Dense(1, **dtypes)(nn.silu(nn.Dense(8, **dtypes)(h)))[:, 0]


def test_scores_of_energies_are_their_gradients_and_serve_diffusion(x64):
  x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 2, 2, 1)))
  network, t = Score(NoisyEnergy()), jnp.array([1.0, 2.0, 3.0])
  variables = network.init(jax.random.key(0), x, t)
  E = lambda x: network.apply(variables, x, t, method="energies")
  s, h = network.apply(variables, x, t), 1e-6
  for i in range(4):
    e = h * jnp.eye(4)[i].reshape(1, 2, 2, 1)
    np.testing.assert_allclose(s.reshape(3, 4)[:, i], -(E(x + e) - E(x - e)) / (2 * h), rtol=1e-6, atol=1e-9)
  method = gaussian_diffusion(
    network,
    diffusion.geometric(4, 0.1, 3.0),
    Spec((2, 2, 1)),
    optax.adam(3e-2),
    objective=Objective(diffusion.PREDICTIONS["score"], diffusion.WEIGHTINGS["eps"]),
    sampler=Sampler(partial(annealed_langevin, corrections=2), steps=4, clip=False),
  )
  batch = {"image": 0.1 * x, "index": jnp.arange(3)}
  state = jax.jit(method.init)(jax.random.key(0), batch)
  step = jax.jit(lambda state: jax.lax.scan(lambda s, _: method.step(s, batch), state, length=100))
  state, metrics = step(state)
  assert metrics["loss"][-20:].mean() < 0.9 * metrics["loss"][:20].mean()
  assert np.isfinite(jax.jit(method.sample)(state, jax.random.split(jax.random.key(0), 4))).all()


def test_convolutions(x64):
  """Networks whose derivatives are written out: against Hessians, which take forward mode over reverse."""
  network = EnergyConvNet(((3, 3, 1), (4, 3, 2)), dtype=jnp.float64, param_dtype=jnp.float64)
  x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 4, 1)))
  params = network.init(jax.random.key(0), x)["params"]
  score = lambda params: lambda x: Score(network).apply({"params": {"energy": params}}, x)
  loss = lambda params: implicit().loss(score(params), x, jax.random.split(jax.random.key(0), 2))

  def by_hand(params):
    E = lambda x: network.apply({"params": params}, x.reshape(1, 4, 4, 1))[0]
    one = lambda x: -jnp.trace(jax.hessian(E)(x)) + 0.5 * jnp.square(jax.grad(E)(x)).sum()
    return jax.vmap(one)(x.reshape(2, 16))

  total = lambda loss: lambda params: loss(params).sum()
  found, gradient = jax.jit(loss)(params), jax.jit(jax.grad(total(loss)))(params)
  expected, expected_gradient = jax.jit(by_hand)(params), jax.jit(jax.grad(total(by_hand)))(params)
  assert np.abs(expected).min() > 1e-3
  np.testing.assert_allclose(found, expected, rtol=1e-10)
  jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-8, atol=1e-10), gradient, expected_gradient)


CHAINS = {
  "energy": (True, denoising(0.5), Chains(50, partial(mala, step=0.3), 20)),
  "score": (False, denoising(0.5), Chains(1, partial(langevin, step=0.02), 200)),
}


@pytest.mark.parametrize("kind", CHAINS)
def test_samples(kind, x64):
  """Chains go where the score leads, and the last step takes the blur away, as far as the mean can."""
  energy, objective, chains = CHAINS[kind]
  network = Linear(energy)
  make = partial(score_matching, network, energy=energy, spec=reals(1), optimizer=optax.sgd(1.0), chains=chains)
  method = make(objective)
  batch = batch_of(np.random.default_rng(0).normal(2.0, 1.5, size=(100, 1)))
  state = jax.jit(method.init)(jax.random.key(0), batch)
  of_score = {"A": jnp.array([[4.0]]), "b": jnp.array([2.0])}  # N(0.5, 0.25)
  state = state.replace(params=state.params | {"network": {"energy": of_score} if energy else of_score})
  keys = jax.random.split(jax.random.key(0), 4000)
  x = np.ravel(jax.jit(method.sample)(state, keys))
  # x + sigma^2 s(x) = x + (2 - 4 x) / 4 is 0.5 whatever x. Without the last step it is N(0.5, 0.25).
  np.testing.assert_allclose(x, 0.5, atol=1e-6)
  plain = make(implicit())
  x = np.ravel(jax.jit(plain.sample)(state, keys))
  assert stats.kstest(x, stats.norm(0.5, 0.5).cdf).pvalue > 1e-3


def test_what_evaluation_says(cloud, x64):
  batch = batch_of(cloud[:7])
  method = score_matching(Linear(True), implicit(), energy=True, spec=reals(3, 17), optimizer=optax.sgd(1.0))
  state = method.init(jax.random.key(0), batch)
  found = method.evaluate(state, batch, jax.random.key(3))
  E = energies(Linear(True))(state, batch["x"])
  np.testing.assert_allclose(found["unnormalised_nll_nats"], E + 3 * np.log(8.5), rtol=1e-12)
  s = Score(Linear(True)).apply({"params": state.params["network"]}, batch["x"])
  A = state.params["network"]["energy"]["A"]
  np.testing.assert_allclose(found["score_matching"], 0.5 * np.square(s).sum(1) - np.trace(A), rtol=1e-12)
  assert method.sample is None
  noisy = score_matching(Linear(False), denoising(0.1), energy=False, spec=reals(3), optimizer=optax.sgd(1.0))
  other = noisy.evaluate(noisy.init(jax.random.key(0), batch), batch, jax.random.key(3))
  assert set(other) == {"score_matching"}
  assert len(example_keys(jax.random.key(3), batch["index"])) == len(other["score_matching"])


def test_bad_input():
  batch = batch_of(np.zeros((4, 2), np.float32))
  make = partial(score_matching, spec=reals(2), optimizer=optax.sgd(0.1))
  init = lambda method: jax.eval_shape(method.init, jax.random.key(0), batch)
  with pytest.raises(UserError, match="1 or more projections"):
    sliced(0)
  with pytest.raises(UserError, match="larger than 0, not 0"):
    denoising(0.0)
  with pytest.raises(UserError, match="has no energy to choose among candidates"):
    make(Linear(False), implicit(), energy=False, chains=Chains(10))
  with pytest.raises(UserError, match="has no energy to reject by: take langevin or underdamped"):
    init(make(Linear(False), implicit(), energy=False, chains=Chains(1, partial(mala, step=0.1), 5)))
  with pytest.raises(UserError, match="one number per example"):
    init(make(nn.Dense(1), implicit(), energy=True))
  with pytest.raises(UserError, match=r"the score for one example is \(3,\), not \(2,\)"):
    init(make(nn.Dense(3), implicit(), energy=False))
  with pytest.raises(UserError, match="this data has x"):
    init(make(Linear(False), implicit(), energy=False, spec=Spec((2,))))
