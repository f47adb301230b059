"""What a diffusion network is told of the time."""

import types

import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.diffusion import edm, linear, rectified_flow, ve
from jaxgen.methods.diffusion.objective import Model, Objective


@pytest.mark.parametrize(
  ("schedule", "t", "told"),
  [
    (linear(1000), 1000.0, 999.0),  # Ho et al. 2020 count from 0
    (rectified_flow(), 0.25, 999 * 0.25),
    (ve(0.02, 50.0), 1.0, 999.0),
    (edm(), 80.0, np.log(80) / 4),  # Karras et al. 2022, Table 1; 999 t would be 79,920
    (edm(), 0.002, np.log(0.002) / 4),
  ],
)
def test_the_time_suits_the_schedule(schedule, t, told):
  seen = []
  network = types.SimpleNamespace(apply=lambda variables, x, time, *rest: (seen.append(time), x)[1])
  objective = Objective().on(schedule)
  model = Model(network, schedule, objective.prediction, objective.time_input)
  model.output({}, jnp.ones((1, 2)), jnp.array([t]), None)
  np.testing.assert_allclose(seen[0], [told], rtol=1e-6)
