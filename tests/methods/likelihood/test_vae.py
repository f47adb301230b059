import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from scipy import stats

from jaxgen.core.errors import UserError
from jaxgen.core.spec import Spec
from jaxgen.core.wrappers import averaged
from jaxgen.methods.likelihood.vae import kl, log_prob, to_image, to_latent, vae
from jaxgen.nn.autoencoders.vae import MLPDecoder, MLPEncoder
from jaxgen.probability.distributions import bernoulli, gaussian, logistic, logistic_mixture

SHAPE, D, LATENT, N = (2, 3, 1), 6, 2, 400


def data(n=N):
  """Near a plane, away from the origin."""
  rng = np.random.default_rng(0)
  z, noise = rng.normal(size=(n, LATENT)), rng.normal(size=(n, D))
  return z @ rng.normal(size=(LATENT, D)) + rng.normal(size=D) + 0.4 * noise


def batch(x):
  return {"image": jnp.asarray(x).reshape(len(x), *SHAPE), "index": jnp.arange(len(x))}


def linear(**options):
  dtypes = dict(param_dtype=jnp.float64, dtype=jnp.float64)
  options = dict(spec=Spec(SHAPE), latent=LATENT, optimizer=optax.sgd(0.0)) | options
  encoder, decoder = MLPEncoder(LATENT, (), **dtypes), MLPDecoder(SHAPE, (), outputs=2, shared=1, **dtypes)
  return vae(encoder, decoder, gaussian(), **options)


def random_state(method):
  """A linear model with an encoder that is wider than the posterior and beside it."""
  state = method.init(jax.random.key(0), batch(data(1)))
  rng = np.random.default_rng(1)
  random = jax.tree.map(lambda p: jnp.asarray(0.7 * rng.normal(size=p.shape)), state.params["network"])
  random["decoder"]["shared"]["value"] = jnp.array([0.1])
  state = state.replace(params={"network": random})
  W, b, variance, _ = pieces(state)
  posterior = np.linalg.inv(W.T @ W / variance + np.eye(LATENT))
  gain = posterior @ W.T / variance
  log_std = 0.3 + 0.5 * np.log(np.diag(posterior))
  encoder = {
    "mean": {"kernel": jnp.asarray(2 * gain.T), "bias": jnp.asarray(0.3 - gain @ (b + 1))},
    "log_std": {"kernel": 0.03 * random["encoder"]["log_std"]["kernel"], "bias": jnp.asarray(log_std)},
  }
  return state.replace(params={"network": {"encoder": encoder, "decoder": random["decoder"]}})


def pieces(state):
  """Of the linear model: W [D, latent], b [D], noise's variance; encoder's mean and std of x [n, D]."""
  params = jax.tree.map(np.asarray, state.params["network"])
  out, shared = params["decoder"]["out"], params["decoder"]["shared"]["value"]
  at = lambda head, x: (x + 1) / 2 @ params["encoder"][head]["kernel"] + params["encoder"][head]["bias"]
  encode = lambda x: (at("mean", x), np.exp(at("log_std", x)))
  return out["kernel"].T, out["bias"], np.exp(2 * shared[0]), encode


def exact_elbo(state, x):
  """(A1) in closed form, by example."""
  W, b, variance, encode = pieces(state)
  mean, std = encode(x)
  square = np.sum((x - mean @ W.T - b) ** 2, axis=1) + np.sum(std**2 * np.sum(W**2, axis=0), axis=1)
  reconstruction = -0.5 * square / variance - 0.5 * D * np.log(2 * np.pi * variance)
  return reconstruction - np.sum(0.5 * (mean**2 + std**2 - 1) - np.log(std), axis=1)


def exact_log_p(state, x):
  W, b, variance, _ = pieces(state)
  return stats.multivariate_normal(b, W @ W.T + variance * np.eye(D)).logpdf(x)


def ppca(x, n):
  """The largest mean log-likelihood of a linear model with isotropic noise (Tipping and Bishop 1999, eq. 8), if the
  covariance has 1/n; and that of the model made with 1/(n - 1)."""
  eigenvalues = np.sort(np.linalg.eigvalsh(np.cov(x.T, bias=True)))[::-1] * len(x) / n
  variances = np.where(np.arange(D) < LATENT, eigenvalues, eigenvalues[LATENT:].mean())
  return -0.5 * (D * np.log(2 * np.pi) + np.log(variances).sum() + D * n / len(x))


def test_a_linear_vae_reaches_probabilistic_pca_and_stays_below(x64):
  from sklearn.decomposition import PCA

  x = data()
  best = ppca(x, N)
  np.testing.assert_allclose(PCA(LATENT).fit(x).score(x), ppca(x, N - 1), rtol=1e-9)
  method = linear(optimizer=optax.adam(optax.cosine_decay_schedule(0.1, 2_500)), k=2)
  state = method.init(jax.random.key(0), batch(x))
  run = jax.jit(lambda state: jax.lax.fori_loop(0, 500, lambda _, s: method.step(s, batch(x))[0], state))
  bounds = []
  for _ in range(5):
    bounds.append(exact_elbo(state, x).mean())
    state = run(state)
  bounds.append(exact_elbo(state, x).mean())
  assert max(bounds) <= best
  assert bounds[0] < best - 1
  assert best - bounds[-1] < 0.05
  assert exact_log_p(state, x).mean() <= best


def test_bounds_rise_with_their_samples_to_the_exact_likelihood(x64):
  x = data(2)
  n = 100  # repetitions of each example, with their own noise
  found = {}
  for count in (1, 8, 5_000):
    method = linear(importance_samples=count, chunk=96)
    state = random_state(method)
    values = jax.jit(method.evaluate)(state, batch(np.repeat(x, n, axis=0)), jax.random.key(1))
    found[count] = {name: np.asarray(v).reshape(2, n) for name, v in values.items()}
  exact, elbo = -exact_log_p(state, x), -exact_elbo(state, x)
  error = lambda v: v.std(axis=1) / n**0.5
  for count, values in found.items():
    assert set(values) == {"nll_nats_density_elbo", f"nll_nats_density_importance_{count}"}
    mean, se = values["nll_nats_density_elbo"].mean(axis=1), error(values["nll_nats_density_elbo"])
    np.testing.assert_array_less(np.abs(mean - elbo), 4 * se)
  nll = [v[f"nll_nats_density_importance_{count}"] for count, v in found.items()]
  for fewer, more in zip(nll, nll[1:], strict=False):
    assert (more.mean(axis=1) < fewer.mean(axis=1)).all()
  for v in nll:
    assert (v.mean(axis=1) > exact - 4 * error(v)).all()
  assert (nll[0].mean(axis=1) > exact + 0.2).all()  # or nothing would be seen here
  # With 5,000: the log of a mean is low by half its relative variance, which is as large as its own.
  last = nll[-1]
  np.testing.assert_array_less(np.abs(last.mean(axis=1) - exact), 4 * error(last) + last.var(axis=1))
  assert last.std(axis=1).max() < 0.05


@pytest.mark.parametrize("k", [1, 8])
def test_training_losses_estimate_the_bounds(k, x64):
  n = 4096
  x = np.repeat(data(1), n, axis=0)
  losses = {}
  for weighted in (False, True):
    method = linear(k=k, importance_weighted=weighted, importance_samples=k)
    state = random_state(method)
    losses[weighted] = D * float(jax.jit(method.step)(state, batch(x))[1]["loss"])
  values = jax.jit(method.evaluate)(state, batch(x), jax.random.key(5))
  error = lambda v: 4 * float(v.std()) / n**0.5
  elbo, importance = values["nll_nats_density_elbo"], values[f"nll_nats_density_importance_{k}"]
  assert abs(losses[False] + exact_elbo(state, x[:1])[0]) < error(elbo)
  assert abs(losses[True] - float(importance.mean())) < 2 * error(importance)


def test_kl_is_its_integral(x64):
  mean, log_std = jnp.array([[0.7, -1.2, 0.0]]), jnp.array([[0.3, -0.8, 0.0]])
  n = 200_000
  z = mean + jnp.exp(log_std) * jax.random.normal(jax.random.key(0), (n, 3))
  each = stats.norm.logpdf(z, mean, np.exp(log_std)) - stats.norm.logpdf(z)
  assert (np.abs(each.mean(axis=0) - kl(mean, log_std)[0]) <= 4 * each.std(axis=0) / n**0.5).all()
  np.testing.assert_allclose(kl(mean, log_std)[0, 2], 0, atol=1e-12)


def test_samples_have_the_models_mean_and_covariance(x64):
  method = linear()
  state = random_state(method)
  W, b, variance, _ = pieces(state)
  n = 40_000
  x = np.asarray(jax.jit(method.sample)(state, jax.random.split(jax.random.key(3), n))).reshape(n, D)
  covariance = W @ W.T + variance * np.eye(D)
  spread = np.sqrt(np.outer(np.diag(covariance), np.diag(covariance)))
  np.testing.assert_array_less(np.abs(np.cov(x.T) - covariance), 8 * spread / n**0.5)
  np.testing.assert_array_less(np.abs(x.mean(axis=0) - b), 5 * np.sqrt(np.diag(covariance) / n))
  # Without noise of their own they lie in the plane.
  flat = np.asarray(linear(drawn=False).sample(state, jax.random.split(jax.random.key(3), 50))).reshape(50, D) - b
  np.testing.assert_allclose(flat @ np.linalg.pinv(W).T @ W.T, flat, atol=1e-9)


class Constant(nn.Module):
  """A posterior that is the same for all x."""

  @nn.compact
  def __call__(self, x):
    mean = self.param("mean", nn.initializers.constant(jnp.array([0.5, 2.0])), (LATENT,))
    log_std = self.param("log_std", nn.initializers.constant(jnp.array([-0.2, -0.2])), (LATENT,))
    return tuple(jnp.broadcast_to(v, (len(x), LATENT)) for v in (mean, log_std))


class Deaf(nn.Module):
  """A decoder that does not hear z."""

  @nn.compact
  def __call__(self, z):
    logit = self.param("logit", nn.initializers.constant(0.5), (1,))
    return jnp.broadcast_to(logit, (len(z), *SHAPE))


def deaf(**options):
  options = dict(spec=Spec(SHAPE, 2), latent=LATENT, optimizer=optax.sgd(1.0)) | options
  return vae(Constant(), Deaf(), bernoulli(), **options)


def test_free_bits_leave_dimensions_below_them_alone():
  x = {"image": jnp.ones((4, *SHAPE)), "index": jnp.arange(4)}
  divergence = np.asarray(kl(jnp.array([[0.5, 2.0]]), jnp.array([[-0.2, -0.2]])))[0]
  assert divergence[0] < 0.3 < divergence[1]
  moved, losses = {}, {}
  for bits in (0.0, 0.3):
    method = deaf(free_bits=bits, beta=2.0)
    state = jax.jit(method.init)(jax.random.key(0), x)
    after, metrics = jax.jit(method.step)(state, x)
    moved[bits] = jax.tree.map(
      lambda a, b: np.asarray(a != b), *(s.params["network"]["encoder"] for s in (after, state))
    )
    losses[bits] = D * float(metrics["loss"])
    np.testing.assert_allclose(metrics["kl_nats"], divergence.sum(), rtol=1e-6)
  assert all(v.all() for v in moved[0.0].values())
  assert all((v == [False, True]).all() for v in moved[0.3].values())
  np.testing.assert_allclose(losses[0.3] - losses[0.0], 2.0 * (0.3 - divergence[0]), rtol=1e-4)
  np.testing.assert_allclose(losses[0.0], 6 * np.log1p(np.exp(-0.5)) + 2.0 * divergence.sum(), rtol=1e-6)
  assert deaf().mean
  assert not deaf(free_bits=0.3).mean


def test_binary_samples_are_drawn_or_probabilities():
  keys = jax.random.split(jax.random.key(0), 500)
  drawn, means = (
    deaf(drawn=how).sample(deaf().init(jax.random.key(0), {"image": jnp.ones((1, *SHAPE))}), keys)
    for how in (True, False)
  )
  p = 1 / (1 + np.exp(-0.5))
  assert set(np.unique(drawn)) == {-1.0, 1.0}
  assert abs((np.asarray(drawn) > 0).mean() - p) < 4 * (p * (1 - p) / drawn.size) ** 0.5
  np.testing.assert_allclose(means, 2 * p - 1, rtol=1e-6)


def test_dequantized_densities_bound_integers(x64):
  x = batch(data(3))
  density, bound = linear(importance_samples=3), linear(importance_samples=3, spec=Spec(SHAPE, 17))
  state = random_state(density)
  a, b = (list(m.evaluate(state, x, jax.random.key(0)).items()) for m in (density, bound))
  for (name, nats), (other, more) in zip(a, b, strict=True):
    assert other == name.replace("density", "dequantized")
    np.testing.assert_allclose(more, nats + D * np.log(17 / 2), rtol=1e-12)


def test_outputs_are_by_channel():
  rng = np.random.default_rng(0)
  output, x = rng.normal(size=(4, 2, 3, 6)), rng.normal(size=(4, 2, 3, 3))
  exact = stats.norm.logpdf(x, output[..., :3], np.exp(output[..., 3:])).sum(axis=(1, 2, 3))
  np.testing.assert_allclose(log_prob(gaussian(), jnp.asarray(output), jnp.asarray(x)), exact, rtol=1e-5)


def test_figures_see_the_averaged_means(x64):
  method = averaged(linear(optimizer=optax.sgd(0.01)), 0.5)
  x = data(5)
  state, _ = jax.jit(method.step)(jax.jit(method.init)(jax.random.key(0), batch(x)), batch(x))
  W, b, _, encode = pieces(state.replace(params=state.ema))
  z = to_latent(MLPEncoder(LATENT, (), param_dtype=jnp.float64, dtype=jnp.float64))(state, batch(x)["image"])
  np.testing.assert_allclose(z, encode(x)[0], rtol=1e-9)
  decoder = MLPDecoder(SHAPE, (), outputs=2, shared=1, param_dtype=jnp.float64, dtype=jnp.float64)
  images = to_image(decoder, gaussian())(state, z)
  np.testing.assert_allclose(images.reshape(5, D), z @ W.T + b, rtol=1e-9)


def test_bad_input():
  with pytest.raises(UserError, match="is of binary data, and these are integers of 17 levels"):
    deaf(spec=Spec(SHAPE, 17))
  with pytest.raises(UserError, match="is of binary data, and these are real numbers"):
    deaf(spec=Spec(SHAPE))
  options = dict(latent=LATENT, optimizer=optax.sgd(0.0))
  with pytest.raises(UserError, match="is of data of 17 levels, and these are integers of 2 levels"):
    vae(Constant(), Deaf(), logistic(17), spec=Spec(SHAPE, 2), **options)
  with pytest.raises(UserError, match="independent given z"):
    vae(Constant(), Deaf(), logistic_mixture(2, 17), spec=Spec(SHAPE, 17), **options)
  with pytest.raises(UserError, match="beta is 0 or more, and this is -1"):
    deaf(beta=-1.0)
  with pytest.raises(UserError, match="free_bits is 0 or more"):
    deaf(free_bits=-0.1)
  with pytest.raises(UserError, match="has importance_samples=0: it takes 1 or more"):
    deaf(importance_samples=0)
  with pytest.raises(UserError, match="has k=0"):
    deaf(k=0)
  with pytest.raises(UserError, match="has no KL"):
    deaf(importance_weighted=True, beta=0.5)
  with pytest.raises(UserError, match="has latent=0"):
    deaf(latent=0)
  with pytest.raises(UserError, match="give it the data's own spec"):
    deaf().init(jax.random.key(0), {"image": jnp.ones((1, 4, 4, 1))})
  with pytest.raises(UserError, match="set its latent dimensions"):
    deaf(latent=3).init(jax.random.key(0), {"image": jnp.ones((1, *SHAPE))})
  with pytest.raises(UserError, match="set its shape and outputs"):
    vae(Constant(), Deaf(), gaussian(), spec=Spec(SHAPE), **options).init(jax.random.key(0), batch(data(1)))
