"""DiT and MMDiT against diffusers, U-ViT against the authors' definition, and what they promise.

The fixtures are of tests/fixtures/make_diffusion_transformers.py.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from published import assert_gradients, load, products

from jaxgen.core.errors import UserError
from jaxgen.interop import dit as dit_layout
from jaxgen.interop import layout
from jaxgen.interop import mmdit as mmdit_layout
from jaxgen.interop import uvit as uvit_layout
from jaxgen.nn.transformers import dit, mmdit, uvit
from jaxgen.nn.transformers.dit import DiT, to_the_last
from jaxgen.nn.transformers.mmdit import MMDiT
from jaxgen.nn.transformers.uvit import UViT


class Known(NamedTuple):
  """A network that another implementation has given the output and gradients of.

  mistakes: options with which the output is another one.
  """

  network: nn.Module
  layout: Callable
  file: str
  name: str
  mistakes: tuple[dict, ...]


SD3 = MMDiT(12, 3, 3, most=8, base=4, out_channels=3)
KNOWN = {
  "DiT": Known(
    DiT(2, 12, 2, 3, classes=7, out_channels=5, eps=1e-5, sinusoids=to_the_last),
    dit_layout.diffusers,
    "dit.npz",
    "DiT",
    (dict(sinusoids=dit.cosines_first), dict(eps=1e-6)),
  ),
  "SD3": Known(SD3, mmdit_layout.diffusers, "mmdit.npz", "SD3", (dict(base=8),)),
  "SD3.5": Known(SD3.clone(depth=4, qk_norm=True, dual=2), mmdit_layout.diffusers, "mmdit.npz", "SD3.5", ()),
  "U-ViT": Known(
    UViT(2, 12, 4, 3, classes=5, out_channels=3), uvit_layout.authors, "uvit.npz", "U-ViT", (dict(eps=1e-6),)
  ),
}


def arguments_of(arrays: dict) -> list:
  """x, t, and what the network is told."""
  given = {name: jnp.asarray(value) for name, value in arrays["argument"].items()}
  x, t = given.pop("x"), given.pop("t")
  return [x, t, given["label"].astype("int32") if "label" in given else given]


def read(name: str):
  """(network, variables, arguments, what else is in the fixture), in float64."""
  known = KNOWN[name]
  network, arrays = known.network.clone(dtype="float64", param_dtype="float64"), load(known.file, known.name)
  arguments = arguments_of(arrays)
  shapes = jax.eval_shape(network.init, jax.random.key(0), *arguments)
  return network, layout.read(known.layout(network), arrays["weight"], shapes), arguments, arrays


@pytest.mark.parametrize("name", KNOWN)
def test_output_and_gradients_equal_the_originals(name, x64):
  network, variables, arguments, arrays = read(name)
  cotangent, expected, wanted = arrays["cotangent"][""], arrays["output"][""], arrays["gradient"]

  def loss(variables):
    output = network.apply(variables, *arguments)
    return jnp.sum(output * cotangent), output

  (_, output), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(variables)
  np.testing.assert_allclose(output, expected, rtol=0, atol=1e-9 * np.abs(expected).max())
  found = layout.write(KNOWN[name].layout(network), gradients)
  assert found.keys() >= wanted.keys()
  assert_gradients(found, wanted)


@pytest.mark.parametrize(("name", "number"), [(n, i) for n, known in KNOWN.items() for i in range(len(known.mistakes))])
def test_fixture_tells_mistakes(name, number, x64):
  network, variables, arguments, arrays = read(name)
  expected = arrays["output"][""]
  output = jax.jit(network.clone(**KNOWN[name].mistakes[number]).apply)(variables, *arguments)
  assert np.abs(output - expected).max() > 1e-7 * np.abs(expected).max()


@pytest.mark.parametrize("name", KNOWN)
def test_weights_go_back_as_they_came(name, x64):
  network, variables, arguments, arrays = read(name)
  tensors = layout.write(KNOWN[name].layout(network), variables)
  assert tensors.keys() == arrays["weight"].keys()
  for tensor, value in tensors.items():
    np.testing.assert_array_equal(value, arrays["weight"][tensor], err_msg=tensor)
  if name != "U-ViT":  # by the authors' names there and back
    module = {"DiT": dit_layout}.get(name, mmdit_layout)
    entries = module.authors(network)
    shapes = jax.eval_shape(network.init, jax.random.key(0), *arguments)
    again = layout.read(entries, layout.write(entries, variables), shapes)
    jax.tree.map(np.testing.assert_array_equal, again, variables)


def test_copies_that_differ_are_refused(x64):
  """diffusers keeps DiT's embedding of the time in every block, and one of ours stands for all."""
  network, _, arguments, arrays = read("DiT")
  name = "transformer_blocks.1.norm1.emb.timestep_embedder.linear_1.bias"
  tensors = arrays["weight"] | {name: arrays["weight"][name] + 1}
  shapes = jax.eval_shape(network.init, jax.random.key(0), *arguments)
  with pytest.raises(UserError, match=r"'transformer_blocks.0.norm1.*' and 'transformer_blocks.1.norm1.*' differ"):
    layout.read(dit_layout.diffusers(network), tensors, shapes)


# --- Sizes -----------------------------------------------------------------------------------------------------------

LATENTS = (1, 32, 32, 4)
TEXT = {"text": (1, 77, 4096), "pooled": (1, 2048)}
# DiT's authors count the fixed positions of 16 x 16 patches, which are computed here.
PUBLISHED = {
  "DiT-S/2": (DiT(**dit.SIZES["S/2"]), LATENTS, (1,), 32_963_360 - 256 * 384),
  "DiT-B/2": (DiT(**dit.SIZES["B/2"]), LATENTS, (1,), 130_512_416 - 256 * 768),
  "DiT-L/2": (DiT(**dit.SIZES["L/2"]), LATENTS, (1,), 458_102_816 - 256 * 1024),
  "DiT-XL/2": (DiT(**dit.SIZES["XL/2"]), LATENTS, (1,), 675_129_632 - 256 * 1152),
  "SD3 medium": (MMDiT(**mmdit.SIZES["SD3 medium"]), (1, 128, 128, 16), TEXT, 2_028_328_000),
  # What diffusers' network of that size has.
  "SD3.5 medium": (MMDiT(**mmdit.SIZES["SD3.5 medium"]), (1, 128, 128, 16), TEXT, 2_243_171_520),
  "SD3.5 large": (MMDiT(**mmdit.SIZES["SD3.5 large"]), (1, 128, 128, 16), TEXT, 8_056_627_520),
  # Bao et al. 2022, Table 1, has 44, 131, 287 and 501 million.
  "U-ViT-S/2": (UViT(**uvit.SIZES["S/2"], out_channels=3), (1, 32, 32, 3), None, 44e6),
  "U-ViT-M/4": (UViT(**uvit.SIZES["M/4"], classes=1001, out_channels=3), (1, 64, 64, 3), (1,), 131e6),
  "U-ViT-L/2": (UViT(**uvit.SIZES["L/2"], classes=1001), LATENTS, (1,), 287e6),
  "U-ViT-H/2": (UViT(**uvit.SIZES["H/2"], classes=1001), LATENTS, (1,), 501e6),
}


def shapes_of(network, shape, told):
  """Of the variables. told: shapes of a text's features, a label's, or None."""
  struct = jax.ShapeDtypeStruct
  if isinstance(told, dict):
    told = {name: struct(s, jnp.float32) for name, s in told.items()}
  elif told is not None:
    told = struct((shape[0],), jnp.int32)
  x, t = struct(shape, jnp.float32), struct(shape[:1], jnp.float32)
  return jax.eval_shape(network.init, jax.eval_shape(lambda: jax.random.key(0)), x, t, told), (x, t, told)


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_at_the_published_sizes(name):
  network, shape, told, count = PUBLISHED[name]
  variables, _ = shapes_of(network, shape, told)
  found = sum(s.size for s in jax.tree.leaves(variables))
  assert found == count if isinstance(count, int) else abs(found - count) < 0.5e6 + 0.001 * count


# --- What all promise ------------------------------------------------------------------------------------------------

IMAGES = (2, 8, 8, 1)
SMALL = {
  "DiT": (DiT(2, 16, 2, 2, classes=11, out_channels=1), IMAGES, (2,)),
  "MMDiT": (MMDiT(16, 4, 2, most=8, base=4, out_channels=1, dual=1), IMAGES, {"text": (2, 3, 5), "pooled": (2, 5)}),
  "U-ViT": (UViT(2, 16, 4, 2, out_channels=1), IMAGES, None),
}


@pytest.mark.parametrize("name", ["DiT", "MMDiT"])
def test_the_output_is_zero_at_the_start(name):
  network, shape, told = SMALL[name]
  random = lambda s: jax.random.normal(jax.random.key(1), s)
  told = {k: random(s) for k, s in told.items()} if isinstance(told, dict) else jnp.arange(2)
  output, variables = jax.jit(network.init_with_output)(jax.random.key(0), random(shape), jnp.ones(2), told)
  assert output.shape == shape
  assert not np.any(output)
  blocks = {"DiT": ("body",), "MMDiT": ("first", "body")}[name]
  qkv = {"DiT": "qkv", "MMDiT": "picture_qkv"}[name]
  for part in blocks:  # each block's own, of Glorot's size
    kernel = variables["params"][part]["blocks"]["attention"][qkv]["kernel"]
    assert kernel.std() == pytest.approx((2 / 32) ** 0.5, rel=0.1)
    assert len({float(k[0, 0]) for k in kernel}) == len(kernel)


@pytest.mark.parametrize("name", SMALL)
def test_depth_does_not_grow_the_program(name):
  def lines(depth):
    network, *rest = SMALL[name]
    network = network.clone(depth=depth)
    variables, arguments = shapes_of(network, *rest)
    return str(jax.make_jaxpr(network.apply)(variables, *arguments)).count("\n")

  assert lines(4) == lines(8)


@pytest.mark.parametrize("name", SMALL)
def test_blocks_that_are_computed_again_keep_less(name):
  kept = []
  for remat in (False, True):
    network, *rest = SMALL[name]
    network = network.clone(remat=remat, depth=8)
    variables, arguments = shapes_of(network, *rest)
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), arguments)
    apply = lambda p, network=network, zeros=zeros: network.apply(p, *zeros)
    residuals = jax.eval_shape(lambda p, apply=apply: jax.vjp(apply, p)[1], variables)
    kept.append(sum(r.size for r in jax.tree.leaves(residuals)) - sum(p.size for p in jax.tree.leaves(variables)))
  assert kept[1] < kept[0] / 2


@pytest.mark.parametrize("name", SMALL)
def test_bfloat16_computes_in_bfloat16_and_keeps_float32_parameters(name):
  network, *rest = SMALL[name]
  network = network.clone(dtype=jnp.bfloat16)
  variables, arguments = shapes_of(network, *rest)
  assert {s.dtype for s in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
  jaxpr = jax.make_jaxpr(network.apply)(variables, *arguments)
  kinds = [invar.aval.dtype for inputs in products(jaxpr.jaxpr) for invar in inputs]
  assert len(kinds) > 10
  assert set(kinds) == {jnp.dtype("bfloat16")}


def test_says_what_does_not_fit():
  refused = lambda sentence: pytest.raises(UserError, match=sentence)
  network, shape, told = SMALL["DiT"]
  with refused("16 features do not divide into 3 heads"):
    shapes_of(network.clone(heads=3), shape, told)
  with refused("8 x 9 do not divide into patches of 2 x 2"):
    shapes_of(network, (2, 8, 9, 1), told)
  with refused("and this one has 11"):
    shapes_of(network, shape, None)
  with refused("and this one has none"):
    shapes_of(network.clone(classes=None), shape, told)
  with refused("14 features do not divide by 4"):
    shapes_of(network.clone(width=14), shape, told)
  network, shape, told = SMALL["MMDiT"]
  with refused("conditioned on a text's features, 'text' and 'pooled'"):
    shapes_of(network, shape, {"text": (2, 3, 5)})
  with refused("conditioned on a text's features"):
    shapes_of(network, shape, None)
  with refused("4 x 4 patches is larger than the network's 3 x 3"):
    shapes_of(network.clone(most=3), shape, told)
  with refused("of an MMDiT's 4 blocks 4 have attention of the picture to itself, and the last one has none"):
    shapes_of(network.clone(dual=4), shape, told)
  network, shape, told = SMALL["U-ViT"]
  with refused("not 3 in all"):
    shapes_of(network.clone(depth=3), shape, told)
  with refused("and this one has none"):
    shapes_of(network, shape, (2,))
