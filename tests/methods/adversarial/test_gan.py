import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from scipy import integrate, optimize, stats

from jaxgen.core.condition import labels
from jaxgen.core.errors import UserError
from jaxgen.core.spec import Spec
from jaxgen.core.wrappers import averaged
from jaxgen.methods.adversarial.gan import LOSSES, clip_weights, cut, gan, generate, gradient_penalty, r1, uniform
from jaxgen.nn.adversarial.gan import MLPDiscriminator, MLPGenerator
from jaxgen.nn.blocks.layers import BatchNorm


class Constant(nn.Module):
  """A generator that makes the same point whatever z is; with classes one for each."""

  start: tuple[tuple[float, ...], ...] = ((0.5, -1.0),)

  @nn.compact
  def __call__(self, z, label=None, index=None):
    theta = self.param("theta", lambda key: jnp.asarray(self.start, z.dtype))
    return theta[jnp.zeros(len(z), int) if label is None else label]


class Linear(nn.Module):
  """D(x) = w x + b; with labels w of the label."""

  start: tuple[float, ...] = (0.7, -0.4)

  @nn.compact
  def __call__(self, x, label=None, index=None):
    w = self.param("w", lambda key: jnp.asarray(self.start, x.dtype))
    b = self.param("b", lambda key: jnp.asarray(0.1, x.dtype))
    return x @ w + b + (0 if label is None else 10.0 * label)


PLANE = Spec((2,), classes=2, feature="x")


def of_points(generator=None, discriminator=None, **options):
  optimizers = {"generator_optimizer": optax.sgd(0.5), "discriminator_optimizer": optax.sgd(0.3)}
  options = {"spec": PLANE, "latent": 2, **optimizers, **options}
  return gan(generator or Constant(), discriminator or Linear(), **options)


def points(n=8, seed=0):
  x = np.random.default_rng(seed).normal(size=(n, 2)) + 1.0
  return {"x": jnp.asarray(x), "index": jnp.arange(n)}


def start(method, batch):
  return jax.jit(method.init)(jax.random.key(0), batch)


# losses ---------------------------------------------------------------------------------------------------------------


def jensen_shannon(p, q):
  """In nats, from entropies: H((p + q) / 2) - (H(p) + H(q)) / 2."""
  mixture = lambda x: (p.pdf(x) + q.pdf(x)) / 2
  entropy = integrate.quad(lambda x: -mixture(x) * math.log(mixture(x)), -12, 12, limit=200)[0]
  return entropy - (p.entropy() + q.entropy()) / 2


@pytest.mark.parametrize("name", ["minimax", "non_saturating"])
def test_a_best_discriminators_loss_is_log_4_minus_two_jensen_shannon_divergences(name, x64):
  p, q = stats.norm(-1, 1), stats.norm(0.5, 2)
  logit = lambda x: jnp.asarray(p.logpdf(x) - q.logpdf(x))
  loss = LOSSES[name].discriminator
  of_data = lambda x: float(loss(logit(x), jnp.asarray(0.0))) - math.log(2)
  of_generated = lambda x: float(loss(jnp.asarray(0.0), logit(x))) - math.log(2)
  found = integrate.quad(lambda x: p.pdf(x) * of_data(x) + q.pdf(x) * of_generated(x), -12, 12, limit=200)[0]
  np.testing.assert_allclose(found, math.log(4) - 2 * jensen_shannon(p, q), rtol=1e-7)
  np.testing.assert_allclose(loss(jnp.zeros(3), jnp.zeros(3)), 2 * math.log(2), rtol=1e-12)


class Shifted(nn.Module):
  """x = z + 1."""

  @nn.compact
  def __call__(self, z, label=None, index=None):
    return z + 1


def test_a_trained_discriminator_reaches_that_loss():
  # Between N(-1, 1) and N(1, 1) the best logit is -2 x, which is linear.
  method = gan(
    Shifted(),
    Linear((0.0,)),
    spec=Spec((1,), feature="x"),
    latent=1,
    loss=LOSSES["minimax"],
    generator_optimizer=optax.sgd(0.0),
    discriminator_optimizer=optax.adam(optax.cosine_decay_schedule(0.1, 300)),
  )
  batch = lambda key: {"x": jax.random.normal(key, (4096, 1)) - 1, "index": jnp.arange(4096)}
  state = start(method, batch(jax.random.key(0)))

  @jax.jit
  def many(state, keys):
    return jax.lax.scan(lambda state, key: method.step(state, batch(key)), state, keys)

  state, metrics = many(state, jax.random.split(jax.random.key(1), 400))
  best = math.log(4) - 2 * jensen_shannon(stats.norm(-1, 1), stats.norm(1, 1))
  assert abs(float(metrics["discriminator/loss"][0]) - 2 * math.log(2)) < 0.1
  assert abs(float(metrics["discriminator/loss"][300:].mean()) - best) < 0.01
  assert abs(float(state.params["discriminator"]["w"][0]) + 2) < 0.1
  # Of N(-1, 1) the share below 0, where the data is likelier.
  for kind in ("real", "fake"):
    assert abs(float(metrics[f"discriminator/accuracy_{kind}"][300:].mean()) - stats.norm.cdf(1)) < 0.005


@pytest.mark.parametrize(("name", "best"), [("least_squares", 0.3), ("hinge", -1.0), ("minimax", math.log(3 / 7))])
def test_where_data_and_model_have_densities_3_and_7_the_best_output_is(name, best, x64):
  loss = LOSSES[name].discriminator
  risk = lambda d: float(0.3 * loss(d, jnp.asarray(0.0)) + 0.7 * loss(jnp.asarray(0.0), d))
  found = optimize.minimize_scalar(lambda d: risk(jnp.asarray(d)), bounds=(-4, 4), method="bounded")
  assert abs(found.x - best) < 1e-4


def test_generators_losses():
  slope = lambda name, d: float(jax.grad(LOSSES[name].generator)(d))
  # What D is sure to be generated teaches the minimax generator nothing: D'(l) / (1 - D) = D.
  assert slope("minimax", -10.0) == pytest.approx(-stats.logistic.cdf(-10), rel=1e-4)
  assert slope("non_saturating", -10.0) == pytest.approx(-stats.logistic.cdf(10), rel=1e-4)
  assert slope("least_squares", -3.0) == -4.0
  assert slope("hinge", 7.0) == slope("wasserstein", -7.0) == -1.0


# penalties ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(2,), (4, 3, 2)])
def test_penalties_of_a_linear_critic(shape, x64):
  rng = np.random.default_rng(0)
  w = rng.normal(size=shape)
  critic = lambda x: jnp.tensordot(x, jnp.asarray(w), len(shape))
  x, generated = (jnp.asarray(rng.normal(size=(5, *shape))) for _ in range(2))
  keys = jax.random.split(jax.random.key(0), 5)
  norm = np.linalg.norm(w)
  np.testing.assert_allclose(gradient_penalty()(critic, x, generated, keys), 10 * (norm - 1) ** 2, rtol=1e-12)
  np.testing.assert_allclose(r1(3.0)(critic, x, generated, keys), 3 / 2 * norm**2, rtol=1e-12)


def test_the_gradient_penalty_looks_between_the_data_and_what_is_generated(x64):
  # The critic x^2 / 2 has the slope x.
  keys = jax.random.split(jax.random.key(0), 2_000)
  ends = jnp.full((2_000, 1), 3.0), jnp.full((2_000, 1), 5.0)
  found = gradient_penalty(1.0)(lambda x: x[:, 0] ** 2 / 2, *ends, keys)
  assert stats.kstest(np.sqrt(found) + 1, stats.uniform(3, 2).cdf).pvalue > 0.01
  np.testing.assert_allclose(r1(1.0)(lambda x: x[:, 0] ** 2 / 2, *ends, keys), 9 / 2, rtol=1e-12)


def test_a_flat_critic_has_a_penalty_and_no_gradient_that_is_not_a_number():
  x, keys = jnp.ones((3, 2)), jax.random.split(jax.random.key(0), 3)
  penalty = lambda w: gradient_penalty()(lambda x: jax.nn.relu(x @ w), x, x, keys).sum()
  value, slope = jax.value_and_grad(penalty)(-jnp.ones(2))
  assert value == 30
  assert np.isfinite(slope).all()


def test_a_lazy_penalty_is_as_large_in_total(x64):
  lazy, batch = of_points(penalty=r1(1.0), penalty_every=3), points()
  state = start(lazy, batch)
  one = (0.7**2 + 0.4**2) / 2
  step, plain = jax.jit(lazy.step), of_points().step(state, batch)[1]["discriminator/loss"]
  for number, times in [(0, 3), (1, 0), (2, 0), (3, 3)]:
    metrics = step(state.replace(step=jnp.asarray(number, jnp.int32)), batch)[1]
    np.testing.assert_allclose(metrics["discriminator/penalty"], times * one, rtol=1e-12)
    if number == 0:
      np.testing.assert_allclose(metrics["discriminator/loss"], plain + times * one, rtol=1e-12)


def test_weights_are_clipped_after_the_update(x64):
  batch = points()
  free, clipped = (
    of_points(loss=LOSSES["wasserstein"], discriminator_optimizer=optimizer)
    for optimizer in (optax.sgd(0.3), optax.chain(optax.sgd(0.3), clip_weights(0.5)))
  )
  state = start(free, batch)
  expected, _ = free.step(state, batch)
  found, _ = clipped.step(state.replace(opt=start(clipped, batch).opt), batch)
  expected = jax.tree.map(lambda p: np.clip(p, -0.5, 0.5), expected.params["discriminator"])
  assert (np.abs(expected["w"]) == 0.5).any()
  assert (np.abs(expected["w"]) < 0.5).any() or abs(expected["b"]) < 0.5
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), found.params["discriminator"], expected)


def test_clipped_weights_are_inside_in_float32():
  rng = np.random.default_rng(0)
  for c in (0.01, 0.03, 0.1):
    p, u = (jnp.asarray(c * rng.normal(size=100_000), jnp.float32) for _ in range(2))
    updates, _ = clip_weights(c).update(u, optax.EmptyState(), p)
    after = np.asarray(optax.apply_updates(p, updates))
    assert np.abs(after).max() <= np.float32(c)
    np.testing.assert_allclose(after, np.clip(p + u, -c, c), atol=1e-6 * c)


# players --------------------------------------------------------------------------------------------------------------


def sigmoid(l):
  return 1 / (1 + np.exp(-l))


def test_the_generator_plays_against_the_updated_discriminator(x64):
  # Two updates of D and one of G by hand: gradients of softplus(-D(x)) + softplus(D(theta)) and softplus(-D(theta)).
  batch = points(6)
  method = of_points(k=2)
  state = start(method, batch)
  w, b, theta = np.array([0.7, -0.4]), 0.1, np.array([0.5, -1.0])
  for x in (np.asarray(batch["x"])[0::2], np.asarray(batch["x"])[1::2]):
    real, fake = sigmoid(x @ w + b) - 1, sigmoid(theta @ w + b)
    w, b = w - 0.3 * ((real[:, None] * x).mean(0) + fake * theta), b - 0.3 * (real.mean() + fake)
  theta = theta - 0.5 * (sigmoid(theta @ w + b) - 1) * w
  state, metrics = jax.jit(method.step)(state, batch)
  np.testing.assert_allclose(state.params["discriminator"]["w"], w, rtol=1e-12)
  np.testing.assert_allclose(state.params["discriminator"]["b"], b, rtol=1e-12)
  np.testing.assert_allclose(state.params["generator"]["theta"][0], theta, rtol=1e-12)
  assert {"generator/gradient_norm", "discriminator/gradient_norm", "generator/loss"} <= metrics.keys()


@pytest.mark.parametrize(
  ("sizes", "batch", "slices"), [((5, 64, 128), 384, (6, 3)), ((4, 128, 128), 512, (4, 4)), ((3, 8, 4), 24, (3, 6))]
)
def test_batches_are_cut_for_the_numbers_that_a_paper_has(sizes, batch, slices):
  """WGAN-GP and SNGAN: 5 updates of 64 images, then one of 128."""
  assert cut(*sizes) == (batch, slices)
  k, of_discriminator, of_generator = sizes
  seen = []

  class Counting(Constant):
    def __call__(self, z, label=None, index=None):
      seen.append(len(z))
      return super().__call__(z, label, index)

  method = of_points(Counting(), k=k, slices=slices)
  state = jax.eval_shape(method.init, jax.random.key(0), points(batch))
  seen.clear()
  jax.eval_shape(method.step, state, points(batch))
  assert set(seen[:-1]) == {of_discriminator}
  assert seen[-1] == of_generator


@pytest.mark.parametrize("still", ["generator", "discriminator"])
def test_a_players_step_changes_no_parameter_of_the_other(still):
  networks = dict(generator=MLPGenerator((2,), (8,)), discriminator=MLPDiscriminator((8,)))
  method = of_points(*networks.values(), **{f"{still}_optimizer": optax.set_to_zero()}, penalty=r1(1.0))
  batch = points()
  batch["x"] = batch["x"].astype(jnp.float32)
  before = start(method, batch)
  after, _ = jax.jit(method.step)(before, batch)
  same = lambda name: jax.tree.map(lambda a, b: bool((a == b).all()), before.params[name], after.params[name])
  assert jax.tree.all(same(still))
  assert not any(jax.tree.leaves(same(({*networks} - {still}).pop())))


class NormedNoise(nn.Module):
  @nn.compact
  def __call__(self, z, label=None, index=None):
    return BatchNorm(name="norm", param_dtype=z.dtype)(z, index is not None)


class NormedJudge(nn.Module):
  @nn.compact
  def __call__(self, x, label=None, index=None):
    return BatchNorm(name="norm", param_dtype=x.dtype)(x, index is not None).sum(1)


def test_statistics_are_of_data_and_generated_examples_apart_and_each_players_own(x64):
  batch = points(400)
  method = of_points(NormedNoise(), NormedJudge(), draw=lambda key, shape: 3 * jax.random.normal(key, shape))
  state = start(method, batch)
  after, metrics = jax.jit(method.step)(state, batch)
  x = np.asarray(batch["x"])
  # D has seen the data, and then generated examples, which have mean 0 and variance 1 as G's batch norm leaves them.
  own = after.buffers["discriminator"]["batch_stats"]["norm"]
  np.testing.assert_allclose(own["mean"], 0.9 * 0.1 * x.mean(0), atol=1e-12)
  variance = 0.9 * (0.9 + 0.1 * x.var(0, ddof=1)) + 0.1 * 400 / 399
  np.testing.assert_allclose(own["var"], variance, rtol=1e-5)
  # Apart, both batches come out with mean 0; together they would not.
  np.testing.assert_allclose(metrics["discriminator/output_real"], 0, atol=1e-12)
  np.testing.assert_allclose(metrics["discriminator/output_fake"], 0, atol=1e-12)
  # G's statistics have moved once, in its own update: z has variance 9.
  np.testing.assert_allclose(after.buffers["generator"]["batch_stats"]["norm"]["var"], 0.9 + 0.1 * 9, rtol=0.1)


def test_the_averaged_generator_makes_the_samples(x64):
  batch, keys = points(), jax.random.split(jax.random.key(2), 3)
  method = averaged(of_points(), {"generator": 0.75})
  state = start(method, batch)
  after, _ = method.step(state, batch)
  old, new = (s.params["generator"]["theta"][0] for s in (state, after))
  assert (old != new).all()
  expected = np.broadcast_to(0.75 * old + 0.25 * new, (3, 2))
  np.testing.assert_allclose(method.sample(after, keys), expected, rtol=1e-12)
  np.testing.assert_allclose(generate(Constant(), after, jnp.zeros((3, 2))), expected, rtol=1e-12)


def test_samples_come_from_running_statistics():
  batch = points(64)
  batch["x"] = batch["x"].astype(jnp.float32)
  method = of_points(NormedNoise(), NormedJudge(), draw=uniform)
  state, _ = jax.jit(method.step)(start(method, batch), batch)
  keys = jax.random.split(jax.random.key(2), 7)
  np.testing.assert_allclose(method.sample(state, keys)[2:4], method.sample(state, keys[2:4]), rtol=1e-5)


def test_samples_of_networks_in_half_precision_are_not():
  networks = MLPGenerator((2,), (4,), dtype=jnp.bfloat16), MLPDiscriminator((4,), dtype=jnp.bfloat16)
  method, batch = of_points(*networks, penalty=r1(1.0)), points()
  batch["x"] = batch["x"].astype(jnp.float32)
  state = jax.eval_shape(method.init, jax.random.key(0), batch)
  _, metrics = jax.eval_shape(method.step, state, batch)
  samples = jax.eval_shape(method.sample, state, jax.random.split(jax.random.key(0), 3))
  assert metrics["discriminator/loss"].dtype == metrics["generator/loss"].dtype == samples.dtype == jnp.float32


# labels and augmentation ----------------------------------------------------------------------------------------------


def test_generated_examples_have_the_labels_of_the_data(x64):
  batch = points(4) | {"label": jnp.asarray([0, 1, 1, 1])}
  batch["x"] = jnp.zeros((4, 2))
  method = of_points(Constant(((0.0, 0.0), (0.0, 0.0))), condition=labels(PLANE))
  _, metrics = method.step(start(method, batch), batch)
  for kind in ("real", "fake"):
    np.testing.assert_allclose(metrics[f"discriminator/output_{kind}"], 0.1 + 10 * 3 / 4, rtol=1e-12)


def test_samples_are_of_the_labels_asked_for_and_else_of_all():
  batch = points(4) | {"label": jnp.asarray([0, 1, 1, 1])}
  batch["x"] = batch["x"].astype(jnp.float32)
  method = of_points(Constant(((1.0, 1.0), (2.0, 2.0))), condition=labels(PLANE))
  state = start(method, batch)
  keys = jax.random.split(jax.random.key(0), 200)
  label = np.arange(200) % 2
  np.testing.assert_array_equal(method.sample(state, keys, label=jnp.asarray(label))[:, 0], label + 1.0)
  assert 60 < (np.asarray(method.sample(state, keys))[:, 0] == 1).sum() < 140


def test_data_and_generated_examples_are_augmented_alike(x64):
  batch = points(8)
  batch["x"] = jnp.full((8, 2), 0.3)
  seen = lambda keys, x: x + jax.vmap(lambda key: jax.random.normal(key, (2,)))(keys)
  metrics = {}
  for name, augment in (("plain", None), ("augmented", seen)):
    method = of_points(Constant(((0.3, 0.3),)), augment=augment)
    metrics[name] = method.step(start(method, batch), batch)[1]
  output = {name: float(m["discriminator/output_real"]) for name, m in metrics.items()}
  assert output["plain"] != output["augmented"]
  for m in metrics.values():
    np.testing.assert_allclose(m["discriminator/output_real"], m["discriminator/output_fake"], rtol=1e-12)
  # The generator's step sees augmented examples, too.
  assert metrics["plain"]["generator/loss"] != metrics["augmented"]["generator/loss"]


# bad input ------------------------------------------------------------------------------------------------------------


class Wrong(nn.Module):
  @nn.compact
  def __call__(self, x, label=None, index=None):
    return x @ self.param("w", nn.initializers.zeros, (2, 1))


def test_bad_input():
  batch = points(6)
  with pytest.raises(UserError, match="k is a number of 1 or more, not 0"):
    of_points(k=0)
  with pytest.raises(UserError, match="penalty_every is a number of 1 or more"):
    of_points(penalty_every=0)
  with pytest.raises(UserError, match="latent is a number of 1 or more"):
    of_points(latent=0)
  with pytest.raises(UserError, match="c > 0"):
    clip_weights(0.0)
  fails = [
    (dict(discriminator=Wrong()), r"output for one example is \(1,\), not \(\): it is one number per example"),
    (dict(spec=Spec((3,), feature="x")), "examples of shape .3,. and the data has .2,."),
    (dict(generator=MLPGenerator((3,))), "generator's output for one example is .3,., not .2,."),
    (dict(spec=Spec((2,))), "this data has x"),
    (dict(condition=labels(PLANE)), "needs 'label', which this data does not have"),
    (dict(k=4), "a batch of 6 does not divide into 4 slices"),
    (dict(slices=(3, 4)), "a batch of 6 does not divide into 4 slices"),
  ]
  for options, sentence in fails:
    with pytest.raises(UserError, match=sentence):
      of_points(**options).init(jax.random.key(0), batch)
  method = of_points()
  with pytest.raises(UserError, match="is unconditional"):
    method.sample(start(method, batch), jax.random.split(jax.random.key(0), 2), label=jnp.zeros(2, int))
  with pytest.raises(UserError, match="takes 3 slices of a batch and the generator 1, not of .2, 1."):
    of_points(k=3, slices=(2, 1))
  with pytest.raises(UserError, match="no use for a condition that is dropped"):
    of_points(condition=labels(PLANE, 0.1))
  with pytest.raises(UserError, match="for 3 classes and the method needs 2"):
    of_points(MLPGenerator((2,), classes=3), condition=labels(PLANE))
  with pytest.raises(UserError, match="or the reverse"):
    cut(5, 64, 96)
