"""Meshes, shardings, the compiled program and pmap, on a small noisy regression whose result is known to one device."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec

from jaxgen.core.errors import UserError
from jaxgen.core.keys import example_keys, root
from jaxgen.core.method import Player, compose
from jaxgen.core.spread import BATCH_AXES
from jaxgen.core.wrappers import averaged
from jaxgen.engine.cluster import join_cluster
from jaxgen.engine.mesh import make_mesh
from jaxgen.engine.placing import quick_options
from jaxgen.engine.pmap import pmap_step, shard_batch, stack_state, unstack_state
from jaxgen.engine.program import Program
from jaxgen.engine.rules import replicate

WIDTH = 64


def regression(*, mean=True, buffers=False, width=WIDTH):
  def init(key, batch):
    return {"net": {"w": jax.random.normal(key, (width, width)) / 8, "b": jnp.zeros(width)}}, (
      {"count": jnp.zeros(())} if buffers else {}
    )

  def loss(params, state, batch, key):
    noise = jax.vmap(lambda k: jax.random.normal(k, (width,), batch["x"].dtype))(example_keys(key, batch["index"]))
    return jnp.mean((jnp.tanh((batch["x"] + noise) @ params["w"] + params["b"]) - batch["x"]) ** 2), ({}, state.buffers)

  def evaluate(state, batch, key):
    return {"norm": jnp.sum(batch["x"] ** 2, axis=-1)}

  def sample(state, keys):
    return jax.vmap(lambda k: jax.random.normal(k, (width,)))(keys) @ state.params["net"]["w"]

  player = Player(loss, optax.adam(1e-2), mean)
  return averaged(compose(init, [("net", player)], evaluate=evaluate, sample=sample), {"net": 0.9})


def batch_at(step, size=16, dtype=np.float32, width=WIDTH):
  x = np.random.default_rng(step).normal(size=(size, width)).astype(dtype)
  return {"x": x, "index": np.arange(size, dtype=np.int32)}


def stack(start, count, **kwargs):
  batches = [batch_at(start + i, **kwargs) for i in range(count)]
  return {k: np.stack([b[k] for b in batches]) for k in batches[0]}


def spec(size=16, dtype=np.float32, width=WIDTH):
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batch_at(0, size, dtype, width))


def train(program, cuts, dtype=np.float32, width=WIDTH):
  state, done, losses = program.init(0, batch_at(0, dtype=dtype, width=width)), 0, []
  for count in cuts:
    state, metrics = program.dispatch(state, program.put_many(stack(done, count, dtype=dtype, width=width)), count)
    losses += list(np.asarray(metrics["loss"])[:count])
    done += count
  return state, np.array(losses)


def arrays(state):
  return [
    np.asarray(jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x)
    for x in jax.tree.leaves(state)
  ]


@pytest.mark.parametrize("devices", [1, 8])
def test_the_bits_do_not_depend_on_where_dispatches_are_cut(devices):
  mesh = make_mesh(devices=jax.devices()[:devices])
  results = []
  for cuts in ((4, 4, 4), (1, 4, 2, 3, 2), (3, 3, 3, 3)):
    program = Program(regression(), spec(), mesh, updates=4)
    results.append(train(program, cuts))
    assert program.traces == 1
  for state, losses in results[1:]:
    np.testing.assert_array_equal(losses, results[0][1])
    for a, b in zip(arrays(state), arrays(results[0][0]), strict=True):
      np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("devices", "fsdp"), [(8, 1), (8, 8), (8, 2), (4, 4)])
def test_meshes_agree_in_float64(x64, devices, fsdp):
  one = Program(regression(), spec(dtype=np.float64), make_mesh(devices=jax.devices()[:1]), updates=5)
  many = Program(regression(), spec(dtype=np.float64), make_mesh(fsdp, jax.devices()[:devices]), updates=5)
  (state, losses), (other, other_losses) = (train(p, (5, 5, 5, 5), np.float64) for p in (one, many))
  np.testing.assert_allclose(losses, other_losses, rtol=0, atol=1e-12)
  for a, b in zip(arrays(state), arrays(other), strict=True):
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-9)


def test_fsdp_cuts_large_arrays_and_keeps_the_shardings():
  program = Program(regression(), spec(), make_mesh(4), updates=2)
  state, _ = train(program, (2, 2))
  assert state.params["net"]["w"].sharding.spec == PartitionSpec("fsdp", None)
  assert state.params["net"]["w"].addressable_shards[0].data.shape == (WIDTH // 4, WIDTH)
  assert state.params["net"]["b"].sharding.spec == PartitionSpec(None)
  adam = state.opt["net"][0]
  assert adam.mu["w"].sharding == state.params["net"]["w"].sharding
  assert jax.tree.all(jax.tree.map(lambda x, s: x.sharding.is_equivalent_to(s, x.ndim), state, program.shardings))


def test_evaluate_and_sample():
  program = Program(regression(), spec(), make_mesh(), updates=1)
  state = program.init(0, batch_at(0))
  batch = batch_at(1)
  norm = program.evaluate(state, batch, jax.random.key(0))["norm"]
  np.testing.assert_allclose(norm, np.sum(batch["x"] ** 2, -1), rtol=1e-5)
  keys = jax.random.split(jax.random.key(1), 12)  # 12 does not divide over 8 devices
  whole = program.sample(state, keys, {})
  assert whole.shape == (12, WIDTH)
  one = Program(regression(), spec(), make_mesh(devices=jax.devices()[:1]))
  np.testing.assert_allclose(whole, one.sample(one.init(0, batch_at(0)), keys, {}), atol=1e-5)


@pytest.mark.parametrize("microbatches", [2, 4])
def test_microbatches_and_meshes_agree_in_float64(x64, microbatches):
  one = Program(regression(), spec(dtype=np.float64), make_mesh(devices=jax.devices()[:1]))
  many = Program(regression(), spec(dtype=np.float64), make_mesh(2, jax.devices()[:4]), microbatches=microbatches)
  (state, losses), (other, other_losses) = (train(p, (1,) * 4, np.float64) for p in (one, many))
  np.testing.assert_allclose(losses, other_losses, rtol=0, atol=1e-12)
  for a, b in zip(arrays(state), arrays(other), strict=True):
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-9)


def test_pmap_equals_jit(x64):
  size, devices = 16, 8
  method = regression()
  jitted = Program(method, spec(dtype=np.float64), make_mesh(devices=jax.devices()[:1]))
  state, losses = train(jitted, (1,) * 4, np.float64)
  step = pmap_step(method)
  mapped = stack_state(method.init(root(0, "training"), batch_at(0, dtype=np.float64)))
  for i in range(4):
    mapped, metrics = step(mapped, shard_batch(batch_at(i, size, np.float64), devices))
    np.testing.assert_allclose(metrics["loss"], np.full(devices, losses[i]), rtol=0, atol=1e-12)
  copies = arrays(mapped)
  for a, b in zip(arrays(state), copies, strict=True):
    np.testing.assert_allclose(np.broadcast_to(a, b.shape), b, rtol=0, atol=1e-9)
  for a, b in zip(arrays(state), arrays(unstack_state(mapped)), strict=True):
    assert a.shape == b.shape


def test_pmap_refuses_what_it_would_get_wrong():
  with pytest.raises(ValueError, match="not a mean over examples"):
    pmap_step(regression(mean=False))
  method = regression(buffers=True)
  state = stack_state(method.init(jax.random.key(0), batch_at(0)))
  with pytest.raises(ValueError, match="buffers would differ by device"):
    pmap_step(method)(state, shard_batch(batch_at(0), 8))


def test_the_program_cannot_compile_again():
  program = Program(regression(), spec(), make_mesh(), updates=2)
  state = program.init(0, batch_at(0))
  with pytest.raises(TypeError):
    program.dispatch(state, program.put_many(stack(0, 2, size=24)), 2)
  state, _ = program.dispatch(state, program.put_many(stack(0, 2)), 1)
  with pytest.raises(TypeError):
    program.dispatch(state.replace(skipped=state.skipped.astype(jnp.float32)), program.put_many(stack(0, 2)), 1)
  assert program.traces == 1


def test_the_step_is_traced_once():
  method, traced = regression(), []
  count = lambda state, batch, **options: (traced.append(1), method.step(state, batch, **options))[1]
  program = Program(method._replace(step=count), spec(), make_mesh(2), updates=2)
  _ = program.lowered
  assert len(traced) == 1


def test_the_rule_can_be_exchanged():
  program = Program(regression(), spec(), make_mesh(8), rule=replicate)
  assert all(s.spec == PartitionSpec(*[None] * len(s.spec)) for s in jax.tree.leaves(program.shardings))


def test_bad_meshes_and_batches():
  with pytest.raises(UserError, match="--fsdp 3 does not divide the 8 devices"):
    make_mesh(3)
  with pytest.raises(
    UserError, match="a batch of 10 does not divide over the 8 devices: use a multiple of 8, such as 8"
  ):
    Program(regression(), spec(10), make_mesh())


def test_joining_a_cluster(monkeypatch):
  for name in ("JAX_COORDINATOR_ADDRESS", "SLURM_JOB_ID", "OMPI_COMM_WORLD_SIZE", "KUBERNETES_SERVICE_HOST"):
    monkeypatch.delenv(name, raising=False)
  assert not join_cluster()
  with pytest.raises(UserError, match="go together"):
    join_cluster("localhost:1234")
  with pytest.raises(UserError, match="--process must be from 0 to 1"):
    join_cluster("localhost:1234", 2, 2)


def test_chains_are_spread_as_a_batch_is():
  method = regression()
  chains = {"x": jnp.arange(16.0 * 3).reshape(16, 3)}
  init = lambda key, batch: method.init(key, batch).replace(buffers={"chains": chains, "other": jnp.ones((16, 3))})
  program = Program(method._replace(init=init), spec(), make_mesh(2))
  state = program.init(0, batch_at(0))
  assert state.buffers["chains"]["x"].sharding.spec == PartitionSpec(BATCH_AXES, None)
  assert state.buffers["chains"]["x"].addressable_shards[0].data.shape == (2, 3)
  assert state.buffers["other"].sharding.is_fully_replicated
  few = lambda key, batch: method.init(key, batch).replace(buffers={"chains": jnp.ones((12, 3))})
  with pytest.raises(UserError, match="12 chains do not divide over the 8 devices: use a multiple of 8, such as 16"):
    Program(method._replace(init=few), spec(), make_mesh(2))


@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
def test_xla_knows_the_options_of_the_initialisation_of_every_platform(platform):
  options = quick_options(platform)
  assert len(options) == (platform != "tpu")
  assert jax.jit(lambda x: x + 1, compiler_options=options)(1) == 2  # XLA refuses options that it does not know


@pytest.mark.parametrize("devices", [1, 8])
def test_shapes_are_asked_by_the_trace_that_is_used_later(devices):
  """What is tried before the first step costs no second trace."""
  traced, method = [], regression()
  noted = lambda name, f: lambda *args, **options: traced.append(name) or f(*args, **options)
  method = method._replace(evaluate=noted("evaluate", method.evaluate), sample=noted("sample", method.sample))
  program = Program(method, spec(), make_mesh(devices=jax.devices()[:devices]))
  samples, values = program.sample_shapes(16, {}), program.evaluate_shapes(spec())
  state = program.init(0, batch_at(0))
  keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(0), np.arange(16))
  assert program.sample(state, keys, {}).shape == samples.shape == (16, WIDTH)
  assert program.evaluate(state, batch_at(0), jax.random.key(0))["norm"].shape == values["norm"].shape == (16,)
  assert sorted(traced) == ["evaluate", "sample"]
