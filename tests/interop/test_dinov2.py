"""DINOv2 against transformers' `Dinov2Model` and PyTorch's interpolation (make_dinov2.py)."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.interop import dinov2, layout
from jaxgen.nn.vision.vit import ViT

KNOWN = dict(np.load(pathlib.Path(__file__).parent.parent / "fixtures" / "dinov2.npz"))


def tensor(name, shape):
  """As in the script that made the fixture."""
  value = np.random.default_rng(list(name.encode())).standard_normal(shape)
  return value * (2 / np.prod(shape[1:])) ** 0.5 if len(shape) == 2 or len(shape) == 4 else 0.5 * value + 0.3


def variables(entries, network, side):
  """(ours at a picture's size, theirs at 32 x 32) of random tensors."""
  shape = lambda side: jax.eval_shape(
    lambda: network.init(jax.random.key(0), jnp.zeros((1, side, side, 3)), method="tokens")
  )
  zeros = jax.tree.map(lambda s: np.broadcast_to(np.zeros((), np.int8), s.shape), shape(32))
  tensors = {name: tensor(name, x.shape) for name, x in layout.write(entries, zeros).items()}
  return layout.read(entries, tensors, shape(side)), tensors


@pytest.mark.parametrize("side", [32, 20])
def test_tokens_equal_transformers(side, x64):
  network = ViT(4, 24, 2, 3, layer_scale=1.0, dtype="float64", param_dtype="float64")
  found, tensors = variables(dinov2.transformers(network), network, side)
  assert sorted([*tensors, "embeddings.mask_token"]) == KNOWN["names"].tolist()
  x = np.random.default_rng(side).standard_normal((2, side, side, 3))
  tokens = jax.jit(lambda variables, x: network.apply(variables, x, method="tokens"))(found, x)
  np.testing.assert_allclose(tokens, KNOWN[f"output/{side}"], rtol=0, atol=1e-9)


def test_positions_are_interpolated_as_the_authors_do():
  entries = dinov2.hub(ViT(4, 24, 2, 3, layer_scale=1.0))
  (positions,) = (entry for entry in entries if entry.ours == "params/positions")
  theirs = tensor("embeddings.position_embeddings", (1, 65, 24))
  found = positions.fit(theirs, (1, 26, 24))
  np.testing.assert_allclose(found[0, 1:].reshape(5, 5, 24), KNOWN["interpolated"], rtol=0, atol=1e-12)
  np.testing.assert_array_equal(found[:, 0], theirs[:, 0])
  transformers = dinov2.fit(theirs, (1, 26, 24), 0.0)
  assert np.abs(transformers - found).max() > 1e-3


def test_the_authors_names_and_transformers_hold_the_same(x64):
  network = ViT(4, 24, 2, 3, layer_scale=1.0, dtype="float64", param_dtype="float64")
  found, _ = variables(dinov2.transformers(network), network, 32)
  theirs = layout.write(dinov2.hub(network), found)
  assert {"blocks.1.ls2.gamma", "blocks.0.attn.qkv.weight", "pos_embed", "cls_token", "norm.bias"} <= set(theirs)
  assert theirs["blocks.0.attn.qkv.weight"].shape == (72, 24)
  again = layout.read(dinov2.hub(network), theirs | {"mask_token": np.zeros((1, 24))}, jax.eval_shape(lambda: found))
  jax.tree.map(np.testing.assert_array_equal, again, found)
