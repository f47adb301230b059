import pathlib
from typing import get_args

import numpy as np
import pytest

from jaxgen import diffusion
from jaxgen.diffusion import GRIDS, linear
from jaxgen.errors import UserError

FIXTURE = np.load(pathlib.Path(__file__).parents[1] / "fixtures/schedulers.npz")


@pytest.mark.parametrize("name", GRIDS)
def test_diffusers_agrees(name):
  schedule = linear(100, 1e-3, 0.2)
  compared = 0
  for key in FIXTURE:
    if key.startswith(f"grid/{name}/"):
      timesteps, n = FIXTURE[key], int(key.split("/")[-1])
      np.testing.assert_array_equal(GRIDS[name](schedule, n), [*(timesteps + 1), 0], err_msg=key)
      compared += 1
  assert compared == 7


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("T", [1, 10, 99, 1000])
def test_every_grid_descends_to_clean_data(name, T):
  schedule = linear(T)
  for n in range(1, T + 1, max(1, T // 100)):
    times = GRIDS[name](schedule, n)
    assert times.shape == (n + 1,)
    assert times.dtype == np.float64
    assert times[-1] == 0
    assert T >= times[0] >= times[-2] >= 1
    assert np.all(np.diff(times) <= -1)
    np.testing.assert_array_equal(times, np.round(times))
    if name == "trailing" or (name == "linspace" and n > 1):
      assert times[0] == T
    if name in ("leading", "linspace"):
      assert times[-2] == 1
  np.testing.assert_array_equal(GRIDS[name](schedule, T), np.arange(T, -1, -1))


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("n", [0, -1, 11])
def test_bad_input(name, n):
  with pytest.raises(UserError, match=f"1 to 10 steps on this schedule, not {n}"):
    GRIDS[name](linear(10), n)


def test_names_are_the_tables():
  assert get_args(diffusion.GridName) == tuple(diffusion.GRIDS)
  assert get_args(diffusion.ScheduleName) == tuple(diffusion.SCHEDULES)
  assert get_args(diffusion.SolverName) == tuple(diffusion.SOLVERS)
  assert get_args(diffusion.PredictionName) == tuple(diffusion.PREDICTIONS)
