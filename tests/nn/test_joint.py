"""Towers for pictures and texts against transformers (tests/fixtures/make_joint.py), and their sizes."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from published import load, projected

from jaxgen.core.errors import UserError
from jaxgen.interop import layout, text_tower
from jaxgen.nn.blocks.activations import gelu, gelu_tanh, quick_gelu
from jaxgen.nn.joint import text
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
  return text.clip(12, 3, 3, activation, context=8, hidden=10, dtype=jnp.float64)


QUICK, EXACT = TextTower(13, options(quick_gelu), 5), TextTower(13, options(gelu), end=9)
KNOWN = {
  "text, quick GELU": Known(QUICK, text_tower.transformers, _text, (QUICK.clone(options=options(gelu)),)),
  "text, GELU": Known(
    EXACT,
    text_tower.transformers,
    _text,
    (EXACT.clone(options=options(quick_gelu)), EXACT.clone(options=options(gelu_tanh)), EXACT.clone(end=None)),
  ),
}


def read(name: str):
  """(network, variables, arguments, what else is in the fixture), in float64."""
  network, arrays = KNOWN[name].network, load("joint.npz", name)
  arguments = {k: jnp.asarray(v) for k, v in arrays["argument"].items()}
  shapes = jax.eval_shape(partial(network.init, jax.random.key(0)), **arguments)
  return network, layout.read(KNOWN[name].layout(network), arrays["weight"], shapes), arguments, arrays


def row(outputs) -> jax.Array:
  return jnp.concatenate([jnp.ravel(output) for output in outputs])


@pytest.mark.parametrize("name", KNOWN)
def test_outputs_and_gradients_equal_the_originals(name, x64):
  network, variables, arguments, arrays = read(name)
  cotangent, expected, wanted = arrays["cotangent"][""].ravel(), arrays["output"][""].ravel(), arrays["gradient"]
  outputs = lambda network, variables: row(KNOWN[name].call(partial(network.apply, variables), **arguments))

  def loss(variables):
    output = outputs(network, variables)
    return jnp.sum(output * cotangent), output

  (_, output), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(variables)
  np.testing.assert_allclose(output, expected, rtol=0, atol=1e-9 * np.abs(expected).max())
  found = layout.write(KNOWN[name].layout(network), gradients)
  assert found.keys() >= wanted.keys()
  largest = max(np.abs(gradient).max() for gradient in wanted.values())
  for tensor, gradient in wanted.items():
    # A gradient that is nearly zero is a difference of ones that are not.
    scale = max(np.abs(gradient).max(), 1e-2 * largest)
    np.testing.assert_allclose(projected(tensor, found[tensor]), gradient, rtol=0, atol=1e-9 * scale, err_msg=tensor)
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


TOKENS = jax.ShapeDtypeStruct((1, 77), jnp.int32)


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


def test_what_a_text_tower_cannot_read(x64):
  with pytest.raises(UserError, match="9 tokens, and the network has 8 positions"):
    QUICK.init(jax.random.key(0), jnp.zeros((1, 9), int))
  with pytest.raises(UserError, match="tokens from 0 to 13"):
    QUICK.init(jax.random.key(0), jnp.array([[0, 13]]))
  with pytest.raises(UserError, match="'end' or 'last' token, not 'first'"):
    QUICK.clone(read="first").init(jax.random.key(0), jnp.zeros((1, 8), int))


@pytest.mark.parametrize("f", [gelu, gelu_tanh, quick_gelu])
def test_derivatives_of_activations_are_those_of_their_formulas(f, x64):
  x = jnp.linspace(-9, 9, 37)
  formula = {
    gelu: lambda x: x * jax.scipy.stats.norm.cdf(x),
    gelu_tanh: lambda x: jax.nn.gelu(x, approximate=True),
    quick_gelu: lambda x: x / (1 + jnp.exp(-1.702 * x)),
  }[f]
  np.testing.assert_allclose(f(x), formula(x), atol=1e-12)
  np.testing.assert_allclose(jax.vmap(jax.grad(f))(x), jax.vmap(jax.grad(formula))(x), atol=1e-12)
