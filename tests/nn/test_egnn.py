"""EGNN against its authors' code, of tests/fixtures/make_egnn.py, and its symmetries."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from published import load, projected
from scipy.spatial.transform import Rotation

from jaxgen.core.errors import UserError
from jaxgen.interop import egnn as egnn_layout
from jaxgen.interop import layout
from jaxgen.nn.graphs.egnn import EGNN

SMALL = EGNN(6, 2, dtype="float64", param_dtype="float64")
KNOWN = {"attention": SMALL, "plain": SMALL.clone(layers=2, attention=False, tanh=False, norm=3.0, constant=0.5)}


def read(name):
  network, arrays = KNOWN[name], load("egnn.npz", name)
  given = {k: jnp.asarray(v) for k, v in arrays["argument"].items()}
  arguments, options = (given["z"], given["t"], given["told"]), {"mask": given["mask"]}
  shapes = jax.eval_shape(lambda key: network.init(key, *arguments, **options), jax.random.key(0))
  return network, layout.read(egnn_layout.authors(network), arrays["weight"], shapes), arguments, options, arrays


@pytest.mark.parametrize("name", KNOWN)
def test_output_and_gradients_equal_the_authors(name, x64):
  network, variables, arguments, options, arrays = read(name)

  def loss(variables):
    output = network.apply(variables, *arguments, **options)
    return jnp.sum(output * arrays["cotangent"][""]), output

  (_, output), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(variables)
  np.testing.assert_allclose(output, arrays["output"][""], rtol=0, atol=1e-9)
  found = layout.write(egnn_layout.authors(network), gradients)
  assert found.keys() == arrays["gradient"].keys()
  for tensor, gradient in arrays["gradient"].items():
    np.testing.assert_allclose(projected(tensor, found[tensor]), gradient, rtol=0, atol=1e-7, err_msg=tensor)


@pytest.mark.parametrize("name", KNOWN)
def test_symmetries(name, x64):
  """Rotations and reflections turn the output's positions, translations and what is in padding change nothing."""
  network, variables, (z, t, told), options, _ = read(name)
  apply = jax.jit(lambda z, mask: network.apply(variables, z, t, told, mask=mask))
  mask, output = options["mask"], apply(z, options["mask"])
  R = Rotation.random(random_state=0).as_matrix()
  turn = lambda z, R: jnp.concatenate([z[..., :3] @ R.T, z[..., 3:]], axis=-1)
  for Q in (R, -R, np.diag([1.0, 1, -1])):
    np.testing.assert_allclose(apply(turn(z, Q), mask), turn(output, Q), rtol=0, atol=1e-10)
  np.testing.assert_allclose(apply(z.at[..., :3].add(2.0), mask), output, rtol=0, atol=1e-10)
  order = np.array([2, 0, 3, 1])
  np.testing.assert_allclose(apply(z[:, order], mask[:, order]), output[:, order], rtol=0, atol=1e-10)
  np.testing.assert_array_equal(apply(jnp.where(mask[..., None], z, 7.0), mask), output)
  assert (np.abs(output).max(axis=(0, 1)) > 1e-3).all()
  np.testing.assert_allclose(output[..., :3].sum(1), 0, atol=1e-14)


def test_wrong_choices_are_one_sentence():
  t, mask = jnp.zeros(1), jnp.ones((1, 2), bool)
  for network, values, words in [(EGNN(4, 1), 3, "three positions"), (EGNN(4, 0), 5, "depth=0")]:
    with pytest.raises(UserError, match=words):
      network.init(jax.random.key(0), jnp.zeros((1, 2, values)), t, mask=mask)
