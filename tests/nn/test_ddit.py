"""The Transformer of discrete diffusion against MDLM's own, of tests/fixtures/make_ddit.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from published import load, projected

from jaxgen.core.errors import UserError
from jaxgen.interop import ddit as ddit_layout
from jaxgen.interop import layout
from jaxgen.nn.transformers.ddit import SIZES, DDiT

NETWORK = DDiT(7, 12, 2, 3, states=7, told=6, scale=1.0, dtype="float64", param_dtype="float64")


def read():
  arrays = load("ddit.npz", "DDiT")
  x, t = jnp.asarray(arrays["argument"]["x"]), jnp.asarray(arrays["argument"]["t"])
  shapes = jax.eval_shape(NETWORK.init, jax.random.key(0), x, t)
  return layout.read(ddit_layout.authors(NETWORK), arrays["weight"], shapes), x, t, arrays


def test_output_and_gradients_equal_the_authors(x64):
  variables, x, t, arrays = read()

  def loss(variables):
    output = NETWORK.apply(variables, x, t)
    return jnp.sum(output * arrays["cotangent"][""]), output

  (_, output), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(variables)
  np.testing.assert_allclose(output, arrays["output"][""], rtol=0, atol=1e-9)
  found = layout.write(ddit_layout.authors(NETWORK), gradients)
  assert found.keys() == arrays["gradient"].keys()
  for tensor, gradient in arrays["gradient"].items():
    np.testing.assert_allclose(projected(tensor, found[tensor]), gradient, rtol=0, atol=1e-7, err_msg=tensor)
  other = NETWORK.clone(scale=2.0).apply(variables, x, t)
  assert np.abs(other - output).max() > 1e-3
  timeless = NETWORK.clone(timeless=True)
  np.testing.assert_array_equal(timeless.apply(variables, x, t), timeless.apply(variables, x, 0 * t))


def test_size_is_mdlms():
  """What the authors' own network on the GPT-2 vocabulary counts in PyTorch, as make_ddit.py makes it."""
  network = DDiT(50_258, **SIZES["small"], states=50_258)
  shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 4), jnp.int32), jnp.zeros(1))
  assert sum(x.size for x in jax.tree.leaves(shapes)) == 169_627_218


def test_wrong_choices_are_one_sentence():
  x, t = jnp.zeros((1, 4), jnp.int32), jnp.zeros(1)
  for network, words in [
    (DDiT(7, 12, 1, 3, states=6), "predicts 7 values and reads 6"),
    (DDiT(7, 12, 1, 3, classes=2), "a label is given where"),
    (DDiT(7, 12, 1, 5), "do not divide into 5 heads"),
    (DDiT(7, 9, 1, 3), "heads of even width"),
  ]:
    with pytest.raises(UserError, match=words):
      network.init(jax.random.key(0), x, t)
