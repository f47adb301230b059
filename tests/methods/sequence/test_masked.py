"""BERT's masking by counting, and its loss by its floor."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgen.core.errors import UserError
from jaxgen.core.keys import example_keys
from jaxgen.core.spec import Spec
from jaxgen.methods.sequence.masked import masked_language, terms
from jaxgen.methods.sequence.masking import Masking, _units, mask
from jaxgen.nn.sequence.bert import BERT
from jaxgen.nn.sequence.options import SIZES

PAD, CLS, SEP, MASK = SPECIAL = (0, 1, 2, 3)
V = 64  # besides the special ones
PLAIN = Masking(MASK, SPECIAL)
SPEC = Spec((24,), levels=V + 4, feature="tokens", dtype=np.int32)


def texts(count: int, length: int = 24, filled: int | None = None) -> np.ndarray:
  """[CLS] .. [SEP] and padding, uniform tokens."""
  filled = length if filled is None else filled
  tokens = np.random.default_rng(0).integers(4, V + 4, (count, length)).astype(np.int32)
  tokens[:, 0], tokens[:, filled - 1], tokens[:, filled:] = CLS, SEP, PAD
  return tokens


def masked(tokens, masking=PLAIN, key=0, index=None):
  keys = example_keys(jax.random.key(key), jnp.arange(len(tokens)) if index is None else index)
  run = jax.jit(jax.vmap(lambda row, key: mask(masking, V + 4, row, key)))
  return jax.tree.map(np.asarray, run(jnp.asarray(tokens), keys))


def selected(found, length):
  """[B, T], from places and weights; a place is selected once."""
  chosen = np.zeros((len(found.places), length), int)
  for row, places, weights in zip(chosen, found.places, found.weights, strict=True):
    np.add.at(row, places[weights > 0], 1)
  assert chosen.max() <= 1
  return chosen.astype(bool)


def test_counts_shares_and_what_is_never_selected():
  """15 % of the others, of which 80 are masked, 10 random (one in 64 of them the same) and 10 kept."""
  tokens = texts(4_000, filled=22)
  found = masked(tokens)
  chosen = selected(found, 24)
  special = np.isin(tokens, SPECIAL)
  assert not chosen[special].any()
  assert (chosen.sum(axis=1) == round(0.15 * 20)).all()
  np.testing.assert_array_equal(found.tokens[~chosen], tokens[~chosen])
  np.testing.assert_allclose(chosen[:, 1:21].mean(axis=0), 0.15, atol=5 * math.sqrt(0.15 * 0.85 / 4_000))
  read, right = found.tokens[chosen], tokens[chosen]
  n = len(read)
  for share, p in (
    ((read == MASK).mean(), 0.8),
    ((read == right).mean(), 0.1 + 0.1 / V),
    (((read != right) & (read != MASK)).mean(), 0.1 * (V - 1) / V),
  ):
    assert abs(share - p) < 5 * math.sqrt(p * (1 - p) / n)
  other = read[(read != right) & (read != MASK)]
  assert not np.isin(other, SPECIAL).any()
  counts = np.bincount(other - 4, minlength=V)  # uniform: chi-squared of V - 1 degrees of freedom
  assert ((counts - counts.mean()) ** 2 / counts.mean()).sum() < V - 1 + 5 * math.sqrt(2 * (V - 1))


def test_an_examples_masks_are_its_own_and_new_at_every_step():
  tokens = texts(16)
  found, order = masked(tokens), np.random.default_rng(0).permutation(16)
  again = masked(tokens[order], index=jnp.asarray(order))
  for a, b in zip(found, again, strict=True):
    np.testing.assert_array_equal(a[order], b)
  assert (masked(tokens, key=1).tokens != found.tokens).any(axis=1).mean() > 0.9
  same = masked(np.repeat(tokens[:1], 64, axis=0))
  assert len({row.tobytes() for row in same.tokens}) > 50  # equal texts are masked each in its own way


def test_words_are_selected_whole():
  continues = np.zeros(V + 4, bool)
  continues[40:] = True
  tokens = texts(500)
  chosen = selected(masked(tokens, PLAIN._replace(unit="word", continues=continues, share=0.3)), 24)
  pieces = continues[tokens]
  inner = pieces[:, 2:23]  # a piece after [CLS] begins a word
  np.testing.assert_array_equal(chosen[:, 2:23][inner], chosen[:, 1:22][inner])
  assert chosen.sum(axis=1).max() <= round(0.3 * 22)
  assert chosen.sum(axis=1).mean() > 0.7 * 0.3 * 22
  plain = selected(masked(tokens, PLAIN._replace(unit="word")), 24)
  assert (plain.sum(axis=1) == round(0.15 * 22)).all()  # words of one piece: as tokens


def test_spans_are_geometric_and_treated_as_a_whole():
  masking = PLAIN._replace(unit="span", share=0.1, masked=0.5, replaced=0.0, p=0.4, longest=5)
  tokens = texts(300, length=400)
  chosen = selected(found := masked(tokens, masking), 400)
  assert (chosen.sum(axis=1) == round(0.1 * 398)).all()
  assert not chosen[np.isin(tokens, SPECIAL)].any()
  masks = (found.tokens == MASK) & chosen
  joined = chosen[:, 1:] & chosen[:, :-1]
  assert (masks[:, 1:] == masks[:, :-1])[joined].mean() > 0.8  # 1/2 if each were treated by itself; neighbours are few

  keys = example_keys(jax.random.key(0), jnp.arange(300))
  of_row = lambda row, key: _units(masking, row, ~jnp.isin(row, jnp.asarray(SPECIAL)), jnp.int32(40), key)
  units = np.asarray(jax.jit(jax.vmap(of_row))(jnp.asarray(tokens), keys))
  lengths = np.concatenate([np.bincount(row[row >= 0])[np.unique(row[row >= 0])] for row in units])
  expected = 0.4 * 0.6 ** np.arange(5)
  np.testing.assert_allclose(np.bincount(lengths)[1:] / len(lengths), expected / expected.sum(), atol=0.04)


def floor(v: int) -> float:
  p = 0.5 + 0.5 / v
  return 0.8 * math.log(v) + 0.2 * (-p * math.log(p) - (1 - p) * math.log((1 - p) / (v - 1)))


def test_the_best_predictor_is_at_the_floor():
  """Uniform where [MASK] is read; else the token that is read with 1/2 + 1/(2 V), and any other alike: 3.8736 nats."""
  assert abs(floor(V) - 3.8736) < 5e-5
  tokens = texts(20_000)
  found = masked(tokens)
  read = np.take_along_axis(found.tokens, found.places, axis=1)
  target = np.take_along_axis(tokens, found.places, axis=1)
  p = 0.5 + 0.5 / V
  known = np.where(np.arange(V + 4) == read[..., None], p, (1 - p) / (V - 1))
  best = np.where((read == MASK)[..., None], 1 / V, known)
  best[..., :4] = 1e-30
  nats = terms((jnp.log(jnp.asarray(best)), None), jnp.asarray(target), jnp.asarray(found.weights), None)["masked_nats"]
  error = nats.std() / math.sqrt(len(nats))
  assert abs(nats.mean() - floor(V)) < 4 * error
  assert error < 0.01


def build(next_sentence=False, masking=PLAIN, vocabulary=V + 4, spec=SPEC):
  options = SIZES["BERT base"]._replace(features=16, heads=2, hidden=32, depth=1, dropout=0.0, attention_dropout=0.0)
  network = BERT(vocabulary, options, next_sentence=next_sentence)
  return masked_language(network, spec=spec, optimizer=optax.adam(1e-2), masking=masking)


def test_a_trained_network_reaches_the_floor_and_goes_no_lower():
  spec = SPEC._replace(shape=(8,))
  method = build(spec=spec, masking=PLAIN._replace(share=0.5))

  def take(k):
    tokens = jax.random.randint(jax.random.key(k), (128, 8), 4, V + 4).at[:, 0].set(CLS)
    return {"tokens": tokens, "index": jnp.arange(128)}

  state = jax.jit(method.init)(jax.random.key(0), take(0))

  @jax.jit
  def train(state):
    return jax.lax.scan(lambda state, k: method.step(state, take(k)), state, jnp.arange(400))

  state, _ = train(state)
  batch = {"tokens": jnp.tile(take(999)["tokens"], (32, 1)), "index": jnp.arange(4_096)}
  nats = jax.jit(method.evaluate)(state, batch, jax.random.key(1))["masked_nats"]
  error = nats.std() / math.sqrt(len(nats))
  assert floor(V) - 3 * error < nats.mean() < floor(V) + 0.1 + 3 * error


def test_says_what_does_not_fit():
  batch = {"tokens": texts(2), "index": np.arange(2)}
  with pytest.raises(UserError, match="special token 99 is none of the vocabulary's, 0 to 67"):
    build(masking=PLAIN._replace(special=(*SPECIAL, 99)))
  with pytest.raises(UserError, match="the token 3, which masks others, is not among the special ones"):
    build(masking=Masking(3, (0, 1, 2)))
  with pytest.raises(UserError, match="the token 0, which fills texts up"):
    build(masking=Masking(3, (1, 2, 3)))
  with pytest.raises(UserError, match=r"lies in \(0, 1\], and this is 0"):
    build(masking=PLAIN._replace(share=0))
  with pytest.raises(UserError, match="a 'token', a 'word' or a 'span', not 'line'"):
    build(masking=PLAIN._replace(unit="line"))
  with pytest.raises(UserError, match="tells 70 tokens apart and the data has 68"):
    jax.eval_shape(build(vocabulary=70).init, jax.random.key(0), batch)
  with pytest.raises(UserError, match="whether sentences follow one another"):
    jax.eval_shape(build(next_sentence=True).init, jax.random.key(0), batch)
