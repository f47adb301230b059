"""T5's encoder against transformers (tests/fixtures/make_t5.py)."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from packed import FIXTURES
from published import assert_gradients, load

from jaxgen.core.errors import UserError
from jaxgen.interop import layout
from jaxgen.interop import t5 as weights
from jaxgen.nn.sequence.t5 import SIZES, T5Encoder

KEPT = json.loads((FIXTURES / "t5.json").read_text())
CONFIGS = KEPT["configs"]


@pytest.mark.parametrize("name", CONFIGS)
def test_output_and_gradients_equal_transformers_and_weights_go_back(name, x64):
  """Of texts of 15 and 12 tokens, with three heads of 4 and 10 features."""
  network = weights.encoder(CONFIGS[name], dtype="float64", param_dtype="float64")
  arrays = load("t5.npz", name)
  tokens = jnp.asarray(arrays["argument"]["tokens"], jnp.int32)
  shapes = jax.eval_shape(network.init, jax.random.key(0), tokens)
  entries = weights.transformers(network)
  with_decoder = arrays["weight"] | {"lm_head.weight": np.zeros(3), "decoder.final_layer_norm.weight": np.zeros(3)}
  variables = layout.read(entries, weights.encoder_of(with_decoder), shapes)
  cotangent, expected, wanted = arrays["cotangent"][""], arrays["output"][""], arrays["gradient"]

  def loss(variables, tokens):
    output = network.apply(variables, tokens, tokens != 0)
    return jnp.sum(output * cotangent), output

  differentiated = jax.jit(jax.value_and_grad(loss, has_aux=True))
  (_, output), gradients = differentiated(variables, tokens)
  np.testing.assert_allclose(output, expected, rtol=0, atol=1e-9 * np.abs(expected).max())
  found = layout.write(entries, gradients)
  assert found.keys() == wanted.keys() == arrays["weight"].keys()
  assert_gradients(found, wanted)
  for tensor, value in layout.write(entries, variables).items():
    np.testing.assert_array_equal(value, arrays["weight"][tensor], err_msg=tensor)
  # The fixture tells the order of a text's tokens, and padding that is seen.
  for other in (tokens[:, ::-1], tokens.at[1, 12:].set(3)):
    (_, moved), _ = differentiated(variables, other)
    assert np.abs(moved - expected).max() > 1e-3


@pytest.mark.parametrize("name", SIZES)
def test_parameters_at_the_published_sizes(name):
  tokens = jax.ShapeDtypeStruct((1, 8), jnp.int32)
  shapes = jax.eval_shape(T5Encoder(**SIZES[name]).init, jax.random.key(0), tokens)
  assert sum(s.size for s in jax.tree.leaves(shapes)) == KEPT["parameters"][name]


def test_says_what_does_not_fit():
  refused = lambda sentence: pytest.raises(UserError, match=sentence)
  with refused("of 'bert', and this is T5's encoder"):
    weights.encoder(CONFIGS["v1.0"] | {"model_type": "bert"})
  with refused("feed_forward_proj = 'gated-silu', and T5's encoder knows gated-gelu and relu alone"):
    weights.encoder(CONFIGS["v1.0"] | {"feed_forward_proj": "gated-silu"})
