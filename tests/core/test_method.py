"""`compose` on problems whose updates are known in closed form."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from rounding import needs

from jaxgen.core.errors import UserError
from jaxgen.core.keys import example_keys
from jaxgen.core.method import Player, compose, network_sizes, split_batch
from jaxgen.core.wrappers import averaged


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


def test_updates_of_one_step_see_disjoint_slices_and_other_keys():
  seen = []

  def loss(params, state, batch, key):
    jax.debug.callback(lambda data: seen.append(tuple(np.asarray(data).tolist())), jax.random.key_data(key))
    return jnp.mean(params * batch["x"]), ({}, state.buffers)

  critic, generator = Player(loss, optax.sgd(1.0), updates=2), Player(loss, optax.sgd(1.0))
  whole = Player(loss, optax.sgd(1.0), slices=1)
  players = [("critic", critic), ("generator", generator), ("whole", whole)]
  method = compose(init_scalars("critic", "generator", "whole"), players, evaluate=no_evaluation)
  batch = batch_of([1.0, 10.0, 100.0, 1000.0])
  state, _ = method.step(method.init(jax.random.key(0), batch), batch)
  # Two critic updates of two examples each use every example once: -(mean of one half) - (mean of the other).
  assert float(state.params["critic"]) == -(1111.0 / 2)
  assert float(state.params["generator"]) == -(101.0 / 2)
  assert float(state.params["whole"]) == -(1111.0 / 4)
  jax.effects_barrier()
  assert len(set(seen)) == len(seen) == 4


def test_many_updates_are_one_compiled_body():
  traces = []

  def loss(params, state, batch, key):
    traces.append(1)
    return jnp.mean((params - batch["x"]) ** 2), ({}, state.buffers)

  method = compose(init_scalars("w"), [("w", Player(loss, optax.sgd(0.1), updates=8))], evaluate=no_evaluation)
  batch = batch_of(np.arange(16.0))
  state, _ = jax.jit(method.step)(method.init(jax.random.key(0), batch), batch)
  assert len(traces) <= 2  # JAX may trace a scan's body twice
  w = 0.0
  for j in range(8):  # the j-th slice holds the examples j and j + 8
    w -= 0.1 * 2 * (w - (j + 4.0))
  np.testing.assert_allclose(state.params["w"], w, rtol=1e-6)


def test_a_stage_is_made_once_and_used_by_several_updates():
  """Rollouts drawn once from the policy as it was before the step, seen by its four updates slice by slice."""

  def rollouts(state, batch, key):
    action = state.params["policy"] + batch["x"]
    return {**batch, "action": action}, {"made": state.buffers["made"] + 1}

  def loss(params, state, batch, key):
    return jnp.mean(params * batch["action"]), ({"action": jnp.mean(batch["action"])}, state.buffers)

  init = lambda key, batch: ({"policy": jnp.ones(())}, {"made": jnp.zeros((), jnp.int32)})
  player = Player(loss, optax.sgd(1.0), updates=4)
  method = compose(init, [("policy", player)], stages=[rollouts], evaluate=no_evaluation)
  batch = batch_of(np.arange(8.0))
  state, metrics = jax.jit(method.step)(method.init(jax.random.key(0), batch), batch)
  assert int(state.buffers["made"]) == 1
  # Every update's gradient is the mean action of its slice, of the policy 1 that made them all.
  np.testing.assert_allclose(state.params["policy"], 1.0 - sum(1.0 + (j + j + 4) / 2 for j in range(4)))
  np.testing.assert_allclose(metrics["action"], 1.0 + (3 + 7) / 2)


def test_players_that_cannot_be():
  player = Player(linear_loss(), optax.sgd(1.0))
  with pytest.raises(ValueError, match="one player"):
    compose(init_scalars("w"), [("w", player), ("w", player)])
  with pytest.raises(ValueError, match="3 times from 2 slices"):
    compose(init_scalars("w"), [("w", player._replace(updates=3, slices=2))])


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


def noisy_regression():
  """Predicts x from its noisy self: the noise is per example, so parts of a batch see the same."""

  def init(key, batch):
    return {"net": {"w": jax.random.normal(key, (4, 4)), "b": jnp.zeros(4)}}, {}

  def loss(params, state, batch, key):
    noise = jax.vmap(lambda k: jax.random.normal(k, (4,), batch["x"].dtype))(example_keys(key, batch["index"]))
    error = jnp.tanh((batch["x"] + noise) @ params["w"] + params["b"]) - batch["x"]
    return jnp.mean(error**2), ({"error": jnp.mean(jnp.abs(error))}, state.buffers)

  player = Player(loss, optax.chain(optax.clip_by_global_norm(0.1), optax.adam(1e-2)))
  return averaged(compose(init, [("net", player)], evaluate=no_evaluation), 0.9)


def test_microbatches_equal_the_batch(x64):
  batch = batch_of(np.random.default_rng(0).normal(size=(12, 4)))
  results = []
  for microbatches in (1, 2, 3, 12):
    method = noisy_regression()
    step = jax.jit(partial(method.step, microbatches=microbatches))
    state = method.init(jax.random.key(0), batch)
    state = jax.tree.map(lambda x: x.astype(jnp.float64) if x.dtype == jnp.float32 else x, state)
    for _ in range(3):
      state, metrics = step(state, batch)
    results.append((state.params, state.ema, metrics))
  for other in results[1:]:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-13), results[0], other)


def test_microbatches_that_do_not_divide():
  method = noisy_regression()
  batch = batch_of(np.zeros((12, 4), np.float32))
  with pytest.raises(UserError, match="12 examples does not divide into 5 equal parts: use a multiple of 5"):
    method.step(method.init(jax.random.key(0), batch), batch, microbatches=5)


def test_what_takes_no_microbatches():
  def counts(params, state, batch, key):
    return jnp.mean(params * batch["x"]), ({}, {"seen": state.buffers["seen"] + 1})

  init = lambda key, batch: ({"w": jnp.zeros(())}, {"seen": jnp.zeros((), jnp.int32)})
  batch = batch_of([1.0, 2.0])
  not_a_mean = Player(linear_loss(), optax.sgd(1.0), mean=False)
  for player, reason in ((not_a_mean, "not a mean"), (Player(counts, optax.sgd(1.0)), "changes buffers")):
    method = compose(init, [("w", player)], evaluate=no_evaluation)
    with pytest.raises(ValueError, match=f"{reason}.* takes no microbatches|takes no microbatches"):
      method.step(method.init(jax.random.key(0), batch), batch, microbatches=2)
  keeps = compose(init, [("w", Player(linear_loss(), optax.sgd(1.0)))], evaluate=no_evaluation)
  state, _ = keeps.step(keeps.init(jax.random.key(0), batch), batch, microbatches=2)
  assert float(state.params["w"]) == -1.5


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_step_that_is_not_finite_is_skipped(bad):
  method = noisy_regression()
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


def test_updates_that_are_not_finite_are_skipped_though_the_gradient_is():
  """A schedule that ends in a root of a negative number: loss and gradient are fine, the update is not."""
  player = Player(linear_loss(), optax.sgd(lambda n: jnp.sqrt(1.0 - n)))
  method = compose(init_scalars("w"), [("w", player)], evaluate=no_evaluation)
  batch = batch_of([1.0])
  state = method.init(jax.random.key(0), batch)
  for _ in range(4):
    state, metrics = method.step(state, batch)
  assert float(state.params["w"]) == -1.0
  assert int(metrics["skipped"]) == 2  # the schedule's count stands still at 2, with everything else


def test_what_a_step_leaves_behind_is_finite_though_its_update_is():
  """Running statistics that overflow while the loss is fine."""
  statistics = lambda scale: (
    lambda params, state, batch, key: (
      jnp.mean(params * batch["x"]),
      ({}, {"variance": state.buffers["variance"] * scale}),
    )
  )
  batch = batch_of([1.0])
  for scale, skipped in ((1e3, 0), (1e30, 1)):
    init = lambda key, batch: ({"w": jnp.zeros(())}, {"variance": jnp.float32(1e20)})
    method = compose(init, [("w", Player(statistics(scale), optax.sgd(1.0)))], evaluate=no_evaluation)
    state, _ = method.step(method.init(jax.random.key(0), batch), batch)
    assert int(state.skipped) == skipped
    assert np.isfinite(state.buffers["variance"])
  # What begins infinite, the best so far for one, skips nothing.
  init = lambda key, batch: ({"w": jnp.zeros(())}, {"variance": jnp.float32(np.inf)})
  method = compose(init, [("w", Player(statistics(1.0), optax.sgd(1.0)))], evaluate=no_evaluation)
  assert int(method.step(method.init(jax.random.key(0), batch), batch)[0].skipped) == 0


def test_parameters_in_half_precision_that_overflow_by_a_finite_update_are_kept():
  needs(jnp.float16)
  batch = batch_of([1.0])
  half = lambda key, batch: ({"w": jnp.float16(-60_000)}, {})
  loss = lambda params, state, batch, key: (jnp.sum(params.astype(jnp.float32) * batch["x"]), ({}, state.buffers))
  method = compose(half, [("w", Player(loss, optax.sgd(50_000.0)))], evaluate=no_evaluation)
  state, _ = method.step(method.init(jax.random.key(0), batch), batch)
  assert int(state.skipped) == 1
  assert float(state.params["w"]) == -60_000


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
  method = noisy_regression()
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
