"""What every method must satisfy. A new method adds a case to its family's and gets all of it for free.

Two programs a method, both in float64: on one device, and on a (4, 2) mesh of eight. What is a property of `compose`,
of checkpoints or of pmap, and not of a method, is tested in tests/core and tests/engine, and here for a few methods.
"""

import functools
import runpy
from typing import Any

import conftest
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import BATCH

from jaxgen.data import pipeline
from jaxgen.engine.checkpoint import Checkpoints
from jaxgen.engine.hashing import state_hash
from jaxgen.engine.mesh import make_mesh
from jaxgen.engine.pmap import pmap_step, shard_batch, stack_state, unstack_state
from jaxgen.engine.program import PREPARE_STREAM, Program

FILES = sorted((conftest.REPOSITORY / "tests" / "methods").glob("*/*_cases.py"))
CASES = {name: case for file in FILES for name, case in runpy.run_path(str(file))["CASES"].items()}
STEPS = 10
KEY = jax.eval_shape(jax.random.key, 0)


# All tests of a method run in one worker, one after the other, so that they share what was compiled for it: those with
# its name in brackets, see conftest's `group`.
@pytest.fixture(scope="module", params=CASES)
def name(request):
  return request.param


def mesh(devices: int):
  return make_mesh(devices=jax.devices()[:1]) if devices == 1 else make_mesh(2)


def program(name: str, devices: int, dtype: Any = jnp.float64, microbatches: int = 1) -> Program:
  return _program(name, devices, dtype, microbatches)


@functools.lru_cache(maxsize=4)
def _program(name: str, devices: int, dtype: Any, microbatches: int) -> Program:
  case = CASES[name]
  return Program(
    case.build(dtype),
    case.data.raw_spec(BATCH),
    mesh(devices),
    prepare=case.data.transform,
    updates=7,
    microbatches=microbatches,
  )


def trained(name: str, devices: int, steps: int = STEPS, dtype: Any = jnp.float64, microbatches: int = 1):
  """(state, losses) after so many steps on real data."""
  return _trained(name, devices, steps, dtype, microbatches)


def initial(name: str, devices: int, dtype: Any = jnp.float64, microbatches: int = 1):
  """A run's first state, on the mesh.

  For most methods one device makes it, and it is spread over the mesh: that a mesh makes the same is a property of
  `Program.init`, and a third program a method. The methods that stand for all with pmap do here, too.
  """
  compiled = program(name, devices, dtype, microbatches)
  if devices == 1 or CASES[name].pmap:
    return compiled.init(0, pipeline.batch_at(CASES[name].data.source("train"), 0, 0, BATCH))
  return jax.device_put(initial(name, 1, dtype), compiled.shardings)


@functools.lru_cache(maxsize=4)
def _trained(name: str, devices: int, steps: int, dtype: Any, microbatches: int):
  case, compiled = CASES[name], program(name, devices, dtype, microbatches)
  stream = pipeline.Stream(case.data.source("train"), 0, BATCH)
  state, losses = initial(name, devices, dtype, microbatches), []
  for start in range(0, steps, compiled.updates):
    count = min(compiled.updates, steps - start)
    state, metrics = compiled.dispatch(state, compiled.put_many(stream.take(start, count)), count)
    losses.append(next(x for k, x in metrics.items() if k.endswith(case.falls or "loss"))[:count])
  return state, np.concatenate(losses)


def arrays(tree):
  data_of = lambda x: jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x
  paths = jax.tree_util.tree_leaves_with_path(tree)
  return {jax.tree_util.keystr(path): np.asarray(data_of(x)) for path, x in paths}


def assert_close(a, b, atol):
  a, b = arrays(a), arrays(b)
  assert a.keys() == b.keys()
  for leaf in a:
    np.testing.assert_allclose(a[leaf], b[leaf], rtol=0, atol=atol, err_msg=leaf)


def test_one_device_and_a_mesh_agree(name, x64):
  """The whole state and all losses; the step is traced once, and keeps its structure, dtypes and shardings."""
  (state, losses), (other, other_losses) = trained(name, 1), trained(name, 8)
  np.testing.assert_allclose(losses, other_losses, rtol=0, atol=1e-9)
  assert_close(state, other, 1e-9)
  assert int(other.step) == STEPS
  assert int(other.skipped) == 0
  compiled = program(name, 8)
  assert compiled.traces == 1
  assert jax.tree.structure(other) == jax.tree.structure(compiled.abstract)

  def same(x, like):
    assert (x.shape, x.dtype) == (like.shape, like.dtype)
    assert x.sharding.is_equivalent_to(like.sharding, x.ndim)

  jax.tree.map(same, other, compiled.abstract)


def test_evaluation_is_per_example(name, x64):
  """Each example's number is its own: it does not depend on what else is in the batch, nor on the mesh."""
  one, many = program(name, 1), program(name, 8)
  raw, key = pipeline.batch_at(CASES[name].data.source("test"), 0, 0, BATCH), jax.random.key(1)
  whole = one.evaluate(trained(name, 1)[0], raw, key)
  order = np.random.default_rng(0).permutation(BATCH)
  shuffled = many.evaluate(trained(name, 8)[0], {k: x[order] for k, x in raw.items()}, key)
  for number, value in whole.items():
    assert value.shape[0] == BATCH
    scale = 1 + np.abs(value).max()
    np.testing.assert_allclose(np.asarray(value)[order], shuffled[number], rtol=0, atol=1e-8 * scale, err_msg=number)


def test_the_loss_is_a_mean_over_what_is_predicted(name, x64):
  """At a run's first state losses times their counts are the number of `evaluate`, up to what noise and dropout make:
  nearer to it, as a factor, than a sum in place of a mean would be."""
  if CASES[name].unit is None:
    pytest.skip("the level of its losses is not known")
  (number, counts), compiled = CASES[name].unit, program(name, 1)
  raw, state = pipeline.batch_at(CASES[name].data.source("train"), 0, 0, BATCH), initial(name, 1)
  expected = number
  if isinstance(number, str):
    expected = float(compiled.evaluate(state, raw, jax.random.key(1))[number].mean())
  _, metrics = compiled.dispatch(state, compiled.put_many({k: x[None] for k, x in raw.items()}), 1)
  assert set(counts) == {k for k in metrics if k.endswith("loss")}
  found = sum(count * float(metrics[k][0]) for k, count in counts.items())
  factor = max(min(counts.values()) ** 0.5, 2)
  assert 1 / factor < found / expected < factor, f"{found:g}, not about {expected:g}"


def test_samples_are_their_own_and_the_same_on_any_mesh(name, x64):
  one, many = program(name, 1), program(name, 8)
  if one.method.sample is None:
    pytest.skip("generates nothing")
  keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(0), jnp.arange(16))
  conditions = CASES[name].conditions(16)
  samples = np.asarray(one.sample(trained(name, 1)[0], keys, conditions))
  assert samples.shape[0] == 16
  assert np.isfinite(samples).all()
  order = np.random.default_rng(0).permutation(16)
  shuffled = many.sample(trained(name, 8)[0], keys[order], {k: x[order] for k, x in conditions.items()})
  # The states agree to 1e-9, and a solver may amplify that.
  np.testing.assert_allclose(shuffled, samples[order], atol=1e-6 * (1 + samples.max() - samples.min()))


def test_microbatches_are_taken_or_refused_with_a_reason(name, x64):
  case, compiled = CASES[name], program(name, 1)
  spec = case.data.batch_spec(BATCH, train=True)
  step = functools.partial(compiled.method.step, microbatches=2)
  if compiled.method.mean and not case.whole:
    state, _ = jax.eval_shape(step, compiled.abstract, spec)
    assert jax.tree.structure(state) == jax.tree.structure(compiled.abstract)
  else:
    with pytest.raises(ValueError, match="takes no microbatches"):
      jax.eval_shape(step, compiled.abstract, spec)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.pmap])
def test_pmap_equals_jit(name, x64):
  case, compiled = CASES[name], program(name, 1)
  state, losses = trained(name, 1, steps=2)
  # The program's own initial state and batches: pmap is given what jit has prepared.
  source, step = case.data.source("train"), pmap_step(compiled.method)
  raws = [pipeline.batch_at(source, 0, k, BATCH) for k in range(2)]
  first = compiled.init(0, raws[0])
  mapped, key = stack_state(first), jax.random.fold_in(first.key, PREPARE_STREAM)
  for k, raw in enumerate(raws):
    batch = jax.device_get(case.data.transform(jax.random.fold_in(key, k), raw, True))
    mapped, metrics = step(mapped, shard_batch(batch, 8))
    loss = next(x for metric, x in metrics.items() if metric.endswith(case.falls or "loss"))
    np.testing.assert_allclose(loss, losses[k], rtol=0, atol=1e-9)
  assert_close(state, unstack_state(mapped), 1e-9)


def test_pmap_refuses_what_is_no_mean_and_what_has_buffers(x64):
  refused = set()
  for name, case in CASES.items():
    method = case.build(jnp.float32)
    if not method.mean:
      with pytest.raises(ValueError, match="use jit"):
        pmap_step(method)
      refused.add(name)
  assert refused


# Buffers of chains, of a codebook and of running statistics.
@pytest.mark.parametrize("name", ["EBM, replay buffer", "VQ-VAE", "classifier with batch statistics"])
def test_checkpoints_with_buffers_go_from_mesh_to_mesh(name, tmp_path, x64):
  state, _ = trained(name, 8)
  saved = state_hash(state)
  checkpoints = Checkpoints(tmp_path)
  checkpoints.save(STEPS, state)
  checkpoints.wait()
  for devices in (1, 8):
    compiled = program(name, devices)
    step, restored = checkpoints.restore(compiled.abstract)
    assert step == STEPS
    assert state_hash(restored) == saved
    same = lambda x, like: x.sharding.is_equivalent_to(like.sharding, x.ndim)
    assert jax.tree.all(jax.tree.map(same, restored, compiled.abstract))
  checkpoints.close()


@pytest.mark.nightly
def test_microbatches_equal_the_batch(name, x64):
  case, compiled = CASES[name], program(name, 1)
  if case.whole or not compiled.method.mean:
    pytest.skip("takes its batch whole")
  (state, losses), (other, other_losses) = trained(name, 1, steps=3), trained(name, 1, steps=3, microbatches=4)
  np.testing.assert_allclose(losses, other_losses, rtol=0, atol=1e-10)
  assert_close(state, other, 1e-9)


@pytest.mark.nightly
def test_losses_agree_in_float32(name):
  """Where both axes of the mesh are used."""
  _, losses = trained(name, 1, 20, jnp.float32)
  _, other = trained(name, 8, 20, jnp.float32)
  np.testing.assert_allclose(losses, other, rtol=1e-5, atol=1e-5)


@pytest.mark.nightly
def test_the_loss_falls_on_its_data(name):
  if CASES[name].falls is None:
    pytest.skip("nothing has to fall in 200 steps")
  _, losses = trained(name, 1, 200, jnp.float32)
  assert losses[-50:].mean() < 0.9 * losses[:50].mean()


@pytest.mark.nightly
def test_what_has_an_inverse_is_undone_after_training(name):
  compiled, case = program(name, 1, jnp.float32), CASES[name]
  raw = pipeline.batch_at(case.data.source("test"), 0, 0, BATCH)
  if "round_trip" not in jax.eval_shape(compiled.method.evaluate, compiled.abstract, case.data.batch_spec(BATCH), KEY):
    pytest.skip("has no inverse")
  state, _ = trained(name, 1, 200, jnp.float32)
  assert compiled.evaluate(state, raw, jax.random.key(0))["round_trip"].max() < 1e-4
