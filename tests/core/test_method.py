"""`compose` on problems whose updates are known in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgen.core.method import Player, compose, example_keys, network_sizes, rollback, split_batch


def batch_of(values):
  values = jnp.asarray(values)
  return {"x": values, "index": jnp.arange(len(values), dtype=jnp.int32)}


def no_evaluation(state, batch, key):
  return {"zero": jnp.zeros(batch["x"].shape[0])}


def linear_loss(name=None):
  """mean(w * x): its gradient is mean(x), which tells what slice of the batch an update saw."""

  def loss(params, state, batch, key):
    return jnp.mean(params * batch["x"]), ({"mean_x": jnp.mean(batch["x"])}, state.buffers)

  return loss


def init_scalars(*names):
  return lambda key, batch: ({name: jnp.zeros(()) for name in names}, {})


def test_one_player_is_gradient_descent():
  method = compose(init_scalars("w"), [("w", Player(linear_loss(), optax.sgd(0.5)))], evaluate=no_evaluation)
  batch = batch_of([1.0, 3.0])
  state = method.init(jax.random.key(0), batch)
  state, metrics = jax.jit(method.step)(state, batch)
  assert float(state.params["w"]) == -0.5 * 2.0
  assert float(metrics["gradient_norm"]) == 2.0
  assert int(state.step) == 1
  assert int(state.skipped) == 0


def test_repeated_players_see_disjoint_slices_and_other_keys():
  seen = []

  def loss(params, state, batch, key):
    seen.append(jax.random.key_data(key))
    return jnp.mean(params * batch["x"]), ({}, state.buffers)

  critic = Player(loss, optax.sgd(1.0))
  players = [("critic", critic), ("critic", critic), ("generator", critic)]
  method = compose(init_scalars("critic", "generator"), players, evaluate=no_evaluation)
  batch = batch_of([1.0, 10.0, 100.0, 1000.0])
  state, _ = method.step(method.init(jax.random.key(0), batch), batch)
  # Two critic updates of two examples each use every example once: -(mean of one half) - (mean of the other).
  assert float(state.params["critic"]) == -(1111.0 / 2)
  assert float(state.params["generator"]) == -(101.0 / 2)
  assert len({tuple(np.asarray(k)) for k in seen}) == 3


def test_a_later_player_sees_the_earlier_one_updated():
  def follow(params, state, batch, key):
    return params * jax.lax.stop_gradient(state.params["first"]) + 0.0 * jnp.sum(batch["x"]), ({}, state.buffers)

  players = [("first", Player(linear_loss(), optax.sgd(1.0))), ("second", Player(follow, optax.sgd(1.0)))]
  method = compose(init_scalars("first", "second"), players, evaluate=no_evaluation)
  batch = batch_of([2.0, 2.0])
  state, metrics = method.step(method.init(jax.random.key(0), batch), batch)
  assert float(state.params["first"]) == -2.0
  assert float(state.params["second"]) == 2.0  # its gradient is the first's updated value
  assert {"first/loss", "second/loss"} <= set(metrics)


def test_a_network_without_a_player_stays_frozen():
  method = compose(init_scalars("w", "frozen"), [("w", Player(linear_loss(), optax.sgd(1.0)))], evaluate=no_evaluation)
  batch = batch_of([1.0])
  state, _ = method.step(method.init(jax.random.key(0), batch), batch)
  assert float(state.params["frozen"]) == 0.0
  assert set(state.opt) == {"w"}


def noisy_regression(microbatches, axis=None):
  """Predicts x from its noisy self: the noise is per example, so parts of a batch see the same."""

  def init(key, batch):
    return {"net": {"w": jax.random.normal(key, (4, 4)), "b": jnp.zeros(4)}}, {}

  def loss(params, state, batch, key):
    noise = jax.vmap(lambda k: jax.random.normal(k, (4,), batch["x"].dtype))(example_keys(key, batch["index"]))
    error = jnp.tanh((batch["x"] + noise) @ params["w"] + params["b"]) - batch["x"]
    return jnp.mean(error**2), ({"error": jnp.mean(jnp.abs(error))}, state.buffers)

  player = Player(loss, optax.chain(optax.clip_by_global_norm(0.1), optax.adam(1e-2)))
  return compose(
    init, [("net", player)], evaluate=no_evaluation, ema={"net": 0.9}, microbatches=microbatches, axis=axis
  )


def test_microbatches_equal_the_batch(x64):
  batch = batch_of(np.random.default_rng(0).normal(size=(12, 4)))
  results = []
  for microbatches in (1, 2, 3, 12):
    method = noisy_regression(microbatches)
    state = method.init(jax.random.key(0), batch)
    state = jax.tree.map(lambda x: x.astype(jnp.float64) if x.dtype == jnp.float32 else x, state)
    for _ in range(3):
      state, metrics = jax.jit(method.step)(state, batch)
    results.append((state.params, state.ema, metrics))
  for other in results[1:]:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-13), results[0], other)


def test_microbatches_that_do_not_divide():
  method = noisy_regression(5)
  batch = batch_of(np.zeros((12, 4), np.float32))
  with pytest.raises(ValueError, match="12 examples does not divide into 5"):
    method.step(method.init(jax.random.key(0), batch), batch)


def test_a_loss_that_is_no_mean_takes_no_microbatches():
  player = Player(linear_loss(), optax.sgd(1.0), mean=False)
  with pytest.raises(ValueError, match="takes no microbatches"):
    compose(init_scalars("w"), [("w", player)], evaluate=no_evaluation, microbatches=2)


def test_ema_is_the_recursion_and_runs_once_a_step():
  player = Player(linear_loss(), optax.sgd(1.0))
  decay = lambda step: jnp.minimum(0.9, step / 10)
  method = compose(init_scalars("w"), [("w", player), ("w", player)], evaluate=no_evaluation, ema={"w": decay})
  batch = batch_of([1.0, 1.0])
  state, expected = method.init(jax.random.key(0), batch), 0.0
  for step in range(5):
    state, _ = jax.jit(method.step)(state, batch)
    d = min(0.9, step / 10)
    expected = d * expected + (1 - d) * (-2.0 * (step + 1))
  np.testing.assert_allclose(state.ema["w"], expected, rtol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_step_that_is_not_finite_is_skipped(bad):
  method = noisy_regression(1)
  good = batch_of(np.ones((4, 4), np.float32))
  state = method.init(jax.random.key(0), good)
  step = jax.jit(method.step)
  state, _ = step(state, good)
  before = jax.tree.map(np.asarray, (state.params, state.opt, state.ema))
  poison = good | {"x": good["x"].at[2, 1].set(bad)}
  for count in (1, 2):
    state, metrics = step(state, poison)
    assert int(state.skipped) == count
    assert int(metrics["skipped"]) == count
  jax.tree.map(np.testing.assert_array_equal, before, (state.params, state.opt, state.ema))
  assert int(state.step) == 3
  state, _ = step(state, good)
  assert int(state.skipped) == 0


def test_gradients_that_are_not_finite_are_skipped_though_the_loss_is():
  def loss(params, state, batch, key):
    return jnp.sum(jnp.sqrt(params)) + 0.0 * jnp.sum(batch["x"]), ({}, state.buffers)  # infinite slope at 0

  method = compose(init_scalars("w"), [("w", Player(loss, optax.sgd(1.0)))], evaluate=no_evaluation)
  batch = batch_of([1.0])
  state, metrics = method.step(method.init(jax.random.key(0), batch), batch)
  assert np.isfinite(metrics["loss"])
  assert int(state.skipped) == 1
  assert float(state.params["w"]) == 0.0


def test_buffers_come_from_the_loss():
  def loss(params, state, batch, key):
    return jnp.mean(params * batch["x"]), ({}, {"seen": state.buffers["seen"] + batch["x"].shape[0]})

  init = lambda key, batch: ({"w": jnp.zeros(())}, {"seen": jnp.zeros((), jnp.int32)})
  player = Player(loss, optax.sgd(1.0), mean=False)
  method = compose(init, [("w", player)], evaluate=no_evaluation)
  batch = batch_of([1.0, 2.0, 3.0])
  state = method.init(jax.random.key(0), batch)
  for _ in range(2):
    state, _ = jax.jit(method.step)(state, batch)
  assert int(state.buffers["seen"]) == 6


def test_runs_with_other_seeds_differ_and_steps_draw_new_noise():
  method = noisy_regression(1)
  batch = batch_of(np.ones((4, 4), np.float32))
  losses = []
  for seed in (0, 0, 1):
    state = method.init(jax.random.key(seed), batch)
    frozen = state
    _, first = method.step(state, batch)
    _, second = method.step(frozen.replace(step=frozen.step + 1), batch)
    losses.append((float(first["loss"]), float(second["loss"])))
  assert losses[0] == losses[1]
  assert losses[0][0] != losses[2][0]
  assert losses[0][0] != losses[0][1]


def test_split_batch_uses_each_example_once():
  parts = split_batch(batch_of(np.arange(12.0)), 3)
  assert parts["x"].shape == (3, 4)
  assert sorted(np.asarray(parts["index"]).ravel()) == list(range(12))
  np.testing.assert_array_equal(parts["x"], parts["index"])


def test_network_sizes():
  assert network_sizes({"a": {"w": np.zeros((2, 3))}, "b": [np.zeros(4)]}) == {"a": 6, "b": 4}


def counting():
  """A method whose parameter and buffer count its steps, and whose loss is the batch's value."""

  def init(key, batch):
    return {"net": jnp.zeros(())}, {"count": jnp.zeros(())}

  def loss(params, state, batch, key):
    return -params, ({"level": batch["x"].mean()}, {"count": state.buffers["count"] + 1})

  return compose(init, [("net", Player(loss, optax.sgd(1.0)))], ema={"net": 0.0})


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
