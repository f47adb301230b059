"""MeanFlow and shortcut models against the exact flow map of a Gaussian."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from jaxgen import diffusion
from jaxgen.core.condition import labels
from jaxgen.core.errors import UserError
from jaxgen.core.spec import Spec
from jaxgen.diffusion.closed_form import gaussian
from jaxgen.methods.diffusion.flow_maps import ONE_CALL, Guided, mean_flow, mean_flow_target, shortcut, shortcut_target
from jaxgen.nn import UNet

MEAN, STD = 0.3, 0.4
DATA, SPEC, FLOW = gaussian(np.full(3, MEAN), STD), Spec((3,)), diffusion.rectified_flow()


def spread(t):
  return jnp.sqrt(((1 - t) * STD) ** 2 + t**2)


def velocity(x, t):
  """E[eps - x_0 | x_t]."""
  x_0, eps = DATA.denoiser(FLOW)(x, t)
  return eps - x_0


def average(x, s, t):
  """(x_t - x_s) / (t - s) along the ODE, which for a Gaussian is affine; written so that s = t is no division by 0."""
  s, t = s[:, None], t[:, None]
  # spread(t) - spread(s) = (spread(t)^2 - spread(s)^2) / (sum), and spread^2 = STD^2 (1 - t)^2 + t^2.
  slope = (STD**2 * (t + s - 2) + t + s) / (spread(t) + spread(s))
  return -MEAN + (x - (1 - t) * MEAN) * slope / spread(t)


def points(n=200):
  keys = jax.random.split(jax.random.key(0), 3)
  t = jax.random.uniform(keys[0], (n,), minval=0.05)
  return jax.random.normal(keys[1], (n, 3)), t * jax.random.uniform(keys[2], (n,)), t


class Exact(nn.Module):
  """The exact average velocity plus a trained shift, which should be 0."""

  @nn.compact
  def __call__(self, x, t, label=None, index=None):
    shift = self.param("shift", nn.initializers.zeros, (3,))
    t, step = t.T / 999
    return average(x, t - step, t) + shift * (1 + x * step[:, None])


def test_the_identity_holds_for_the_exact_average_velocity(x64):
  """With the marginal velocity in place of one example's, target and average are equal; s = t gives the velocity."""
  x, s, t = points()
  np.testing.assert_allclose(average(x, t, t), velocity(x, t), rtol=1e-10)
  end = DATA.transport(FLOW, x[:1], float(t[0]), float(s[0]))
  np.testing.assert_allclose(x[:1] - (t - s)[:1, None] * average(x, s, t)[:1], end, rtol=1e-10)
  u, target = mean_flow_target(average, x, s, t, velocity(x, t))
  np.testing.assert_allclose(target, u, rtol=1e-9)
  wrong = mean_flow_target(lambda x, s, t: average(x, s, t) * (1 + 0.1 * t[:, None]), x, s, t, velocity(x, t))
  assert np.abs(wrong[0] - wrong[1]).max() > 0.01


def test_the_tangent_is_v_0_1_and_the_target_has_no_gradient(x64):
  """Against differences along x + h v, t + h, with s fixed; and against a gradient with the target held."""
  x, s, t = points(20)
  v = jax.random.normal(jax.random.key(5), x.shape)
  u = lambda w: lambda x, s, t: jnp.sin(w * x) * s[:, None] + w * jnp.cos(t[:, None] * x.sum(-1, keepdims=True))
  h = 1e-5
  d_dt = (u(0.7)(x + h * v, s, t + h) - u(0.7)(x - h * v, s, t - h)) / (2 * h)
  _, target = mean_flow_target(u(0.7), x, s, t, v)
  np.testing.assert_allclose(target, v - (t - s)[:, None] * d_dt, atol=1e-8)

  def loss(w):
    a, b = mean_flow_target(u(w), x, s, t, v)
    return jnp.mean((a - b) ** 2)

  held = lambda w: jnp.mean((u(w)(x, s, t) - target) ** 2)
  assert float(jax.grad(loss)(0.7)) == pytest.approx(float((held(0.7 + h) - held(0.7 - h)) / (2 * h)), rel=1e-7)


def batch(n, seed=0):
  x = np.random.default_rng(seed).normal(MEAN, STD, (n, 3))
  return {"image": x, "index": np.arange(n, dtype=np.int32)}


@pytest.mark.parametrize(
  "build", [lambda **o: mean_flow(*o.pop("args"), power=0.0, **o), lambda **o: shortcut(*o.pop("args"), **o)]
)
def test_the_exact_map_is_where_the_gradient_is_zero(build, x64):
  """The gradient at the exact map, by a step of plain descent, is within four deviations of its mean of 0; at a map
  that is shifted by 0.5 it is not. One call gives samples of the data."""
  method = build(args=(Exact(), SPEC, optax.sgd(1.0)))
  init, step = jax.jit(method.init), jax.jit(method.step)
  state = init(jax.random.key(0), batch(2))
  moved = []
  for seed in range(10):
    rekeyed = state.replace(key=jax.random.key(seed))
    moved.append(np.asarray(step(rekeyed, batch(4_000, seed))[0].params["network"]["shift"]))
  moved = np.stack(moved)
  assert np.all(np.abs(moved.mean(0)) < 4 * moved.std(0) / np.sqrt(10)), moved.mean(0)
  off = state.replace(params={"network": {"shift": jnp.full(3, 0.5)}})
  shift = np.asarray(step(off, batch(4_000))[0].params["network"]["shift"])
  assert np.all(shift < 0.4)
  x = jax.jit(method.sample)(state, jax.random.split(jax.random.key(1), 20_000))
  assert float(x.mean()) == pytest.approx(MEAN, abs=0.01)
  assert float(x.std()) == pytest.approx(STD, rel=0.02)
  assert method.network_calls == 1


def test_two_short_steps_of_the_exact_map_are_a_long_one(x64):
  x, _, _ = points(8)
  t, d = jnp.full(8, 0.75), jnp.full(8, 0.125)
  np.testing.assert_allclose(shortcut_target(average, x, t, d, 1 / 128), average(x, t - 2 * d, t), rtol=1e-9)
  # Steps of the smallest size are Euler's, with the velocity.
  first = velocity(x, t)
  expected = (first + velocity(x - d[:, None] * first, t - d)) / 2
  np.testing.assert_allclose(shortcut_target(average, x, t, d, 0.125), expected, rtol=1e-9)


def test_guidance_is_trained_in_and_not_where_conditions_are_dropped(x64):
  """A constant u of each class: at w = 3, kappa = 0.5 the loss is that of the mixed velocity (eq. 19 by hand)."""
  spec, values = Spec((3,), classes=2), np.array([0.2, -0.7, 0.4])

  class Constant(nn.Module):
    classes: int = 3

    @nn.compact
    def __call__(self, x, t, label, index=None):
      return jnp.zeros_like(x) + self.param("u", lambda key: jnp.asarray(values))[label][:, None]

  data = {**batch(40_000), "label": np.zeros(40_000, np.int32)}
  data["image"] = np.full_like(data["image"], MEAN)  # so that v ~ N(-MEAN, 1)
  method = mean_flow(Constant(), spec, optax.sgd(0.0), power=0.0, guided=Guided(3.0, 0.5), condition=labels(spec, 0.25))
  state = jax.jit(method.init)(jax.random.key(0), data)
  found = float(jax.jit(method.step)(state, data)[1]["squared_error"])
  mixed = 3 * -MEAN + 0.5 * values[0] + (1 - 3 - 0.5) * values[2]
  expected = 0.75 * ((values[0] - mixed) ** 2 + 9) + 0.25 * ((values[2] + MEAN) ** 2 + 1)
  assert found == pytest.approx(expected, rel=0.03)


def test_guidance_while_sampling_is_a_sum_of_maps(x64):
  """Two classes' average velocities are mixed by (G1), with the time that the step leads to."""
  spec = Spec((3,), classes=2)

  class Classes(nn.Module):
    classes: int = 3

    @nn.compact
    def __call__(self, x, t, label, index=None):
      scale = self.param("scale", lambda key: jnp.array([1.0, 2.0, -1.0]))[label][:, None]
      return scale * (t[:, 1:] / 999) * jnp.ones_like(x)

  method = shortcut(Classes(), spec, optax.sgd(0.0), condition=labels(spec, 0.1), sampler=ONE_CALL._replace(steps=2))
  data = {**batch(4), "label": np.zeros(4, np.int32)}
  state = jax.jit(method.init)(jax.random.key(0), data)
  keys, label = jax.random.split(jax.random.key(1), 4), jnp.array([0, 1, 0, 1])
  x = method.sample(state, keys, weight=jnp.full(4, 3.0), label=label)
  z = jax.vmap(lambda key: jax.random.normal(jax.random.split(key, 3)[0], (3,)))(keys)
  u = np.where(np.asarray(label) == 0, -1 + 3 * 2.0, -1 + 3 * 3.0)[:, None] * 0.5
  np.testing.assert_allclose(x, z - 2 * 0.5 * u, rtol=1e-9)
  assert method.network_calls == 2


def test_the_smallest_steps_of_samples_are_told_what_was_learned(x64):
  """d = 0, the velocity, in steps of 1 / steps, of which the loss never tells the network; d itself in larger ones."""

  class Told(nn.Module):
    @nn.compact
    def __call__(self, x, t, label=None, index=None):
      return self.param("zero", nn.initializers.zeros, ()) + jnp.ones_like(x) * (t[:, 1:] / 999)

  for steps, u in ((2, 0.5), (4, 0.0)):
    method = shortcut(Told(), SPEC, optax.sgd(0.0), steps=4, sampler=ONE_CALL._replace(steps=steps))
    state = method.init(jax.random.key(0), batch(2))
    keys = jax.random.split(jax.random.key(1), 2)
    z = jax.vmap(lambda key: jax.random.normal(jax.random.split(key, 3)[0], (3,)))(keys)
    np.testing.assert_allclose(method.sample(state, keys), z - u, rtol=1e-9)
  for steps in (3, 8):
    with pytest.raises(UserError, match=f"1/4, and {steps} of this grid are others"):
      shortcut(Told(), SPEC, optax.sgd(0.0), steps=4, sampler=ONE_CALL._replace(steps=steps))


def test_a_unet_is_told_two_times(x64):
  """JVP through the U-Net against differences: its convolutions and norms have derivative rules of their own."""
  network = UNet(
    8, multipliers=(1, 1), blocks=1, attention=(4,), out_channels=1, dtype=jnp.float64, param_dtype=jnp.float64
  )
  x = jax.random.normal(jax.random.key(0), (2, 8, 8, 1))
  params = network.init(jax.random.key(1), x, jnp.ones((2, 2)))
  params = jax.tree.map(lambda p: p + 0.1 * jax.random.normal(jax.random.key(p.size), p.shape), params)
  u = lambda x, s, t: network.apply(params, x, jnp.stack([t, t - s], -1))
  v, s, t, h = jax.random.normal(jax.random.key(2), x.shape), jnp.array([0.1, 0.2]), jnp.array([0.5, 0.9]), 1e-5
  d_dt = jax.jit(lambda x: jax.jvp(u, (x, s, t), (v, jnp.zeros(2), jnp.ones(2)))[1])(x)
  np.testing.assert_allclose(d_dt, (u(x + h * v, s, t + h) - u(x - h * v, s, t - h)) / (2 * h), rtol=1e-5, atol=1e-8)
  assert np.abs(u(x, s, t) - u(x, s / 2, t)).max() > 1e-3


def test_what_does_not_go_together_is_said():
  with pytest.raises(UserError, match="power of two"):
    shortcut(Exact(), SPEC, optax.sgd(0.1), steps=100)
  with pytest.raises(UserError, match="a dropout"):
    mean_flow(Exact(), SPEC, optax.sgd(0.1), guided=Guided(2.0))
  with pytest.raises(UserError, match="kappa"):
    mean_flow(Exact(), SPEC, optax.sgd(0.1), guided=Guided(2.0, 1.0), condition=labels(Spec((3,), classes=2), 0.1))
  with pytest.raises(UserError, match="padding"):
    shortcut(Exact(), Spec((4, 3), mask="mask"), optax.sgd(0.1))
  with pytest.raises(UserError, match="share an embedding"):
    UNet(channels=9, multipliers=(1,), attention=()).init(jax.random.key(0), jnp.zeros((1, 4, 4, 3)), jnp.zeros((1, 2)))
