"""Progressive distillation and reflow against the closed forms of Gaussians."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from jaxgen import diffusion
from jaxgen.core.condition import labels
from jaxgen.core.errors import UserError
from jaxgen.core.method import Frozen
from jaxgen.core.spec import Spec
from jaxgen.diffusion import sampling
from jaxgen.diffusion.closed_form import Mixture, gaussian
from jaxgen.diffusion.grids import few_steps
from jaxgen.diffusion.times import thousandths
from jaxgen.methods.diffusion.flow_maps import mean_flow
from jaxgen.methods.diffusion.progressive import progressive, target
from jaxgen.methods.diffusion.reflow import reflow
from jaxgen.methods.diffusion.sampler import Sampler
from jaxgen.methods.diffusion.teacher import Teacher, fits

MEAN, STD = 0.3, 0.4
DATA, SPEC = gaussian(np.full(3, MEAN), STD), Spec((3,))
FLOW = diffusion.rectified_flow()


def batch(n):
  x = np.random.default_rng(0).normal(MEAN, STD, (n, 3))
  return {"image": x, "index": np.arange(n, dtype=np.int32)}


class Exact(nn.Module):
  """E[x_0 | x_t] on the flow. Its parameter is not used."""

  schedule: diffusion.Schedule = FLOW

  @nn.compact
  def __call__(self, x, t, label=None, index=None):
    self.param("nothing", nn.initializers.normal(), (1,))
    return DATA.denoiser(self.schedule)(x, t / 999)[0]


class Straight(nn.Module):
  """The velocity on the straight lines between z and m + s z, which x_t = (1 - t) (m + s z) + t z determines."""

  @nn.compact
  def __call__(self, x, t, label=None, index=None):
    self.param("nothing", nn.initializers.normal(), (1,))
    t = (t / 999)[:, None]
    z = (x - (1 - t) * MEAN) / ((1 - t) * STD + t)
    return z - (MEAN + STD * z)


TEACHER = Teacher(Exact(), Frozen("a closed form", dict), diffusion.PREDICTIONS["x_0"], thousandths)


@pytest.mark.parametrize(
  ("schedule", "grid"),
  [(FLOW, diffusion.trailing), (diffusion.cosine(64), diffusion.trailing), (diffusion.edm(), few_steps)],
)
def test_one_step_with_the_target_is_two_of_the_teacher(schedule, grid, x64):
  """The teacher's two by `sampling.sample` over three times, for every step of the student, the one to data too."""
  mixture = Mixture(np.array([0.3, 0.7]), np.array([[-0.8], [0.5]]), np.array([[0.1], [0.2]]))
  denoise, n = mixture.denoiser(schedule), 4
  times = grid(schedule, 2 * n)
  x, keys = jax.random.normal(jax.random.key(0), (5, 1)), jax.random.split(jax.random.key(1), 5)
  for i in range(n):
    t, s, r = times[2 * i : 2 * i + 3]
    x_t = x * float(schedule.sigma(np.array([t]))[0])
    expected = sampling.sample(diffusion.ddim(schedule), denoise, np.array([t, s, r]), x_t, keys)
    made = target(schedule, denoise, x_t, *(jnp.full(5, v) for v in (t, s, r)))
    at, to = (schedule.at(jnp.full(5, v)).like(x) for v in (t, r))
    step = to.alpha * made + to.sigma * (x_t - at.alpha * made) / at.sigma
    np.testing.assert_allclose(step, expected, atol=1e-11)


class Table(nn.Module):
  """A perfect student of four steps: it outputs the x_0 that leads to where eight steps of DDIM lead."""

  @nn.compact
  def __call__(self, x, t, label=None, index=None):
    self.param("nothing", nn.initializers.normal(), (1,))
    t = t / 999
    return target(FLOW, DATA.denoiser(FLOW), x, t, t - 1 / 8, t - 1 / 4)


def test_a_perfect_student_has_no_loss_and_its_samples_are_the_teachers(x64):
  method = progressive(Table(), FLOW, SPEC, optax.sgd(0.0), TEACHER, 4)
  state = jax.jit(method.init)(jax.random.key(0), batch(64))
  assert float(jax.jit(method.step)(state, batch(64))[1]["loss"]) < 1e-25
  assert method.network_calls == 4
  worse = progressive(Exact(), FLOW, SPEC, optax.sgd(0.0), TEACHER, 4)
  assert float(jax.jit(worse.step)(state, batch(64))[1]["loss"]) > 1e-6
  keys = jax.random.split(jax.random.key(2), 6)
  x = np.asarray(jax.vmap(lambda key: jax.random.normal(jax.random.split(key, 3)[0], (3,)))(keys))
  for i in range(8):  # Euler's method on dx / dt = (x - E[x_0 | x]) / t
    t = 1 - i / 8
    x = x - (x - np.asarray(DATA.denoiser(FLOW)(x, t)[0])) / t / 8
  np.testing.assert_allclose(jax.jit(method.sample)(state, keys), x, atol=1e-12)


def test_pairs_of_a_gaussian_are_straight_after_one_round(x64):
  """The loss at the straight velocity is what the teacher's solver errs: 16 times less for half the step, of order 2.

  Independent pairs, of the teacher itself, are far from it.
  """
  losses = []
  for n in (16, 32):
    rollout = Sampler(diffusion.dpmpp_2s, diffusion.log_snr, n)
    method = reflow(Straight(), FLOW, SPEC, optax.sgd(0.0), TEACHER, rollout=rollout)
    state = jax.jit(method.init)(jax.random.key(0), batch(512))
    losses.append(float(jax.jit(method.step)(state, batch(512))[1]["loss"]))
  assert 0 < losses[1] < 1e-4
  assert losses[0] / losses[1] > 6
  one = np.asarray(jax.jit(method.sample)(state, jax.random.split(jax.random.key(0), 20_000)))
  assert one.mean() == pytest.approx(MEAN, abs=0.01)
  assert one.std() == pytest.approx(STD, rel=0.02)


def test_what_does_not_go_together_is_said():
  with pytest.raises(UserError, match="every second one"):
    progressive(Exact(), FLOW, SPEC, optax.sgd(0.1), TEACHER, 3, grid=diffusion.karras)
  with pytest.raises(UserError, match="dropout"):
    progressive(Exact(), FLOW, SPEC, optax.sgd(0.1), TEACHER._replace(weight=2.0), 4)
  with pytest.raises(UserError, match="no signal"):
    progressive(Exact(), FLOW, SPEC, optax.sgd(0.1), TEACHER._replace(prediction=diffusion.PREDICTIONS["eps"]), 4)
  with pytest.raises(UserError, match="padding"):
    reflow(Exact(), FLOW, Spec((4, 3), mask="mask"), optax.sgd(0.1), TEACHER, rollout=Sampler())
  four = progressive(Exact(), FLOW, SPEC, optax.sgd(0.1), TEACHER, 4)
  fits(FLOW, 4)(four)
  with pytest.raises(UserError, match="8 network calls of its teacher, whose samples take 4"):
    fits(FLOW, 8)(four)
  with pytest.raises(
    UserError, match="another, whose alpha and sigma are 0.999 and 0.001 at t = 0.001.*and here alpha"
  ):
    fits(diffusion.edm())(four)
  map_of = mean_flow(Exact(), SPEC, optax.sgd(0.1))  # of the same process and shape, and told another kind of time
  with pytest.raises(UserError, match="a flow map, which has two times as input, not a diffusion model's"):
    fits(diffusion.rectified_flow())(map_of)


def test_a_guided_teacher_is_followed_at_its_weight(x64):
  """A student that outputs (G1) of two Gaussians' denoisers has no loss, with conditions dropped and not."""
  spec = Spec((3,), classes=2)
  means = jnp.array([-0.5, 0.8, 0.1])  # of both classes, and of no class

  def of(x, t, label):
    mean, t = means[label][:, None], t[:, None]
    v = ((1 - t) * STD) ** 2 + t**2
    return mean + (1 - t) * STD**2 / v * (x - (1 - t) * mean)

  class Conditional(nn.Module):
    classes: int = 3

    @nn.compact
    def __call__(self, x, t, label, index=None):
      self.param("nothing", nn.initializers.normal(), (1,))
      return of(x, t / 999, label)

  class Guided(Conditional):
    @nn.compact
    def __call__(self, x, t, label, index=None):
      self.param("nothing", nn.initializers.normal(), (1,))
      guided = lambda x, t: 3 * of(x, t, label) - 2 * of(x, t, jnp.full_like(label, 2))
      step = lambda x, t, s: (1 - s) * (x_0 := guided(x, t)) + s * (x - (1 - t[:, None]) * x_0) / t[:, None]
      t = t / 999
      s, r = (t - 1 / 4)[:, None], (t - 1 / 2)[:, None]
      x_r = step(step(x, t, s), s[:, 0], r)
      return (x_r - r / t[:, None] * x) / ((1 - r) - r / t[:, None] * (1 - t[:, None]))

  teacher = Teacher(Conditional(), Frozen("", dict), diffusion.PREDICTIONS["x_0"], thousandths, weight=3.0)
  method = progressive(Guided(), FLOW, spec, optax.sgd(0.0), teacher, 2, condition=labels(spec, 0.3))
  data = {**batch(64), "label": np.arange(64, dtype=np.int32) % 2}
  state = jax.jit(method.init)(jax.random.key(0), data)
  assert float(jax.jit(method.step)(state, data)[1]["loss"]) < 1e-25
