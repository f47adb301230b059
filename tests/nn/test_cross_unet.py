"""The U-Net with cross-attention against diffusers (tests/fixtures/make_cross_unets.py), and what it promises."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from packed import FIXTURES
from published import assert_gradients, load, products

from jaxgen.core.errors import UserError
from jaxgen.interop import cross_unet as weights
from jaxgen.interop import layout
from jaxgen.nn.unets import cross
from jaxgen.nn.unets.cross import SIZES, CrossUNet

KEPT = json.loads((FIXTURES / "cross_unets.json").read_text())


def read(name: str):
  """(network, its layout, variables, arguments, what else is in the fixture), in float64."""
  network, entries = weights.unet(KEPT[name]["config"], dtype="float64", param_dtype="float64")
  arrays = load("cross_unets.npz", name)
  told = {key: jnp.asarray(value) for key, value in arrays["argument"].items()}
  arguments = [told.pop("x"), told.pop("t"), told]
  shapes = jax.eval_shape(network.init, jax.random.key(0), *arguments)
  return network, entries, layout.read(entries, arrays["weight"], shapes), arguments, arrays


@pytest.mark.parametrize("name", KEPT)
def test_output_and_gradients_equal_diffusers(name, x64):
  """In float64, of pictures with odd sides, and of one with even sides for SDXL."""
  network, entries, variables, arguments, arrays = read(name)
  cotangent, expected, wanted = arrays["cotangent"][""], arrays["output"][""], arrays["gradient"]

  def loss(variables):
    output = network.apply(variables, *arguments)
    return jnp.sum(output * cotangent), output

  (_, output), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(variables)
  np.testing.assert_allclose(output, expected, rtol=0, atol=1e-9 * np.abs(expected).max())
  found = layout.write(entries, gradients)
  assert found.keys() == wanted.keys() == arrays["weight"].keys()
  assert_gradients(found, wanted)


def test_fixture_tells_mistakes(x64, monkeypatch):
  network, _, variables, arguments, arrays = read("SDXL")
  expected = arrays["output"][""]
  changed = [network.clone(heads=4), network.clone(heads=(2, 1))]
  for other in changed:
    assert np.abs(jax.jit(other.apply)(variables, *arguments) - expected).max() > 1e-7 * np.abs(expected).max()
  x, t, told = arguments
  for name, value in told.items():  # each is listened to
    moved = told | {name: value + 0.1}
    assert np.abs(jax.jit(network.apply)(variables, x, t, moved) - expected).max() > 1e-7 * np.abs(expected).max()
  network, _, variables, arguments, arrays = read("SD 1")
  expected = arrays["output"][""]
  monkeypatch.setattr(cross, "geglu", lambda x: cross.nn.gelu(x[..., : x.shape[-1] // 2]) * x[..., x.shape[-1] // 2 :])
  assert np.abs(jax.jit(network.apply)(variables, *arguments) - expected).max() > 1e-7 * np.abs(expected).max()


@pytest.mark.parametrize("name", KEPT)
def test_weights_go_back_as_they_came(name, x64):
  network, entries, variables, arguments, arrays = read(name)
  tensors, wanted = layout.write(entries, variables), arrays["weight"]
  linear, names = KEPT[name]["config"]["use_linear_projection"], KEPT[name]["authors"]
  as_authors = layout.write(weights.authors(network, linear), variables)
  assert tensors.keys() == wanted.keys()
  assert as_authors.keys() == names.keys()
  for theirs, ours in names.items():
    np.testing.assert_array_equal(tensors[ours], wanted[ours], err_msg=ours)
    np.testing.assert_array_equal(as_authors[theirs], wanted[ours], err_msg=theirs)
  shapes = jax.eval_shape(network.init, jax.random.key(0), *arguments)
  for form in (True, False):  # the layers around a Transformer are read as dense ones and as convolutions
    again = layout.read(weights.diffusers(network, form), tensors, shapes)
    jax.tree.map(np.testing.assert_array_equal, again, variables)


# --- Sizes -----------------------------------------------------------------------------------------------------------

PUBLISHED = {
  "SD 1": ({"text": (1, 77, 768)}, 859_520_964),
  "SD 2": ({"text": (1, 77, 1024)}, 865_910_724),
  "SDXL": ({"text": (1, 77, 2048), "pooled": (1, 1280), "sizes": (1, 6)}, 2_567_463_684),
}
SMALL = CrossUNet(8, (1, 2), 1, (1, 1), heads=2, groups=4, out_channels=1)
X = (2, 6, 5, 1)


def shapes_of(network, shape, told):
  struct = lambda s: jax.ShapeDtypeStruct(s, jnp.float32)
  arguments = struct(shape), struct(shape[:1]), told and {name: struct(s) for name, s in told.items()}
  return jax.eval_shape(network.init, jax.eval_shape(lambda: jax.random.key(0)), *arguments), arguments


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_at_the_published_sizes(name):
  told, count = PUBLISHED[name]
  variables, _ = shapes_of(CrossUNet(**SIZES[name]), (1, 64, 64, 4), told)
  assert sum(s.size for s in jax.tree.leaves(variables)) == count


def test_a_places_blocks_are_one_loop_and_remat_keeps_less():
  def lines(depth):
    network = SMALL.clone(depths=(depth, 0), middle=depth)
    variables, arguments = shapes_of(network, X, {"text": (2, 3, 5)})
    return str(jax.make_jaxpr(network.apply)(variables, *arguments)).count("\n")

  assert lines(4) == lines(8)
  kept = []
  small = SMALL.clone(multipliers=(1,), depths=(4,))
  for remat in (False, True):
    network = small.clone(remat=remat)
    variables, arguments = shapes_of(network, X, {"text": (2, 3, 5)})
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), arguments)
    apply = lambda p, network=network, zeros=zeros: network.apply(p, *zeros)
    residuals = jax.eval_shape(lambda p, apply=apply: jax.vjp(apply, p)[1], variables)
    kept.append(sum(r.size for r in jax.tree.leaves(residuals)) - sum(p.size for p in jax.tree.leaves(variables)))
  assert kept[1] < kept[0] / 2


def test_bfloat16_computes_in_bfloat16_and_keeps_float32_parameters():
  network = SMALL.clone(dtype=jnp.bfloat16)
  variables, arguments = shapes_of(network, X, {"text": (2, 3, 5)})
  assert {s.dtype for s in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
  jaxpr = jax.make_jaxpr(network.apply)(variables, *arguments)
  kinds = [invar.aval.dtype for inputs in products(jaxpr.jaxpr) for invar in inputs]
  assert len(kinds) > 20
  assert set(kinds) == {jnp.dtype("bfloat16")}


def test_a_picture_beside_it_is_more_channels():
  told = {"text": (2, 3, 5), "picture": (*X[:3], 5)}
  variables, _ = shapes_of(SMALL, X, told)
  assert variables["params"]["in"]["kernel"].shape == (3, 3, 6, 8)
  with pytest.raises(UserError, match="a picture of 6 x 6 stands beside 6 x 5"):
    shapes_of(SMALL, X, {"text": (2, 3, 5), "picture": (2, 6, 6, 5)})


def test_says_what_does_not_fit():
  text = {"text": (2, 3, 5)}
  refused = lambda sentence: pytest.raises(UserError, match=sentence)
  for told in (None, {"pooled": (2, 5)}, text | {"pooled": (2, 5)}):
    with refused("this U-Net is conditioned on 'text': take the condition"):
      shapes_of(SMALL, X, told)
  with refused("this U-Net is conditioned on 'text' and 'sizes' and 'pooled'"):
    shapes_of(SMALL.clone(micro=4), X, text)
  with refused("8 features do not divide into 3 heads"):
    shapes_of(SMALL.clone(heads=3), X, text)
  with refused("has heads of each, and these are 3"):
    shapes_of(SMALL.clone(heads=(1, 2, 4)), X, text)
  with refused("has depths of each, and these are 1"):
    shapes_of(SMALL.clone(depths=(1,)), X, text)
  config = KEPT["SD 1"]["config"]
  for change, sentence in {
    "class_embed_type": "class_embed_type = 'other'",
    "down_block_types": "blocks of the type o",
    "up_block_types": "not on the way up, or otherwise",
  }.items():
    with refused(sentence):
      weights.unet(config | {change: "other"})
