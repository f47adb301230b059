from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from processes import EVERY

from jaxgen import diffusion
from jaxgen.core.errors import UserError
from jaxgen.diffusion import GRIDS, edm, learned, linear, rectified_flow, vp, zero_terminal_snr
from jaxgen.diffusion.grids import HIGHEST

UNIFORM = ["leading", "trailing", "linspace"]


def ratio(schedule, t):
  return schedule.sigma(t) / schedule.alpha(t)


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("of", EVERY)
def test_every_grid_descends_to_clean_data(name, of):
  schedule = EVERY[of]
  for n in (1, 2, 3, 10, schedule.steps or 3000):
    times = GRIDS[name](schedule, n)
    assert times.shape == (n + 1,)
    assert times.dtype == np.float64
    assert times[-1] == 0
    assert np.all(np.diff(times) < 0)
    assert times[0] <= schedule.T
    assert times[-2] > 0
    if name != "trailing":
      assert times[-2] >= schedule.t_min * (1 - 1e-9)
    if name != "leading" and not (name == "linspace" and n == 1):
      assert times[0] == schedule.T
    if name != "trailing" and n > 1 + schedule.is_noise(schedule.T):
      np.testing.assert_allclose(times[-2], schedule.t_min, rtol=1e-6)


@pytest.mark.parametrize("name", UNIFORM)
@pytest.mark.parametrize("T", [1, 10, 99, 1000])
def test_grids_of_discrete_steps(name, T):
  schedule = linear(T)
  for n in range(1, T + 1, max(1, T // 100)):
    times = GRIDS[name](schedule, n)
    assert T >= times[0] >= times[-2] >= 1
    assert np.all(np.diff(times) <= -1)
    np.testing.assert_array_equal(times, np.round(times))
    if name == "trailing" or (name == "linspace" and n > 1):
      assert times[0] == T
    if name in ("leading", "linspace"):
      assert times[-2] == 1
  np.testing.assert_array_equal(GRIDS[name](schedule, T), np.arange(T, -1, -1))


def test_uniform_grids_in_continuous_time():
  schedule = vp(t_min=0.01)
  np.testing.assert_allclose(diffusion.trailing(schedule, 4), [1, 0.75, 0.5, 0.25, 0])
  np.testing.assert_allclose(diffusion.leading(schedule, 4), [0.7525, 0.505, 0.2575, 0.01, 0])
  np.testing.assert_allclose(diffusion.linspace(schedule, 4), [1, 0.67, 0.34, 0.01, 0])


def test_karras_as_published():
  # The noise levels of EDM's 18 steps (35 evaluations): diffusers' EDMEulerScheduler, rho = 7, as it prints them.
  expected = [80, 57.585983, 40.785572, 28.374584, 19.352453, 12.910083, 8.4009352, 5.3151946, 3.2568216, 1.9233398]
  expected += [1.0881706, 0.58534813, 0.29644227, 0.13951647, 0.059947312, 0.022934519, 0.0075280201, 0.002, 0]
  np.testing.assert_allclose(diffusion.karras(edm(), 18), expected, rtol=1e-6)


@pytest.mark.parametrize("of", EVERY)
def test_what_is_equidistant(of):
  schedule = EVERY[of]
  even = lambda values: np.testing.assert_allclose(np.diff(values), np.diff(values).mean(), rtol=1e-6)
  first = 1 if schedule.is_noise(schedule.T) else 0  # of the grids in sigma / alpha
  even(np.log(ratio(schedule, diffusion.log_snr(schedule, 12)[first:-1])))
  for rho in (3.0, 7.0):
    even(ratio(schedule, diffusion.karras(schedule, 12, rho)[first:-1]) ** (1 / rho))
  even(np.sqrt(diffusion.quadratic(schedule, 12)[:-1]))
  for a, b in ((0.6, 0.6), (1.0, 3.0)):
    t = diffusion.beta(schedule, 12, a, b)[:-1]
    even(scipy.stats.beta.cdf((t - schedule.t_min) / (schedule.T - schedule.t_min), a, b))


@pytest.mark.parametrize("schedule", [rectified_flow(), zero_terminal_snr(linear())], ids=["flow", "zero snr"])
@pytest.mark.parametrize("name", ["log_snr", "karras"])
def test_grids_in_noise_where_there_is_no_signal(schedule, name):
  times = GRIDS[name](schedule, 10)
  assert times[0] == schedule.T
  np.testing.assert_allclose(ratio(schedule, times[1:2]), HIGHEST, rtol=1e-9)
  np.testing.assert_allclose(ratio(schedule, times[-2:-1]), ratio(schedule, np.array([schedule.t_min])), rtol=1e-9)
  np.testing.assert_array_equal(GRIDS[name](schedule, 1), [schedule.T, 0])


@pytest.mark.parametrize("name", GRIDS)
def test_learned_schedules(name):
  # log-SNR from 5 down to -6, traced: the grid is a function of the parameters.
  grid = jax.jit(lambda b: GRIDS[name](learned(lambda t: -5 + b * t), 6))
  times = grid(11.0)
  assert times.shape == (7,)
  assert times[-1] == 0
  assert jnp.all(jnp.diff(times) < 0)
  if name == "log_snr":
    np.testing.assert_allclose(times, np.linspace(1, 0, 7), atol=1e-5)


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("n", [0, -1, 11])
def test_bad_input(name, n):
  with pytest.raises(UserError, match=f"1 to 10 steps on this schedule, not {n}" if n > 10 else f"not {n}"):
    GRIDS[name](linear(10), n)


@pytest.mark.parametrize("name", GRIDS)
def test_bad_t_min(name):
  for t_min in (-0.1, 1.0):
    with pytest.raises(UserError, match="t_min lies between 0 and 1"):
      GRIDS[name](vp(t_min=t_min), 4)
  if name in ("log_snr", "karras"):
    with pytest.raises(UserError, match="t_min is 0"):
      GRIDS[name](vp(t_min=0.0), 4)


def test_bad_options():
  with pytest.raises(UserError, match="rho"):
    diffusion.karras(vp(), 10, rho=0.0)
  with pytest.raises(UserError, match="beta distribution"):
    diffusion.beta(vp(), 10, b=-1.0)


def test_names_are_the_tables():
  assert get_args(diffusion.GridName) == tuple(diffusion.GRIDS)
  assert get_args(diffusion.ScheduleName) == tuple(diffusion.SCHEDULES)
  assert get_args(diffusion.SolverName) == tuple(diffusion.SOLVERS)
  assert get_args(diffusion.PredictionName) == tuple(diffusion.PREDICTIONS)
