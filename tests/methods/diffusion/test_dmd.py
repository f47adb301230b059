"""Distribution matching distillation against Gaussians, whose denoisers and divergence are known."""

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
from jaxgen.diffusion.times import by_loss, thousandths
from jaxgen.methods.diffusion.dmd import dmd, gradient
from jaxgen.methods.diffusion.teacher import Teacher

MEAN, STD, FLOW, SPEC = 0.3, 0.4, diffusion.rectified_flow(), Spec((3,))
X_0 = diffusion.PREDICTIONS["x_0"]


class Affine(nn.Module):
  """At t = 1, a generator shift + scale z; below, the denoiser of N(shift, scale^2): both networks of DMD in one."""

  @nn.compact
  def __call__(self, x, t, label=None, index=None):
    shift = self.param("shift", lambda key: jnp.full(3, MEAN))
    scale = self.param("scale", lambda key: jnp.full(3, STD))
    t = t[:, None] / 999
    v = ((1 - t) * scale) ** 2 + t**2
    return jnp.where(t < 1, shift + (1 - t) * scale**2 / v * (x - (1 - t) * shift), shift + scale * x)


TEACHER = Teacher(Affine(), Frozen("a closed form", dict), X_0, thousandths)


def batch(n):
  return {"image": np.zeros((n, 3)), "index": np.arange(n, dtype=np.int32)}


def built(rate=1e-2, **options):
  return dmd(Affine(), FLOW, SPEC, optax.adam(rate), TEACHER, fake_optimizer=optax.adam(5 * rate), **options)


def test_the_gradient_is_zero_at_the_target(x64):
  """With the fake denoiser equal to the real one nothing moves; elsewhere it has the sign of the divergence's."""
  held = dmd(Affine(), FLOW, SPEC, optax.sgd(1.0), TEACHER, fake_optimizer=optax.sgd(0.0))
  state = jax.jit(held.init)(jax.random.key(0), batch(10))
  new, metrics = jax.jit(held.step)(state, batch(100))
  assert float(metrics["network/push"]) == 0
  np.testing.assert_array_equal(new.params["network"]["shift"], state.params["network"]["shift"])
  off = {"shift": jnp.full(3, MEAN + 0.5), "scale": jnp.full(3, STD)}
  moved = state.replace(params={**state.params, "network": off, "fake": off})
  new, metrics = jax.jit(held.step)(moved, batch(1_000))
  assert float(metrics["network/push"]) > 0.1
  assert np.all(np.asarray(new.params["network"]["shift"]) < MEAN + 0.5)
  assert held.network_calls == 1


def test_the_gradient_is_that_of_the_divergence(x64):
  """Per example, (mu_fake - mu_real) is sigma^2 / alpha (score_fake - score_real): Yin et al. 2023, eq. 7."""
  process, t = diffusion.vp(), 0.4
  real, fake = gaussian(np.full(3, MEAN), STD), gaussian(np.full(3, -0.2), 0.9)
  x = jax.random.normal(jax.random.key(0), (5, 3))
  of = lambda data: data.denoiser(process)(x, t)[0]
  alpha, sigma = (float(f(np.array([t]))[0]) for f in (process.alpha, process.sigma))
  expected = sigma**2 / alpha * (fake.at(process, t).score(x) - real.at(process, t).score(x))
  size = np.abs(x - of(real)).mean(1, keepdims=True)
  np.testing.assert_allclose(gradient(x, of(real), of(fake)), expected / size, rtol=1e-9)


def test_a_generator_learns_the_teachers_distribution():
  """From N(-0.5, 0.9^2), by two networks that learn against each other; one step of sampling is the generator."""
  method = built(1e-2, fake_updates=4)
  state = jax.jit(method.init)(jax.random.key(0), batch(2))
  off = {"shift": jnp.full(3, -0.5), "scale": jnp.full(3, 0.9)}
  state = state.replace(params={**state.params, "network": off, "fake": off})
  data = jax.tree.map(jnp.float32, batch(512)) | {"index": jnp.arange(512)}
  run = jax.jit(lambda state: jax.lax.scan(lambda s, _: (method.step(s, data)[0], None), state, length=600)[0])
  state = run(state)
  learned = state.params["network"]
  np.testing.assert_allclose(learned["shift"], MEAN, atol=0.05)
  np.testing.assert_allclose(np.abs(learned["scale"]), STD, atol=0.06)
  x = jax.jit(method.sample)(state, jax.random.split(jax.random.key(1), 5_000))
  assert float(x.mean()) == pytest.approx(MEAN, abs=0.06)


def test_what_does_not_go_together_is_said():
  with pytest.raises(UserError, match="example by example"):
    built(times=by_loss(FLOW))
  with pytest.raises(UserError, match="distribution matching uses the teacher's process"):
    dmd(Affine(), FLOW, SPEC, optax.sgd(1.0), TEACHER._replace(schedule=FLOW), fake_optimizer=optax.sgd(1.0))
  with pytest.raises(UserError, match="padding"):
    dmd(Affine(), FLOW, Spec((4, 3), mask="m"), optax.sgd(1.0), TEACHER, fake_optimizer=optax.sgd(1.0))
