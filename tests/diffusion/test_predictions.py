import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.diffusion import PREDICTIONS
from jaxgen.diffusion.predictions import to_x0_eps


@pytest.mark.parametrize("name", PREDICTIONS)
@pytest.mark.parametrize(("alpha", "sigma"), [(0.8, 0.6), (1.0, 20.0), (0.1, 0.9), (0.999, 0.01)])
def test_what_is_predicted_exactly_is_converted_exactly(name, alpha, sigma, x64):
  key = jax.random.key(0)
  x_0, eps = jax.random.normal(key, (2, 3, 4))
  x = alpha * x_0 + sigma * eps
  alpha, sigma = jnp.asarray(alpha), jnp.asarray(sigma)
  output = PREDICTIONS[name].target(x_0, eps, alpha, sigma)
  got = to_x0_eps(PREDICTIONS[name], output, x, alpha, sigma)
  np.testing.assert_allclose(got, (x_0, eps), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", PREDICTIONS)
def test_any_output_is_consistent_with_x(name, x64):
  # Whatever the network says, clipped or not, its x_0 and eps make x_t.
  x, output = 3 * jax.random.normal(jax.random.key(0), (2, 50, 4))
  alpha, sigma = jnp.asarray(0.6), jnp.asarray(0.8)
  for clip in (False, True):
    x_0, eps = to_x0_eps(PREDICTIONS[name], output, x, alpha, sigma, clip)
    np.testing.assert_allclose(alpha * x_0 + sigma * eps, x, rtol=1e-12)
    assert (jnp.max(jnp.abs(x_0)) <= 1) == clip


def test_v_is_the_velocity_along_the_circle(x64):
  # Salimans and Ho 2022, Appendix D: with alpha = cos(phi), sigma = sin(phi), v = dx / dphi.
  x_0, eps = jax.random.normal(jax.random.key(0), (2, 5))
  for phi in (0.0, 0.3, 1.2, np.pi / 2):
    x, v = jax.jvp(lambda phi: jnp.cos(phi) * x_0 + jnp.sin(phi) * eps, (phi,), (1.0,))
    target = PREDICTIONS["v"].target(x_0, eps, np.cos(phi), np.sin(phi))
    np.testing.assert_allclose(target, v, atol=1e-12)
    got = to_x0_eps(PREDICTIONS["v"], v, x, jnp.cos(phi), jnp.sin(phi))  # at both ends too, where eps or x_0 alone fail
    np.testing.assert_allclose(got, (x_0, eps), atol=1e-12)
