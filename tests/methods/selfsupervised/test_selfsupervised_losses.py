"""Losses against lightly's and the authors' definitions; identities. The fixture is of make_selfsupervised.py."""

from functools import partial

import conftest
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.methods.selfsupervised import losses
from jaxgen.probability import embeddings

with np.load(conftest.REPOSITORY / "tests" / "fixtures" / "selfsupervised.npz") as arrays:
  KNOWN = {name.removeprefix("loss/"): arrays[name] for name in arrays.files if name.startswith("loss/")}
LOSSES = {
  "nt_xent": partial(losses.nt_xent, tau=0.3),
  "barlow_twins": partial(losses.barlow_twins, weight=0.02),
  "vicreg": partial(losses.vicreg, weights=(20.0, 15.0, 2.0)),
  "negative_cosine": losses.negative_cosine,
  "squared_distance": losses.squared_distance,
  "info_nce": lambda a, b: losses.info_nce(a, b, jnp.asarray(KNOWN["queue"]), 0.2),
  "info_nce_in_batch": partial(losses.info_nce_in_batch, tau=0.2),
  "self_distillation": lambda a, b: losses.self_distillation(
    jnp.split(a, 2), jnp.split(b, 2), jnp.asarray(KNOWN["center"]), 0.1, 0.06
  ),
}


@pytest.mark.parametrize("name", LOSSES)
def test_value_and_gradients_are_those_of_pytorch(name, x64):
  value, (to_a, to_b) = jax.value_and_grad(LOSSES[name], (0, 1))(jnp.asarray(KNOWN["a"]), jnp.asarray(KNOWN["b"]))
  np.testing.assert_allclose(value, KNOWN[f"{name}/value"], rtol=1e-9)
  np.testing.assert_allclose(to_a, KNOWN[f"{name}/grad_a"], rtol=0, atol=1e-9)
  if name != "self_distillation":  # whose teacher has none in theirs
    np.testing.assert_allclose(to_b, KNOWN[f"{name}/grad_b"], rtol=0, atol=1e-9)


def test_where_all_embeddings_are_equal(x64):
  """NT-Xent is log(2 N - 1), MoCo's log(K + 1), whatever the temperature; gradients are finite, also of zeros."""
  same, queue = jnp.ones((7, 3)), jnp.ones((32, 3))
  np.testing.assert_allclose(losses.nt_xent(same, same, 0.1), np.log(13), rtol=1e-12)
  np.testing.assert_allclose(losses.info_nce(same, same, queue, 0.1), np.log(33), rtol=1e-12)
  np.testing.assert_allclose(losses.info_nce_in_batch(same, same, 0.1), 0.2 * np.log(7), rtol=1e-12)
  np.testing.assert_allclose(losses.squared_distance(same, same), 0, atol=1e-12)
  for value in (same, 0 * same):
    assert np.isfinite(jax.grad(losses.nt_xent)(value, same, 0.1)).all()


def test_dimensions_alignment_and_uniformity(x64):
  collapsed = jnp.tile(jnp.asarray([1.0, -2.0, 0.5]), (9, 1))
  assert embeddings.effective_rank(collapsed) == pytest.approx(1)
  assert embeddings.effective_dimension(collapsed) == pytest.approx(1)
  assert embeddings.uniformity(collapsed) == pytest.approx(0)
  axes = jnp.concatenate([jnp.eye(5)] * 4) * 3.0
  assert embeddings.effective_rank(axes) == pytest.approx(5)
  assert embeddings.effective_dimension(axes) == pytest.approx(5)
  assert embeddings.effective_dimension(axes[:3]) == pytest.approx(3)
  # of 20 vectors, each has 3 others at distance 0 and 16 at squared distance 2
  assert embeddings.uniformity(axes) == pytest.approx(np.log((3 + 16 * np.exp(-4)) / 19))
  assert embeddings.alignment(axes, -axes) == pytest.approx(4)
