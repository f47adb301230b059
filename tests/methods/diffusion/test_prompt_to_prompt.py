"""Prompt-to-prompt: attention maps of one text's sample in another's."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgen import diffusion
from jaxgen.core.condition import entries, together
from jaxgen.core.errors import UserError
from jaxgen.core.spec import Spec
from jaxgen.methods.diffusion.gaussian import gaussian_diffusion
from jaxgen.methods.diffusion.prompt_to_prompt import refinement, replacement, reweighting
from jaxgen.methods.diffusion.sampler import Sampler
from jaxgen.nn.blocks.attention import Attention
from jaxgen.nn.blocks.maps import changes, inert
from jaxgen.nn.unets.cross import CrossUNet

SPEC = Spec((4, 4, 1))
NETWORK = CrossUNet(8, (1,), 1, (1,), heads=2, groups=4, out_channels=1)
WORDS, N = 4, 2
rng = np.random.default_rng(0)
TABLE = rng.standard_normal((10, 5)).astype(np.float32)  # each token's features
SOURCE = np.array([[1, 4, 5, 2], [1, 6, 7, 2]])
SWAPPED = np.array([[1, 4, 8, 2], [1, 9, 7, 2]])


def test_words_are_aligned_as_their_tokens_are():
  """By hand; where one word of one token becomes one of two, both share its map, as in the authors' code."""
  found = replacement(SOURCE, SWAPPED, cross=0.7, itself=0.2)
  np.testing.assert_array_equal(found["mapper"], np.stack([np.eye(4)] * 2))
  assert found["cross"].tolist() == pytest.approx([0.7] * 2)
  found = replacement(np.array([[1, 4, 5, 2, 0]]), np.array([[1, 8, 9, 5, 2]]))
  expected = np.zeros((5, 5))
  expected[0, 0] = expected[2, 3] = expected[3, 4] = 1
  expected[1, 1:3] = 0.5
  np.testing.assert_array_equal(found["mapper"][0], expected)
  shorter = replacement(np.array([[1, 8, 9, 5, 2]]), np.array([[1, 4, 5, 2, 0]]))["mapper"][0]
  assert shorter.sum(0).tolist() == [1, 2, 1, 1, 1]
  with pytest.raises(UserError, match="words were added or left out, .* take a refinement"):
    replacement(np.array([[1, 4, 5, 2, 0]]), np.array([[1, 4, 2, 0, 0]]))
  added = refinement(np.array([[1, 4, 2, 0, 0]]), np.array([[1, 8, 4, 2, 0]]))
  assert added["blend"][0].tolist() == [1, 0, 1, 1, 1]
  assert np.argwhere(added["mapper"][0]).tolist() == [[0, 0], [1, 2], [2, 3], [3, 4]]
  weighted = reweighting(SOURCE, {5: 3.0})
  assert weighted["gain"].tolist() == [[1, 1, 3, 1], [1, 1, 1, 1]]
  with pytest.raises(UserError, match="no token 8, whose attention is to be multiplied by 2"):
    reweighting(SOURCE, {8: 2.0})
  with pytest.raises(UserError, match="in a share of the steps, from 0 to 1, not 1.5"):
    replacement(SOURCE, SWAPPED, cross=1.5)


def told_maps(**other):
  """Two pairs of rows: 0 offers and 1 takes, 2 offers and 3 takes."""
  both = jax.tree.map(lambda x: jnp.broadcast_to(x, (4, *x.shape)), inert(WORDS))
  ids = jnp.asarray([0, -1, 1, -1]), jnp.asarray([-1, 0, -1, 1])
  return {**both, "own": ids[0], "of": ids[1], "blend": jnp.ones((4, WORDS)), "cross": jnp.full(4, 5.0), **other}


def test_what_is_taken_is_what_is_used():
  """An attention layer by numpy, with the other row's map, moved, multiplied, and mixed with its own."""
  draw = np.random.default_rng(1)
  x, text = (jnp.asarray(draw.standard_normal(shape), jnp.float32) for shape in ((4, 3, 8), (4, WORDS, 5)))
  layer = Attention(2, qkv_bias=False, out_bias=False)
  shapes = jax.eval_shape(layer.init, jax.random.key(0), x, text)
  params = jax.tree.map(lambda s: draw.standard_normal(s.shape).astype(np.float32), shapes)["params"]
  mapper, gain = draw.uniform(size=(4, WORDS, WORDS)), draw.uniform(size=(4, WORDS))
  blend, t = draw.uniform(size=(4, WORDS)), jnp.asarray([6.0, 6.0, 6.0, 4.0])
  arrays = {
    name: jnp.asarray(value, jnp.float32) for name, value in dict(mapper=mapper, gain=gain, blend=blend).items()
  }
  change = changes(told_maps(**arrays), t, 3)["context_change"]
  found = layer.apply({"params": params}, x, text, change=change)

  heads = lambda y: y.reshape(*y.shape[:-1], 2, 4)
  q, (k, v) = heads(x @ params["q"]["kernel"]), map(heads, np.split(text @ params["kv"]["kernel"], 2, -1))
  logits = np.einsum("bqhd,bkhd->bhqk", q, k) / 2
  weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
  used = weights.copy()
  taken = (weights[0] @ mapper[1]) * gain[1]
  used[1] = blend[1] * taken + (1 - blend[1]) * weights[1]  # row 3 is told a time below 5
  y = np.einsum("bhqk,bkhd->bqhd", used, v).reshape(4, 3, 8) @ params["out"]["kernel"]
  np.testing.assert_allclose(found, y, rtol=1e-4, atol=1e-4)


def random_network():
  told = {"text": TABLE[SOURCE]}
  shapes = jax.eval_shape(NETWORK.init, jax.random.key(0), jnp.zeros((N, *SPEC.shape)), jnp.zeros(N), told)["params"]
  draw = np.random.default_rng(2).standard_normal
  return jax.tree.map(lambda p: jnp.asarray(0.4 * draw(p.shape), jnp.float32), shapes)


PARAMS = random_network()


def test_maps_reach_every_layer_of_the_network():
  """Maps of words times 0 are a network whose values of words are 0; the rows that offer them stay as they are."""
  x, t = jnp.asarray(rng.standard_normal((4, *SPEC.shape)), jnp.float32), jnp.full(4, 6.0)
  text = jnp.asarray(TABLE[np.concatenate([SOURCE, SWAPPED])])
  apply = jax.jit(lambda params, told: NETWORK.apply({"params": params}, x, t, told))
  plain = apply(PARAMS, {"text": text})
  silent = apply(PARAMS, {"text": text, "maps": told_maps(gain=jnp.zeros((4, WORDS)))})
  without = jax.tree_util.tree_map_with_path(
    lambda path, p: p.at[..., p.shape[-1] // 2 :].set(0) if "'kv'" in jax.tree_util.keystr(path) else p, PARAMS
  )
  np.testing.assert_allclose(silent[::2], plain[::2], atol=1e-5)
  np.testing.assert_allclose(silent[1::2], apply(without, {"text": text})[1::2], atol=1e-5)
  assert np.abs(silent - plain)[1::2].max() > 1e-3


class Read(CrossUNet):
  """The network, told tokens, whose features are a table's."""

  def __call__(self, x, t, told, index=None):
    rest = {name: value for name, value in told.items() if name != "tokens"}
    return super().__call__(x, t, {**rest, "text": jnp.asarray(TABLE)[told["tokens"]]}, index)


@pytest.fixture(scope="module")
def sample():
  nothing = {"tokens": np.array([1, 2, 0, 0], np.int32)}
  condition = together({"text": entries(nothing, 0.1)})
  method = gaussian_diffusion(
    NETWORK_OF_TOKENS, diffusion.linear(8, 0.02, 0.5), SPEC, optax.sgd(0.1), condition=condition,
    sampler=Sampler(steps=4, clip=False),
  )  # fmt: skip
  batch = {"image": jnp.zeros((N, *SPEC.shape)), "tokens": jnp.asarray(SOURCE), "index": jnp.arange(N)}
  state = jax.eval_shape(method.init, jax.random.key(0), batch).replace(params={"network": PARAMS})
  keys, weight = jax.random.split(jax.random.key(1), N), jnp.asarray([3.0, 1.5])
  draw = jax.jit(lambda given: method.sample(state.replace(key=None), keys, weight=weight, **given))
  return lambda tokens, **given: draw({"tokens": jnp.asarray(tokens), **given})


NETWORK_OF_TOKENS = Read(8, (1,), 1, (1,), heads=2, groups=4, out_channels=1)


def test_samples_with_other_maps(sample):
  """The same text is the identity; maps that are never taken change nothing; those that are taken do."""
  source, swapped = sample(SOURCE), sample(SWAPPED)
  with_maps = lambda tokens, **shares: sample(tokens, source_tokens=SOURCE, **replacement(SOURCE, tokens, **shares))
  np.testing.assert_allclose(with_maps(SOURCE, cross=1.0, itself=1.0), source, atol=2e-5)
  np.testing.assert_allclose(with_maps(SWAPPED, cross=0.0, itself=0.0), swapped, atol=2e-5)
  half, whole, both = (with_maps(SWAPPED, cross=a, itself=b) for a, b in ((0.5, 0.0), (1.0, 0.0), (1.0, 1.0)))
  for one, other in ((half, swapped), (whole, half), (both, whole), (both, source)):
    assert np.abs(one - other).max() > 1e-3
  ones = sample(SOURCE, source_tokens=SOURCE, **reweighting(SOURCE, {5: 1.0, 7: 1.0}))
  np.testing.assert_allclose(ones, source, atol=2e-5)
  more = sample(SOURCE, source_tokens=SOURCE, **reweighting(SOURCE, {5: 4.0}))
  assert np.abs(more - source)[0].max() > 1e-3
  np.testing.assert_allclose(more[1], source[1], atol=2e-5)  # the second text has no such word
  with pytest.raises(UserError, match="attention maps of another text also need source_NAME"):
    sample(SWAPPED, **replacement(SOURCE, SWAPPED))
  with pytest.raises(UserError, match="maps are of 2 texts of 3 words"):
    sample(SWAPPED, source_tokens=SOURCE, **replacement(SOURCE[:, 1:], SWAPPED[:, 1:]))
  with pytest.raises(UserError, match="maps are of 1 texts of 4 words"):
    sample(SWAPPED, source_tokens=SOURCE, **replacement(SOURCE[:1], SWAPPED[:1]))
  with pytest.raises(UserError, match="also need mapper, blend, gain, cross, itself"):
    sample(SWAPPED, source_tokens=SOURCE)
