"""LoRA against PEFT's (tests/fixtures/make_lora.py), and by its definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from packed import FIXTURES
from test_cross_unet import read

from jaxgen.core.errors import UserError
from jaxgen.interop import lora as files
from jaxgen.nn.lora import ATTENTION, LoRA, pairs


def kept():
  with np.load(FIXTURES / "lora.npz") as arrays:
    group = lambda name: {k.removeprefix(f"{name}/"): arrays[k] for k in arrays.files if k.startswith(f"{name}/")}
    return group("file"), group("kohya"), arrays["output"]


def test_a_file_of_peft_is_read_as_its_network_is_and_written_back(x64):
  """Queries and values without keys, convolutions and gated MLPs; by today's names, older ones and kohya's."""
  network, layout, variables, arguments, _ = read("SD 1")
  params = variables["params"]
  tensors, kohya, expected = kept()
  older = {k.replace("lora_A", "lora.down").replace("lora_B", "lora.up"): v for k, v in tensors.items()}
  apply = jax.jit(network.apply)
  for form in (tensors, older, kohya):
    adapter, lora = files.read(layout, form, params)
    assert adapter.rank == 2
    output = apply({"params": adapter.merged(params, lora)}, *arguments)
    np.testing.assert_allclose(output, expected, rtol=0, atol=1e-9 * np.abs(expected).max())
  written = files.write(layout, adapter, lora, params)
  for name, tensor in tensors.items():
    np.testing.assert_array_equal(written[name], tensor, err_msg=name)
  for name in written.keys() - tensors.keys():  # layers that lie beside adapted ones
    assert ".to_k." in name
    assert not np.any(written[name])
  doubled = files.write(layout, LoRA(2, 4.0, adapter.where), lora, params)
  name = next(name for name in tensors if "lora_B" in name)
  np.testing.assert_array_equal(doubled[name], 2 * tensors[name])


def test_b_of_zero_is_the_identity_and_unmerging_restores_up_to_rounding(x64):
  _, _, variables, _, _ = read("SD 1")
  params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), variables["params"])
  adapter = LoRA(2, alpha=3.0)
  lora = adapter.init(jax.random.key(0), params)
  same = adapter.merged(params, lora)
  jax.tree.map(np.testing.assert_array_equal, same, params)
  assert {path.split("/")[-2] for path in pairs(lora)} == {"qkv", "q", "kv", "out"}
  assert all(path.split("/")[-3] in ("attention", "context") for path in pairs(lora))  # none around the Transformers
  draw = np.random.default_rng(0).standard_normal
  lora = jax.tree.map(lambda x: jnp.asarray(draw(x.shape), x.dtype), lora)
  merged = adapter.merged(params, lora)
  # By the definition: a dense layer whose input goes through A and B as well.
  path = "down_0_0_attention/body/blocks/attention/qkv/kernel"
  a, b = (pairs(lora)[path][name][0] for name in "ab")
  x = jnp.asarray(draw((5, 4)), jnp.float32)
  kernels = [tree["down_0_0_attention"]["body"]["blocks"]["attention"]["qkv"]["kernel"][0] for tree in (merged, params)]
  for part in range(3):
    at = slice(4 * part, 4 * part + 4)
    apart = x @ kernels[1][:, at] + 1.5 * (x @ a[part]) @ b[part]
    np.testing.assert_allclose(x @ kernels[0][:, at], apart, atol=1e-5)
  again = adapter.merged(merged, lora, factor=-1.0)
  largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(merged))
  for before, after in zip(jax.tree.leaves(params), jax.tree.leaves(again), strict=True):
    assert np.abs(before - after).max() <= 2 * np.finfo(np.float32).eps * largest


def test_pairs_of_half_kernels_are_wide():
  params = {"attention": {"out": {"kernel": jnp.ones((4, 4), jnp.bfloat16)}}}
  adapter = LoRA(2)
  lora = adapter.init(jax.random.key(0), params)
  assert {leaf.dtype for leaf in jax.tree.leaves(lora)} == {jnp.dtype(jnp.float32)}
  assert {leaf.dtype for leaf in jax.tree.leaves(adapter.merged(params, lora))} == {jnp.dtype(jnp.bfloat16)}


def test_a_run_of_a_larger_network_writes_the_file_of_its_part(x64):
  """As `jaxgen export` does of lora_emoji: the U-Net is a part there, and the file is the U-Net's alone."""
  _, layout, variables, _, _ = read("SD 1")
  params = {"unet": variables["params"], "text": {"out": {"kernel": np.ones((3, 3))}}}
  adapter = LoRA(2, alpha=6.0, where=f"^unet/.*{ATTENTION}")
  draw = np.random.default_rng(3).standard_normal
  shapes = jax.eval_shape(adapter.init, jax.random.key(0), params)
  lora = jax.tree.map(lambda s: jnp.asarray(draw(s.shape), jnp.float32), shapes)
  parts = [entry._replace(ours=entry.ours.replace("params/", "params/unet/", 1)) for entry in layout]
  tensors = files.Layout(parts, adapter).tensors(lora, params)
  assert all(name.startswith("unet.") for name in tensors)
  other, alone = files.read(layout, tensors, variables["params"])
  merged, expected = other.merged(variables["params"], alone), adapter.merged(params, lora)["unet"]
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), merged, expected)


def test_says_what_does_not_fit(x64):
  _, layout, variables, _, _ = read("SD 1")
  params = variables["params"]
  tensors, _, _ = kept()
  refused = lambda sentence: pytest.raises(UserError, match=sentence)
  with refused("whose path contains 'nothing', and there are none"):
    LoRA(2, where="nothing").init(jax.random.key(0), params)
  with refused("LoRA of rank 5 for .*: choose a rank of at least 1 and at most the smaller"):
    LoRA(5).init(jax.random.key(0), params)
  with refused("no layer for the tensor 'unet.other.lora_A.weight'"):
    files.read(layout, tensors | {"unet.other.lora_A.weight": np.zeros((2, 4))}, params)
  half = dict(tensors)
  half.pop(next(name for name in half if "lora_B" in name))
  with refused("one half of .* alone: take a whole file"):
    files.read(layout, half, params)
  name = next(name for name in tensors if "to_q.lora_A" in name)
  with refused("inputs and .* outputs: it is of another network"):
    files.read(layout, tensors | {name: np.zeros((2, 9))}, params)
  with refused("the file has no LoRA"):
    files.read(layout, {}, params)
