import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxgen.core.errors import UserError
from jaxgen.core.keys import example_keys
from jaxgen.diffusion import edm, linear, rectified_flow, ve, vp
from jaxgen.diffusion.times import (
  by_loss,
  c_noise,
  log_normal,
  logit_normal,
  low_discrepancy,
  noise_level,
  noise_levels,
  steps_from_zero,
  thousandths,
  uniform,
)


def draw(times, n, seed=0, buffers=None):
  key = jax.random.key(seed)
  index = jnp.arange(n)
  return times.draw(times.init() if buffers is None else buffers, key, example_keys(key, index), index)


@pytest.mark.parametrize("schedule", [vp(), ve(), rectified_flow()], ids=["vp", "ve", "flow"])
def test_uniform_is_uniform_above_t_min(schedule):
  t, weight = draw(uniform(schedule, first=0.25), 4000)
  assert np.all(weight == 1)
  assert np.all((t > 0.25) & (t <= 1))
  assert stats.kstest(t, stats.uniform(0.25, 0.75).cdf).pvalue > 1e-3
  assert draw(uniform(schedule), 4000).t.min() < 0.01


def test_uniform_on_steps():
  t, _ = draw(uniform(linear(4, 0.1, 0.5)), 4000)
  values, counts = np.unique(t, return_counts=True)
  np.testing.assert_array_equal(values, [1, 2, 3, 4])
  assert stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize(("schedule", "bins", "last"), [(linear(1000), 1000, 1.0), (rectified_flow(1e-9), 2, 1e-9)])
def test_rounding_draws_no_time_beyond_the_last(schedule, bins, last, monkeypatch):
  """(bin + u) / bins is 1 in float32 where u is just below 1: that was t = 0, clean data, in 3e-5 of the draws of the
  last of 1,000 bins; and T - t_min may be T."""
  below = lambda key, shape=(): jnp.full(shape, np.nextafter(np.float32(1), np.float32(0)))
  monkeypatch.setattr(jax.random, "uniform", below)
  times = by_loss(schedule, bins, uniform_part=0.0)
  learned = times.init()
  learned = learned._replace(losses=learned.losses.at[-1].set(1.0), count=learned.count + 10)  # the last bin alone
  np.testing.assert_allclose(draw(times, 4, buffers=learned).t, last, rtol=1e-6)


def test_no_time_is_clean_data_where_the_noise_is_least():
  """sigmoid(-110) is 0 in float32."""
  t = draw(logit_normal(rectified_flow(), -110.0, 1e-3), 4).t
  np.testing.assert_allclose(t, 1e-6)
  np.testing.assert_array_equal(draw(logit_normal(linear(10, 0.1, 0.5), -110.0, 1e-3), 4).t, 1)


def test_low_discrepancy_puts_one_t_into_each_part():
  n = 64
  for schedule, low, high in ((rectified_flow(t_min=0.2), 0.2, 1.0), (vp(t_min=0.01), 0.01, 1.0)):
    t = np.sort(draw(low_discrepancy(schedule, n), n).t)
    np.testing.assert_allclose(np.diff(t), (high - low) / n, rtol=1e-3)
  steps = draw(low_discrepancy(linear(32, 0.01, 0.3), 64), 64).t
  np.testing.assert_array_equal(np.unique(steps, return_counts=True)[1], 2)
  # Over many batches each example's t is uniform.
  first = jax.vmap(lambda key: low_discrepancy(vp(), 8).draw({}, key, jax.random.split(key, 8), jnp.arange(8)).t[3])(
    jax.random.split(jax.random.key(1), 3000)
  )
  assert stats.kstest(first, stats.uniform(1e-3, 1 - 1e-3).cdf).pvalue > 1e-3


def test_log_normal():
  log_sigma = np.log(draw(log_normal(edm()), 4000).t)
  assert stats.kstest(log_sigma, stats.norm(-1.2, 1.2).cdf).pvalue > 1e-3
  # In another process it is sigma / alpha that is so distributed.
  t = draw(log_normal(vp(), -0.3, 0.5), 4000).t
  ratio = np.log(vp().sigma(t) / vp().alpha(t))
  assert stats.kstest(ratio, stats.norm(-0.3, 0.5).cdf).pvalue > 1e-3
  t = draw(log_normal(linear()), 4000).t
  assert np.all((t == np.round(t)) & (t >= 1) & (t <= 1000))


def test_logit_normal():
  t = np.asarray(draw(logit_normal(rectified_flow(), 0.5, 0.8), 4000).t, np.float64)
  assert stats.kstest(np.log(t / (1 - t)), stats.norm(0.5, 0.8).cdf).pvalue > 1e-3
  t = draw(logit_normal(linear()), 4000).t
  assert np.all((t == np.round(t)) & (t >= 1) & (t <= 1000))


def test_noise_levels_are_uniform_between_steps():
  """Chen et al. 2020, Algorithm 1: each step is as likely, and sqrt(alpha_bar) is uniform between its ends."""
  schedule, keys = linear(10, 0.01, 0.3), jax.random.split(jax.random.key(0), 5_000)
  t = np.asarray(noise_levels(schedule).draw({}, keys[0], keys, jnp.arange(5_000)).t)
  step = np.ceil(t)
  assert stats.chisquare(np.bincount(step.astype(int), minlength=11)[1:]).pvalue > 0.01
  alpha_bar = np.cumprod([1.0, *(1 - np.linspace(0.01, 0.3, 10))])
  ends = np.sqrt(alpha_bar)[np.stack([step, step - 1]).astype(int)]
  level = np.asarray(noise_level(schedule.at(jnp.asarray(t)))) / 1000
  assert stats.kstest((level - ends[0]) / (ends[1] - ends[0]), "uniform").pvalue > 0.01
  with pytest.raises(UserError, match="discrete"):
    noise_levels(vp())


def test_a_time_is_the_examples_own():
  for times in (uniform(vp()), log_normal(edm()), logit_normal(rectified_flow()), low_discrepancy(vp(), 16)):
    key = jax.random.key(3)
    keys, index = example_keys(key, jnp.arange(16)), jnp.arange(16)
    whole = times.draw({}, key, keys, index).t
    np.testing.assert_array_equal(times.draw({}, key, keys[5:9], index[5:9]).t, whole[5:9])
    assert len(np.unique(whole)) == 16


class Resampler:
  """Nichol and Dhariwal 2021, eq. 18, as a reader would write it: lists of the last ten losses."""

  def __init__(self, bins, last):
    self.losses, self.last = [[] for _ in range(bins)], last

  def add(self, bins, losses):
    for b, loss in zip(bins, losses, strict=True):
      self.losses[b] = (self.losses[b] + [loss])[-self.last :]

  def p(self):
    if any(len(losses) < self.last for losses in self.losses):
      return np.full(len(self.losses), 1 / len(self.losses))
    root = np.array([np.sqrt(np.mean(np.square(losses))) for losses in self.losses])
    return 0.999 * root / root.sum() + 0.001 / len(root)


@pytest.mark.parametrize("schedule", [linear(6, 0.05, 0.5), vp()], ids=["discrete", "continuous"])
def test_importance_sampling_by_loss(schedule):
  bins, last = 6, 3
  times, reference = by_loss(schedule, bins=bins, last=last), Resampler(bins, last)
  buffers = times.init()
  rng = np.random.default_rng(0)
  update = jax.jit(times.update)
  for i in range(12):
    t, weight = draw(times, 16, seed=i, buffers=buffers)
    span = schedule.T - (0 if schedule.steps else schedule.t_min)
    which = np.clip(np.floor((schedule.T - np.asarray(t, np.float64)) / span * bins), 0, bins - 1).astype(int)
    np.testing.assert_allclose(weight, 1 / (bins * reference.p()[which]), rtol=1e-4)
    loss = rng.exponential(np.arange(1, 7)[which]).astype(np.float32)
    buffers = update(buffers, t, jnp.asarray(loss))
    reference.add(which, loss)
  assert not np.allclose(reference.p(), 1 / bins)
  # An estimate weighted so keeps its mean, and t follows p.
  t, weight = draw(times, 40_000, seed=99, buffers=buffers)
  np.testing.assert_allclose(np.mean(weight * (t / schedule.T) ** 2), {6: 91 / 216}.get(schedule.T, 1 / 3), rtol=0.03)
  counts = np.bincount(np.clip(np.floor((schedule.T - np.asarray(t)) / span * bins), 0, bins - 1).astype(int))
  assert stats.chisquare(counts, 40_000 * reference.p()).pvalue > 1e-4
  assert not times.mean


def test_what_the_network_is_told():
  np.testing.assert_array_equal(steps_from_zero(linear().at(jnp.asarray([1.0, 1000.0]))), [0, 999])
  np.testing.assert_allclose(thousandths(vp().at(jnp.asarray([0.5]))), 499.5)
  np.testing.assert_allclose(c_noise(edm().at(jnp.asarray([0.002, 1.0, 80.0]))), np.log([0.002, 1, 80]) / 4, rtol=1e-5)


@pytest.mark.parametrize(
  ("make", "names"),
  [
    (lambda: low_discrepancy(vp(), 0), "not 0"),
    (lambda: log_normal(edm(), std=0.0), "std"),
    (lambda: logit_normal(vp(), std=-1.0), "std"),
    (lambda: by_loss(linear(10, 0.01, 0.5), bins=3), "divide"),
  ],
)
def test_bad_input(make, names):
  with pytest.raises(UserError, match=names):
    make()


def test_c_noise_is_finite_without_signal():
  process = rectified_flow()
  t = jnp.asarray([0.25, 1.0])
  np.testing.assert_allclose(c_noise(process.at(t)), [jnp.log(0.25 / 0.75) / 4, 30 / 8], rtol=1e-6)
