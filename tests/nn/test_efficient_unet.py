"""The Efficient U-Net: where its convolutions stand, its parameters by the definition, and what it is told."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.core.errors import UserError
from jaxgen.nn.blocks.layers import Conv
from jaxgen.nn.unets.efficient import SIZES, EfficientUNet

NETWORK = EfficientUNet((8, 12, 16), (1, 2, 3), (1, 2, 2), (False, True, False), (False, True, True), heads=2, tokens=2)
rng = np.random.default_rng(0)
TOLD = {
  "text": jnp.asarray(rng.normal(size=(2, 5, 6)), jnp.float32),
  "mask": jnp.arange(5) < jnp.array([[5], [2]]),
  "embedding": jnp.asarray(rng.normal(size=(2, 7)), jnp.float32),
  "low": jnp.asarray(rng.normal(size=(2, 4, 4, 3)), jnp.float32),
  "level": jnp.array([0.1, 0.6]),
}
X, T = jnp.asarray(rng.normal(size=(2, 8, 8, 3)), jnp.float32), jnp.array([3.0, 700.0])
PAPERS = {
  "Imagen 64": (2e9, dict(text=4096)),
  "Imagen 256": (600e6, dict(text=4096, low=True)),
  "Imagen 1024": (400e6, dict(text=4096, low=True)),
  "DALL-E 2 64": (3.5e9, dict(text=768, embedding=768)),
  "DALL-E 2 256": (700e6, dict(low=True)),
  "DALL-E 2 1024": (300e6, dict(low=True)),
}


def counted(network, text=0, embedding=0, low=False):
  """Parameters from the definition: dense layers and convolutions with their biases, norms with gain and bias."""
  w, e = network.channels, 4 * network.channels[0]
  dense, conv = (lambda a, b: (a + 1) * b), (lambda a, b: (9 * a + 1) * b)
  block = lambda a, b: 2 * a + conv(a, b) + dense(e, 2 * b) + 2 * b + conv(b, b) + (a != b and dense(a, b))
  words = text or e  # width of a word, or of an embedding's token where there is no text
  attention = lambda b, cross: 2 * b + 4 * dense(b, b) + (cross and 2 * words + dense(words, b))
  total = dense(w[0], e) + dense(e, e)
  total += (2 * text + dense(text, e) + dense(e, e)) if text else 0
  total += (dense(embedding, e) + dense(embedding, network.tokens * words)) if embedding else 0
  total += (dense(w[0], e) + dense(e, e)) if low else 0
  total += conv(6 if low else 3, w[0]) + 2 * w[0] + conv(w[0], 3)
  for i, (width, count) in enumerate(zip(w, network.blocks, strict=True)):
    above, strided = w[max(i - 1, 0)], network.strides[i] == 2
    total += conv(above, width) if strided else 0
    total += block(width if strided else above, width) + (2 * count - 1) * block(width, width) + conv(width, above)
    if network.attention[i] or network.cross[i]:
      total += 2 * attention(width, network.cross[i])
  return total


@pytest.fixture(scope="module")
def params():
  """Random everywhere, so that nothing is hidden behind a layer of zeros."""
  shapes = jax.eval_shape(NETWORK.init, jax.random.key(0), X, T, TOLD)["params"]
  leaves, tree = jax.tree.flatten(shapes)
  return tree.unflatten([jnp.asarray(rng.normal(size=s.shape) * 0.3, s.dtype) for s in leaves])


def test_parameters_are_those_of_the_definition_and_sizes_those_of_the_papers(params):
  assert sum(x.size for x in jax.tree.leaves(params)) == counted(NETWORK, 6, 7, True)
  other = NETWORK.clone(cross=(False, False, True), strides=(2, 1, 2))
  shapes = jax.eval_shape(other.init, jax.random.key(0), X, T, {"embedding": TOLD["embedding"]})
  assert sum(x.size for x in jax.tree.leaves(shapes)) == counted(other, embedding=7)
  assert PAPERS.keys() == SIZES.keys()
  for name, (number, told) in PAPERS.items():
    assert abs(counted(EfficientUNet(**SIZES[name]), **told) / number - 1) < 0.03, name


def test_halving_comes_before_a_levels_convolutions_and_doubling_after_them():
  """Strides of 2 at once: at full resolution there are the first and the last convolution and the doubled one alone."""
  network = EfficientUNet((8, 16), (1, 3), (2, 2), (False, False), (False, False))
  shapes = jax.eval_shape(network.init, jax.random.key(0), X, T)
  of_convolutions = lambda module, method: isinstance(module, Conv) and module.kernel == 3
  run = lambda params: network.apply(params, X, T, capture_intermediates=of_convolutions)[1]["intermediates"]
  outputs = jax.tree_util.tree_leaves_with_path(jax.eval_shape(run, shapes))
  names = collections.defaultdict(list)
  for path, output in outputs:
    names[output.shape[1]].append(path[0].key)
  assert sorted(names[8]) == ["in", "out", "up_0_sample"]
  assert collections.Counter(names[4]) == {"down_0_sample": 1, "down_0_0": 2, "up_1_sample": 1, "up_0_0": 2}
  assert len(names[2]) == 1 + 2 * 3 * 2
  assert sum(map(len, names.values())) == 3 + 6 + 13


def test_everything_that_it_is_told_counts_but_hidden_words(params):
  apply = jax.jit(lambda x, t, told: NETWORK.apply({"params": params}, x, t, told))
  expected = apply(X, T, TOLD)
  assert expected.shape == X.shape
  hidden = jnp.where(TOLD["mask"][..., None], TOLD["text"], 9.0)
  np.testing.assert_allclose(apply(X, T, TOLD | {"text": hidden}), expected, rtol=0, atol=1e-5)
  least = 1e-4 * jnp.abs(expected).max()
  for name in ("text", "embedding", "low", "level"):
    change = jnp.asarray(rng.normal(size=TOLD[name].shape) * 0.1, jnp.float32)  # a constant is lost in a norm
    moved = jnp.abs(apply(X, T, TOLD | {name: TOLD[name] + change}) - expected).max((1, 2, 3))
    assert moved.min() > least, name
  assert jnp.abs(apply(X, T + 50, TOLD) - expected).max((1, 2, 3)).min() > least
  nobody = apply(X, T, TOLD | {"mask": jnp.zeros((2, 5), bool)})  # a text that is dropped
  assert jnp.isfinite(nobody).all()


@pytest.mark.parametrize(
  ("options", "told", "names"),
  [
    ({}, {"text": TOLD["text"]}, "'text' and 'mask' together"),
    ({}, {"low": TOLD["low"]}, "'low' and 'level' together"),
    ({}, {}, "the condition has neither"),
    ({}, {"label": jnp.zeros(2, jnp.int32)}, "'label'"),
    ({"blocks": (1, 2)}, TOLD, "has blocks of each, not 2"),
    ({"strides": (1, 2, 4)}, TOLD, "stride of 1 or 2"),
    ({"strides": (2, 2, 2), "channels": (8, 8, 8)}, TOLD | {"low": jnp.zeros((2, 9, 9, 3))}, "8 x 8 x 3 of 9 x 9 x 3"),
    ({"heads": 0}, TOLD, "heads"),
  ],
)
def test_what_does_not_fit_is_one_sentence(options, told, names):
  with pytest.raises(UserError, match=names):
    jax.eval_shape(NETWORK.clone(**options).init, jax.random.key(0), X, T, told)
  with pytest.raises(UserError, match="divide by 4, not 6 x 8"):
    jax.eval_shape(NETWORK.init, jax.random.key(0), X[:, :6], T, {"embedding": TOLD["embedding"]})
