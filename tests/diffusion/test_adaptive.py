"""The adaptive solver: exact to its tolerance, each sample with its own steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from processes import EVERY

from jaxgen.core.errors import UserError
from jaxgen.diffusion import adaptive, karras, log_snr, rectified_flow, sample, vp
from jaxgen.diffusion.convergence import MIXTURE

N = 12
KEYS = jax.random.split(jax.random.key(0), N)


def start(schedule):
  return schedule.prior_std * jax.random.normal(jax.random.key(1), (N, 1))


def draw(schedule, times, x, denoise=None, **options):
  denoise = denoise or MIXTURE.denoiser(schedule)
  return jax.jit(lambda x: sample(adaptive(schedule, **options), denoise, times, x, KEYS[: len(x)]))(x)


@pytest.mark.parametrize("name", ["sub_vp", "edm", "linear", "zero_terminal_snr"])
def test_it_is_exact_to_its_tolerance(name, x64):
  schedule = EVERY[name]
  times = log_snr(schedule, 5)[1:-1]  # from some signal to some noise; of the times between nothing is seen
  x = jnp.hypot(schedule.alpha(times[:1]), schedule.sigma(times[:1])) * jax.random.normal(KEYS[0], (N, 1))
  exact = MIXTURE.transport(schedule, x, times[0], times[-1])
  close, closer = draw(schedule, times, x), draw(schedule, times, x, rtol=1e-9, atol=1e-9)
  assert jnp.median(jnp.abs(close - exact)) < 1e-4
  assert 1e-6 < jnp.abs(close - exact).max() < 1e-2
  assert jnp.abs(closer - exact).max() < 1e-7
  np.testing.assert_array_equal(close, draw(schedule, times[[0, -1]], x))


@pytest.mark.parametrize("name", ["vp", "rectified_flow"])
def test_the_ends_are_first_order_steps(name, x64):
  schedule = EVERY[name]
  times, x, denoise = log_snr(schedule, 6), start(schedule), MIXTURE.denoiser(schedule)
  expected, first = x, 0
  if schedule.is_noise(times[0]):
    x_0, eps = denoise(x, jnp.asarray(times[0]))
    expected, first = schedule.alpha(times[1:2]) * x_0 + schedule.sigma(times[1:2]) * eps, 1
  expected = MIXTURE.transport(schedule, expected, times[first], times[-2])
  x_0, _ = denoise(expected, jnp.asarray(times[-2]))
  np.testing.assert_allclose(draw(schedule, times, x, rtol=1e-9, atol=1e-9), x_0, atol=1e-6)


def test_a_sample_has_its_own_steps_and_its_own_conditions(x64):
  # Data of width `widths`, one for each sample, so that their ODEs are not equally hard.
  schedule, widths, x = vp(), jnp.geomspace(1e-3, 3, N), start(vp())
  times, seen = karras(schedule, 8)[:-1], []

  def denoise(x, t, widths=widths):
    jax.debug.callback(lambda t: seen.append(np.array(t)), t)
    alpha, sigma, width = (a.reshape(-1, 1) for a in (schedule.alpha(t), schedule.sigma(t), widths))
    scale = x / ((alpha * width) ** 2 + sigma**2)
    return alpha * width**2 * scale, sigma * scale

  got = draw(schedule, times, x, denoise)
  jax.effects_barrier()
  steps = [len(np.unique(np.stack([t for t in seen if t.shape == (N,)])[:, i])) for i in (0, N - 1)]
  assert steps[0] > 2 * steps[1]
  std = lambda t: np.sqrt((schedule.alpha(t) * np.asarray(widths)) ** 2 + schedule.sigma(t) ** 2)[:, None]
  np.testing.assert_allclose(got, x * std(times[-1:]) / std(times[:1]), rtol=1e-3, atol=1e-3)
  alone = draw(schedule, times, x[-2:], lambda x, t: denoise(x, t, widths[-2:]))
  np.testing.assert_allclose(alone, got[-2:], rtol=1e-12)


def test_parameters_may_be_traced():
  # As where a model is sampled: the network's parameters and the labels are arguments of a compiled function.
  schedule, x = rectified_flow(), start(rectified_flow())

  def run(x, scale, label):
    denoise = lambda x, t: tuple(scale * label.reshape(-1, 1) * a for a in MIXTURE.denoiser(schedule)(x, t))
    return sample(adaptive(schedule), denoise, log_snr(schedule, 6), x, KEYS)

  got = jax.jit(run)(x, jnp.float32(1.0), jnp.arange(N) % 2)
  assert got.dtype == jnp.float32
  np.testing.assert_allclose(got[1::2], draw(schedule, log_snr(schedule, 6), x)[1::2], atol=1e-4)
  np.testing.assert_allclose(got[::2], 0, atol=1e-6)


def test_what_does_not_finish_is_nan():
  schedule = vp()
  assert jnp.all(jnp.isnan(draw(schedule, log_snr(schedule, 6), start(schedule), max_steps=3)))


def test_bad_input():
  with pytest.raises(UserError, match="tolerances above 0 and at least 1 step, not rtol 0,"):
    adaptive(vp(), rtol=0.0)
  with pytest.raises(UserError, match="and 0 steps"):
    adaptive(vp(), max_steps=0)
  with pytest.raises(UserError, match="float32 has no digits for a relative error of 1e-07"):
    draw(vp(), log_snr(vp(), 6), start(vp()), rtol=1e-7)
