"""Judges of text: n-grams against their definition, a chain whose entropy is known, and rows counted by hand."""

import collections
import types

import numpy as np
import pytest

from jaxgen import data
from jaxgen.core.errors import UserError
from jaxgen.data.sources import chain
from jaxgen.evaluation.text import NGrams, distinct, entropy, text_quality


def test_ngrams_equal_their_definition():
  """(1) in dictionaries; and the probabilities of all next tokens have the sum 1, whatever came before."""
  rng = np.random.default_rng(0)
  rows, V = rng.integers(0, 4, (3, 12)), 5
  counts = collections.Counter(tuple(row[i : i + n]) for row in rows.tolist() for n in (1, 2, 3) for i in range(13 - n))

  def p(w, h):
    after = [counts[(*h, v)] for v in range(V)]
    lower = p(w, h[1:]) if h else 1 / V
    c, T = sum(after), sum(a > 0 for a in after)
    return (counts[(*h, w)] + T * lower) / (c + T) if c else lower

  judge = NGrams(rows, V, 3)
  new = np.concatenate([rng.integers(0, V, (40, 6)), rows[:, :6]])
  expected = [[-np.log(p(row[i], tuple(row[max(0, i - 2) : i]))) for i in range(6)] for row in new.tolist()]
  np.testing.assert_allclose(judge.nats(new), expected, rtol=1e-12)
  every = np.array([[*h, w] for h in ((0, 1), (4, 4), (3, 0)) for w in range(V)])
  np.testing.assert_allclose(np.exp(-judge.nats(every)[:, 2]).reshape(3, V).sum(1), 1, rtol=1e-12)
  np.testing.assert_allclose(judge.nats(new[:, :1]), judge.nats(new)[:, :1])


def test_variety_counted_by_hand():
  rows = np.array([[1, 1, 1, 1], [1, 2, 3, 4]])
  assert entropy(rows) == pytest.approx(np.log(4) / 2)
  assert distinct(rows, 1) == 4 / 8
  assert distinct(rows, 2) == 4 / 6
  assert distinct(rows, 4) == 1


def test_samples_of_a_chain_are_judged():
  """Trigrams know a chain of the second order: its sequences have its entropy, a repeated one less and no variety."""
  source = data.markov_chain(4, 8)
  test = source.source("test").arrays["tokens"]
  run = lambda x: types.SimpleNamespace(data=source, sample=lambda num, seed: x[:num])
  numbers = text_quality(5_000, order=3)(run(test))
  assert numbers["generative_nats_5000"] == pytest.approx(chain.entropy(4, 8) / 8, abs=0.02)
  assert numbers["generative_nats_5000"] == pytest.approx(numbers["test_generative_nats_5000"], abs=0.02)
  assert numbers["generative_perplexity_5000"] == pytest.approx(np.exp(numbers["generative_nats_5000"]))
  likely = np.repeat(test[np.argmin(NGrams(test, 4, 3).nats(test).mean(1))][None], 64, axis=0)
  of_copies = text_quality(64, order=3)(run(likely))
  assert of_copies["generative_nats_64"] < of_copies["test_generative_nats_64"]
  assert of_copies["distinct_3_64"] < 0.2 * of_copies["test_distinct_3_64"]


def test_wrong_choices_are_one_sentence():
  rows = np.array([[0, 1, 5]])
  for do, words in [
    (lambda: NGrams(rows, 6, 0), "order from 1 to 23, not 0"),
    (lambda: NGrams(rows, 50_000, 4), "order from 1 to 3, not 4"),
    (lambda: NGrams(rows, 5, 2), "tokens from 0 to 5 are not among 5"),
    (
      lambda: text_quality(1)(
        types.SimpleNamespace(data=data.points("ring8", 0.1), sample=lambda *a, **k: np.zeros((1, 2)))
      ),
      "no tokens",
    ),
  ]:
    with pytest.raises(UserError, match=words) as found:
      do()
    assert "\n" not in str(found.value)
