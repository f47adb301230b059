import gzip

import numpy as np
import pytest

from jaxgen.core.errors import UserError
from jaxgen.data import text
from jaxgen.data.sources import pairs
from jaxgen.data.sources import text as documents
from jaxgen.engine.run import Run
from jaxgen.evaluation.evaluators import bleu

ENGLISH = ["a man walks his dog .", "two women are talking .", "the dog runs over the green grass .", "a red car ."] * 3
GERMAN = ["ein mann führt seinen hund aus .", "zwei frauen reden .", "der hund läuft über das gras .", "ein auto ."] * 3


@pytest.fixture
def corpus(tmp_path, monkeypatch):
  monkeypatch.setenv("JAXGEN_CACHE", str(tmp_path / "cache"))
  pairs.tokenizer.cache_clear()
  (tmp_path / "train.en").write_text("\n".join(ENGLISH) + "\n", encoding="utf-8")
  (tmp_path / "train.de.gz").write_bytes(gzip.compress("\n".join(GERMAN).encode()))
  (tmp_path / "test.en").write_text("the man runs .\n√ù 漢字 ?\n")
  (tmp_path / "test.de").write_text("der mann läuft .\nüber\n", encoding="utf-8")
  yield tmp_path
  pairs.tokenizer.cache_clear()


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
  pairs.tokenizer.cache_clear()
  again = text.pairs(corpus, ("en", "de"), vocabulary=300, length=24).source("train").gather(np.arange(12))
  np.testing.assert_array_equal(first["source"], again["source"])
  assert file.stat().st_mtime_ns == before
  # "dog" occurs six times: with its space it is one token of the 41 that training made; "car" is made of several.
  count = lambda word: (pairs.encode(data.name, [word], 24) >= 3).sum()
  assert count("dog") == 1
  assert count("car") > 1


def test_long_sequences_lose_their_end(corpus):
  name = text.pairs(corpus, ("en", "de"), vocabulary=300).name
  whole, cut = pairs.encode(name, [ENGLISH[2]], 40), pairs.encode(name, [ENGLISH[2]], 5)
  np.testing.assert_array_equal(cut[0], [*whole[0, :4], text.END])
  count = sum(len(text_.ids) > 9 for text_ in pairs.tokenizer(name).encode_batch(ENGLISH))
  assert 0 < count < 12
  left_out = [f"  left out: the ends of {count} sentences of 'source', which are longer than 9 tokens"]
  shown = text.pairs(corpus, ("en", "de"), vocabulary=300, length=10).describe("train").splitlines()
  assert [line for line in shown if "'source'" in line] == left_out


def test_lines_end_at_line_feeds_alone(corpus):
  """Python's `splitlines` knows ten more ends; one of them in one file would pair every later sentence wrongly."""
  inside = "one\u2028two\x85three\x0bfour\x0cfive\x1csix\u2029seven\reight ."
  (corpus / "test.en").write_bytes(f"{inside}\r\n\r\nlast".encode())
  (corpus / "test.de").write_bytes("eins\nzwei\x85\ndrei\n".encode())
  data = text.pairs(corpus, ("en", "de"), vocabulary=300, length=128)
  assert text.sentences(data, "test") == ([inside, "", "last"], ["eins", "zwei\x85", "drei"])
  assert text.decode(data.name, data.source("test").gather(np.arange(3))["source"]) == [inside, "", "last"]


def test_the_mark_that_some_editors_put_first_is_no_character(corpus):
  """U+FEFF: Python's "utf-8" keeps it, as a token of its own or in front of the first sentence."""
  (corpus / "test.en").write_text("one .\n", encoding="utf-8-sig")
  (corpus / "test.de").write_text("eins .\n", encoding="utf-8")
  assert text.sentences(text.pairs(corpus, ("en", "de"), vocabulary=300), "test") == (["one ."], ["eins ."])
  (corpus / "poem.txt").write_text(VERSE, encoding="utf-8-sig")
  documents.codec.cache_clear()
  assert documents.codec(f"text:chars:{corpus / 'poem.txt'}").size == 29


def with_german(folder, content):
  (folder / "test.de").write_bytes(content)
  text.pairs(folder, ("en", "de"), vocabulary=300).source("test")


@pytest.mark.parametrize(
  ("do", "names"),
  [
    (lambda folder: text.pairs(folder, ("en", "fr"), vocabulary=300).source("train"), "train.fr"),
    (lambda folder: text.pairs(folder, ("en", "de"), vocabulary=300, test="val").source("test"), "val.en"),
    (lambda folder: text.pairs(folder, ("en", "de"), vocabulary=5000).source("train"), "tokens and not 5000"),
    (lambda folder: pairs.tokenizer("pairs:ende:x"), "LANGUAGES:SIZE:DIR"),
    (lambda folder: with_german(folder, b"eins\n"), "2 lines of en and 1 of de"),
    (lambda folder: with_german(folder, b"\xff\xfe\xfa"), "cannot be read as text"),
  ],
)
def test_bad_input(corpus, do, names):
  with pytest.raises(UserError, match=names):
    do(corpus)


class Translator(Run):
  """A run whose samples are the sentences that it was given, in tokens."""

  data = None  # not the experiment's, which this run has none of

  def __init__(self, data, translations):
    self.data, self.translations = data, translations

  def sample(self, n, source):
    assert text.decode(self.data.name, source) == text.sentences(self.data, "test")[0]
    return pairs.encode(self.data.name, self.translations[:n], source.shape[1])


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


# --- Documents --------------------------------------------------------------------------------------------------------

VERSE = "the quick brown fox\njumps over the lazy dog.\n" * 40  # 1,800 characters, of which 29 are different


@pytest.fixture
def poem(corpus):
  (corpus / "poem.txt").write_text(VERSE)
  documents.codec.cache_clear()
  return corpus / "poem.txt"


def test_windows_of_characters(poem):
  data = text.document(poem, length=8, vocabulary=29)
  train, test = data.source("train"), data.source("test")
  letters = sorted(set(VERSE))
  numbers = np.array([letters.index(letter) for letter in VERSE])
  assert data.raw_spec(1)["tokens"].shape == (1, 9)
  assert len(train) == 1620 - 8
  np.testing.assert_array_equal(train[7]["tokens"], numbers[7:16])
  np.testing.assert_array_equal(train[len(train) - 1]["tokens"], numbers[1611:1620])
  # Of the last tenth every character but the first is to be said once.
  assert len(test) == 179 // 8
  said = test.gather(np.arange(len(test)))["tokens"][:, 1:].reshape(-1)
  np.testing.assert_array_equal(said, numbers[1621 : 1621 + len(said)])
  assert train[0]["tokens"].dtype == np.int32
  assert data.describe("train").splitlines()[1:] == ["  tokens: int32 [9], values 0 to 28"]
  left_out = "  left out: the last 3 tokens, fewer than a window of 9 takes"  # 180 = 9 + 21 * 8 + 3
  assert data.describe("test").splitlines()[2:] == [left_out]
  assert documents.codec(data.name).decode(numbers[:50]) == VERSE[:50]


def test_byte_pair_encoding_is_of_the_training_split_and_loses_nothing(poem):
  poem.write_text(VERSE[:1620] + "zzzzzzzz" * 20 + "漢字 é\n" * 5, encoding="utf-8")
  data = text.document(poem, length=8, vocabulary=280, characters=False)
  code = documents.codec(data.name)
  whole = poem.read_text(encoding="utf-8")
  train, test = data.source("train"), data.source("test")
  assert code.decode(test.tokens) == whole[int(0.9 * len(whole)) :]
  assert code.decode(train.tokens) == whole[: int(0.9 * len(whole))]
  assert len(train.tokens) < 0.5 * 0.9 * len(whole)
  assert len(code.encode("zzzz")) == 4  # the test split taught nothing
  assert max(train.tokens.max(), test.tokens.max()) < 280
  assert len(list((poem.parent / "cache" / "tokenizers").iterdir())) == 1


def test_prompts_and_samples(poem):
  data = text.document(poem, length=8, vocabulary=29)
  prompts = text.encode_prompts(data.name, ["fox ", "dog."])
  assert prompts.shape == (2, 4)
  shown = text.render(data.name)(prompts, {})[".txt"].decode()
  assert "fox " in shown.splitlines()
  assert "dog." in shown.splitlines()
  with pytest.raises(UserError, match=r"'Q' is none of the 29 characters of .*poem\.txt"):
    text.encode_prompts(data.name, ["Qox "])
  with pytest.raises(UserError, match="prompts of 3 to 4 tokens"):
    text.encode_prompts(data.name, ["fox", "dog."])
  with pytest.raises(UserError, match="the token -1 is none of the 29"):
    text.render(data.name)(prompts * 0 - 1, {})


@pytest.mark.parametrize(
  ("options", "split", "names"),
  [
    (dict(length=180, vocabulary=29), "test", r"poem\.txt has 180 tokens in its split 'test'.* take 181: use a longer"),
    (dict(length=8, vocabulary=27), "train", "'tokens' has values 0 to 28.*27 levels"),
    (
      dict(length=8, vocabulary=65),
      "train",
      "poem.txt has 29 different tokens and the config says 65: --vocabulary 29",
    ),
    (dict(length=8, vocabulary=2000, characters=False), "train", "makes .* tokens and not 2000"),
    (dict(length=8, vocabulary=29), "val", "no split 'val'"),
  ],
)
def test_documents_that_do_not_fit(poem, options, split, names):
  with pytest.raises(UserError, match=names):
    text.document(poem, **options).source(split)


def test_documents_that_are_none(poem):
  with pytest.raises(UserError, match="no file"):
    text.document(poem.parent / "other.txt", length=8, vocabulary=29).source("train")
  with pytest.raises(UserError, match="text:chars:FILE"):
    documents.codec("text:words:poem.txt")
  poem.write_bytes(b"\xff\xfe\xfa")
  with pytest.raises(UserError, match="cannot be read as text"):
    text.document(poem, length=8, vocabulary=29).source("train")
  packed = poem.with_suffix(".gz")
  packed.write_bytes(gzip.compress(b"a poem")[:10] + b"\xff" * 20)
  with pytest.raises(UserError, match="cannot be read as text"):
    text.document(packed, length=8, vocabulary=29).source("train")


def test_tiny_shakespeare():
  path = "../shared/data/text/tiny_shakespeare.txt"
  try:
    data = text.document(path, length=64, vocabulary=65)
    train, test = data.source("train"), data.source("test")
  except UserError:
    pytest.skip("the text is not here")
  # What nanoGPT's preparation prints: 1,003,854 and 111,540 characters.
  assert (len(train.tokens), len(test.tokens)) == (1_003_854, 111_540)
  assert train.tokens.max() == 64
