"""Wrappers around methods whose steps are known in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgen.core.errors import UserError
from jaxgen.core.method import Frozen, Player, compose
from jaxgen.core.wrappers import averaged, first_stage, power, rollback, warmed_up


def batch_of(values):
  values = jnp.asarray(values)
  return {"x": values, "index": jnp.arange(len(values), dtype=jnp.int32)}


def descent(dtype=jnp.float32, start=0.0):
  """w falls by the batch's mean at every step."""
  init = lambda key, batch: ({"w": jnp.full((), start, dtype), "fixed": jnp.ones(())}, {})
  loss = lambda params, state, batch, key: (jnp.mean(params * batch["x"]).astype(jnp.float32), ({}, state.buffers))
  return compose(init, [("w", Player(loss, optax.sgd(1.0)))])


def run(method, steps, x=1.0):
  state = method.init(jax.random.key(0), batch_of([x, x]))
  step = jax.jit(method.step)
  for _ in range(steps):
    state, _ = step(state, batch_of([x, x]))
  return state


def test_averages_are_the_recursion_once_a_step_of_as_many_as_are_asked_for():
  decay = lambda n: jnp.minimum(0.9, n / 10)
  state = run(averaged(descent(), {"w": decay, "w/short": 0.5}), 5)
  expected, short = 0.0, 0.0
  for n in range(5):
    d, w = min(0.9, n / 10), -(n + 1.0)
    expected, short = d * expected + (1 - d) * w, 0.5 * short + 0.5 * w
  np.testing.assert_allclose(state.averaged("w"), expected, rtol=1e-6)
  np.testing.assert_allclose(state.averaged("w/short"), short, rtol=1e-6)
  assert set(run(averaged(descent(), 0.5), 1).ema) == {"w"}  # what is trained
  with pytest.raises(ValueError, match="no network 'v'"):
    run(averaged(descent(), {"v": 0.5}), 0)
  for decay in (1.0, 1.5, -0.1, float("nan")):
    with pytest.raises(UserError, match=rf"lies in \[0, 1\), and this is {decay:g}"):
      averaged(descent(), {"w": 0.5, "w/other": decay})
  assert averaged(descent(), None).init(jax.random.key(0), batch_of([1.0])).ema == {}


def test_averages_move_where_d_a_plus_rest_would_not():
  """In float32 0.999999 a + 0.000001 p rounds back to a near 1; in bfloat16 0.999 a + 0.001 p does, too."""
  state = run(averaged(descent(start=1.0), 1 - 1e-6), 200, x=1e-2)
  exact, w, a = 1 - 1e-6, 1.0, 1.0
  for _ in range(200):
    w -= 1e-2
    a += (1 - exact) * (w - a)
  np.testing.assert_allclose(1 - float(state.averaged("w")), 1 - a, rtol=0.05)
  half = run(averaged(descent(jnp.bfloat16, start=1.0), 0.999), 100, x=0.25)
  assert half.ema["w"].dtype == jnp.float32
  assert half.averaged("w").dtype == jnp.bfloat16
  assert float(half.ema["w"]) < 0.5  # 1 - 0.25 sum_n n 0.001 and more, -0.2 about


def test_a_warmed_up_average_forgets_its_start():
  state = run(averaged(descent(start=100.0), warmed_up(0.9999)), 1000, x=0.0)
  np.testing.assert_allclose(state.averaged("w"), 100.0)
  n = np.arange(1000)
  left = np.prod(np.minimum(0.9999, (1 + n) / (10 + n)))
  assert left < 1e-15
  moved = run(averaged(descent(start=100.0), warmed_up(0.9999)), 1000, x=0.125)
  w = 100 - 0.125 * (n + 1)
  expected = 100.0
  for k, value in zip(n, w, strict=True):
    d = min(0.9999, (1 + k) / (10 + k))
    expected += (1 - d) * (value - expected)
  np.testing.assert_allclose(moved.averaged("w"), expected, rtol=1e-5)


@pytest.mark.parametrize("sigma_rel", [0.05, 0.1, 0.25])
def test_a_power_average_has_its_relative_width(sigma_rel, x64):
  """Of the line w = t the average is the profile's mean, and of its weights the deviation is sigma_rel t."""
  steps, weights = 4000, np.zeros(4000)
  shares = np.asarray(power(sigma_rel).of(jnp.arange(steps)))
  for n in range(steps):
    weights *= 1 - shares[n]
    weights[n] = shares[n]
  t = np.arange(1, steps + 1)
  mean = (weights * t).sum()
  assert abs(weights.sum() - 1) < 1e-12
  np.testing.assert_allclose(np.sqrt((weights * (t - mean) ** 2).sum()) / steps, sigma_rel, rtol=2e-3)
  for wrong in (0.0, 0.3):
    with pytest.raises(UserError, match="relative width"):
      power(wrong)


def test_averages_over_long_runs_move_as_much_as_they_should():
  """In float32, where a decay near 1 has lost most digits of 1 - d: after 10 M steps, and at 0.99999999."""
  n = jnp.asarray(10_000_000, jnp.int32)
  gamma = 6.94  # of the relative width 0.1: Karras et al. 2024, section 3.1
  np.testing.assert_allclose(power(0.1).of(n), (gamma + 1) / 1e7, rtol=1e-3)
  np.testing.assert_allclose(warmed_up(1 - 1e-8).of(jnp.asarray(2**31 - 1, jnp.int32)), 1e-8, rtol=1e-5)
  np.testing.assert_allclose(warmed_up(0.9999).of(jnp.asarray(80, jnp.int32)), 0.1, rtol=1e-6)
  for decay in (1.0, 1.5):
    with pytest.raises(UserError, match=r"lies in \[0, 1\)"):
      warmed_up(decay)


def test_a_skipped_step_changes_no_average():
  method = averaged(descent(), 0.5)
  state = method.init(jax.random.key(0), batch_of([1.0]))
  state, _ = method.step(state, batch_of([1.0]))
  after, metrics = method.step(state, batch_of([jnp.nan]))
  assert int(metrics["skipped"]) == 1
  assert float(after.ema["w"]) == float(state.ema["w"]) == -0.5


def test_a_first_stage_around_a_method():
  """Latents are twice the examples: the method inside sees those, evaluates those, and what it draws is halved."""

  def init(key, batch):
    return {"network": jnp.zeros(batch["x"].shape[1:])}, {}

  def loss(params, state, batch, key):
    return jnp.mean(jnp.sum((params - batch["x"]) ** 2, -1)) / 2, ({}, state.buffers)

  evaluate = lambda state, batch, key: {"sum": batch["x"].sum(-1)}
  sample = lambda state, keys: jnp.broadcast_to(state.params["network"], (len(keys), 3))
  inner = compose(init, [("network", Player(loss, optax.sgd(1.0)))], evaluate=evaluate, sample=sample)
  frozen = Frozen("a file", lambda: {"scale": np.float32(2.0)})
  method = first_stage(
    inner,
    lambda key, x: {"scale": jnp.ones(())},
    lambda params, x, keys: params["scale"] * x,
    lambda params, z: z / params["scale"],
    frozen,
    feature="x",
  )
  x = jnp.arange(6.0).reshape(2, 3)
  batch = {"x": x, "index": jnp.arange(2)}
  state = method.init(jax.random.key(0), batch)
  assert set(method.frozen) == {"first_stage"}
  state = state.replace(params={**state.params, "first_stage": frozen.load()})
  state, _ = jax.jit(method.step)(state, batch)
  np.testing.assert_allclose(state.params["network"], 2 * x.mean(0))  # one step of gradient descent to the mean
  np.testing.assert_allclose(method.evaluate(state, batch, jax.random.key(0))["sum"], 2 * x.sum(-1))
  np.testing.assert_allclose(method.sample(state, jax.random.split(jax.random.key(0), 2)), np.tile(x.mean(0), (2, 1)))
  assert float(state.params["first_stage"]["scale"]) == 2.0


def counting():
  """A method whose parameter and buffer count its steps, and whose loss is the batch's value."""

  def init(key, batch):
    return {"net": jnp.zeros(())}, {"count": jnp.zeros(())}

  def loss(params, state, batch, key):
    return -params, ({"level": batch["x"].mean()}, {"count": state.buffers["count"] + 1})

  return averaged(compose(init, [("net", Player(loss, optax.sgd(1.0)))]), {"net": 0.0})


def test_what_diverges_goes_back_to_the_older_snapshot():
  """Snapshots after steps 3 and 6; step 8 diverges, so it ends as step 3 did, and then goes on from there."""
  method = rollback(counting(), lambda metrics: metrics["level"] > 1, every=3)
  batch = lambda x: {"x": jnp.full((2,), x), "index": jnp.arange(2)}
  state, found = method.init(jax.random.key(0), batch(0.0)), []
  for number in range(1, 14):
    state, metrics = jax.jit(method.step)(state, batch(2.0 if number in (8, 9) else 0.0))
    count = float(state.params["net"])
    assert float(state.buffers["count"]) == float(state.ema["net"]) == count
    found.append((count, int(metrics["rolled_back"])))
  assert [count for count, _ in found] == [1, 2, 3, 4, 5, 6, 7, 3, 3, 4, 5, 6, 7]
  assert [back for _, back in found] == [0] * 7 + [1, 1] + [0] * 4
  assert int(state.step) == 13


def test_without_divergence_a_method_that_can_go_back_is_the_same():
  plain, guarded = counting(), rollback(counting(), lambda metrics: metrics["level"] > 1, every=2)
  batch = {"x": jnp.zeros(2), "index": jnp.arange(2)}
  a, b = plain.init(jax.random.key(0), batch), guarded.init(jax.random.key(0), batch)
  for _ in range(5):
    (a, _), (b, _) = plain.step(a, batch), guarded.step(b, batch)
  assert float(a.params["net"]) == float(b.params["net"]) == 5
  with pytest.raises(ValueError, match="every 1 or more steps"):
    rollback(plain, lambda metrics: metrics["loss"] > 1, every=0)
