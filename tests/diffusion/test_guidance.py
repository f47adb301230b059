"""Guidance on a mixture of two classes, whose denoisers, with and without class, and classifier are known exactly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from processes import EVERY

from jaxgen.core.errors import UserError
from jaxgen.diffusion import ddim, log_snr, rectified_flow, sample, vp
from jaxgen.diffusion.closed_form import Mixture
from jaxgen.diffusion.guidance import autoguidance, classifier, classifier_free, clipped, thresholded

rng = np.random.default_rng(0)
SHARE = np.array([0.3, 0.7])  # of the classes
CLASSES = [
  Mixture(np.array([0.4, 0.6]), rng.normal(size=(2, 3, 2)), rng.uniform(0.2, 0.6, (2, 3, 2))),
  Mixture(np.array([1.0]), rng.normal(size=(1, 3, 2)), rng.uniform(0.2, 0.6, (1, 3, 2))),
]
EVERYTHING = Mixture(
  np.concatenate([share * each.weights for share, each in zip(SHARE, CLASSES, strict=True)]),
  np.concatenate([each.means for each in CLASSES]),
  np.concatenate([each.stds for each in CLASSES]),
)
NONE = 2  # the label that stands for no label
SCHEDULES = {name: EVERY[name] for name in ("vp", "ve", "rectified_flow", "linear")}


def network(schedule):
  """(x [2N, 3, 2], t, label [2N]) -> (x_0, eps, 10 label + x): a perfect one, with something after (x_0, eps)."""

  def predict(x, t, label):
    each = jnp.stack([jnp.stack(m.denoiser(schedule)(x, t)) for m in (*CLASSES, EVERYTHING)])  # [3, 2, 2N, ...]
    x_0, eps = each[label, :, jnp.arange(len(x))].swapaxes(0, 1)
    return x_0, eps, 10 * label[:, None, None] + x

  return predict


def points(schedule, n=6, of=0.6, seed=0):
  """x [n, 3, 2] at a time where sigma / alpha = of, and that time."""
  t = jnp.asarray(schedule.time(np.array([-2 * np.log(of)]))[0])
  scale = jnp.hypot(schedule.alpha(t), schedule.sigma(t))
  return scale * jax.random.normal(jax.random.key(seed), (n, 3, 2)), t


LABEL = jnp.array([0, 1, 1, 0, 1, 0])


def log_densities(schedule, t):
  return [lambda x, m=m: m.at(schedule, t).log_density(x[None])[0] for m in (*CLASSES, EVERYTHING)]


def bits(v):
  return np.asarray(v).view(np.uint32)


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("name", SCHEDULES)
def test_classifier_free_guidance_is_a_sum_of_scores(name, weight, x64):
  # Ho and Salimans 2022, eq. 6: grad of w log p(x | y) - (w - 1) log p(x), here by autodiff of the densities.
  schedule = SCHEDULES[name]
  x, t = points(schedule)
  x_0, eps, _ = classifier_free(network(schedule), schedule, LABEL, NONE, weight)(x, t)
  *given, anything = log_densities(schedule, t)
  for i in range(len(x)):
    score = weight * jax.grad(given[LABEL[i]])(x[i]) - (weight - 1) * jax.grad(anything)(x[i])
    np.testing.assert_allclose(eps[i], -schedule.sigma(t) * score, rtol=1e-8, atol=1e-9)
  np.testing.assert_allclose(schedule.alpha(t) * x_0 + schedule.sigma(t) * eps, x, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("scale", [0.0, 1.0, 2.5])
@pytest.mark.parametrize("name", SCHEDULES)
def test_classifier_guidance(name, scale, x64):
  # With the exact classifier, p(y | x) = p(y) p(x | y) / p(x): scale 1 turns the unconditional denoiser into the
  # conditional one, and scale s into classifier-free guidance of weight s.
  schedule = SCHEDULES[name]
  x, t = points(schedule)

  def log_p(x, t):
    each = jnp.stack([m.at(schedule, t).log_density(x) for m in CLASSES], 1) + jnp.log(SHARE)
    return jax.nn.log_softmax(each)[jnp.arange(len(x)), LABEL]

  got = classifier(EVERYTHING.denoiser(schedule), schedule, log_p, scale)(x, t)
  conditional = [m.denoiser(schedule)(x, t) for m in CLASSES]
  plain = EVERYTHING.denoiser(schedule)(x, t)
  for i in range(len(x)):
    for k in range(2):
      expected = plain[k][i] + scale * (conditional[LABEL[i]][k][i] - plain[k][i])
      np.testing.assert_allclose(got[k][i], expected, rtol=1e-8, atol=1e-9)


def test_classifier_guidance_where_there_is_no_signal():
  # Rectified flow at t = 1: whatever the classifier says, x_0 stays finite, and the results make x_t.
  schedule, x = rectified_flow(), jax.random.normal(jax.random.key(0), (6, 3, 2))
  denoise, t = EVERYTHING.denoiser(schedule), jnp.asarray(1.0)
  x_0, eps = classifier(denoise, schedule, lambda x, t: -jnp.sum(x**2, (1, 2)), 2.0)(x, t)
  np.testing.assert_array_equal(x_0, denoise(x, t)[0])
  np.testing.assert_array_equal(eps, denoise(x, t)[1])


def test_classifier_guidance_passes_on_what_follows():
  schedule = vp()
  x, t = points(schedule)
  denoise = lambda x, t: (x, x, 3 * x)
  weights = jnp.arange(6.0)
  x_0, _, more = classifier(denoise, schedule, lambda x, t: jnp.sum(x, (1, 2)), weights)(x, t)
  np.testing.assert_array_equal(more, 3 * x)
  alpha, sigma = schedule.alpha(t), schedule.sigma(t)
  np.testing.assert_allclose((x_0 - x)[:, 0, 0], sigma**2 / alpha * weights, rtol=1e-4, atol=1e-5)  # one per sample


@pytest.mark.parametrize("weight", [0.0, 0.5, 2.0])
def test_autoguidance(weight, x64):
  # Karras et al. 2024, eq. 3: D_w = w D_1 + (1 - w) D_0, the guide D_0 here one of wider data.
  schedule = vp()
  x, t = points(schedule)
  main = EVERYTHING.denoiser(schedule)
  guide = EVERYTHING._replace(stds=2 * EVERYTHING.stds).denoiser(schedule)
  got = autoguidance(main, guide, schedule, weight)(x, t)
  for k in range(2):
    np.testing.assert_allclose(got[k], weight * main(x, t)[k] + (1 - weight) * guide(x, t)[k], rtol=1e-9, atol=1e-12)


def special():
  """Outputs [6, 3, 2] with all that arithmetic may lose: -0, huge, tiny, and a worse prediction that is not finite."""
  values = jax.random.normal(jax.random.key(3), (4, 6, 3, 2))
  values = values.at[:2, :, 0, 0].set(-0.0).at[:2, :, 1, 0].set(1e30).at[:2, :, 2, 0].set(1e-38)
  return values.at[2:, :, 0, 1].set(jnp.inf).at[2:, :, 1, 1].set(jnp.nan)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(
  "options", [{}, {"interval": (0.1, 5.0)}, {"rescale": 0.7}], ids=["plain", "interval", "rescale"]
)
def test_weight_one_is_the_conditional_bit_for_bit(compiled, options):
  schedule = vp()
  x, t = points(schedule)
  a, b, c, d = special()
  guided = lambda w: autoguidance(lambda x, t: (a, b), lambda x, t: (c, d), schedule, w, **options)(x, t)
  free = lambda w: classifier_free(
    lambda x, t, label: tuple(jnp.stack(v, 1).reshape(12, 3, 2) for v in ((a, c), (b, d))),
    schedule,
    LABEL,
    NONE,
    w,
    **options,
  )(x, t)
  for of in (guided, free):
    for got, expected in zip((jax.jit(of) if compiled else of)(1.0), (a, b), strict=True):
      np.testing.assert_array_equal(bits(got), bits(expected))
  # One per sample: those with 1 keep their bits, the others do not.
  w = jnp.array([1.0, 2.0, 1.0, 0.0, 1.0, 1.5])
  for got, expected in zip((jax.jit(guided) if compiled else guided)(w), (a, b), strict=True):
    same = (bits(got) == bits(expected)).all((1, 2))
    np.testing.assert_array_equal(same, w == 1)


def test_a_sample_of_weight_one_is_the_conditional_sample_bit_for_bit():
  schedule = vp()
  times, keys = log_snr(schedule, 6), jax.random.split(jax.random.key(0), 6)
  x = jax.random.normal(jax.random.key(1), (6, 3, 2))
  twice = lambda label: classifier_free(network(schedule), schedule, LABEL, label, 1.0)
  run = lambda denoise: sample(ddim(schedule, 0.5), denoise, times, x, keys)

  def alone(x, t):
    both = network(schedule)(jnp.repeat(x, 2, 0), t, jnp.repeat(LABEL, 2))
    return tuple(v[::2] for v in both)

  np.testing.assert_array_equal(bits(run(twice(NONE))), bits(run(alone)))


def test_both_predictions_are_one_call():
  schedule, calls = vp(), []
  x, t = points(schedule)

  def predict(x, t, label):
    calls.append((x, t, label))
    return x + label["class"][:, None, None], x - label["text"].sum(1)[:, None, None], label["class"]

  label = {"class": jnp.arange(6.0), "text": jnp.ones((6, 4))}
  none = {"class": jnp.full(6, -1.0), "text": jnp.zeros(4)}
  x_0, eps, extra = classifier_free(predict, schedule, label, none, jnp.asarray(2.0))(x, t)
  ((x_2, _, label_2),) = calls
  np.testing.assert_array_equal(x_2, jnp.repeat(x, 2, 0))
  np.testing.assert_array_equal(
    label_2["class"], [0, -1, 1, -1, 2, -1, 3, -1, 4, -1, 5, -1]
  )  # a sample's are neighbours
  np.testing.assert_array_equal(label_2["text"][:, 0], [1, 0] * 6)
  np.testing.assert_allclose(x_0 - x, jnp.broadcast_to((2 * jnp.arange(6.0) + 1)[:, None, None], x.shape), rtol=1e-5)
  np.testing.assert_allclose(eps - x, -8 * jnp.ones_like(x), rtol=1e-5)
  np.testing.assert_array_equal(extra, label["class"])  # what follows is the conditional's


def test_one_time_per_sample(x64):
  # As the adaptive solver calls it.
  schedule, options = vp(), {"rescale": 0.5, "interval": (0.3, 1.0)}
  x, _ = points(schedule)
  t = jnp.asarray(schedule.time(-2 * np.log(np.array([0.1, 0.31, 0.5, 0.9, 0.99, 1.5]))))
  guided = clipped(classifier_free(network(schedule), schedule, LABEL, NONE, 2.0, **options), schedule)
  together = guided(x, t)
  log_p = lambda x, t: -jnp.sum(x**2, (1, 2))
  pushed = classifier(EVERYTHING.denoiser(schedule), schedule, log_p)
  for i in range(6):
    at = slice(i, i + 1)
    alone = clipped(classifier_free(network(schedule), schedule, LABEL[at], NONE, 2.0, **options), schedule)(
      x[at], t[i]
    )
    for a, b in zip(together, alone, strict=True):
      np.testing.assert_allclose(a[at], b, rtol=1e-9, atol=1e-12)
    for a, b in zip(pushed(x, t), pushed(x[at], t[i]), strict=True):
      np.testing.assert_allclose(a[at], b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("phi", [0.3, 1.0])
def test_rescale(phi, x64):
  # Lin et al. 2023, section 3.4: a sample's standard deviation goes the fraction phi of the way back, by a factor.
  schedule = vp()
  x, t = points(schedule, of=1.0)
  plain = classifier_free(network(schedule), schedule, LABEL, NONE, 4.0)(x, t)
  conditional = classifier_free(network(schedule), schedule, LABEL, NONE, 1.0)(x, t)
  x_0, eps, _ = classifier_free(network(schedule), schedule, LABEL, NONE, 4.0, rescale=phi)(x, t)
  std = lambda v: np.std(np.asarray(v).reshape(6, -1), axis=1)
  np.testing.assert_allclose(std(x_0), phi * std(conditional[0]) + (1 - phi) * std(plain[0]), rtol=1e-9)
  factor = x_0 / plain[0]
  np.testing.assert_allclose(factor, np.broadcast_to(factor[:, :1, :1], x.shape), rtol=1e-9)
  np.testing.assert_allclose(schedule.alpha(t) * x_0 + schedule.sigma(t) * eps, x, rtol=1e-8, atol=1e-9)
  assert np.all(np.abs(std(plain[0]) / std(conditional[0]) - 1) > 0.01)


def test_rescale_of_a_constant_is_not_nan():
  schedule = vp()
  x, t = points(schedule)
  flat = lambda value: lambda x, t: (jnp.full_like(x, value), x)
  x_0, eps = autoguidance(flat(0.3), flat(0.1), schedule, 2.0, rescale=1.0)(x, t)
  np.testing.assert_allclose(x_0, jnp.full_like(x, 0.5), rtol=1e-6)
  assert jnp.all(jnp.isfinite(eps))


@pytest.mark.parametrize("name", SCHEDULES)
def test_interval(name, x64):
  # Kynkäänniemi et al. 2024, eq. 6: guidance where low < sigma / alpha <= high.
  schedule = SCHEDULES[name]
  for of, inside in [(0.2, False), (0.5, True), (1.5, True), (3.0, False)]:
    x, t = points(schedule, of=of)
    r = float(schedule.sigma(t) / schedule.alpha(t))
    for interval, guided in [((0.4, 2.0), inside), ((r, 9.0), False), ((0.0, r), True), ((0.0, float("inf")), True)]:
      make = lambda w, interval=None: classifier_free(network(schedule), schedule, LABEL, NONE, w, interval=interval)
      got = make(3.0, interval)(x, t)
      for a, b in zip(got, make(3.0 if guided else 1.0)(x, t), strict=True):
        np.testing.assert_array_equal(a, b)
      assert jnp.abs(got[0] - make(1.0 if guided else 3.0)(x, t)[0]).max() > 1e-3


def test_interval_where_there_is_no_signal():
  schedule, x, t = rectified_flow(), jnp.ones((6, 3, 2)), jnp.asarray(1.0)  # sigma / alpha is infinite
  make = lambda w, interval: classifier_free(network(schedule), schedule, LABEL, NONE, w, interval=interval)(x, t)[0]
  np.testing.assert_array_equal(make(3.0, (0.1, 5.0)), make(1.0, None))
  np.testing.assert_array_equal(make(3.0, (0.1, float("inf"))), make(3.0, None))


def test_no_compilation_for_another_weight_or_label():
  schedule, traced = vp(), []
  x, t = points(schedule)

  @jax.jit
  def run(w, label, x):
    traced.append(w)
    denoise = classifier_free(network(schedule), schedule, label, NONE, w, rescale=0.5, interval=(0.1, 3.0))
    return sample(ddim(schedule), denoise, log_snr(schedule, 4), x, jax.random.split(jax.random.key(0), 6))

  a, b = run(1.0, LABEL, x), run(2.5, 1 - LABEL, x)
  assert len(traced) == 1
  assert jnp.abs(a - b).max() > 0.01


def test_clipped_after_guidance(x64):
  schedule = vp()
  x, t = points(schedule, of=0.3)
  guided = classifier_free(network(schedule), schedule, LABEL, NONE, 5.0)
  assert jnp.abs(guided(x, t)[0]).max() > 1
  x_0, eps, extra = clipped(guided, schedule)(x, t)
  np.testing.assert_array_equal(x_0, guided(x, t)[0].clip(-1, 1))
  np.testing.assert_allclose(schedule.alpha(t) * x_0 + schedule.sigma(t) * eps, x, rtol=1e-12)
  np.testing.assert_array_equal(extra, guided(x, t)[2])
  assert float(clipped(guided, schedule, -0.2, 0.1)(x, t)[0].min()) == -0.2


def test_dynamic_thresholding(x64):
  """Imagen, section 2.3: numpy's percentile of each example alone; nothing changes where |x_0| <= 1 everywhere."""
  schedule, t = vp(), jnp.asarray(0.4)
  x, predicted = np.random.default_rng(0).normal(size=(2, 5, 3, 4, 2))
  predicted *= np.array([0.1, 0.3, 1.0, 3.0, 9.0])[:, None, None, None]
  predicted[1] = np.clip(predicted[1], -1, 1)
  predicted[1, 0, 0] = (1, -1)
  for percentile in (30.0, 95.0, 100.0):
    x_0, eps, extra = thresholded(lambda x, t: (jnp.asarray(predicted), x, x), schedule, percentile)(jnp.asarray(x), t)
    for got, want in zip(x_0, predicted, strict=True):
      s = max(np.percentile(np.abs(want).ravel(), percentile), 1.0)
      np.testing.assert_allclose(got, np.clip(want, -s, s) / s, rtol=1e-12)
    np.testing.assert_array_equal(x_0[:2], predicted[:2])
    assert np.abs(x_0).max() <= 1
    np.testing.assert_allclose(schedule.alpha(t) * x_0 + schedule.sigma(t) * eps, x, rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(extra, x)
  assert np.abs(x_0[4] - predicted[4].clip(-1, 1)).max() > 0.1  # it is not static thresholding
  for wrong in (0.0, 100.5):
    with pytest.raises(UserError, match="percentile"):
      thresholded(lambda x, t: (x, x), schedule, wrong)


@pytest.mark.parametrize(
  ("options", "names"),
  [
    ({"rescale": 1.5}, "fraction between 0"),
    ({"rescale": -0.1}, "fraction between 0"),
    ({"interval": (2.0, 1.0)}, "0 <= low < high"),
    ({"interval": (-1.0, 1.0)}, "0 <= low < high"),
  ],
)
def test_bad_input(options, names):
  with pytest.raises(UserError, match=names):
    classifier_free(network(vp()), vp(), LABEL, NONE, 2.0, **options)
