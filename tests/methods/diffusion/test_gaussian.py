from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgen.core.condition import labels
from jaxgen.core.errors import UserError
from jaxgen.core.keys import example_keys
from jaxgen.core.spec import Spec
from jaxgen.core.wrappers import averaged
from jaxgen.diffusion import (
  PREDICTIONS,
  ancestral,
  ddim,
  dpmpp_2m,
  geometric,
  leading,
  linear,
  linspace,
  rectified_flow,
  vp,
  zero_terminal_snr,
)
from jaxgen.diffusion.losses import bound_nll
from jaxgen.methods.diffusion.gaussian import gaussian_diffusion
from jaxgen.methods.diffusion.guides import autoguidance, classifier, classifier_free
from jaxgen.methods.diffusion.objective import Objective
from jaxgen.methods.diffusion.sampler import Sampler
from jaxgen.nn.unets.unet import UNet

T = 8
S = 0.6  # the data is N(0, S^2 I)
SCHEDULE = linear(T, 0.02, 0.5)
SHAPE = (2, 2, 1)
D = 4


class Linear(nn.Module):
  """x times a number that depends on t alone: what is optimal for Gaussian data, for every prediction."""

  @nn.compact
  def __call__(self, x, t, label=None, index=None):
    assert x.shape[:1] == t.shape
    return self.param("w", nn.initializers.zeros, (T,), x.dtype)[t.astype(int)][:, None, None, None] * x


class Constant(nn.Module):
  """A network that outputs one number per class, and another where dropout would be on."""

  classes: int = 1

  @nn.compact
  def __call__(self, x, t, label=None, index=None):
    value = self.param("value", nn.initializers.zeros, (self.classes,), x.dtype)
    value = value[jnp.zeros(x.shape[0], int) if label is None else label]
    return jnp.broadcast_to(value[:, None, None, None], x.shape)


def method(network=None, prediction="eps", variance="posterior", terms=None, clip=False, **options):
  """Options are of `Spec`, `Objective`, `Sampler` or of the method."""
  take = lambda what, **usual: what(**{**usual, **{k: options.pop(k) for k in [*options] if k in what._fields}})
  spec = take(Spec, shape=SHAPE)
  objective = take(Objective, prediction=PREDICTIONS[prediction], variance=variance)
  sampler = take(Sampler, clip=clip, solver=ancestral, steps=T)
  if "dropout" in options or spec.classes:
    options.setdefault("condition", labels(spec, options.pop("dropout", 0.0)))
  bound = partial(bound_nll, levels=spec.levels, variance=variance, terms=terms, clip=clip)
  options = {"schedule": SCHEDULE, "optimizer": optax.adam(3e-2), "likelihoods": {"nll_nats": bound}, **options}
  return gaussian_diffusion(network or Linear(), spec=spec, objective=objective, sampler=sampler, **options)


def gaussian_batch(size, first=0, dtype=jnp.float32):
  index = jnp.arange(first, first + size, dtype=jnp.int32)
  draw = lambda key: S * jax.random.normal(key, SHAPE, dtype)
  return {"image": jax.vmap(draw)(example_keys(jax.random.key(7), index)), "index": index}


def chain():
  """Covariance of (x_0, .., x_T) under q, built from its steps: x_t = sqrt(1 - beta_t) x_{t-1} + sqrt(beta_t) z."""
  mix = np.zeros((T + 1, T + 1))
  mix[0, 0] = S
  for t, beta in enumerate(np.linspace(0.02, 0.5, T), 1):
    mix[t] = np.sqrt(1 - beta) * mix[t - 1]
    mix[t, t] = np.sqrt(beta)
  return mix @ mix.T


def optimum(prediction):
  """(slope [T], floor): the best linear network, and its squared error: regression of the target on x_t."""
  slopes, floors = [], []
  alpha_bar = np.cumprod(1 - np.linspace(0.02, 0.5, T))
  slope = np.log(1 - np.append(np.linspace(0.02, 0.5, T)[1:], 0.5)) / 2  # of log alpha, to the right of t
  for alpha, sigma, f in zip(np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar), slope, strict=True):
    x = np.array([alpha * S, sigma])  # as mixtures of two standard normals, x_0 / S and eps
    norm = np.hypot(0.5 * alpha, sigma)
    target = {
      "x_0": np.array([S, 0]),
      "eps": np.array([0, 1]),
      "v": np.array([-sigma * S, alpha]),
      "score": np.array([0, -1 / sigma]),
      "velocity": np.array([f * alpha * S, -f * alpha**2 / sigma]),
      "F": np.array([sigma / 0.5 * S, -0.5 * alpha]) / norm,
    }[prediction]
    slopes.append(target @ x / (x @ x) * (norm if prediction == "F" else 1))  # F sees x_t / norm
    floors.append(target @ target - (target @ x) ** 2 / (x @ x))
  return np.array(slopes), np.mean(floors)


def reverse_chain(variance, first_variance):
  """Covariance of (x_0, .., x_T) under the best p_theta: q's mean of x_{t-1} given x_t, but a given variance."""
  q = chain()
  betas = np.linspace(0.02, 0.5, T)
  alpha_bar = np.append(1, np.cumprod(1 - betas))
  v = {"posterior": (1 - alpha_bar[:-1]) / (1 - alpha_bar[1:]) * betas, "beta": betas.copy()}[variance]
  v[0] = first_variance
  mix = np.zeros((T + 1, T + 1))
  mix[T, T] = 1
  for t in range(T, 0, -1):
    mix[t - 1] = q[t - 1, t] / q[t, t] * mix[t]
    mix[t - 1, t - 1] = np.sqrt(v[t - 1])
  return mix @ mix.T


def exact_bound(variance):
  """The bound of that p_theta in nats per dimension.

  By the chain rule it is KL(q(x_0 .. x_T) || p(x_0 .. x_T)) + the data's entropy: Gaussians of T + 1 dimensions.
  """
  beta_1, beta_2 = np.linspace(0.02, 0.5, T)[:2]
  p = reverse_chain(variance, first_variance=beta_1 / (1 - (1 - beta_1) * (1 - beta_2)) * beta_2)
  ratio = np.linalg.solve(p, chain())
  divergence = 0.5 * (np.trace(ratio) - (T + 1) - np.linalg.slogdet(ratio)[1])
  return divergence + 0.5 * np.log(2 * np.pi * np.e * S**2)


def trained(made, batch=512, steps=400):
  """(state, metrics [steps]) after training on fresh data."""
  state = jax.jit(made.init)(jax.random.key(0), gaussian_batch(batch))
  fresh = gaussian_batch(batch * steps)["image"].reshape(steps, batch, *SHAPE)
  one = lambda state, image: made.step(state, {"image": image, "index": jnp.arange(batch)})
  return jax.jit(lambda state: jax.lax.scan(one, state, fresh))(state)


def mean_and_error(values):
  return float(np.mean(values)), float(np.std(values) / np.sqrt(values.size))


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_simple_loss_reaches_its_floor_and_no_lower(prediction):
  state, metrics = trained(method(prediction=prediction, optimizer=optax.adam(optax.cosine_decay_schedule(5e-2, 400))))
  slopes, floor = optimum(prediction)
  np.testing.assert_allclose(state.params["network"]["w"], slopes, atol=0.03 * max(1, np.abs(slopes).max()))
  loss, error = mean_and_error(metrics["loss"][-200:])
  assert abs(loss - floor) < 4 * error + 0.002 * floor
  assert error < 0.01 * floor
  if prediction != "F":  # whose c_skip alone is nearly the best there is: sigma_data = 0.5, and S = 0.6
    assert metrics["loss"][0] > 1.1 * floor


@pytest.mark.parametrize(("prediction", "variance"), [("eps", "posterior"), ("v", "beta"), ("x_0", "beta")])
def test_vlb_loss_reaches_the_exact_bound_and_no_lower(prediction, variance):
  rate = optax.cosine_decay_schedule(5e-2, 400)
  made = method(prediction=prediction, weighting=None, vlb=1.0, variance=variance, optimizer=optax.adam(rate))
  state, metrics = trained(made)
  np.testing.assert_allclose(state.params["network"]["w"], optimum(prediction)[0], atol=0.05)
  loss, error = mean_and_error(metrics["loss"][-200:])  # one t per example: much noise
  assert abs(loss - exact_bound(variance)) < 4 * error + 0.003
  nll = jax.jit(made.evaluate)(state, gaussian_batch(4096, first=10**6), jax.random.key(1))["nll_nats"]
  mean, error = mean_and_error(nll / D)
  assert abs(mean - exact_bound(variance)) < 4 * error + 0.003
  assert error < 0.03


@pytest.mark.parametrize("terms", [None, 3])
@pytest.mark.parametrize("variance", ["posterior", "beta"])
def test_bound_of_the_exact_denoiser(variance, terms, x64):
  made = averaged(method(variance=variance, terms=terms, prediction="v"), 0.9)
  batch = gaussian_batch(8192, dtype=jnp.float64)
  state = jax.jit(made.init)(jax.random.key(0), batch)
  state = state.replace(
    ema={"network": {"w": jnp.asarray(optimum("v")[0])}}
  )  # evaluation takes the averaged parameters
  nll = jax.jit(made.evaluate)(state, batch, jax.random.key(1))["nll_nats"]
  assert nll.shape == (8192,)
  mean, error = mean_and_error(nll / D)
  assert abs(mean - exact_bound(variance)) < 4 * error
  assert error < 0.1
  assert mean > 0.5 * np.log(2 * np.pi * np.e * S**2)  # the data's entropy: it is an upper bound


def test_strata_are_unbiased(x64):
  # A network that always says x_0 = 0.3 has terms without noise, so that only the choice of t is random.
  batch = {"image": jnp.full((4096, *SHAPE), 0.5), "index": jnp.arange(4096)}
  evaluate = lambda **options: np.asarray(
    jax.jit((made := method(Constant(), prediction="x_0", levels=17, **options)).evaluate)(
      with_value(made, batch, 0.3), batch, jax.random.key(1)
    )["nll_nats"]
  )
  exact = evaluate()
  assert np.ptp(exact) == 0
  for terms in (1, 3):  # 3 does not divide T = 8: the strata differ in size
    estimates = evaluate(terms=terms)
    mean, error = mean_and_error(estimates)
    assert error > 0
    assert abs(mean - exact[0]) < 4 * error
    assert len(np.unique(np.round(estimates, 9))) == {1: 8, 3: 2 * 3 * 3}[terms]


def with_value(made, batch, value):
  state = made.init(jax.random.key(0), batch)
  return state.replace(
    params={"network": jax.tree.map(lambda x: x * 0 + jnp.asarray(value, x.dtype), state.params["network"])}
  )


def test_evaluation_depends_on_key_and_index_alone():
  made = method(terms=2)
  batch = gaussian_batch(6)
  state = made.init(jax.random.key(0), batch)
  evaluate = jax.jit(made.evaluate)
  whole = evaluate(state, batch, jax.random.key(1))["nll_nats"]
  part = evaluate(state, jax.tree.map(lambda x: x[4:], batch), jax.random.key(1))["nll_nats"]
  np.testing.assert_allclose(part, whole[4:], rtol=1e-5)
  assert np.all(np.abs(evaluate(state, batch, jax.random.key(2))["nll_nats"] - whole) > 1e-3)


def test_clipping_is_for_evaluation_and_sampling(x64):
  # A network that says x_0 = 5 everywhere: clipped, it is one that says 1.
  batch = {"image": jnp.full((3, *SHAPE), 0.5), "index": jnp.arange(3)}
  both = []
  for clip, value in ((True, 5.0), (False, 1.0), (False, 5.0)):
    made = method(Constant(), prediction="x_0", levels=17, clip=clip)
    state = with_value(made, batch, value)
    nll = jax.jit(made.evaluate)(state, batch, jax.random.key(1))["nll_nats"]
    samples = jax.jit(made.sample)(state, jax.random.split(jax.random.key(2), 3))
    np.testing.assert_allclose(samples, min(value, 1.0) if clip else value)
    both.append((nll, jax.jit(made.step)(state, batch)[1]["loss"]))
  np.testing.assert_allclose(both[0][0], both[1][0])
  assert np.all(both[2][0] > both[1][0])
  assert both[0][1] == both[2][1]  # training is not clipped
  np.testing.assert_allclose(both[0][1], 4.5**2)


@pytest.mark.parametrize("variance", ["posterior", "beta"])
def test_samples_follow_the_model(variance, x64):
  # What Algorithm 2 draws with the exact denoiser, its last step without noise, is a Gaussian of known variance.
  made = method(prediction="eps", solver=partial(ancestral, variance=variance))
  state = with_value(made, gaussian_batch(1, dtype=jnp.float64), optimum("eps")[0])
  x = jax.jit(made.sample)(state, jax.random.split(jax.random.key(3), 4000))
  assert x.shape == (4000, *SHAPE)
  expected = reverse_chain(variance, first_variance=0)[0, 0]
  np.testing.assert_allclose(x.var(), expected, rtol=4 * (2 / x.size) ** 0.5)
  flat = np.asarray(x).reshape(4000, D)
  neighbours = np.corrcoef(np.concatenate([flat[:-1], flat[1:]], axis=1), rowvar=False)
  assert np.abs(neighbours - np.eye(2 * D)).max() < 5 / 4000**0.5  # pixels and samples are independent


@pytest.mark.parametrize("grid", [leading, linspace])
def test_sampling_starts_with_the_noise_of_its_first_time(grid, x64):
  # Noise that explodes is much less at the first time of a grid that starts below T. The network is exact for the data.
  process = geometric(50, 0.02, 9.6)

  class Exact(nn.Module):
    @nn.compact
    def __call__(self, x, t, label=None, index=None):
      self.param("w", nn.initializers.zeros, (), x.dtype)
      sigma = process.sigma(t + 1)[:, None, None, None]
      return x * sigma / (S**2 + sigma**2)  # eps

  made = method(Exact(), schedule=process, solver=ddim, grid=grid, steps=20, likelihoods={})
  n = 2000
  state = made.init(jax.random.key(0), gaussian_batch(1, dtype=jnp.float64))
  x = np.asarray(jax.jit(made.sample)(state, jax.random.split(jax.random.key(3), n)))
  # DDIM is linear here, so that what it makes of the starting noise is a product of known factors.
  times = grid(process, 20)
  sigma = np.asarray(process.sigma(times))
  std = sigma[0]
  for now, then in zip(sigma[:-1], sigma[1:], strict=True):
    std *= (S**2 + now * then) / (S**2 + now**2)
  assert abs(x.std() - std) < 4 * std / (2 * x.size) ** 0.5
  assert abs(std - S) < 0.1


def test_classes():
  batch = {"image": jnp.zeros((64, *SHAPE)), "label": jnp.arange(64) % 3, "index": jnp.arange(64)}
  batch["image"] += (batch["label"] - 1)[:, None, None, None] * 0.5
  made = method(Constant(3), prediction="x_0", classes=3, optimizer=optax.sgd(1.0), levels=5)
  state = made.init(jax.random.key(0), batch)
  step, evaluate = jax.jit(made.step), jax.jit(made.evaluate)
  for _ in range(40):
    state, metrics = step(state, batch)
  np.testing.assert_allclose(state.params["network"]["value"], [-0.5, 0, 0.5], atol=1e-3)
  assert metrics["loss"] < 1e-6
  keys = jax.random.split(jax.random.key(0), 100)
  given = jax.jit(made.sample)(state, keys, label=jnp.arange(100) % 3)
  np.testing.assert_allclose(given[:, 0, 0, 0], (np.arange(100) % 3 - 1) * 0.5, atol=1e-3)
  drawn = np.round(jax.jit(made.sample)(state, keys)[:, 0, 0, 0] * 2)
  assert np.all(np.bincount(drawn.astype(int) + 1, minlength=3) > 15)
  nll = [evaluate(state, {**batch, "label": (batch["label"] + i) % 3}, jax.random.key(0))["nll_nats"] for i in (0, 1)]
  assert np.all(nll[0] < nll[1])  # the right label explains the image better


class Classes(nn.Module):
  """x_0 = a number per class, the last of which is for no class at all."""

  values: tuple[float, ...] = (-0.5, 0.5, 0.1)

  @nn.compact
  def __call__(self, x, t, label=None, index=None):
    values = self.param("values", lambda key, n: jnp.asarray(self.values), len(self.values))
    return jnp.broadcast_to(values[label][:, None, None, None], x.shape)


def sampled(made, **conditions):
  state = made.init(jax.random.key(0), {**gaussian_batch(1), "label": jnp.zeros(1, int)})
  return jax.jit(made.sample)(state, jax.random.split(jax.random.key(2), 4), **conditions)


def test_classifier_free_guidance():
  label, none = jnp.asarray([0, 1, 0, 1]), jnp.full(4, 2)
  made = method(Classes(), prediction="x_0", classes=2, dropout=0.2, likelihoods={})
  plain = sampled(made, label=label)
  np.testing.assert_array_equal(sampled(made, label=label, weight=jnp.ones(4)), plain)  # bit for bit
  # Each sample has its own weight: x_0 = u + w (c - u).
  weight = jnp.asarray([0.0, 1.0, 2.0, 3.0])
  expected = 0.1 + weight * (jnp.asarray([-0.5, 0.5, -0.5, 0.5]) - 0.1)
  np.testing.assert_allclose(sampled(made, label=label, weight=weight)[:, 0, 0, 0], expected, rtol=1e-4)
  np.testing.assert_allclose(sampled(made, label=none, weight=weight)[:, 0, 0, 0], 0.1, rtol=1e-4)
  assert made.facts["A sample"] == "8 network calls, guided each on twice the batch"
  clipped = method(Classes(), prediction="x_0", classes=2, dropout=0.2, likelihoods={}, clip=True)
  np.testing.assert_allclose(sampled(clipped, label=label, weight=weight).max(), 1)  # after guidance: 1.3 without


def test_a_new_weight_compiles_nothing():
  made = method(Classes(), prediction="x_0", classes=2, dropout=0.2, likelihoods={})
  state = made.init(jax.random.key(0), {**gaussian_batch(1), "label": jnp.zeros(1, int)})
  sample = jax.jit(made.sample)
  for weight in (1.0, 2.0, 5.0):
    sample(state, jax.random.split(jax.random.key(int(weight)), 4), label=jnp.arange(4) % 2, weight=jnp.full(4, weight))
  assert sample._cache_size() == 1


def test_labels_are_dropped_in_training():
  # The share of dropped labels is the share of the loss that "no label" has.
  n = 4096
  made = method(
    Classes((0.0, 0.0, 1.0)), prediction="x_0", classes=2, dropout=0.2, likelihoods={}, optimizer=optax.sgd(0.0)
  )
  batch = {"image": jnp.zeros((n, *SHAPE)), "index": jnp.arange(n), "label": jnp.arange(n) % 2}
  _, metrics = jax.jit(made.step)(made.init(jax.random.key(0), batch), batch)
  assert abs(metrics["loss"] - 0.2) < 4 * (0.16 / n) ** 0.5


def test_autoguidance_goes_away_from_the_guide():
  guidance = autoguidance(Classes((-0.3, 0.2)), optax.sgd(0.0))
  made = method(Classes((-0.5, 0.5)), prediction="x_0", classes=2, guidance=guidance, likelihoods={})
  weight, label = jnp.asarray([1.0, 1.0, 2.0, 2.0]), jnp.asarray([0, 1, 0, 1])
  np.testing.assert_allclose(sampled(made, label=label, weight=weight)[:, 0, 0, 0], [-0.5, 0.5, -0.7, 0.8], rtol=1e-4)


class Bright(nn.Module):
  """Of two classes the first likes bright images: log p is as linear as it can be."""

  @nn.compact
  def __call__(self, x, t, label=None, index=None):
    slope = self.param("slope", nn.initializers.ones, (), x.dtype)
    return jnp.stack([slope * x.mean((1, 2, 3)), jnp.zeros(len(x), x.dtype)], axis=1)


def test_classifier_guidance_follows_the_classifier():
  guidance = classifier(Bright(), optax.sgd(1.0), labels(Spec(SHAPE, classes=2)))
  made = method(Constant(), prediction="x_0", guidance=guidance, likelihoods={})
  plain = sampled(made, label=jnp.zeros(4, int))
  bright, dark = (sampled(made, label=jnp.full(4, i), weight=jnp.full(4, 2.0)) for i in (0, 1))
  assert np.all(bright.mean((1, 2, 3)) > plain.mean((1, 2, 3)) + 0.002)
  assert np.all(dark.mean((1, 2, 3)) < plain.mean((1, 2, 3)) - 0.002)
  # It learns from x_t: cross-entropy falls where the classes differ in brightness.
  n = 256
  image = jnp.where(jnp.arange(n) % 2, -0.8, 0.8)[:, None, None, None] * jnp.ones((n, *SHAPE))
  batch = {"image": image, "label": jnp.arange(n) % 2, "index": jnp.arange(n)}
  state, losses = made.init(jax.random.key(0), batch), []
  step = jax.jit(made.step)
  for _ in range(20):
    state, metrics = step(state, batch)
    losses.append(float(metrics["classifier/loss"]))
  assert losses[-1] < 0.8 * losses[0]


class Noisy(nn.Module):
  """Dropout as the project's networks have it: on where the index is given, one mask per example."""

  rate: float = 0.5

  @nn.compact
  def __call__(self, x, t, label=None, index=None):
    w = self.param("w", nn.initializers.ones, (1,), x.dtype)
    if index is None:
      return w * x
    keys = example_keys(self.make_rng("dropout"), index)
    return w * x * jax.vmap(lambda key: jax.random.bernoulli(key, 1 - self.rate, SHAPE))(keys)


def test_training_has_dropout_and_microbatches_do_not_change_it(x64):
  batch = gaussian_batch(8, dtype=jnp.float64)

  def after_a_step(network, **options):
    made = method(network, optimizer=optax.sgd(0.1))
    return jax.jit(partial(made.step, **options))(jax.jit(made.init)(jax.random.key(0), batch), batch)

  state, metrics = after_a_step(Noisy())
  in_parts, metrics_in_parts = after_a_step(Noisy(), microbatches=4)
  np.testing.assert_allclose(in_parts.params["network"]["w"], state.params["network"]["w"], rtol=1e-12)
  np.testing.assert_allclose(metrics_in_parts["loss"], metrics["loss"], rtol=1e-12)
  assert abs(after_a_step(Noisy(rate=0.0))[1]["loss"] - metrics["loss"]) > 1e-3


def test_evaluation_and_sampling_have_no_dropout(x64):
  # They give the network neither an index nor a key to draw masks with.
  batch = gaussian_batch(8, dtype=jnp.float64)
  with_dropout, without = method(Noisy()), method(Noisy(rate=0.0))
  state, key = with_dropout.init(jax.random.key(0), batch), jax.random.key(1)
  keys = jax.random.split(key, 2)
  got = [
    (jax.jit(m.evaluate)(state, batch, key)["nll_nats"], jax.jit(m.sample)(state, keys))
    for m in (with_dropout, without)
  ]
  np.testing.assert_array_equal(got[0][0], got[1][0])
  np.testing.assert_array_equal(got[0][1], got[1][1])
  assert got[0][1].dtype == jnp.float64


def evaluated(made, batch):
  return made.evaluate(made.init(jax.random.key(0), batch), batch, jax.random.key(0))


@pytest.mark.parametrize(
  ("do", "names"),
  [
    (lambda b: evaluated(method(terms=9), b), "takes 1 to 8 terms"),
    (lambda b: evaluated(method(terms=0), b), "takes 1 to 8 terms"),
    (lambda b: method(schedule=linear(8, 1e-3, 2e-3)), "more noise"),
    (lambda b: method(schedule=rectified_flow(), prediction="eps"), "predict x_0, v, velocity or F"),
    (lambda b: method(schedule=zero_terminal_snr(SCHEDULE), prediction="score"), "predict x_0, v, velocity or F"),
    (
      lambda b: method(schedule=zero_terminal_snr(SCHEDULE), grid=leading, steps=4),
      "predict x_0, v, velocity or F",
    ),
    (lambda b: classifier_free(rescale=2.0), "fraction between 0"),
    (lambda b: autoguidance(None, optax.identity(), interval=(2.0, 1.0)), "0 <= low < high"),
    (lambda b: method(classes=2, dropout=1.0), "probability below 1"),
    (lambda b: method(Constant(2), classes=2, dropout=0.1), "needs 3, one of them for no label"),
    (lambda b: method(Constant(2), classes=3), "needs 3: set"),
    (lambda b: method(steps=0), "at least 1 step"),
    (lambda b: method(steps=1, solver=dpmpp_2m), "takes 2 steps or more"),
    (lambda b: method(weighting=None), "set vlb to 1"),
    (lambda b: method(dropout=0.1), "this data has none"),
    (lambda b: sampled(method(Classes(), classes=2), label=jnp.zeros(4, int), weight=jnp.ones(4)), "nothing to be"),
    (lambda b: sampled(method(), weight=jnp.ones(4)), "nothing to be"),
    (lambda b: method(schedule=vp(), vlb=1.0), "continuous process"),
    (lambda b: method(shape=(4, 4, 1)).init(jax.random.key(0), b), r"\(4, 4, 1\) and the data has \(2, 2, 1\)"),
    (lambda b: method(classes=3).init(jax.random.key(0), b), "needs 'label', which this data does not have"),
    (
      lambda b: method().sample(
        method().init(jax.random.key(0), b), jax.random.split(jax.random.key(0), 2), label=jnp.zeros(2, int)
      ),
      "unconditional",
    ),
  ],
)
def test_bad_input(do, names):
  with pytest.raises(UserError, match=names):
    do(gaussian_batch(2))


def test_the_unet_fits():
  # Shapes alone: every method's test runs it.
  network = UNet(channels=8, multipliers=(1, 2), blocks=1, attention=(2,), dropout=0.1, classes=3, out_channels=1)
  made = averaged(method(network, shape=(4, 4, 1), classes=3, weighting=None, vlb=1.0, levels=17, terms=2), 0.9)
  batch = {"image": jnp.zeros((4, 4, 4, 1)), "label": jnp.zeros(4, jnp.int32), "index": jnp.arange(4)}
  key = jax.random.key(0)
  state = jax.eval_shape(made.init, key, batch)
  after, _ = jax.eval_shape(made.step, state, batch)
  assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(lambda x: (x.shape, x.dtype), state)
  assert jax.eval_shape(made.evaluate, state, batch, key)["nll_nats"].shape == (4,)
  assert jax.eval_shape(made.sample, state, jax.random.split(key, 3)).shape == (3, 4, 4, 1)
