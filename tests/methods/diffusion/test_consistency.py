"""Consistency models against the closed form of a Gaussian, the papers' tables, and enumerations."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats
from flax import linen as nn

from jaxgen import diffusion
from jaxgen.core.errors import UserError
from jaxgen.core.keys import root
from jaxgen.core.method import Frozen
from jaxgen.core.spec import Spec
from jaxgen.core.wrappers import averaged
from jaxgen.diffusion import predictions, sampling
from jaxgen.diffusion.closed_form import gaussian
from jaxgen.diffusion.grids import few_steps
from jaxgen.diffusion.solvers.consistency import consistency
from jaxgen.methods.diffusion.consistency import (
  TARGET,
  Pairs,
  consistency_model,
  constant,
  distance,
  doubling,
  improved,
  square_root,
  target_decay,
)
from jaxgen.methods.diffusion.sampler import Sampler
from jaxgen.methods.diffusion.teacher import Teacher

MEAN, STD, LOW, HIGH = 0.3, 0.4, 0.002, 80.0
PROCESS = diffusion.edm()
DATA = gaussian(np.full(3, MEAN), STD)
SPEC = Spec((3,))


def start(x, r, mean=MEAN, std=STD):
  """The start, at r = LOW, of the path of N(mean, std^2) that is at x at r."""
  return mean + (x - mean) * np.sqrt((std**2 + LOW**2) / (std**2 + r**2))


class Exact(nn.Module):
  """Outputs the F of which the consistency function is `start`. Its parameter is not used."""

  @nn.compact
  def __call__(self, x, t, label=None, index=None):
    self.param("nothing", nn.initializers.zeros, (1,))
    at = PROCESS.at(jnp.exp(4 * t)).like(x)
    x = x * jnp.sqrt(at.sigma**2 + 0.5**2)
    there = at.sigma > LOW * (1 + 1e-9)
    safe = at._replace(sigma=jnp.where(there, at.sigma, 1.0))
    target = predictions.consistency().target
    f = MEAN + (x - MEAN) * jnp.sqrt((STD**2 + LOW**2) / (STD**2 + at.sigma**2))
    return jnp.where(there, target(f, (x - f) / safe.sigma, safe), 0.0)


class ExactTeacher(nn.Module):
  """Outputs E[x_0 | x_t]."""

  @nn.compact
  def __call__(self, x, t, label=None, index=None):
    self.param("nothing", nn.initializers.zeros, (1,))
    return DATA.denoiser(PROCESS)(x, jnp.exp(4 * t))[0]


def batch(n, dtype=np.float64):
  x = np.random.default_rng(0).normal(MEAN, STD, (n, 3)).astype(dtype)
  return {"image": x, "index": np.arange(n, dtype=np.int32)}


def test_the_prediction_is_one_like_the_others(x64):
  """alpha x_0 + sigma eps = x; x_0 and eps come back from the target; at r = LOW the output is of no matter."""
  kind, keys = predictions.consistency(0.7, 0.01), jax.random.split(jax.random.key(0), 3)
  x_0, eps, output = (jax.random.normal(key, (5, 3)) for key in keys)
  for process, t in ((PROCESS, 3.0), (diffusion.vp(), 0.4)):
    at = process.at(jnp.full(5, t)).like(x_0)
    x = at.alpha * x_0 + at.sigma * eps
    made = kind.x_0(output, x, at), kind.eps(output, x, at)
    np.testing.assert_allclose(at.alpha * made[0] + at.sigma * made[1], x, rtol=1e-12)
    np.testing.assert_allclose(kind.target(*made, at), output, rtol=1e-9)
    np.testing.assert_allclose(kind.x_0(kind.target(x_0, eps, at), x, at), x_0, rtol=1e-9)
    step = 1e-6
    np.testing.assert_allclose(
      jnp.abs(kind.x_0(output + step, x, at) - made[0]) / step, jnp.broadcast_to(kind.x_0_scale(at), x.shape), rtol=1e-6
    )
    np.testing.assert_allclose(
      jnp.abs(kind.eps(output + step, x, at) - made[1]) / step, jnp.broadcast_to(kind.eps_scale(at), x.shape), rtol=1e-6
    )
  at = PROCESS.at(jnp.full(5, 0.01)).like(x_0)
  np.testing.assert_array_equal(kind.x_0(1e3 * output, x_0, at), x_0)


def test_distillation_of_an_exact_teacher_costs_the_student_that_is_exact_what_heun_errs(x64):
  """A step of Heun's method errs by h^3, and the squared distance by h^6: 64 times less for half the step."""
  losses = []
  teacher = Teacher(ExactTeacher(), Frozen("a closed form", dict), diffusion.PREDICTIONS["x_0"])
  for n in (60, 120):
    pairs = Pairs(constant(n))
    method = consistency_model(Exact(), PROCESS, SPEC, optax.sgd(0.0), pairs, teacher=teacher, d="squared")
    state = jax.jit(method.init)(jax.random.key(0), batch(20_000))
    losses.append(float(jax.jit(method.step)(state, batch(20_000))[1]["loss"]))
  assert 0 < losses[0] < 1e-6
  assert losses[0] / losses[1] == pytest.approx(64, rel=0.2)


def test_numbers_of_times_are_those_of_the_tables():
  grown = doubling(400)
  assert [int(grown.of(jnp.array(k))) for k in (0, 49, 50, 100, 349, 350, 400, 10**6)] == [
    11,
    11,
    21,
    41,
    641,
    1281,
    1281,
    1281,
  ]
  for k in (0, 1, 137, 800):
    expected = math.ceil(math.sqrt(k / 800 * (151**2 - 4) + 4) - 1) + 1
    assert int(square_root(800).of(jnp.array(k))) == expected
  decay = target_decay(square_root(800), 2, 0.9)
  assert float(decay(jnp.array(0))) == pytest.approx(0.9)
  assert float(decay(jnp.array(800))) == pytest.approx(math.exp(2 * math.log(0.9) / 151))


def test_pairs_are_drawn_as_the_log_normal_distribution_says(x64):
  pairs = improved(400, first=10, last=40)
  for k, n in ((0, 11), (399, 41)):
    times = pairs.times(jnp.array(k), LOW, HIGH)
    expected = np.array([(LOW ** (1 / 7) + i / (n - 1) * (HIGH ** (1 / 7) - LOW ** (1 / 7))) ** 7 for i in range(n)])
    np.testing.assert_allclose(times[:n], expected, rtol=1e-12)
    p = jnp.exp(pairs.log_probability(jnp.array(k), times))
    below = scipy.stats.norm(-1.1, 2.0).cdf(np.log(expected))
    np.testing.assert_allclose(p[: n - 1] / p.sum(), np.diff(below) / (below[-1] - below[0]), rtol=1e-9)
    assert not p[n - 1 :].any()


def test_the_pseudo_huber_distance_is_the_papers_over_the_root_of_the_dimension(x64):
  a, b = jax.random.normal(jax.random.key(0), (2, 5, 4, 3))
  c = 0.00054 * math.sqrt(12)
  published = np.sqrt(np.sum((a - b) ** 2, axis=(1, 2)) + c**2) - c
  np.testing.assert_allclose(distance(a, b), published / math.sqrt(12), rtol=1e-12)
  np.testing.assert_allclose(distance(a, b, "squared"), np.mean((a - b) ** 2, axis=(1, 2)), rtol=1e-12)
  assert float(distance(a, a).sum()) == 0


def test_samples_of_the_exact_function_have_the_variance_that_follows(x64):
  """x_T is N(0, T^2); f scales the distance from the mean; each further step adds its noise before."""
  for n in (1, 2, 3):
    times = few_steps(PROCESS, n)
    assert len(times) == n + 1
    variance, mean = HIGH**2, 0.0
    for t, s in zip(times[:-1], times[1:], strict=True):
      scale = np.sqrt((STD**2 + LOW**2) / (STD**2 + t**2))
      mean, variance = MEAN + (mean - MEAN) * scale, variance * scale**2
      variance += max(s**2 - LOW**2, 0)
    method = consistency_model(
      Exact(),
      PROCESS,
      SPEC,
      optax.sgd(0.0),
      Pairs(constant(2)),
      sampler=Sampler(consistency, few_steps, n, clip=False),
    )
    state = jax.jit(method.init)(jax.random.key(0), batch(2))
    x = jax.jit(method.sample)(state, jax.random.split(root(0, "sampling"), 20_000))
    assert float(x.mean()) == pytest.approx(mean, abs=4 * np.sqrt(variance / x.size))
    assert float(x.var()) == pytest.approx(variance, rel=4 * np.sqrt(2 / x.size))


class Small(nn.Module):
  """A perceptron of one dimension and the time."""

  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x, t, label=None, index=None):
    h = jnp.concatenate([x, t[:, None], x * t[:, None]], axis=-1)
    for _ in range(2):
      h = nn.silu(nn.Dense(32)(h))
    return nn.Dense(x.shape[-1])(h)


@pytest.mark.parametrize("way", ["training", "distillation"])
def test_a_trained_network_is_the_consistency_function(way):
  """Of N(m, s^2), by iCT and by distillation with an averaged target; errors in parts of the data's deviation."""
  steps, spec = 3_000, Spec((1,))
  data = gaussian(np.full(1, MEAN), STD)
  teacher = None
  if way == "distillation":

    class Posterior(nn.Module):
      @nn.compact
      def __call__(self, x, t, label=None, index=None):
        self.param("nothing", nn.initializers.zeros, (1,))
        return data.denoiser(PROCESS)(x, jnp.exp(4 * t))[0]

    teacher = Teacher(Posterior(), Frozen("a closed form", dict), diffusion.PREDICTIONS["x_0"])
  pairs = improved(steps, 10, 160) if teacher is None else Pairs(constant(40), by_distance=True)
  optimizer = optax.adam(optax.cosine_decay_schedule(3e-3, steps))
  method = consistency_model(Small(), PROCESS, spec, optimizer, pairs, sigma_data=STD, teacher=teacher)
  method = averaged(method, {"network": 0.99, **({TARGET: 0.9} if teacher else {})})

  @jax.jit
  def train():
    def step(state, key):
      x = MEAN + STD * jax.random.normal(key, (256, 1))
      return method.step(state, {"image": x, "index": jnp.arange(256)})[0], None

    state = method.init(jax.random.key(0), {"image": jnp.zeros((1, 1)), "index": jnp.zeros(1, jnp.int32)})
    return jax.lax.scan(step, state, jax.random.split(jax.random.key(1), steps))[0]

  state, kind = train(), predictions.consistency(STD, LOW)
  times = np.asarray(pairs.times(jnp.asarray(steps), LOW, HIGH))  # distillation learns of these alone
  for r in times[np.searchsorted(times, [0.05, 0.3, 1.0, 5.0, 79.0])]:
    x = jnp.asarray(MEAN + np.sqrt(STD**2 + r**2) * np.linspace(-2, 2, 41)[:, None], jnp.float32)
    at = PROCESS.at(jnp.full(41, r)).like(x)
    output = Small().apply({"params": state.averaged()}, kind.input(x, at), jnp.log(at.t[:, 0]) / 4)
    error = np.sqrt(np.mean((kind.x_0(output, x, at) - start(x, r)) ** 2)) / STD
    assert error < 0.1, (r, error)


def test_what_does_not_go_together_is_said():
  pairs = improved(100)
  with pytest.raises(UserError, match="continuous"):
    consistency_model(Small(), diffusion.cosine(100), SPEC, optax.sgd(0.1), pairs)
  with pytest.raises(UserError, match="keep some signal"):
    consistency_model(Small(), diffusion.rectified_flow(), SPEC, optax.sgd(0.1), pairs)
  with pytest.raises(UserError, match="padding"):
    consistency_model(Small(), PROCESS, Spec((4, 3), mask="mask"), optax.sgd(0.1), pairs)
  with pytest.raises(UserError, match="grows from 1"):
    doubling(100, 20, 10)
  with pytest.raises(UserError, match="grows from 1"):
    square_root(100, 1, 10)
  with pytest.raises(UserError, match="sigma_min"):
    predictions.consistency(0.5, 0.0)
  assert sampling.network_calls(consistency(PROCESS), few_steps(PROCESS, 4)) == 4
