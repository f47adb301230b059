"""BART's and MASS's noise against their distributions, and the rules that each keeps."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgen.core.errors import UserError
from jaxgen.core.keys import example_keys
from jaxgen.core.spec import Spec
from jaxgen.methods.sequence import noise
from jaxgen.methods.sequence.seq2seq import seq2seq
from jaxgen.nn.sequence.options import Options
from jaxgen.nn.sequence.transformer import EncoderDecoder

PAD, START, END, MASK, STOP = 0, 1, 2, 3, 4
KNOWN = noise.Tokens(MASK, PAD, (START, END))
LENGTH, FILLED = 40, 30  # ordinary tokens, an end and padding


def texts(count: int) -> np.ndarray:
  """Every ordinary token of a text is another one, so that what became of it can be followed."""
  rows = np.full((count, LENGTH), PAD, np.int32)
  rows[:, :FILLED], rows[:, FILLED] = np.arange(10, 10 + FILLED), END
  return rows


def noisy(kind, rows, key=0):
  keys = example_keys(jax.random.key(key), jnp.arange(len(rows)))
  return jax.tree.map(np.asarray, jax.jit(jax.vmap(kind))(jnp.asarray(rows), keys))


def spans(row) -> tuple[list[int], int]:
  """(numbers of hidden tokens at each mask, masks)."""
  row = [token for token in row.tolist() if token != PAD]
  assert row[-1] == END
  gaps, last, masks = [], 9, 0
  for token in [*row[:-1], 10 + FILLED]:
    if token == MASK:
      masks += 1
    else:
      gaps.append((token - last - 1, masks))
      last, masks = token, 0
  assert all(hidden == 0 or masks for hidden, masks in gaps)  # nothing is hidden without a mask
  return [hidden for hidden, masks in gaps if masks], sum(masks for _, masks in gaps)


def test_masking_and_deletion_take_their_share_and_nothing_special():
  rows = texts(2_000)
  found = noisy(noise.token_masking(KNOWN, 0.2), rows)
  masked = found == MASK
  assert (masked.sum(axis=1) == 6).all()
  np.testing.assert_array_equal(found[~masked], rows[~masked])
  assert not masked[:, FILLED:].any()
  np.testing.assert_allclose(masked[:, :FILLED].mean(axis=0), 0.2, atol=5 * math.sqrt(0.16 / 2_000))
  found = noisy(noise.token_deletion(KNOWN, 0.2), rows)
  for row in found[:200]:
    left = row[row != PAD]
    assert len(left) == FILLED - 6 + 1
    assert (np.diff(left[:-1]) > 0).all()
    assert left[-1] == END
    assert (row[len(left) :] == PAD).all()


def test_infilling_has_poissons_lengths_with_none_and_hides_its_share():
  rows = texts(4_000)
  found = noisy(noise.text_infilling(KNOWN, 0.3), rows)
  each = [spans(row) for row in found]
  assert {FILLED - sum((row >= 10).tolist()) for row in found} == {9}  # of 30
  # The lengths that are drawn until they sum to 9, the last one cut, by drawing them so.
  rng = np.random.default_rng(1)
  expected = []
  for _ in range(40_000):
    left, lengths = 9, []
    while left > 0:
      lengths.append(min(left, rng.poisson(3.0)))
      left -= lengths[-1]
    expected.append(lengths)
  masks = np.array([count for _, count in each])
  assert abs(masks.mean() - np.mean([len(x) for x in expected])) < 5 * masks.std() / math.sqrt(len(masks))
  ours = np.bincount([n for hidden, count in each for n in hidden if n], minlength=10)
  theirs = np.bincount([n for lengths in expected for n in lengths if n], minlength=10)
  np.testing.assert_allclose(ours / ours.sum(), theirs / theirs.sum(), atol=0.015)
  empty = masks.sum() - ours.sum()  # masks in place of nothing
  share = np.mean([n == 0 for lengths in expected for n in lengths])
  assert abs(empty / masks.sum() - share) < 0.01
  assert share > 0.03
  hidden = np.stack([~np.isin(np.arange(10, 10 + FILLED), row) for row in found])
  assert hidden.mean(axis=0).min() > 0.12  # every place may be hidden, the ends less often
  assert (noisy(noise.text_infilling(KNOWN, 0.3), rows, key=1) != found).any(axis=1).mean() > 0.99


def test_infilling_at_its_limits():
  rows = texts(200)
  np.testing.assert_array_equal(noisy(noise.text_infilling(KNOWN, 0.0), rows), rows)
  for row in noisy(noise.text_infilling(KNOWN, 1.0), rows):
    assert set(row[row != PAD].tolist()) == {MASK, END}
  nothing = np.full((3, LENGTH), PAD, np.int32)
  nothing[:, 0] = END
  np.testing.assert_array_equal(noisy(noise.text_infilling(KNOWN, 0.3), nothing), nothing)
  full = np.arange(10, 10 + LENGTH, dtype=np.int32)[None].repeat(200, axis=0)  # no room for a mask more
  assert noisy(noise.text_infilling(KNOWN, 0.02, mean=0.1), full).shape == full.shape


def test_permutation_and_rotation_move_and_lose_nothing():
  rows = texts(3_000)
  rows[:, [9, 19, 29]] = STOP
  found = noisy(noise.sentence_permutation(KNOWN, (STOP,)), rows)
  np.testing.assert_array_equal(np.sort(found, axis=1), np.sort(rows, axis=1))
  np.testing.assert_array_equal(found[:, FILLED:], rows[:, FILLED:])
  for row in found[:50]:
    for part in row[:FILLED].reshape(3, 10):
      assert part[-1] == STOP
      assert (np.diff(part[:-1]) == 1).all()
  orders = np.unique(found[:, [0, 10, 20]], axis=0, return_counts=True)[1] / len(found)
  assert len(orders) == 6
  np.testing.assert_allclose(orders, 1 / 6, atol=5 * math.sqrt(5 / 36 / 3_000))
  rows = texts(3_000)
  found = noisy(noise.document_rotation(KNOWN), rows)
  for row in found[:50]:
    np.testing.assert_array_equal(row[:FILLED], np.roll(rows[0, :FILLED], -int(row[0] - 10)))
  np.testing.assert_array_equal(found[:, FILLED:], rows[:, FILLED:])
  starts = np.bincount(found[:, 0] - 10, minlength=FILLED) / len(found)
  np.testing.assert_allclose(starts, 1 / FILLED, atol=5 * math.sqrt(1 / FILLED / 3_000))


def test_mass_hides_one_half_and_the_decoder_reads_nothing_else():
  rows = texts(3_000)
  found = noisy(noise.mass(KNOWN), rows)
  within = found.weights.astype(bool)
  assert (within.sum(axis=1) == 15).all()
  assert (np.abs(np.diff(within.astype(int), axis=1)).sum(axis=1) <= 2).all()  # in one piece
  assert not within[:, FILLED:].any()
  np.testing.assert_array_equal(found.source, np.where(within, MASK, rows))
  for row, read, span in zip(rows[:100], found.read, within, strict=False):
    first = int(np.argmax(span))
    np.testing.assert_array_equal(read[first + 1 : first + 15], row[first : first + 14])
    assert (np.delete(read, np.arange(first + 1, first + 15)) == MASK).all()
  starts = np.bincount(within.argmax(axis=1), minlength=16) / len(rows)
  np.testing.assert_allclose(starts, 1 / 16, atol=5 * math.sqrt(1 / 16 / 3_000))


def test_lessons_are_drawn_anew_and_belong_to_their_example():
  """The loss of an example does not depend on its neighbours; a step's noise is not the last one's."""
  spec = Spec((LENGTH,), levels=64, feature="target", dtype=np.int32)
  network = EncoderDecoder(64, Options(8, 2, 8, 1, dropout=0.0))
  lessons = noise.denoising(KNOWN, noise.together(noise.document_rotation(KNOWN), noise.text_infilling(KNOWN)), START)
  for kind in (lessons, noise.mass(KNOWN)):
    method = seq2seq(network, spec=spec, optimizer=optax.sgd(0.1), lessons=kind)
    batch = {"target": texts(6), "index": np.arange(6, dtype=np.int32)}
    state = method.init(jax.random.key(0), batch)
    evaluate = jax.jit(method.evaluate)
    first = evaluate(state, batch, jax.random.key(1))
    order = np.array([3, 1, 5, 0, 4, 2])
    again = evaluate(state, {name: x[order] for name, x in batch.items()}, jax.random.key(1))
    np.testing.assert_allclose(np.asarray(first["nll_nats"])[order], again["nll_nats"], rtol=1e-5)
    assert len(np.unique(np.asarray(first["nll_nats"]).round(3))) > 1  # equal texts, each with its own noise
    other = evaluate(state, batch, jax.random.key(2))["nll_nats"]
    assert (np.abs(other - first["nll_nats"]) > 1e-4).any()
    expected = 15 if kind is not lessons else FILLED + 1
    np.testing.assert_array_equal(first["tokens"], expected)


def test_says_what_does_not_fit():
  with pytest.raises(UserError, match=r"lies in \[0, 1\], and this is 1.5"):
    noise.token_masking(KNOWN, 1.5)
  with pytest.raises(UserError, match="mean length of a span is above 0"):
    noise.text_infilling(KNOWN, mean=0.0)
  with pytest.raises(UserError, match="sentences end at a token"):
    noise.sentence_permutation(KNOWN, ())
  with pytest.raises(UserError, match="the token mask=99 is none of the vocabulary's, 0 to 9"):
    noise.Tokens(99, 0, ()).check(10)
