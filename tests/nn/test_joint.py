"""Towers for pictures and texts against transformers (tests/fixtures/make_joint.py), and their sizes."""

import json
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from packed import load
from published import assert_gradients

from jaxgen.core.errors import UserError
from jaxgen.interop import dual as dual_layout
from jaxgen.interop import layout, text_tower
from jaxgen.nn.blocks.activations import gelu, gelu_tanh, quick_gelu
from jaxgen.nn.joint import dual, text
from jaxgen.nn.joint.text import TextTower


class Known(NamedTuple):
  """A network that another implementation has given the outputs and gradients of.

  call: (function of what the network's `apply` takes, arguments) -> outputs.
  mistakes: networks whose outputs are others.
  """

  network: nn.Module
  layout: Callable
  call: Callable[..., tuple]
  mistakes: tuple[nn.Module, ...]


def _text(apply, tokens, mask=None):
  found = apply(tokens, mask, states=True)
  return found.tokens, found.whole, found.states


def options(activation) -> text.Options:
  return text.clip(12, 3, 2, activation, context=8, hidden=10, dtype=jnp.float64)


def _joint(apply, pictures, tokens):
  found = apply(pictures, tokens)
  logits = jnp.exp(found.log_scale) * found.image @ found.text.T + (0 if found.bias is None else found.bias)
  return logits, found.image, found.text


SMALL = dict(patch=4, width=12, depth=2, heads=3)
TEXT = dict(vocabulary=13, context=8, dtype=jnp.float64)


def transformers_clip(activation: str) -> dual.DualEncoder:
  found = dual.clip(dual.Size(5, SMALL | dict(hidden=10), (12, 3, 2)), activation, **TEXT)
  # The end by its number: a text without one is read out at its first token, as in transformers.
  return found.clone(text=found.text.clone(options=found.text.options._replace(hidden=10), end=12))


def transformers_siglip(activation=gelu_tanh) -> dual.DualEncoder:
  found = dual.siglip(SMALL | dict(hidden=10), 13, 8, jnp.float64)
  options = found.text.options._replace(activation=activation)
  return found.clone(text=found.text.clone(options=options))


def open_clip(activation: str, image: dict = SMALL) -> dual.DualEncoder:
  return dual.clip(dual.Size(5, image, (12, 3, 2)), activation, **TEXT)


QUICK, EXACT = TextTower(13, options(quick_gelu), 5), TextTower(13, options(gelu), end=9)
KNOWN = {
  "text, quick GELU": Known(QUICK, text_tower.transformers, _text, (QUICK.clone(options=options(gelu)),)),
  "text, GELU": Known(
    EXACT,
    text_tower.transformers,
    _text,
    (EXACT.clone(options=options(quick_gelu)), EXACT.clone(options=options(gelu_tanh)), EXACT.clone(end=None)),
  ),
  "CLIP, transformers": Known(
    transformers_clip("quick"), dual_layout.transformers, _joint, (transformers_clip("exact"),)
  ),
  "SigLIP": Known(transformers_siglip(), dual_layout.transformers, _joint, (transformers_siglip(gelu),)),
  "CLIP, OpenCLIP": Known(open_clip("exact"), dual_layout.open_clip, _joint, (open_clip("quick"),)),
  "CLIP, residual": Known(
    open_clip("quick", dict(depths=(1, 2, 1, 1), width=2, heads=4)),
    dual_layout.openai,
    _joint,
    (open_clip("exact", dict(depths=(1, 2, 1, 1), width=2, heads=4)),),
  ),
}


def read(name: str):
  """(network, variables, arguments, what else is in the fixture), in float64."""
  network, arrays = KNOWN[name].network, load("joint.npz", name)
  arguments = {k: jnp.asarray(v) for k, v in arrays["argument"].items()}
  shapes = jax.eval_shape(partial(network.init, jax.random.key(0)), **arguments)
  variables = layout.read(KNOWN[name].layout(network), arrays["weight"], shapes)
  return network, jax.tree.map(jnp.asarray, variables), arguments, arrays


def row(outputs) -> jax.Array:
  return jnp.concatenate([jnp.ravel(output) for output in outputs])


@pytest.mark.parametrize("name", KNOWN)
def test_outputs_and_gradients_equal_the_originals(name, x64):
  network, variables, arguments, arrays = read(name)
  cotangent, expected, wanted = arrays["cotangent"]["row"].ravel(), arrays["output"]["row"].ravel(), arrays["gradient"]
  outputs = lambda network, variables: row(KNOWN[name].call(partial(network.apply, variables), **arguments))

  def loss(params):
    output = outputs(network, variables | {"params": params})
    return jnp.sum(output * cotangent), output

  (_, output), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])
  np.testing.assert_allclose(output, expected, rtol=0, atol=1e-9 * np.abs(expected).max())
  found = layout.write([e for e in KNOWN[name].layout(network) if "batch_stats" not in e.ours], {"params": gradients})
  assert found.keys() >= wanted.keys()
  assert_gradients(found, wanted, 1e-9)
  for mistake in KNOWN[name].mistakes:
    assert np.abs(jax.jit(partial(outputs, mistake))(variables) - expected).max() > 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("name", KNOWN)
def test_weights_go_back_as_they_came(name, x64):
  network, variables, _, arrays = read(name)
  tensors = layout.write(KNOWN[name].layout(network), variables)
  assert tensors.keys() == arrays["weight"].keys()
  for tensor, value in tensors.items():
    np.testing.assert_array_equal(value, arrays["weight"][tensor], err_msg=tensor)


def size(network: nn.Module, *arguments) -> int:
  shapes = jax.eval_shape(network.init, jax.random.key(0), *arguments)
  return sum(x.size for x in jax.tree.leaves(shapes))


PICTURES, TOKENS = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32), jax.ShapeDtypeStruct((1, 77), jnp.int32)
TOKENS_64 = jax.ShapeDtypeStruct((1, 64), jnp.int32)


@pytest.mark.parametrize(
  ("network", "parameters"),
  [
    (TextTower(options=text.CLIP["B/32"]), 63_165_952),
    (TextTower(options=text.CLIP["L/14"]), 123_060_480),  # Stable Diffusion 1's
    (TextTower(options=text.CLIP["H/14"]._replace(depth=23)), 340_387_840),  # Stable Diffusion 2's
    (TextTower(options=text.CLIP["bigG/14"], projection=1280), 694_659_840),  # SDXL's second
  ],
)
def test_text_towers_have_the_published_sizes(network, parameters):
  assert size(network, TOKENS) == parameters


@pytest.mark.parametrize(
  ("network", "parameters"),
  [
    (dual.clip("B/32"), 151_277_313),
    (dual.clip("B/16"), 149_620_737),
    (dual.clip("L/14"), 427_616_513),
    (dual.clip("H/14"), 986_109_441),
    (dual.clip("RN50"), 102_007_137),
    (dual.siglip("B/16"), 203_155_970),
  ],
)
def test_dual_encoders_have_the_published_sizes(network, parameters):
  shapes = jax.eval_shape(network.init, jax.random.key(0), PICTURES, TOKENS if network.bias is None else TOKENS_64)
  assert sum(x.size for x in jax.tree.leaves(shapes["params"])) == parameters


def test_positions_of_another_size_are_resized_and_what_is_missing_is_named(x64):
  network, variables, arguments, arrays = read("CLIP, transformers")
  larger = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 12, 12, 3)), arguments["tokens"])
  for entries in (dual_layout.transformers(network), dual_layout.openai(network)):
    found = layout.read(entries, layout.write(entries, variables), larger)["params"]["image"]["positions"]
    assert found.shape == (1 + 9, 12)
    np.testing.assert_array_equal(found[0], variables["params"]["image"]["positions"][0])
  short = {k: v for k, v in arrays["weight"].items() if k != "logit_scale"}
  with pytest.raises(UserError, match="logit_scale"):
    layout.read(dual_layout.transformers(network), short, larger)


def test_an_activation_that_nobody_told_is_asked_for(tmp_path, x64):
  network, _, arguments, arrays = read("CLIP, transformers")
  shapes = jax.eval_shape(partial(network.init, jax.random.key(0)), **arguments)
  entries = dual_layout.transformers(network)
  with pytest.raises(UserError, match="give --activation quick .* or --activation exact"):
    layout.read(dual_layout.unless_told(entries, None), arrays["weight"], shapes)
  layout.read(dual_layout.unless_told(entries, "quick"), arrays["weight"], shapes)

  file, config = tmp_path / "model.safetensors", tmp_path / "config.json"
  with pytest.raises(UserError, match="model.safetensors cannot be told: there is no config.json"):
    dual_layout.activation_of(file)
  for text_config, image, expected in (("gelu", "gelu", "exact"), ("quick_gelu", "quick_gelu", "quick")):
    towers = dict(text_config=dict(hidden_act=text_config), vision_config=dict(hidden_act=image))
    config.write_text(json.dumps(towers))
    assert dual_layout.activation_of(file) == expected
  config.write_text(json.dumps(dict(text_config=dict(hidden_act="gelu"), vision_config=dict(hidden_act="relu"))))
  with pytest.raises(UserError, match="config.json says gelu, relu"):
    dual_layout.activation_of(file)
  (tmp_path / "open_clip_config.json").write_text(json.dumps(dict(model_cfg=dict(embed_dim=512))))
  assert dual_layout.activation_of(file) == "exact"
  for name in ("open_clip_config.json", "config.json"):
    for damaged in ("{", "[1]", '"text"', '{"model_cfg": 1, "text_config": 2}'):
      (tmp_path / name).write_text(damaged)
      with pytest.raises(UserError, match=f"{name} cannot be read as a configuration"):
        dual_layout.activation_of(file)
    (tmp_path / name).unlink()


def test_sizes_and_activations_that_there_are_not():
  with pytest.raises(UserError, match="no CLIP 'B/64': it is one of B/32"):
    dual.clip("B/64")
  with pytest.raises(UserError, match="no activation 'relu'"):
    dual.clip("B/32", "relu")
  with pytest.raises(UserError, match="no SigLIP 'B/64'"):
    dual.siglip("B/64")
  with pytest.raises(UserError, match="no CLIP with a residual network"):
    dual_layout.transformers(dual.clip("RN50"))
  with pytest.raises(UserError, match="has SigLIP's bias"):
    dual_layout.openai(dual.siglip("B/16"))


def test_what_a_text_tower_cannot_read(x64):
  with pytest.raises(UserError, match="9 tokens, and the network has 8 positions"):
    QUICK.init(jax.random.key(0), jnp.zeros((1, 9), int))
  with pytest.raises(UserError, match="tokens from 0 to 13"):
    QUICK.init(jax.random.key(0), jnp.array([[0, 13]]))
  with pytest.raises(UserError, match="'end' or 'last' token, not 'first'"):
    QUICK.clone(read="first").init(jax.random.key(0), jnp.zeros((1, 8), int))


@pytest.mark.parametrize("f", [gelu, gelu_tanh, quick_gelu])
def test_derivatives_of_activations_are_those_of_their_formulas(f, x64):
  x = jnp.linspace(-9, 9, 13)
  formula = {
    gelu: lambda x: x * jax.scipy.stats.norm.cdf(x),
    gelu_tanh: lambda x: jax.nn.gelu(x, approximate=True),
    quick_gelu: lambda x: x / (1 + jnp.exp(-1.702 * x)),
  }[f]
  np.testing.assert_allclose(f(x), formula(x), atol=1e-12)
  np.testing.assert_allclose(jax.vmap(jax.grad(f))(x), jax.vmap(jax.grad(formula))(x), atol=1e-12)
