from types import SimpleNamespace

import jax
import numpy as np
import pytest

from jaxgen import data
from jaxgen.core.errors import UserError
from jaxgen.data.sources import modes
from jaxgen.evaluation.modes import coverage, modes_covered


def test_samples_count_for_the_nearest_centre_within_three_deviations():
  centres = np.array([[0.0, 0.0], [1.0, 0.0]])
  x = np.array([[0.29, 0.0], [0.31, 0.0], [0.0, -0.2], [1.2, 0.2], [1.0, 0.5]])
  np.testing.assert_allclose(coverage(x, centres, 0.1), [2 / 5, 1 / 5])
  # So wide that both are near: each sample counts once.
  np.testing.assert_allclose(coverage(x, centres, 1.0), [3 / 5, 2 / 5])


def run_of(samples, name="points:ring8:0.02"):
  return SimpleNamespace(data=SimpleNamespace(name=name), sample=lambda n, seed: samples[:n])


def test_the_data_itself_covers_its_modes():
  grid = data.Dataset("points:grid25:0.05", {"x": jax.ShapeDtypeStruct((2,), np.float32)})
  x = grid.source("test").arrays["x"]
  numbers = modes_covered(10_000)(run_of(x, "points:grid25:0.05"))
  assert numbers["modes_hit_10000"] == 25
  assert abs(numbers["share_within_3_sigma_10000"] - (1 - np.exp(-4.5))) < 0.005
  assert 0.8 < numbers["least_mode_10000"] < 1


def test_modes_that_are_missed():
  x = modes("ring8")[[0] * 6 + [3] * 2] + [0.01, 0]
  expected = {"modes_hit_8": 2, "share_within_3_sigma_8": 1, "least_mode_8": 0}
  assert modes_covered(8)(run_of(x)) == expected


def test_other_data_has_no_modes():
  with pytest.raises(UserError, match="the data is digits"):
    modes_covered()(run_of(None, "digits"))
