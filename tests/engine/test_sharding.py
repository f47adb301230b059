"""What the devices of a mesh keep, what they work in and what they send each other."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec
from test_program import regression, train
from test_program import spec as specs

from jaxgen import data, diffusion
from jaxgen.core import spread
from jaxgen.core.errors import UserError
from jaxgen.data import text
from jaxgen.engine.mesh import make_mesh
from jaxgen.engine.program import Program
from jaxgen.engine.rules import parts, replicate, shared
from jaxgen.inspection import device_bytes, hlo, least_sent, nbytes, plan
from jaxgen.inspection.targets import Target
from jaxgen.methods.diffusion.gaussian import gaussian_diffusion
from jaxgen.methods.sequence.language import language
from jaxgen.methods.supervised.classifier import classifier
from jaxgen.nn import UNet
from jaxgen.nn.sequence import transformer
from jaxgen.nn.vision.vit import ViT

DIGITS = data.digits()
TEXT = text.document("no file", length=64, vocabulary=509, characters=False)  # a prime: the table is not cut along it
OPTIMIZER = optax.adam(1e-3)
WIDTH, DEPTH, TOKENS = 64, 2, 64


def language_model():
  network = transformer.LanguageModel(509, transformer.gpt(WIDTH, 4, DEPTH, TOKENS))
  return language(network, spec=TEXT.spec, start=None, optimizer=OPTIMIZER, length=TOKENS)


def vision_transformer():
  return classifier(ViT(1, WIDTH, DEPTH, 4, classes=10), spec=DIGITS.spec, optimizer=OPTIMIZER)


def unet():
  network = UNet(WIDTH, multipliers=(1,), blocks=1, attention=(), out_channels=1)
  return gaussian_diffusion(network, diffusion.linear(1000), DIGITS.spec, OPTIMIZER)


METHODS = {"language model": (language_model, TEXT), "ViT": (vision_transformer, DIGITS), "U-Net": (unet, DIGITS)}
BATCH = 256


def program_of(name: str, fsdp: int = 8, **options) -> Program:
  build, dataset = METHODS[name]
  return Program(build(), dataset.raw_spec(BATCH), make_mesh(fsdp), prepare=dataset.transform, **options)


def compiled(name: str, fsdp: int = 8) -> tuple[float, float]:
  """What a device of eight sends and works in: multiples of the least, and of a fair share."""
  program = program_of(name, fsdp)
  sent = sum(one.sent for one in hlo.collectives(hlo.read(program.loop.as_text())))
  return sent / least_sent(program), program.loop.memory_analysis().temp_size_in_bytes / share(name, program)


def share(name: str, program: Program) -> float:
  """Bytes of an eighth of a step's activations, and of the parameters and gradients whole.

  Activations, of a token of width D: in a block 24 D kept and 12 D at work, with attention's weights, made again, 3
  times for each of 4 heads and each key; of the logits, their softmax and its gradient. A U-Net of five residual blocks
  has as many as a Transformer's two, and 12 D more.
  """
  tokens = BATCH // 8 * TOKENS
  widths = (24 * DEPTH + 12) * WIDTH + 3 * 4 * TOKENS
  widths += {"language model": 3 * 509, "ViT": 0, "U-Net": 12 * WIDTH}[name]
  return 4 * tokens * widths + 2 * nbytes(program.abstract.params)


@pytest.mark.parametrize("name", METHODS)
def test_devices_that_share_a_state_send_parameters_and_no_activations(name):
  sent, work = compiled(name)
  assert sent < 2
  assert work < 1


def test_the_gradient_of_a_table_that_is_used_twice_is_reduced_once():
  """Where each device has the whole state, nothing but gradients is sent, each once: the tied embedding's, too."""
  sent, _ = compiled("language model", fsdp=1)
  assert sent == pytest.approx(1, abs=1e-3)


def test_a_gathered_batch_is_seen(monkeypatch):
  """What the test above is there for: without a word from the network the compiler gathers the batch."""
  monkeypatch.setattr("jaxgen.nn.blocks.attention.over_batch", lambda x: x)
  monkeypatch.setattr(spread, "_by_examples", lambda x, axes, ways: x)
  rows = report(program_of("language model"))
  assert float(re.search(r"([\d.]+) x the least", rows["sent a device and step"])[1]) > 10


def report(program: Program) -> dict[str, str]:
  """What `jaxgen inspect --target` prints of a program, by name."""
  there = Target("cpu:8", jax.devices(), None)
  return {name.strip(): value for name, value in plan.table(program, there, plan.cost(program, there, BATCH), 1, BATCH)}


def test_a_replicated_optimizer_is_seen():
  """In a plan: the memory of the state, and that what is updated everywhere is gathered again."""

  def replicated(path, leaf, mesh):
    return (replicate if path.startswith("opt/") else shared)(path, leaf, mesh)

  good, bad = program_of("ViT"), program_of("ViT", rule=replicated)
  moments = 2 * nbytes(good.abstract.params) * 7 / 8  # of Adam, all that was with other devices
  assert device_bytes(bad.abstract) - device_bytes(good.abstract) == pytest.approx(moments, rel=0.05)
  of = lambda rows: float(rows["state"].partition(" MiB")[0])
  state, wasteful = of(report(good)), of(report(bad))
  assert wasteful - state == pytest.approx(moments / 2**20, rel=0.05)
  assert wasteful > 3 * state


def test_activations_are_spread_where_there_is_a_mesh_and_nothing_else_spreads_them():
  x = jnp.ones((16, 4, 3))
  assert spread.over_batch(x) is x
  mesh = make_mesh(2)
  of = lambda f, x=x: str(jax.make_jaxpr(f)(x))
  with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
    assert "sharding_constraint" in of(spread.over_batch)
    assert "sharding_constraint" not in of(spread.over_batch, x[:12])  # 12 do not divide over 8 devices
    assert "sharding_constraint" not in of(jax.vmap(lambda row: spread.over_batch(row[None])))
    assert of(lambda x: jax.jvp(spread.over_batch, (x,), (x,))).count("sharding_constraint") >= 2
    rows = PartitionSpec(spread.BATCH_AXES)
    mapped = jax.shard_map(spread.over_batch, mesh=mesh, in_specs=rows, out_specs=rows)
    assert "sharding_constraint" not in of(mapped)
  spread_out = jax.jit(spread.over_batch)
  with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
    traced = str(spread_out.trace(x).jaxpr)
  assert "sharding_constraint" in traced
  assert "sharding_constraint" not in str(spread_out.trace(x).jaxpr)  # traces are kept apart by their mesh


GPT2 = transformer.LanguageModel(50257, transformer.gpt(768, 12, 12, 1024))


def test_a_thousand_devices_keep_a_thousandth_of_gpt2():
  """Whole, its state is 1.4 GiB. Of a table of 50,257 x 768 no dimension divides by 1,024."""
  document = text.document("no file", length=1024, vocabulary=50257, characters=False)
  method = language(GPT2, spec=document.spec, start=None, optimizer=OPTIMIZER, length=1024)
  program = Program(method, document.raw_spec(1024), make_mesh(1024, 1024))
  assert nbytes(program.abstract) > 1.39 * 2**30
  assert device_bytes(program.abstract) < 2.8 * 2**20  # 1.4 MiB is a thousandth, and a table's is cut in 256
  params = program.abstract.params["network"]
  assert parts(params["embedding"]["table"]) == 256
  kernel = params["decoder"]["stack"]["blocks"]["mlp"]["in"]["kernel"]
  assert (parts(kernel), kernel.sharding.shard_shape(kernel.shape)[0]) == (1024, 12)  # not along the loop over blocks
  with pytest.raises(UserError, match="--fsdp 7 does not divide the 1024 devices"):
    make_mesh(7, 1024)


@pytest.mark.parametrize(
  ("path", "shape", "spec", "of"),
  [
    ("w", (64, 64), ("fsdp", None), 8),
    ("w", (60, 12, 52), ("fsdp/0", None, "fsdp/1"), 8),  # 4 parts of 60, and 2 of 52
    ("w", (60, 35), ("fsdp/0", None), 4),
    ("w", (35, 35), (None, None), 1),
    ("blocks/w", (8, 35, 35), (None, None, None), 1),  # a loop over 8 blocks
    ("w", (8, 8), (None, None), 1),
  ],
)
def test_how_arrays_are_cut(path, shape, spec, of):
  leaf = jax.ShapeDtypeStruct(shape, np.float32)
  for mesh in (make_mesh(8), make_mesh(8, 16)):
    sharding = shared(path, leaf, mesh)
    assert sharding.spec == PartitionSpec(*spec)
    assert parts(jax.ShapeDtypeStruct(shape, np.float32, sharding=sharding)) == of


def test_what_is_cut_along_two_dimensions_trains_as_one_device_does(x64):
  """[60, 60] over 8 devices, in 4 x 2 parts."""
  one, many = (
    Program(
      regression(width=60), specs(dtype=np.float64, width=60), make_mesh(fsdp, jax.devices()[:devices]), updates=2
    )
    for fsdp, devices in ((1, 1), (8, 8))
  )
  (state, losses), (other, other_losses) = (train(p, (2, 2), np.float64, width=60) for p in (one, many))
  assert other.params["net"]["w"].addressable_shards[0].data.shape == (15, 30)
  np.testing.assert_allclose(losses, other_losses, rtol=0, atol=1e-12)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-9), state.params, other.params)
