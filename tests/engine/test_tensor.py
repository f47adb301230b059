"""Devices that share a network's heads, hidden layers and channels: the mesh's axis `tensor`."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import enable_x64
from jax.sharding import NamedSharding, PartitionSpec

from jaxgen import data, diffusion
from jaxgen.core import spread
from jaxgen.core.errors import UserError
from jaxgen.data import pipeline, text
from jaxgen.engine import placing
from jaxgen.engine.checkpoint import Checkpoints
from jaxgen.engine.hashing import state_hash
from jaxgen.engine.mesh import make_mesh, rows
from jaxgen.engine.program import Program
from jaxgen.engine.rules import parts, shared
from jaxgen.engine.topology import arranged
from jaxgen.inspection import hlo, least_sent
from jaxgen.methods.diffusion.gaussian import gaussian_diffusion
from jaxgen.methods.diffusion.sampler import Sampler
from jaxgen.methods.sequence.language import language
from jaxgen.methods.supervised.classifier import classifier
from jaxgen.nn import UNet
from jaxgen.nn.sequence import transformer
from jaxgen.nn.transformers.mmdit import MMDiT
from jaxgen.nn.vision.resnet import ResNet

DIGITS = data.digits()
TOKENS, VOCABULARY, WIDTH, DEPTH = 16, 60, 32, 2
TEXT = text.document("no file", length=TOKENS, vocabulary=VOCABULARY, characters=False)
OPTIMIZER = optax.adam(1e-3)
BATCH, STEPS = 16, 2


def language_model(vocabulary=VOCABULARY, width=WIDTH, tokens=TOKENS, dtype=jnp.float64, heads=4):
  document = text.document("no file", length=tokens, vocabulary=vocabulary, characters=False)
  network = transformer.LanguageModel(
    vocabulary, transformer.gpt(width, heads, DEPTH, tokens, dropout=0.1, dtype=dtype)
  )
  return language(network, spec=document.spec, start=None, optimizer=OPTIMIZER, length=tokens)


def unet():
  dtypes = dict(dtype=jnp.float64, param_dtype=jnp.float64)
  network = UNet(8, (1, 2), 1, attention=(), dropout=0.1, out_channels=1, heads=2, **dtypes)
  sampler = Sampler(diffusion.SOLVERS["ddim"], diffusion.GRIDS["trailing"], 3)
  return gaussian_diffusion(network, diffusion.linear(1000), DIGITS.spec, OPTIMIZER, sampler=sampler)


def tokens_at(step):
  tokens = np.random.default_rng(step).integers(0, VOCABULARY, (BATCH, *TEXT.spec.shape)).astype(np.int32)
  return {TEXT.spec.feature: tokens, "index": np.arange(BATCH, dtype=np.int32)}


def digits_at(step):
  return pipeline.batch_at(DIGITS.source("train"), 0, step, BATCH)


PROMPT = np.arange(8, dtype=np.int32)[:, None] % VOCABULARY
NETWORKS = {
  "language model": (language_model, TEXT, tokens_at, {"prompt": PROMPT}),
  "U-Net": (unet, DIGITS, digits_at, {}),
}


@pytest.fixture(scope="module", params=NETWORKS)
def trained(request):
  """{devices: (program, state after two steps, losses)}, in float64, on one device and on a mesh of 2 x 2 x 2."""
  build, dataset, batch_at, conditions = NETWORKS[request.param]
  found = {}
  with enable_x64():
    for devices, mesh in ((1, make_mesh(devices=jax.devices()[:1])), (8, make_mesh(2, tensor=2))):
      program = Program(build(), dataset.raw_spec(BATCH), mesh, prepare=dataset.transform, updates=STEPS)
      state = program.init(0, batch_at(0)) if devices == 1 else jax.device_put(found[1][1], program.shardings)
      first = jax.device_get(jax.tree.map(jnp.copy, state)) if devices == 1 else None
      batches = [batch_at(step) for step in range(STEPS)]
      stacked = {name: np.stack([batch[name] for batch in batches]) for name in batches[0]}
      state, metrics = program.dispatch(state, program.put_many(stacked), STEPS)
      found[devices] = program, first, state, np.asarray(metrics["loss"])
  return found, conditions


def arrays(state):
  key = lambda x: jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
  return [np.asarray(jax.random.key_data(x) if key(x) else x) for x in jax.tree.leaves(state)]


def test_three_axes_and_one_device_agree(trained, x64):
  (_, _, state, losses), (program, _, other, other_losses) = trained[0][1], trained[0][8]
  assert dict(program.mesh.shape) == {"data": 2, "fsdp": 2, "tensor": 2}
  np.testing.assert_allclose(losses, other_losses, rtol=0, atol=1e-9)
  for a, b in zip(arrays(state), arrays(other), strict=True):
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-9)
  assert (program.notes.cut, program.notes.whole) == (True, [])
  assert max(map(parts, jax.tree.leaves(program.abstract.params))) == 4


def test_samples_do_not_depend_on_the_mesh(trained, x64):
  keys = jax.random.split(jax.random.key(0), 8)
  one, many = (program.sample(state, keys, trained[1]) for program, _, state, _ in trained[0].values())
  np.testing.assert_allclose(one, many, rtol=0, atol=1e-6)


def test_checkpoints_go_from_mesh_to_mesh(trained, tmp_path, x64):
  for saved, restored in ((8, 1), (1, 8)):
    state, other = trained[0][saved][2], trained[0][restored][0]
    checkpoints = Checkpoints(tmp_path / str(saved))
    checkpoints.save(STEPS, state)
    checkpoints.wait()
    _, found = checkpoints.restore(other.abstract)
    checkpoints.close()
    assert state_hash(found) == state_hash(state)
    assert jax.tree.all(jax.tree.map(lambda x, s: x.sharding.is_equivalent_to(s, x.ndim), found, other.shardings))


def test_two_rows_of_tokens_share_their_heads(x64):
  """MMDiT's gradients on 2 x 2 x 2 devices and on one; and what it says of heads that do not divide."""
  dtypes = dict(dtype="float64", param_dtype="float64")
  network = MMDiT(32, 3, 4, most=8, base=4, out_channels=1, qk_norm=True, dual=1, **dtypes)
  random = lambda i, *shape: jax.random.normal(jax.random.key(i), shape)
  x, told = random(0, 4, 8, 8, 1), {"text": random(1, 4, 3, 5), "pooled": random(2, 4, 5)}
  shapes = jax.eval_shape(network.init, jax.random.key(0), x, x[:, 0, 0, 0], told)
  leaves, tree = jax.tree.flatten(shapes)
  params = tree.unflatten([0.3 * random(i, *s.shape) for i, s in enumerate(leaves)])
  mesh = make_mesh(2, tensor=2)

  def loss(params, network=network):
    return jnp.sum(network.apply(params, x, jnp.arange(4.0), told) ** 2)

  def on_mesh(params):
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
      return jax.grad(loss)(params)

  placed = jax.tree.map_with_path(
    lambda path, s: shared(jax.tree_util.keystr(path, simple=True, separator="/"), s, mesh), shapes
  )
  qkv = placed["params"]["body"]["blocks"]["attention"]["text_qkv"]["kernel"]
  assert qkv.spec == PartitionSpec(None, "fsdp", "tensor")
  with spread.noted() as notes:
    found = jax.jit(on_mesh, in_shardings=(placed,))(jax.device_put(params, placed))
  assert (notes.cut, notes.whole) == (True, [])
  for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(jax.jit(jax.grad(loss))(params)), strict=True):
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-9)
  with spread.noted() as notes, jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
    odd = network.clone(width=12, heads=3, dual=0)
    jax.eval_shape(odd.init, jax.random.key(0), x, x[:, 0, 0, 0], told)
  assert notes.whole == ["3 heads over 2"]


def sent(vocabulary: int, heads: int, batch: int = 64, tokens: int = 64, width: int = 64) -> float:
  """Bytes that a device sends on a mesh of 2 x 2 x 2, as a multiple of what Megatron's form needs.

  That is what the parameters need, and for each block and for the table that is used twice: a sum over the two devices
  after attention and after the MLP, forward, and of their gradients backward; after reading the table, and of the
  gradient by what is read from it.
  """
  method = language_model(vocabulary, width, tokens, jnp.float32, heads)
  document = text.document("no file", length=tokens, vocabulary=vocabulary, characters=False)
  program = Program(method, document.raw_spec(batch), make_mesh(2, tensor=2), prepare=document.transform)
  activations = 4 * batch // 4 * tokens * width  # float32, of an example in four
  return sum(one.sent for one in hlo.collectives(hlo.read(program.loop.as_text()))) / (
    least_sent(program) + (4 * DEPTH + 2) * activations
  )


def test_what_is_sent_is_what_megatrons_form_needs():
  assert sent(512, 4) < 1.2


def test_what_does_not_divide_is_spread_by_examples():
  """One head and 509 tokens, over two devices: attention's parameters and the table are gathered, not activations."""
  assert sent(509, 1) < 2


@pytest.mark.parametrize(
  ("path", "shape", "spec", "of"),
  [
    ("params/n/blocks/mlp/in/kernel", (6, 64, 128), (None, "fsdp", "tensor"), 8),
    ("opt/n/0/mu/blocks/mlp/out/kernel", (6, 128, 64), (None, "tensor", "fsdp"), 8),
    ("params/n/blocks/attention/qkv/kernel", (6, 64, 192), (None, "fsdp", "tensor"), 8),
    ("params/n/blocks/attention/out/kernel", (6, 64, 64), (None, "tensor", "fsdp"), 8),
    ("params/n/body/blocks/attention/picture_qkv/kernel", (6, 64, 192), (None, "fsdp", "tensor"), 8),
    ("params/n/body/blocks/attention/text_out/kernel", (6, 64, 64), (None, "tensor", "fsdp"), 8),
    ("params/n/first/blocks/dual/qkv/kernel", (6, 64, 192), (None, "fsdp", "tensor"), 8),
    ("params/n/first/blocks/dual/out/kernel", (6, 64, 64), (None, "tensor", "fsdp"), 8),
    ("params/n/embedding/table", (60, 64), ("tensor", "fsdp"), 8),
    ("params/n/embedding/table", (51, 64), (None, ("tensor", "fsdp")), 8),
    ("params/n/down_0_0/conv_1/kernel", (3, 3, 32, 64), (None, None, "fsdp", "tensor"), 8),
    ("params/n/down_0_0_attention/value/kernel", (64, 64), ("fsdp", "tensor"), 8),
    ("params/n/elsewhere/kernel", (64, 64), ("fsdp", "tensor"), 8),
    ("params/n/blocks/mlp/in/kernel", (4, 33, 35), (None, None, None), 1),
  ],
)
def test_how_arrays_are_cut(path, shape, spec, of):
  leaf = jax.ShapeDtypeStruct(shape, np.float32)
  for mesh in (make_mesh(4, tensor=2), make_mesh(4, 16, 2)):
    sharding = shared(path, leaf, mesh)
    assert sharding.spec == PartitionSpec(*spec)
    assert parts(jax.ShapeDtypeStruct(shape, np.float32, sharding=sharding)) == of


def test_bad_meshes_are_said_in_a_sentence():
  with pytest.raises(UserError, match="--fsdp 2 x --tensor 3 does not divide the 8 devices"):
    make_mesh(2, tensor=3)
  mesh = make_mesh(2, tensor=2)
  with pytest.raises(UserError, match="a batch of 6 does not divide over the 4 groups of devices: use a multiple of 4"):
    rows(mesh, 6)
  network = ResNet((1, 1), 16, 10, small=True)
  method = classifier(network, spec=DIGITS.spec, optimizer=OPTIMIZER)
  with pytest.raises(UserError, match="--tensor 2 cuts nothing of these networks: use --fsdp"):
    Program(method, DIGITS.raw_spec(16), mesh, prepare=DIGITS.transform)


class Device:
  """A TPU as `jax.devices()` gives it."""

  platform, device_kind, core_on_chip = "tpu", "TPU v5 lite", 0

  def __init__(self, id, coords, process_index, slice_index=0):
    self.id, self.coords, self.process_index, self.slice_index = id, coords, process_index, slice_index

  def __repr__(self):
    return f"{self.coords}"


def slice_of(side: int, number: int = 0) -> list[Device]:
  """A square of TPUs, hosts of 2 x 2."""
  host = lambda x, y: number * side**2 // 4 + x // 2 * (side // 2) + y // 2
  return [
    Device(number * side**2 + x * side + y, (x, y, 0), host(x, y), number) for x in range(side) for y in range(side)
  ]


def distance(a: Device, b: Device) -> int:
  return sum(abs(i - j) for i, j in zip(a.coords, b.coords, strict=True))


def test_tpus_that_share_a_block_are_neighbours():
  devices = slice_of(8)
  mesh = arranged(list(reversed(devices)), (1, 16, 4))
  assert mesh.shape == (1, 16, 4)
  assert {device.id for device in mesh.flat} == set(range(64))
  assert all(distance(a, b) <= 3 for group in mesh.reshape(-1, 4) for a in group for b in group)
  rings = arranged(devices, (8, 8, 1))[..., 0]  # a group of fsdp is a line of the square, which closes to a ring
  assert all(1 in [len({device.coords[axis] for device in group}) for axis in (0, 1)] for group in rings)


def test_slices_share_the_first_axis_that_they_divide():
  devices = slice_of(4, 0) + slice_of(4, 1)
  of = lambda shape: arranged(devices, shape)
  assert all(len({device.slice_index for device in half.flat}) == 1 for half in of((4, 2, 4)))
  split = of((1, 16, 2))
  assert all(len({device.slice_index for device in group}) == 1 for group in split[0])
  assert {device.slice_index for device in split.flat} == {0, 1}
  with pytest.raises(UserError, match="--tensor 32 with --fsdp 1 would go between the 2 slices"):
    of((1, 1, 32))


def test_slices_that_divide_no_axis_are_taken_one_after_the_other():
  """Three slices of 4: groups of fsdp go between them, those of tensor do not."""
  devices = [device for number in (2, 0, 1) for device in slice_of(2, number)]
  for device in devices:
    device.process_index = (device.slice_index + 1) % 3  # a job's processes need not be in the slices' order
  of = lambda shape: arranged(devices, shape)
  assert [device.id for device in of((2, 6, 1)).flat] == list(range(12))
  pairs = of((2, 3, 2)).reshape(-1, 2)
  assert {device.id for device in pairs.flat} == set(range(12))
  assert all(a.slice_index == b.slice_index for a, b in pairs)
  with pytest.raises(UserError, match="--tensor 3 with --fsdp 2 would go between the 3 slices"):
    of((2, 2, 3))


@pytest.mark.parametrize("axis", [0, 1])
def test_batches_of_several_processes_are_put_together(monkeypatch, axis):
  """As one of several processes does it, which has every row here."""
  mesh = make_mesh(2, jax.devices()[::-1], tensor=2)
  np.testing.assert_array_equal(rows(mesh, 8), np.arange(8))
  batch = np.arange(8 * 8 * 3.0).reshape(8, 8, 3)
  sharding = NamedSharding(mesh, PartitionSpec(*[None] * axis, spread.BATCH_AXES))
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  there = placing.put({"x": batch}, sharding, axis)["x"]
  assert there.sharding == sharding
  np.testing.assert_array_equal(there, batch)


def test_outside_of_a_mesh_networks_are_plain():
  x = jnp.ones((4, 6))
  assert spread.joined(x) is spread.over_devices(x) is x
  assert not spread.cuts(4, "heads")
