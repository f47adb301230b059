"""Continuous-time consistency models against the closed form of a Gaussian."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from jaxgen import diffusion
from jaxgen.core.errors import UserError
from jaxgen.core.method import Frozen
from jaxgen.core.spec import Spec
from jaxgen.diffusion.closed_form import gaussian
from jaxgen.diffusion.times import itself
from jaxgen.methods.diffusion.sampler import Sampler
from jaxgen.methods.diffusion.scm import clean, middle, scm, tangent
from jaxgen.methods.diffusion.teacher import Teacher
from jaxgen.nn.unets.edm2 import LogVariance

MEAN, STD, SIGMA = 0.3, 0.4, 0.7  # SIGMA is not the data's deviation, so that the path is no circle
DATA, SPEC, PROCESS, EDM = gaussian(np.full(3, MEAN), STD), Spec((3,)), diffusion.trig_flow(SIGMA), diffusion.edm()


def spread(t):
  return jnp.sqrt((jnp.cos(t) * STD) ** 2 + (SIGMA * jnp.sin(t)) ** 2)


def start(x, t):
  """The start of the path that is at x at t."""
  return MEAN + (x - jnp.cos(t) * MEAN) * STD / spread(t)


class Exact(nn.Module):
  """-F of (S1) with f = `start`, and a parameter by which it is off."""

  @nn.compact
  def __call__(self, x, t, label=None, index=None):
    off = self.param("off", nn.initializers.zeros, (3,))
    x, t = SIGMA * x, t[:, None]
    return (start(x, t) - jnp.cos(t) * x) / (jnp.sin(t) * SIGMA) + off


class Denoiser(nn.Module):
  """E[x_0 | x_t] of EDM's process."""

  @nn.compact
  def __call__(self, x, t, label=None, index=None):
    self.param("nothing", nn.initializers.zeros, (1,))
    return DATA.denoiser(EDM)(x, jnp.exp(4 * t))[0]


class DenoiserHere(Denoiser):
  """The same of TrigFlow's."""

  @nn.compact
  def __call__(self, x, t, label=None, index=None):
    self.param("nothing", nn.initializers.zeros, (1,))
    return DATA.denoiser(PROCESS)(x, t)[0]


def batch(n, seed=0):
  x = np.random.default_rng(seed).normal(MEAN, STD, (n, 3))
  return {"image": x, "index": np.arange(n, dtype=np.int32)}


X_0 = diffusion.PREDICTIONS["x_0"]
OF_EDM = Teacher(Denoiser(), Frozen("a closed form", dict), X_0, schedule=EDM)
OF_HERE = Teacher(DenoiserHere(), Frozen("a closed form", dict), X_0, itself)


@pytest.mark.parametrize("teacher", [OF_EDM, OF_HERE])
def test_an_exact_teacher_finds_nothing_wrong_with_the_exact_function(teacher, x64):
  """The tangent along the ODE is 0, for a teacher on EDM's process and on TrigFlow's own; for another it is not."""
  options = dict(sigma_data=SIGMA, warmup=1, std=1.0, teacher=teacher, start=False)
  method = scm(Exact(), SPEC, optax.sgd(0.0), c=0.0, **options)
  state = jax.jit(method.init)(jax.random.key(0), batch(2))
  state, step = state.replace(step=jnp.int32(5)), jax.jit(method.step)
  assert float(step(state, batch(500))[1]["loss"]) < 1e-20
  off = state.replace(params={**state.params, "network": {"off": jnp.full(3, 0.1)}})
  assert float(step(off, batch(500))[1]["loss"]) > 1e-4


def test_trained_from_data_the_exact_function_is_where_the_gradient_is_zero(x64):
  """Without normalisation, whose mean is not 0: within four deviations of the mean of ten steps; elsewhere it is not.

  The step lowers a shift of 0.5.
  """
  method = scm(Exact(), SPEC, optax.sgd(1.0), sigma_data=SIGMA, warmup=1, c=0.0, std=1.0)
  state = jax.jit(method.init)(jax.random.key(0), batch(2)).replace(step=jnp.int32(5))
  step, moved = jax.jit(method.step), []
  for seed in range(10):
    rekeyed = state.replace(key=jax.random.key(seed))
    moved.append(np.asarray(step(rekeyed, batch(4_000, seed))[0].params["network"]["off"]))
  moved = np.stack(moved)
  assert np.all(np.abs(moved.mean(0)) < 4 * moved.std(0) / np.sqrt(10)), moved.mean(0)
  off = state.replace(params={"network": {"off": jnp.full(3, 0.5)}})
  assert np.all(np.asarray(step(off, batch(4_000))[0].params["network"]["off"]) < 0.4)


def test_the_tangent_is_that_of_f(x64):
  """cos(t) df / dt of (S1) by differences, for any network; r = 0 leaves cos^2 (dx / dt - sigma_d F); |g| < 1."""
  keys, h = jax.random.split(jax.random.key(0), 3), 1e-5
  x, dx, t = jax.random.normal(keys[0], (6, 3)), jax.random.normal(keys[1], (6, 3)), jnp.linspace(0.1, 1.4, 6)
  F = lambda x, t: jnp.sin(3 * x / SIGMA) * jnp.cos(t)[:, None]
  f = lambda x, t: jnp.cos(t)[:, None] * x - jnp.sin(t)[:, None] * SIGMA * F(x, t)
  value, dF = jax.jvp(F, (x, t), (dx, jnp.ones(6)))
  g = tangent(value, dF, x, dx, t, 1.0, SIGMA, 0.0)
  d_dt = (f(x + h * dx, t + h) - f(x - h * dx, t - h)) / (2 * h)
  np.testing.assert_allclose(g, jnp.cos(t)[:, None] * d_dt, atol=1e-8)
  cold = tangent(value, dF, x, dx, t, 0.0, SIGMA, 0.0)
  np.testing.assert_allclose(cold, jnp.cos(t)[:, None] ** 2 * (dx - SIGMA * value), rtol=1e-12)
  normalised = tangent(value, dF, x, dx, t, 1.0, SIGMA, 0.1)
  norm = np.linalg.norm(g, axis=1)
  np.testing.assert_allclose(np.linalg.norm(normalised, axis=1), norm / (norm + 0.1), rtol=1e-12)


def test_samples_of_the_exact_function(x64):
  """One step from N(0, sigma_d^2) is an affine map of it; the second adds noise at 1.1 and maps again."""
  for n in (1, 2):
    sampler = Sampler(clean, middle(), n, clip=False)
    method = scm(Exact(), SPEC, optax.sgd(0.0), sigma_data=SIGMA, sampler=sampler)
    state = jax.jit(method.init)(jax.random.key(0), batch(2))
    x = jax.jit(method.sample)(state, jax.random.split(jax.random.key(1), 20_000))
    mean, std = MEAN, STD  # at pi / 2 the path's mean is 0 and its deviation SIGMA, which is the noise's
    if n == 2:
      scale = STD / float(spread(1.1))
      mean, std = MEAN, np.hypot(np.cos(1.1) * std, SIGMA * np.sin(1.1)) * scale
    assert float(x.mean()) == pytest.approx(mean, abs=0.01)
    assert float(x.std()) == pytest.approx(std, rel=0.02)
    assert method.network_calls == n


def test_the_boundary_is_exact_and_the_weight_learns_the_losses_size(x64):
  """f at t = 0 is x, whatever the network; u goes to the logarithm of the loss, here of a constant tangent's square."""
  prediction, at = diffusion.predictions.edm(SIGMA), PROCESS.at(jnp.zeros(4)).like(jnp.zeros((4, 3)))
  x = jax.random.normal(jax.random.key(0), (4, 3))
  np.testing.assert_array_equal(prediction.x_0(1e6 * x, x, at), x)
  options = dict(sigma_data=SIGMA, warmup=1, std=1.0, uncertainty=LogVariance(64))
  freeze = optax.multi_transform(
    {"hold": optax.set_to_zero(), "learn": optax.adam(0.02)}, {"off": "hold", "log_variance": "learn"}
  )
  method = scm(Exact(), SPEC, freeze, **options)
  state, step = jax.jit(method.init)(jax.random.key(0), batch(2)), jax.jit(method.step)
  losses = []
  for i in range(300):
    state, metrics = step(state, batch(256, i))
    losses.append(float(metrics["loss"]))
  plain = scm(Exact(), SPEC, optax.sgd(0.0), **{**options, "uncertainty": None})
  square = float(jax.jit(plain.step)(jax.jit(plain.init)(jax.random.key(0), batch(2)), batch(4_000))[1]["loss"])
  assert np.mean(losses[-50:]) < 1 + np.log(square) + 0.05  # 1 + E log L(t) is at most 1 + log E L


def test_what_does_not_go_together_is_said():
  with pytest.raises(UserError, match="warms up"):
    scm(Exact(), SPEC, optax.sgd(0.1), warmup=0)
  with pytest.raises(UserError, match="its parameters alone"):
    scm(Exact(), SPEC, optax.sgd(0.1), teacher=OF_EDM, uncertainty=LogVariance(8))
  with pytest.raises(UserError, match="padding"):
    scm(Exact(), Spec((4, 3), mask="mask"), optax.sgd(0.1))
  with pytest.raises(UserError, match="sigma_data"):
    diffusion.trig_flow(0.0)
