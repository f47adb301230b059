"""Contrastive losses: identities, and the same on one device and on eight, whole or in chunks."""

import math
import pathlib
import runpy
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import BATCH
from jax.sharding import NamedSharding, PartitionSpec

from jaxgen import optimizers
from jaxgen.core.errors import UserError
from jaxgen.core.method import Frozen
from jaxgen.data import pipeline
from jaxgen.engine.mesh import make_mesh
from jaxgen.methods.joint.contrastive import MOST, bounded, contrastive
from jaxgen.methods.joint.losses import infonce, siglip, sigmoid, unicl
from jaxgen.nn.joint import dual
from jaxgen.nn.joint.dual import Joint

N, D = 16, 6


def features(seed: int, n: int = N) -> Joint:
  random = np.random.default_rng(seed)
  unit = lambda x: jnp.asarray(x / np.linalg.norm(x, axis=-1, keepdims=True))
  image, text = (unit(random.normal(size=(n, D))) for _ in range(2))
  return Joint(image, text, jnp.asarray(1.3), jnp.asarray(-2.1))


def test_constant_features_cost_ln_n(x64):
  same = Joint(*(jnp.ones((N, D)) / D**0.5,) * 2, jnp.asarray(2.0))
  for label in (jnp.arange(N), jnp.zeros(N, int), jnp.arange(N) // 3):
    for loss in (infonce(), infonce(0.1), unicl()):
      np.testing.assert_allclose(loss(same, {"label": label}), math.log(N), rtol=1e-12)


def test_unicl_is_clip_of_distinct_labels_and_at_least_ln_n_of_one(x64):
  joint = features(0)
  clip = infonce()(joint, {})
  np.testing.assert_allclose(unicl()(joint, {"label": jnp.arange(N)[::-1]}), clip, rtol=1e-12)
  np.testing.assert_allclose(infonce(0.0)(joint, {}), clip, rtol=0)
  assert unicl()(joint, {"label": jnp.ones(N, int)}) > math.log(N)
  # A row's cross-entropy with targets in equal shares, written out for the one pair of equal labels.
  label = jnp.arange(N).at[5].set(2)
  l = np.asarray(jnp.exp(joint.log_scale) * joint.image @ joint.text.T + joint.bias)
  log_rows, log_columns = (x - np.log(np.exp(x).sum(1, keepdims=True)) for x in (l, l.T))
  alike = [[2, 5] if i in (2, 5) else [i] for i in range(N)]
  expected = -sum(p[i, alike[i]].mean() for p in (log_rows, log_columns) for i in range(N)) / (2 * N)
  np.testing.assert_allclose(unicl()(joint, {"label": label}), expected, rtol=1e-12)
  with pytest.raises(UserError, match="UniCL learns from labels"):
    unicl()(joint, {})


def test_smoothing_is_the_mean_of_both_targets(x64):
  """(1 - a) of CLIP's and a of the cross-entropy with everything alike: ALIGN's, as transformers' label smoothing."""
  joint = features(1)
  everything = unicl()(joint, {"label": jnp.zeros(N, int)})
  expected = 0.9 * infonce()(joint, {}) + 0.1 * everything
  np.testing.assert_allclose(infonce(0.1)(joint, {}), expected, rtol=1e-12)
  with pytest.raises(UserError, match=r"smoothing lies in \[0, 1\), and this is 1"):
    infonce(1.0)


def whole(image, text, log_scale, bias):
  """SigLIP's loss with all pairs at once: Algorithm 1."""
  l = jnp.exp(log_scale) * image @ text.T + bias
  return -jnp.sum(jax.nn.log_sigmoid(l * (2 * jnp.eye(len(l)) - 1))) / len(l)


@pytest.mark.parametrize(("devices", "fsdp"), [(1, 1), (8, 1), (8, 2)])
def test_the_sigmoid_loss_in_chunks_is_the_whole_one(devices, fsdp, x64):
  joint, mesh = features(2), make_mesh(fsdp, devices=jax.devices()[:devices])
  spread = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
  arguments = jax.device_put(joint.image, spread), jax.device_put(joint.text, spread), joint.log_scale, joint.bias
  with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
    value, gradients = jax.jit(jax.value_and_grad(sigmoid, argnums=(0, 1, 2, 3)))(*arguments)
  expected, wanted = jax.value_and_grad(whole, argnums=(0, 1, 2, 3))(*joint)
  np.testing.assert_allclose(value, expected, rtol=1e-12)
  for found, gradient in zip(gradients, wanted, strict=True):
    np.testing.assert_allclose(found, gradient, rtol=1e-10, atol=1e-12)


def test_memory_of_the_sigmoid_loss_does_not_grow_with_the_devices():
  """Bytes of work memory on a device, as the compiler counts them, for 64 pairs on each of 2, 4 and 8 devices."""
  found = []
  for devices in (2, 4, 8):
    mesh = make_mesh(devices=jax.devices()[:devices])
    spread = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    pairs = jax.ShapeDtypeStruct((64 * devices, 32), jnp.float32, sharding=spread)
    scalar = jax.ShapeDtypeStruct((), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec()))
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
      program = jax.jit(jax.value_and_grad(sigmoid, argnums=(0, 1, 2, 3))).lower(pairs, pairs, scalar, scalar).compile()
    found.append(program.memory_analysis().temp_size_in_bytes)
  assert found[2] <= 1.05 * found[1] <= 1.05**2 * found[0], found


def test_the_temperature_is_bounded_and_does_not_decay():
  tower = {"kernel": jnp.ones((2, 2)), "scale": jnp.ones(2), "bias": jnp.ones(2)}
  params = {"log_scale": jnp.asarray(4.0), "tower": tower}
  for rate, expected in ((100.0, MOST), (-100.0, 0.0), (-0.1, 3.9)):
    optimizer = bounded(optax.sgd(1.0))
    grads = jax.tree.map(partial(jnp.full_like, fill_value=-rate), params)
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    found = optax.apply_updates(params, updates)
    np.testing.assert_allclose(found["log_scale"], expected, rtol=1e-6)
    np.testing.assert_allclose(found["tower"]["scale"], 1 + rate, rtol=1e-6)
  decayed = bounded(optimizers.adam(1.0, weight_decay=0.2))
  updates, _ = decayed.update(jax.tree.map(jnp.zeros_like, params), decayed.init(params), params)
  assert [k for k, u in updates["tower"].items() if (u != 0).any()] == ["kernel"]
  assert updates["log_scale"] == 0


def case_of(name: str):
  cases = runpy.run_path(str(pathlib.Path(__file__).with_name("joint_cases.py")))
  return cases["DIGITS"], cases["SIZE"], cases["CASES"].get(name)


def test_a_locked_tower_stays_as_it_is(x64):
  digits, size, _ = case_of("CLIP")
  network = dual.clip(size, dtype=jnp.float64, vocabulary=12, context=3)
  raw = pipeline.batch_at(digits.source("train"), 0, 0, BATCH)
  batch = digits.transform(jax.random.key(0), raw, True)
  method = contrastive(
    network, spec=digits.spec, optimizer=optax.sgd(0.1), loss=siglip(), locked=Frozen("nowhere", dict)
  )
  state = jax.jit(method.init)(jax.random.key(0), batch)
  assert set(state.params) == {"image", "network"}
  assert "image" not in state.params["network"]
  assert set(state.opt) == {"network"}
  new, _ = jax.jit(method.step)(state, batch)
  jax.tree.map(np.testing.assert_array_equal, new.params["image"], state.params["image"])
  moved = jax.tree.map(lambda a, b: bool((a != b).any()), new.params["network"], state.params["network"])
  assert moved["text"]["projection"]["kernel"]
  assert moved["image_projection"]["kernel"]


def test_what_cannot_be_contrasted(x64):
  digits, size, _ = case_of("CLIP")
  network = dual.clip(size, dtype=jnp.float64, vocabulary=12, context=3)
  make = partial(contrastive, network, spec=digits.spec, optimizer=optax.sgd(0.1))
  spec = digits.batch_spec(2)
  with pytest.raises(UserError, match="has no 'tokens': use captions"):
    jax.eval_shape(make().init, jax.random.key(0), {k: v for k, v in spec.items() if k != "tokens"})
  with pytest.raises(UserError, match="a batch of one example"):
    jax.eval_shape(make().init, jax.random.key(0), digits.batch_spec(1))
  small = dual.Size(6, dict(depths=(1,), width=2, heads=1), (8, 2, 1))
  residual = dual.clip(small, dtype=jnp.float64, vocabulary=12, context=3)
  with pytest.raises(UserError, match="a locked tower has no batch statistics"):
    jax.eval_shape(
      contrastive(residual, spec=digits.spec, optimizer=optax.sgd(0.1), locked=Frozen("nowhere", dict)).init,
      jax.random.key(0),
      spec,
    )
