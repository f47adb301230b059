"""Every deterministic solver converges with its order, to the exact map of a mixture of three Gaussians."""

import pytest

from jaxgen.diffusion import rectified_flow, ve, vp
from jaxgen.diffusion.convergence import ORDERS, errors, slope

SCHEDULES = {"vp": vp(), "ve": ve(), "rectified_flow": rectified_flow()}
CALLS = (96, 192, 384)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", ORDERS)
def test_order(name, schedule, x64):
  make, order = ORDERS[name]
  error = errors(make, SCHEDULES[schedule], CALLS)
  assert abs(slope(error) - order) < (0.2 if order < 3 else 0.3), error
