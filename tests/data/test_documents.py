"""Own documents in rows and pairs, and published tokenizers' files against the library itself."""

import json

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tokenizers.implementations import BertWordPieceTokenizer, ByteLevelBPETokenizer

from jaxgen.core.errors import UserError
from jaxgen.data import pipeline, text
from jaxgen.data.sources import documents, tokenizer

TEXTS = [
  "one two\nthree four five\nsix",
  "seven\r\neight nine",
  "ten eleven\ntwelve",
  "a\nb c\nd e f",
  "g h\ni\nj k l m",
]
ODD = ["", "héllo Wörld — naïve", "日本語 text", "👩‍👩‍👧 family 🎉", "line\r\nbreak\ttab", "[MASK] <|endoftext|> ##ing"]


@pytest.fixture
def files(tmp_path):
  """The same documents in three ways, and two published tokenizers."""
  (tmp_path / "all.txt").write_bytes("\n\n".join(t.replace("\r\n", "\n") for t in TEXTS * 4).encode())
  (tmp_path / "folder").mkdir()
  for i, one in enumerate(TEXTS * 4):
    (tmp_path / "folder" / f"{i:02}.txt").write_bytes(one.encode())
  lines = [json.dumps({"body": one, "id": i}) for i, one in enumerate(TEXTS * 4)]
  (tmp_path / "lines.jsonl").write_text("\n".join([*lines, ""]))
  words = tmp_path / "wordpiece"
  words.mkdir()
  made = BertWordPieceTokenizer(lowercase=True)
  made.train_from_iterator(TEXTS, vocab_size=80, show_progress=False)
  made.save_model(str(words))
  data = tmp_path / "bytes"
  data.mkdir()
  made = ByteLevelBPETokenizer()
  made.train_from_iterator(TEXTS, vocab_size=270, special_tokens=["<|endoftext|>"], show_progress=False)
  made.save_model(str(data))
  return tmp_path


def test_files_are_read_alike(files):
  expected = [one.replace("\r\n", "\n") for one in TEXTS * 4]
  for pattern in ("all.txt", "folder", "folder/*.txt", "lines.jsonl#body"):
    assert documents.read(str(files / pattern)) == expected, pattern


def test_a_published_tokenizer_neither_cuts_nor_fills_texts(files):
  """Published files may have both switched on: those of sentence encoders do."""
  made = Tokenizer(models.WordLevel({"[UNK]": 0, "one": 1, "</s>": 2}, unk_token="[UNK]"))
  made.pre_tokenizer = pre_tokenizers.Whitespace()
  made.enable_truncation(2)
  made.enable_padding(length=6)
  made.save(str(files / "tokenizer.json"))
  (files / "few.txt").write_text("one one one one\n\none\n\none")
  data = text.documents(files / "few.txt", length=5, vocabulary=3, tokenizer=str(files / "tokenizer.json"))
  rows = data.source("train").arrays["tokens"]
  assert rows.tolist() == [[1, 1, 1, 1, 2], [1, 2, 0, 0, 0]]


def test_one_document_alone_is_refused(files):
  (files / "one.txt").write_text("a text\nof two lines")
  with pytest.raises(UserError, match="is one document"):
    text.documents(files / "one.txt", length=8, vocabulary=270).source("train")


def test_published_tokenizers_give_the_librarys_ids(files):
  words = BertWordPieceTokenizer(str(files / "wordpiece" / "vocab.txt"), lowercase=True)
  data = ByteLevelBPETokenizer(str(files / "bytes" / "vocab.json"), str(files / "bytes" / "merges.txt"))
  whole = Tokenizer(models.BPE())
  whole.pre_tokenizer, whole.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
  whole.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=90, show_progress=False))
  whole.save(str(files / "tokenizer.json"))
  for path, theirs in (("wordpiece", words), ("bytes/vocab.json", data), ("tokenizer.json", whole)):
    ours = tokenizer.opened(str(files / path))
    for one in ODD + TEXTS:
      options = dict(add_special_tokens=False)
      assert ours.encode(one, **options).ids == theirs.encode(one, **options).ids, (path, one)
  assert tokenizer.marks(str(files / "wordpiece")) == tokenizer.Marks(*map(words.token_to_id, tokenizer.WORDPIECES))
  assert tokenizer.marks(None) == tokenizer.Marks()
  name = text.document("no/such/text", length=4, vocabulary=99, tokenizer=str(files / "bytes")).name
  row = text.encode_prompts(name, [ODD[1]])  # a prompt needs no corpus
  assert row[0].tolist() == data.encode(ODD[1]).ids
  assert ODD[1].encode() in text.render(name)(row, {})[".txt"]
  lower, upper = (tokenizer.opened(str(files / "wordpiece")).encode(x).ids for x in ("one", "ONE"))
  assert lower == upper
  cased = files / "wordpiece" / "tokenizer_config.json"
  cased.write_text('{"do_lower_case": false}')
  tokenizer.opened.cache_clear()
  assert tokenizer.opened(str(files / "wordpiece")).encode("ONE").ids != lower


def test_rows_hold_whole_documents_in_turn():
  rows = [[5, 5, 2], [6, 2], [7, 7, 7, 7, 2], [8, 2], [9] * 11 + [2]]
  tokens, numbers = documents.packed(rows, 6)
  assert tokens.tolist() == [
    [5, 5, 2, 6, 2, 0], [7, 7, 7, 7, 2, 0], [8, 2, 0, 0, 0, 0], [9] * 6, [9, 9, 9, 9, 9, 2]
  ]  # fmt: skip
  assert numbers.tolist() == [
    [1, 1, 1, 2, 2, 0], [1, 1, 1, 1, 1, 0], [1, 1, 0, 0, 0, 0], [1] * 6, [1] * 6
  ]  # fmt: skip


def test_documents_become_rows_and_text_again(files):
  data = text.documents(
    files / "folder",
    length=16,
    vocabulary=tokenizer.opened(str(files / "bytes")).get_vocab_size(),
    tokenizer=str(files / "bytes"),
  )
  source = data.source("train")
  rows = source.gather(np.arange(len(source)))
  code = tokenizer.opened(str(files / "bytes"))
  end = code.token_to_id("<|endoftext|>")
  assert documents.end_of(data.name) == end
  found = code.decode(rows["tokens"][rows["documents"] > 0].tolist(), skip_special_tokens=False)
  assert found == "<|endoftext|>".join([*documents.read(str(files / "folder"))[:18], ""])


def pairs(files, **options):
  path = str(files / "wordpiece")
  size = tokenizer.opened(path).get_vocab_size()
  return text.segments(files / "all.txt", length=16, vocabulary=size, tokenizer=path, **options)


def test_half_of_the_seconds_follow_and_all_is_drawn_anew(files):
  data = pairs(files)
  source, marks = data.training(), text.marks(str(files / "wordpiece"))
  batches = [pipeline.batch_at(source, 0, step, 32) for step in range(40)]
  labels = np.concatenate([batch["label"] for batch in batches])
  assert abs(labels.mean() - 0.5) < 5 * 0.5 / len(labels) ** 0.5
  code = tokenizer.opened(str(files / "wordpiece"))
  known = [[code.encode(line, add_special_tokens=False).ids for line in one.splitlines()] for one in TEXTS]
  # A first has room for six tokens, and is cut where a line is longer.
  follow = lambda first, second: any(
    sum(lines[i:j], [])[:6] == first and sum(lines[j:], [])[: len(second)] == second
    for lines in known for i in range(len(lines)) for j in range(i + 1, len(lines))
  )  # fmt: skip
  for batch in batches[:3]:
    for row, types, label in zip(batch["tokens"], batch["types"], batch["label"], strict=True):
      filled = row[row != marks.pad].tolist()
      assert [filled[0], filled[-1], filled.count(marks.end)] == [marks.start, marks.end, 2]
      middle = filled.index(marks.end)
      first, second = filled[1:middle], filled[middle + 1 : -1]
      assert min(len(first), len(second)) > 0
      assert types.tolist() == [0] * (middle + 1) + [1] * (len(second) + 1) + [0] * (16 - len(filled))
      assert follow(first, second) or label == 1
  tokens = np.concatenate([batch["tokens"].ravel() for batch in batches])  # special ones, too
  assert f"tokens: int32 [16], values {tokens.min()} to {tokens.max()}" in data.describe("train")
  assert marks.start < min(token for lines in known for line in lines for token in line)
  again = [pipeline.batch_at(source, 1, step, 32)["label"] for step in range(40)]
  assert (np.concatenate(again) != labels).any()
  test = data.source("test")
  assert test.gather(np.arange(3))["tokens"].tolist() == test.gather(np.arange(3))["tokens"].tolist()


def test_says_what_is_wrong(files):
  for pattern, sentence in (
    ("none/*.txt", "there are no files"),
    ("lines.jsonl", "say which field is the text"),
    ("lines.jsonl#title", "line 1, is not a JSON object whose 'title' is a Unicode text"),
    ("lines.jsonl#id", "line 1, is not a JSON object whose 'id' is a Unicode text"),
  ):
    with pytest.raises(UserError, match=sentence):
      documents.read(str(files / pattern))
  (files / "half.jsonl").write_text('{"text": "a\\ud800"}\n')
  with pytest.raises(UserError, match="line 1, is not a JSON object whose 'text' is a Unicode text"):
    documents.read(f"{files / 'half.jsonl'}#text")
  (files / "empty.txt").write_text("\n\n \n")
  with pytest.raises(UserError, match="no document with a word"):
    documents.read(str(files / "empty.txt"))
  (files / "bytes" / "merges.txt").unlink()
  with pytest.raises(UserError, match=r"half of a tokenizer: put merges.txt beside it"):
    tokenizer.opened(str(files / "bytes" / "vocab.json"))
  (files / "tokenizer.json").write_text("{}")
  with pytest.raises(UserError, match="cannot be read as a tokenizer"):
    tokenizer.opened(str(files / "tokenizer.json"))
  with pytest.raises(UserError, match="is no tokenizer: give tokenizer.json"):
    tokenizer.opened(str(files / "folder"))
  with pytest.raises(UserError, match="different tokens and the config says 90: --vocabulary"):
    text.segments(files / "all.txt", length=16, vocabulary=90, tokenizer=str(files / "wordpiece")).source("train")
