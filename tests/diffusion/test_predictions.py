import jax
import jax.numpy as jnp
import numpy as np
import pytest
from processes import EVERY

from jaxgen.core.errors import UserError
from jaxgen.diffusion import PREDICTIONS, Point
from jaxgen.diffusion.predictions import convert, edm, to_x0_eps

# Numbers of no schedule in particular: alpha, sigma, alpha', sigma'.
POINTS = [(0.8, 0.6, -0.3, 0.4), (1.0, 20.0, 0.0, 1.0), (0.1, 0.9, -2.0, 0.2), (0.999, 0.01, -0.1, 3.0)]
EVERY_PREDICTION = PREDICTIONS | {"F of wide data": edm(1.7)}


def point(alpha, sigma, d_alpha=-1.0, d_sigma=1.0):
  return Point(*(jnp.asarray(v) for v in (0.3, alpha, sigma, d_alpha, d_sigma)))


@pytest.mark.parametrize("target", EVERY_PREDICTION)
@pytest.mark.parametrize("source", EVERY_PREDICTION)
def test_each_converts_into_each_and_back(source, target, x64):
  source, target = EVERY_PREDICTION[source], EVERY_PREDICTION[target]
  x, output = jax.random.normal(jax.random.key(0), (2, 3, 4))
  for numbers in POINTS:
    at = point(*numbers)
    other = convert(output, x, at, source, target)
    np.testing.assert_allclose(convert(other, x, at, target, source), output, rtol=1e-7, atol=1e-8)
    # Both say the same of x_0 and eps.
    a, b = to_x0_eps(source, output, x, at), to_x0_eps(target, other, x, at)
    np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-7 * float(jnp.abs(jnp.asarray(a)).max()))


@pytest.mark.parametrize("name", EVERY_PREDICTION)
@pytest.mark.parametrize("numbers", POINTS)
def test_what_is_predicted_exactly_is_converted_exactly(name, numbers, x64):
  x_0, eps = jax.random.normal(jax.random.key(0), (2, 3, 4))
  at = point(*numbers)
  x = at.alpha * x_0 + at.sigma * eps
  got = to_x0_eps(EVERY_PREDICTION[name], EVERY_PREDICTION[name].target(x_0, eps, at), x, at)
  np.testing.assert_allclose(got, (x_0, eps), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", EVERY_PREDICTION)
def test_any_output_is_consistent_with_x(name, x64):
  # Whatever the network says, its x_0 and eps make x_t.
  x, output = 3 * jax.random.normal(jax.random.key(0), (2, 50, 4))
  at = point(0.6, 0.8)
  x_0, eps = to_x0_eps(EVERY_PREDICTION[name], output, x, at)
  np.testing.assert_allclose(at.alpha * x_0 + at.sigma * eps, x, rtol=1e-12)


@pytest.mark.parametrize("name", EVERY_PREDICTION)
@pytest.mark.parametrize("numbers", POINTS)
def test_scales_are_the_derivatives(name, numbers, x64):
  prediction, at, x = EVERY_PREDICTION[name], point(*numbers), jnp.asarray(0.7)
  for of, scale in ((prediction.x_0, prediction.x_0_scale), (prediction.eps, prediction.eps_scale)):
    np.testing.assert_allclose(scale(at), jnp.abs(jax.grad(of)(0.4, x, at)), rtol=1e-12)


@pytest.mark.parametrize("name", EVERY_PREDICTION)
@pytest.mark.parametrize("end", ["noise", "data"])
def test_both_ends_of_t(name, end):
  # Where alpha = 0 or sigma is tiny, in float32: x_0 and eps as far as the output determines them, and never NaN.
  prediction = EVERY_PREDICTION[name]
  x_0, eps = jax.random.normal(jax.random.key(0), (2, 100))
  at = point(0.0, 1.0) if end == "noise" else point(1.0, 1e-4)
  x = at.alpha * x_0 + at.sigma * eps
  output = prediction.target(x_0, eps, at)
  assert jnp.all(jnp.isfinite(output))
  if end == "noise" and not prediction.at_noise:
    assert not jnp.all(jnp.isfinite(prediction.x_0(output, x, at)))  # which is why they are refused there
    return
  got = to_x0_eps(prediction, output, x, at)
  np.testing.assert_allclose(got[0], x_0, rtol=1e-5, atol=1e-5)
  # x_0's rounding, divided by sigma, is what eps has then.
  np.testing.assert_allclose(got[1], eps, rtol=1e-5, atol=1e-5 if end == "noise" else 1e-2)
  if end == "data" and name != "x_0":
    np.testing.assert_allclose(got[1], eps, atol=1e-3)


@pytest.mark.parametrize("name", EVERY)
def test_velocity_is_the_derivative_along_the_path(name, x64):
  schedule, t = EVERY[name], 0.41 * EVERY[name].T
  x_0, eps = jax.random.normal(jax.random.key(0), (2, 5))
  path = lambda t: schedule.alpha(t) * x_0 + schedule.sigma(t) * eps
  x, dx = jax.jvp(path, (jnp.asarray(t),), (jnp.asarray(1.0),))
  at = schedule.at(jnp.asarray(t))
  np.testing.assert_allclose(PREDICTIONS["velocity"].target(x_0, eps, at), dx, rtol=1e-12)
  np.testing.assert_allclose(to_x0_eps(PREDICTIONS["velocity"], dx, x, at), (x_0, eps), rtol=1e-7, atol=1e-9)


def test_v_is_the_velocity_along_the_circle(x64):
  # Salimans and Ho 2022, Appendix D: with alpha = cos(phi), sigma = sin(phi), v = dx / dphi.
  x_0, eps = jax.random.normal(jax.random.key(0), (2, 5))
  for phi in (0.0, 0.3, 1.2, np.pi / 2):
    x, v = jax.jvp(lambda phi: jnp.cos(phi) * x_0 + jnp.sin(phi) * eps, (phi,), (1.0,))
    at = point(np.cos(phi), np.sin(phi))
    np.testing.assert_allclose(PREDICTIONS["v"].target(x_0, eps, at), v, atol=1e-12)
    got = to_x0_eps(PREDICTIONS["v"], v, x, at)  # at both ends too, where eps or x_0 alone fail
    np.testing.assert_allclose(got, (x_0, eps), atol=1e-12)


def test_score_is_the_gradient(x64):
  # Of log q(x_t | x_0), by autodiff of the normal density.
  x_0, eps = jax.random.normal(jax.random.key(0), (2, 5))
  at = point(0.6, 0.3)
  log_q = lambda x: jax.scipy.stats.norm.logpdf(x, at.alpha * x_0, at.sigma).sum()
  expected = jax.grad(log_q)(at.alpha * x_0 + at.sigma * eps)
  np.testing.assert_allclose(PREDICTIONS["score"].target(x_0, eps, at), expected, rtol=1e-9)


@pytest.mark.parametrize("std", [0.5, 1.7])
@pytest.mark.parametrize(("alpha", "sigma"), [(1.0, 0.002), (1.0, 80.0), (0.6, 0.8)])
def test_edm_is_table_1(std, alpha, sigma, x64):
  # Karras et al. 2022, Table 1: D(y; r) = c_skip(r) y + c_out(r) F(c_in(r) y), where y = x / alpha, r = sigma / alpha.
  x, output = jax.random.normal(jax.random.key(0), (2, 50))
  y, r, F = x / alpha, sigma / alpha, edm(std)
  c_skip, c_out, c_in = std**2 / (r**2 + std**2), r * std / np.sqrt(std**2 + r**2), 1 / np.sqrt(std**2 + r**2)
  at = point(alpha, sigma)
  np.testing.assert_allclose(F.x_0(output, x, at), c_skip * y + c_out * output, rtol=1e-9, atol=1e-12)
  np.testing.assert_allclose(F.input(x, at), c_in * y, rtol=1e-12)
  np.testing.assert_allclose(F.x_0_scale(at), c_out, rtol=1e-12)


def test_edm_keeps_unit_variance():
  # Karras et al. 2022, Appendix B.6: the network's input and its target have variance 1, at every sigma.
  x_0, eps = jax.random.normal(jax.random.key(0), (2, 200_000))
  close = 4 * np.sqrt(2 / 200_000)  # four standard errors of a variance
  for sigma in (0.01, 0.5, 30.0):
    at, F = point(0.8, sigma), edm(1.7)
    data = 1.7 * x_0
    np.testing.assert_allclose(F.input(at.alpha * data + at.sigma * eps, at).var(), 1, rtol=close)
    np.testing.assert_allclose(F.target(data, eps, at).var(), 1, rtol=close)


def test_inputs_are_x_but_for_edm():
  x = jnp.ones(3)
  assert [name for name, p in PREDICTIONS.items() if p.input(x, point(0.6, 0.8)) is not x] == ["F"]


def test_bad_input():
  with pytest.raises(UserError, match="sigma_data"):
    edm(0.0)
