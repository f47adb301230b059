import gzip

import numpy as np
import pytest

from jaxgen.data import text
from jaxgen.errors import UserError
from jaxgen.metrics.evaluators import bleu

ENGLISH = ["a man walks his dog .", "two women are talking .", "the dog runs over the green grass .", "a red car ."] * 3
GERMAN = ["ein mann führt seinen hund aus .", "zwei frauen reden .", "der hund läuft über das gras .", "ein auto ."] * 3


@pytest.fixture
def corpus(tmp_path, monkeypatch):
  monkeypatch.setenv("JAXGEN_CACHE", str(tmp_path / "cache"))
  text.tokenizer.cache_clear()
  (tmp_path / "train.en").write_text("\n".join(ENGLISH) + "\n", encoding="utf-8")
  (tmp_path / "train.de.gz").write_bytes(gzip.compress("\n".join(GERMAN).encode()))
  (tmp_path / "test.en").write_text("the man runs .\n√ù 漢字 ?\n")
  (tmp_path / "test.de").write_text("der mann läuft .\nüber\n", encoding="utf-8")
  yield tmp_path
  text.tokenizer.cache_clear()


def test_pairs_are_the_files_lines(corpus):
  data = text.pairs(corpus, ("en", "de"), vocabulary=300, length=24)
  train, test = data.source("train"), data.source("test")
  assert (len(train), len(test)) == (12, 2)
  example = train[1]
  assert example["source"].shape == example["target"].shape == (24,)
  assert example["source"].dtype == np.int32
  assert text.decode(data.name, train.gather(np.arange(12))["source"]) == ENGLISH
  assert text.decode(data.name, train.gather(np.arange(12))["target"]) == GERMAN
  # Characters that training did not hold, too.
  assert text.decode(data.name, test.gather(np.arange(2))["source"]) == ["the man runs .", "√ù 漢字 ?"]
  for row in train.gather(np.arange(12))["target"]:
    end = np.flatnonzero(row == text.END)
    assert len(end) == 1
    assert (row[end[0] + 1 :] == text.PAD).all()
    assert (row[: end[0]] >= 3).all()
    assert row.max() < 300
  assert text.sentences(data, "test") == (["the man runs .", "√ù 漢字 ?"], ["der mann läuft .", "über"])


def test_frequent_words_are_one_token_and_the_tokenizer_is_kept(corpus):
  data = text.pairs(corpus, ("en", "de"), vocabulary=300, length=24)
  first = data.source("train").gather(np.arange(12))
  (file,) = (corpus / "cache" / "tokenizers").iterdir()
  before = file.stat().st_mtime_ns
  text.tokenizer.cache_clear()
  again = text.pairs(corpus, ("en", "de"), vocabulary=300, length=24).source("train").gather(np.arange(12))
  np.testing.assert_array_equal(first["source"], again["source"])
  assert file.stat().st_mtime_ns == before
  # "dog" occurs six times: with its space it is one token of the 41 that training made; "car" is made of several.
  count = lambda word: (text.encode(data.name, [word], 24) >= 3).sum()
  assert count("dog") == 1
  assert count("car") > 1


def test_long_sequences_lose_their_end(corpus):
  name = text.pairs(corpus, ("en", "de"), vocabulary=300).name
  whole, cut = text.encode(name, [ENGLISH[2]], 40), text.encode(name, [ENGLISH[2]], 5)
  np.testing.assert_array_equal(cut[0], [*whole[0, :4], text.END])


def with_german(folder, content):
  (folder / "test.de").write_bytes(content)
  text.pairs(folder, ("en", "de"), vocabulary=300).source("test")


@pytest.mark.parametrize(
  ("do", "names"),
  [
    (lambda folder: text.pairs(folder, ("en", "fr"), vocabulary=300).source("train"), "train.fr"),
    (lambda folder: text.pairs(folder, ("en", "de"), vocabulary=300, test="val").source("test"), "val.en"),
    (lambda folder: text.pairs(folder, ("en", "de"), vocabulary=5000).source("train"), "tokens and not 5000"),
    (lambda folder: text.tokenizer("pairs:ende:x"), "LANGUAGES:SIZE:DIR"),
    (lambda folder: with_german(folder, b"eins\n"), "2 lines of en and 1 of de"),
    (lambda folder: with_german(folder, b"\xff\xfe\xfa"), "cannot be read as text"),
  ],
)
def test_bad_input(corpus, do, names):
  with pytest.raises(UserError, match=names):
    do(corpus)


class Translator:
  """A run whose samples are the sentences that it was given, in tokens."""

  def __init__(self, data, translations):
    self.data, self.translations = data, translations

  def sample(self, n, source):
    assert text.decode(self.data.name, source) == text.sentences(self.data, "test")[0]
    return text.encode(self.data.name, self.translations[:n], source.shape[1])


def test_bleu_is_of_the_sentences_in_the_files(corpus):
  (corpus / "test.en").write_text("\n".join(ENGLISH[:3]) + "\n")
  (corpus / "test.de").write_text("\n".join(GERMAN[:3]) + "\n")
  data = text.pairs(corpus, ("en", "de"), vocabulary=300, length=32)
  assert bleu()(Translator(data, GERMAN)) == {"test_bleu": pytest.approx(100.0), "test_examples": 3.0}
  # By hand, of the first sentence alone and its like with one word of seven wrong, the last: n-grams that are right are
  # 6 of 7, 5 of 6, 4 of 5, 3 of 4, and lengths are equal.
  (corpus / "test.en").write_text(ENGLISH[0] + "\n")
  (corpus / "test.de").write_text(GERMAN[0] + "\n")
  data = text.pairs(corpus, ("en", "de"), vocabulary=300, length=32)
  got = bleu()(Translator(data, [GERMAN[0].replace(" .", " hund")]))["test_bleu"]
  assert got == pytest.approx(100 * (6 / 7 * 5 / 6 * 4 / 5 * 3 / 4) ** 0.25)
