import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

from jaxgen.core.errors import UserError
from jaxgen.core.spec import Spec
from jaxgen.evaluation.likelihood import bits_per_value, integers_from_density
from jaxgen.methods.likelihood.flow import decode, encode, flow, log_density
from jaxgen.nn.flows.bijections import ActNorm, Chain, Logit, Rescale
from jaxgen.nn.flows.glow import glow
from jaxgen.nn.flows.realnvp import realnvp_vectors
from jaxgen.probability.bases import BASES, gaussian, logistic


def points(n, shape=(2,), seed=0):
  rng = np.random.default_rng(seed)
  x = rng.normal(size=(n, *shape)) @ rng.normal(size=(shape[-1], shape[-1])) + rng.normal(size=shape[-1])
  return {"x": jnp.asarray(x), "index": jnp.arange(n)}


def of_vectors(bijection, shape=(2,), **options):
  return flow(bijection, spec=Spec(shape, feature="x"), optimizer=optax.adam(1e-2), **options)


def randomised(state, scale=0.4):
  rng = np.random.default_rng(1)
  away = lambda p: p + jnp.asarray(scale * rng.normal(size=p.shape), p.dtype)
  return state.replace(params=jax.tree.map(away, state.params))


@pytest.mark.parametrize("base", BASES)
def test_nats_are_those_of_the_change_of_variables(base, x64):
  # y = 2 x - 1 with y ~ base: x has half the scale.
  distribution = {"gaussian": stats.norm, "logistic": stats.logistic}[base]
  method = of_vectors(Chain((Rescale(2.0, -1.0),)), base=BASES[base])
  batch = points(50)
  nats = method.evaluate(method.init(jax.random.key(0), batch), batch, jax.random.key(1))["nll_nats_density"]
  np.testing.assert_allclose(nats, -distribution(0.5, 0.5).logpdf(batch["x"]).sum(1), rtol=1e-12)


def test_a_uniform_density_costs_log_levels_a_value(x64):
  # logit of a uniform variable is logistic, so that this flow is uniform on [-1, 1].
  shape, levels = (2, 4, 1), 17
  method = flow(Logit(0.0), spec=Spec(shape, levels), optimizer=optax.sgd(0.1), base=logistic)
  x = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (20, *shape)))
  batch = {"image": x, "index": jnp.arange(20)}
  found = method.evaluate(method.init(jax.random.key(0), batch), batch, jax.random.key(1))
  np.testing.assert_allclose(found["nll_nats_dequantized"], 8 * math.log(levels), rtol=1e-12)
  samples = np.asarray(method.sample(method.init(jax.random.key(0), batch), jax.random.split(jax.random.key(2), 4000)))
  values, counts = np.unique(samples, return_counts=True)
  np.testing.assert_allclose(values, np.linspace(-1, 1, levels), atol=1e-12)
  assert stats.chisquare(counts).pvalue > 1e-3


def test_units_of_the_papers_number():
  assert abs(bits_per_value(integers_from_density(-1980.50, values=784, levels=256), 784) - 4.36) < 0.005


def test_the_first_batch_initialises(x64):
  # One actnorm is a normal density with a mean and a variance by entry, and its start is the maximum of likelihood.
  batch = points(200, (3,))
  method = of_vectors(ActNorm(param_dtype=jnp.float64), (3,))
  state = method.init(jax.random.key(0), batch)
  nats = method.evaluate(state, batch, jax.random.key(1))["nll_nats_density"]
  entropy = 0.5 * np.log(2 * np.pi * math.e * np.var(batch["x"], axis=0)).sum()
  np.testing.assert_allclose(np.mean(nats), entropy, rtol=1e-12)
  z = encode(ActNorm(), state, batch["x"])
  np.testing.assert_allclose(z.mean(0), 0, atol=1e-12)
  np.testing.assert_allclose(z.var(0), 1, atol=1e-12)
  _, metrics = method.step(state, batch)
  assert metrics["gradient_norm"] < 1e-12


def test_bits_do_not_depend_on_the_units_of_the_data(x64):
  # Data 2.5 x - 0.7 and the flow composed with the map back: what the density loses is D log 2.5.
  a, b = 2.5, -0.7
  bijection = glow(1, 2, 4, param_dtype=jnp.float64, dtype=jnp.float64)
  x = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (8, 4, 6, 1)))
  variables = jax.jit(bijection.init)(jax.random.key(0), x)
  back = Rescale(1 / a, -b / a)
  composed = Chain((back, bijection))
  shifted = {kind: {"bijections_1": tree} for kind, tree in variables.items()}
  z, log_det = jax.jit(bijection.apply)(variables, x)
  other, other_log_det = jax.jit(composed.apply)(shifted, a * x + b)
  bits = lambda z, log_det: bits_per_value(-float((gaussian.log_density(z).sum((1, 2, 3)) + log_det).mean()), 24)
  np.testing.assert_allclose(bits(other, other_log_det) - math.log2(a), bits(z, log_det), rtol=0, atol=1e-12)


@pytest.fixture(scope="module")
def plane():
  """A random smooth flow of the plane: bijection, method, state."""
  bijection = realnvp_vectors(4, (16,))
  method = of_vectors(bijection)
  batch = jax.tree.map(lambda v: v.astype(jnp.float32) if v.ndim == 2 else v, points(500))
  return bijection, method, randomised(jax.jit(method.init)(jax.random.key(0), batch))


def test_a_density_of_the_plane_integrates_to_1_and_samples_follow_it(plane):
  bijection, method, state = plane
  n = 20_000
  x = np.asarray(jax.jit(method.sample)(state, jax.random.split(jax.random.key(3), n)))
  low, high = x.min(0) - 1.5 * np.ptp(x, 0), x.max(0) + 1.5 * np.ptp(x, 0)
  side, bins = 1600, 8
  lines = [low[i] + (high[i] - low[i]) * (np.arange(side) + 0.5) / side for i in range(2)]
  grid = np.stack(np.meshgrid(*lines, indexing="ij"), -1).reshape(-1, 2).astype(np.float32)
  p = np.exp(np.asarray(jax.jit(lambda x: log_density(bijection, state, x))(grid), np.float64))
  p = p.reshape(side, side) * np.prod((high - low) / side)
  assert abs(p.sum() - 1) < 1e-3
  # Bins whose edges are quantiles of the samples, rounded to edges of the grid's cells.
  edges = [np.unique(np.searchsorted(lines[i], np.quantile(x[:, i], np.arange(1, bins) / bins))) for i in range(2)]
  expected = np.add.reduceat(np.add.reduceat(p, np.r_[0, edges[0]], 0), np.r_[0, edges[1]], 1)
  cuts = [low[i] + (high[i] - low[i]) * edges[i] / side for i in range(2)]
  counts, _, _ = np.histogram2d(*x.T, [np.r_[-np.inf, cuts[0], np.inf], np.r_[-np.inf, cuts[1], np.inf]])
  assert expected.shape[0] * expected.shape[1] > 40
  assert (np.abs(counts / n - expected) < 4 * np.sqrt(expected * (1 - expected) / n) + 1e-4).all()
  # It is no normal density in disguise.
  assert np.abs(stats.kurtosis(x)).max() > 0.1


def test_temperature(plane):
  bijection, _, state = plane
  keys = jax.random.split(jax.random.key(0), 5)
  cold = of_vectors(bijection, temperature=0.0).sample(state, keys)
  np.testing.assert_allclose(cold, np.broadcast_to(decode(bijection, state, jnp.zeros((1, 2))), (5, 2)), rtol=1e-4)
  linear = Chain((Rescale(2.0),))
  warm = of_vectors(linear, temperature=0.7).sample(state, keys)
  np.testing.assert_allclose(warm, 0.7 * of_vectors(linear).sample(state, keys), rtol=1e-6)


def test_training_reaches_the_entropy(x64):
  # A linear flow of normal data: coupling layers learn the correlation that actnorm cannot.
  batch = points(400)
  method = of_vectors(realnvp_vectors(2, (), param_dtype=jnp.float64))
  state = jax.jit(method.init)(jax.random.key(0), batch)
  step = jax.jit(lambda state: jax.lax.fori_loop(0, 800, lambda _, s: method.step(s, batch)[0], state))
  best = 0.5 * np.linalg.slogdet(2 * np.pi * math.e * np.cov(batch["x"].T, bias=True))[1]
  before = method.evaluate(state, batch, jax.random.key(1))["nll_nats_density"].mean()
  after = method.evaluate(step(state), batch, jax.random.key(1))["nll_nats_density"].mean()
  assert before > best + 0.05
  assert after < best + 0.01


def test_bad_input():
  make = lambda levels=None, feature="image", shape=(4, 6, 1), bijection=Rescale(2.0), **options: flow(  # noqa: B008
    bijection, spec=Spec(shape, levels, feature=feature), optimizer=optax.sgd(0.1), **options
  )
  batch = {"image": jnp.zeros((1, 4, 4, 1)), "index": jnp.arange(1)}
  with pytest.raises(UserError, match="2 or more levels"):
    make(levels=1)
  with pytest.raises(UserError, match="at least 0"):
    make(temperature=-1.0)
  with pytest.raises(UserError, match="give it the data's own spec"):
    make().init(jax.random.key(0), batch)
  with pytest.raises(UserError, match="models 'x' and this data has image: "):
    make(feature="x").init(jax.random.key(0), batch)
  seven, image = make(shape=(7, 7, 1), bijection=glow(1, 1, 4)), jnp.zeros((1, 7, 7, 1))
  with pytest.raises(UserError, match="images are 7x7 .* only even sides squeeze"):
    jax.eval_shape(seven.init, jax.random.key(0), {"image": image, "index": jnp.arange(1)})
