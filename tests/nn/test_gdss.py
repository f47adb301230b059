"""GDSS's score networks against their authors' code, of tests/fixtures/make_gdss.py, and their symmetry."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from published import assert_gradients, load

from jaxgen.core.errors import UserError
from jaxgen.interop import gdss as gdss_layout
from jaxgen.interop import layout
from jaxgen.nn.graphs.gdss import ScoreA, ScoreX

FLOAT64 = dict(dtype="float64", param_dtype="float64")
NETWORKS = {
  "x": (ScoreX(2, 4, **FLOAT64), gdss_layout.score_x),
  "a": (ScoreA(3, 4, 6, 2, 2, 2, 2, 3, **FLOAT64), gdss_layout.score_a),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_output_and_gradients_equal_the_authors(name, x64):
  """And nodes may come in any order, to 1e-10: those of the same graphs in another order are in the same batch."""
  (network, authors), arrays = NETWORKS[name], load("gdss.npz", name)
  X, A, mask = (jnp.asarray(arrays["argument"][key]) for key in ("X", "A", "mask"))
  order = np.array([3, 1, 4, 0, 2])
  both = [jnp.concatenate([x, y]) for x, y in ((X, X[:, order]), (A, A[:, order][:, :, order]), (mask, mask[:, order]))]
  t = jnp.zeros(4)
  shapes = jax.eval_shape(lambda key: network.init(key, X, A, t[:2], mask=mask), jax.random.key(0))
  variables = layout.read(authors(network), arrays["weight"], shapes)

  @jax.jit
  def run(variables):
    def loss(variables):
      output = network.apply(variables, *both[:2], t, mask=both[2])
      return jnp.sum(output[:2] * arrays["cotangent"][""]), output

    return jax.value_and_grad(loss, has_aux=True)(variables)

  (_, output), gradients = run(variables)
  np.testing.assert_allclose(output[:2], arrays["output"][""], rtol=0, atol=1e-10)
  assert_gradients(layout.write(authors(network), gradients), arrays["gradient"])
  moved = output[:2, order] if name == "x" else output[:2, order][:, :, order]
  np.testing.assert_allclose(output[2:], moved, rtol=0, atol=1e-10)
  if name == "a":
    np.testing.assert_allclose(output, output.swapaxes(1, 2), rtol=0, atol=1e-12)
    assert not np.asarray(output)[:, range(5), range(5)].any()


def test_wrong_choices_are_one_sentence():
  X, A, t, mask = jnp.zeros((1, 2, 1)), jnp.zeros((1, 2, 2)), jnp.zeros(1), jnp.ones((1, 2), bool)
  for network, words in [
    (ScoreX(0, 4), "depth=0"),
    (ScoreA(1, 4), "give it 2 or more"),
    (ScoreA(2, 5, heads=2), "do not divide into 2 heads"),
  ]:
    with pytest.raises(UserError, match=words):
      jax.eval_shape(lambda key, network=network: network.init(key, X, A, t, mask=mask), jax.random.key(0))
