"""unCLIP's prior against diffusers (tests/fixtures/make_prior.py)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from published import assert_gradients, load

from jaxgen.core.errors import UserError
from jaxgen.interop import layout, prior
from jaxgen.nn.joint.prior import PriorTransformer

NETWORK = PriorTransformer(6, width=8, depth=2, heads=2, words=5, dtype="float64", param_dtype="float64")


@pytest.fixture(scope="module")
def arrays():
  return load("prior.npz", "prior")


def read(arrays):
  told = {name: jnp.asarray(value) for name, value in arrays["argument"].items()}
  arguments = [told.pop("x"), told.pop("t"), told]
  shapes = jax.eval_shape(NETWORK.init, jax.random.key(0), *arguments)
  return layout.read(prior.diffusers(NETWORK), arrays["weight"], shapes), arguments


def test_prior_equals_diffusers(arrays, x64):
  """Outputs and gradients in float64, of texts with padding, also the embedding that is made of a sample."""
  variables, arguments = read(arrays)
  expected = arrays["output"][""]

  def loss(variables):
    output = NETWORK.apply(variables, *arguments)
    return jnp.sum(output * arrays["cotangent"][""]), output

  (_, output), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(variables)
  np.testing.assert_allclose(output, expected, rtol=0, atol=1e-9 * np.abs(expected).max())
  restored = NETWORK.apply(variables, output, method="restored")
  np.testing.assert_allclose(restored, arrays["restored"][""], rtol=0, atol=1e-9)
  assert np.ptp(arrays["restored"][""], axis=0).max() > 0.1  # with zeros in "clip_std" it would say nothing
  found = layout.write(prior.diffusers(NETWORK), gradients)
  for name in ("clip_mean", "clip_std"):
    np.testing.assert_array_equal(found.pop(name), 0)
  assert found.keys() == arrays["gradient"].keys()
  assert_gradients(found, arrays["gradient"])
  tensors = layout.write(prior.diffusers(NETWORK), variables)
  assert tensors.keys() == arrays["weight"].keys()
  jax.tree.map(np.testing.assert_array_equal, tensors, dict(arrays["weight"]))


def test_prior_reads_what_the_mask_says_and_refuses_other_texts(arrays, x64):
  variables, (x, t, told) = read(arrays)
  apply = jax.jit(NETWORK.apply)
  expected = apply(variables, x, t, told)
  hidden = told | {"text": jnp.where(told["mask"][..., None], told["text"], 7.0)}
  np.testing.assert_array_equal(apply(variables, x, t, hidden), expected)
  for name in ("text", "text_embedding"):
    assert jnp.abs(apply(variables, x, t, told | {name: told[name] + 0.1}) - expected).min() > 1e-6
  with pytest.raises(UserError, match="5 words of a text, and these are 4"):
    NETWORK.init(jax.random.key(0), x, t, told | {"text": told["text"][:, :4]})
  with pytest.raises(UserError, match="is conditioned on text, mask, text_embedding"):
    NETWORK.init(jax.random.key(0), x, t, {"text": told["text"]})


def test_size_of_the_paper():
  """1 B parameters, within 3 %, by a count from the definition; as initialised, CLIP's embeddings have length 1."""
  d, width, depth, words = 768, 2048, 20, 77
  network = PriorTransformer(d, width=width, depth=depth, heads=32, words=words)
  told = {"text": jnp.zeros((1, words, d)), "mask": jnp.ones((1, words), bool), "text_embedding": jnp.zeros((1, d))}
  shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, d)), jnp.zeros(1), told)
  dense = lambda a, b: (a + 1) * b
  block = 4 * dense(width, width) + dense(width, 4 * width) + dense(4 * width, width) + 4 * width
  count = depth * block + 2 * dense(width, width) + 3 * dense(d, width) + (words + 5) * width + 2 * width
  count += dense(width, d) + 2 * d
  assert sum(x.size for x in jax.tree.leaves(shapes)) == count == 1_022_030_080
  assert abs(count / 1e9 - 1) < 0.03
