"""Answers, pairs and rankings from files: what is read, what is left out and said, and what is refused."""

import json
import pathlib

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from jaxgen.core.errors import UserError
from jaxgen.data import feedback

SNIPPETS = pathlib.Path("../shared/data/text/rated_snippets.tsv")
LINES = [
  {
    "prompt": f"What is {i} and {i + 1}?",
    "answer": f" It is {2 * i + 1}.",
    "chosen": f" {2 * i + 1}",
    "rejected": " no",
  }
  for i in range(40)
]


@pytest.fixture
def folder(tmp_path, monkeypatch):
  """The same lines as .jsonl and as .tsv, rankings, and a published tokenizer that all can share."""
  monkeypatch.setenv("JAXGEN_CACHE", str(tmp_path / "cache"))
  (tmp_path / "lines.jsonl").write_text("\n".join(map(json.dumps, LINES)) + "\n")
  table = ["\t".join(LINES[0]), *("\t".join(line.values()) for line in LINES)]
  (tmp_path / "lines.tsv").write_text("\r\n".join(table))
  ranked = [{"question": "?", "answers": ["a", "b", "c", "d"][: 2 + i % 3]} for i in range(40)]
  (tmp_path / "ranked.jsonl").write_text("\n".join(map(json.dumps, ranked)))
  made = Tokenizer(models.BPE())
  made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  made.decoder = decoders.ByteLevel()
  alphabet = pre_tokenizers.ByteLevel.alphabet()
  trainer = trainers.BpeTrainer(
    vocab_size=280, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
  )
  made.train_from_iterator([line["prompt"] for line in LINES], trainer)
  made.save(str(tmp_path / "tokenizer.json"))
  return tmp_path


def test_rows_are_start_prompt_answer_end_and_padding(folder):
  data = feedback.answers(folder / "lines.jsonl", length=32, vocabulary=280)
  train, test = data.source("train"), data.source("test")
  assert (len(train), len(test)) == (36, 4)
  lines = [line for i, line in enumerate(LINES) if i % 10 == 9]
  rows = test.gather(np.arange(4))
  for row, count, line in zip(rows["tokens"], rows["prompt"], lines, strict=True):
    assert row[0] == 1
    end = row.tolist().index(2)
    assert (row[end + 1 :] == 0).all()
    assert feedback.decode(data.name, row[None]) == [line["prompt"] + line["answer"]]
    assert feedback.decode(data.name, np.array([[*row[:count], 2]])) == [line["prompt"]]
  other = feedback.answers(folder / "lines.tsv", length=32, vocabulary=280)
  # The tokenizers differ, as that of a file is trained on its fields; a published one is the same for all files.
  same = dict(length=32, vocabulary=280, tokenizer=str(folder / "tokenizer.json"))
  first, second = (feedback.answers(folder / name, **same).source("train") for name in ("lines.jsonl", "lines.tsv"))
  np.testing.assert_array_equal(first.arrays["tokens"], second.arrays["tokens"])
  assert feedback.marks_of(feedback.answers(folder / "lines.tsv", **same).name) == (0, 0, 0)
  assert len(other.source("train")) == 36


def test_too_few_lines_for_a_test_split_are_refused(folder):
  (folder / "few.jsonl").write_text("\n".join(map(json.dumps, LINES[:9])))
  data = feedback.answers(folder / "few.jsonl", length=64, vocabulary=280, tokenizer=str(folder / "tokenizer.json"))
  assert len(data.source("train")) == 9
  with pytest.raises(UserError, match="there are 9 lines"):
    data.source("test")


def test_pairs_and_rankings_are_in_order_and_what_is_left_out_is_said(folder):
  pairs = feedback.rankings(folder / "lines.jsonl", length=32, vocabulary=280)
  rows = pairs.source("train").gather(np.arange(3))
  for pair, line in zip(rows["tokens"], LINES, strict=False):
    chosen, rejected = feedback.decode(pairs.name, pair)
    assert (chosen, rejected) == (line["prompt"] + line["chosen"], line["prompt"] + line["rejected"])
  name = f"{folder / 'ranked.jsonl'}#question,answers"
  ranked = feedback.rankings(name, length=8, vocabulary=262, count=3, tokenizer=str(folder / "tokenizer.json"))
  with pytest.raises(UserError, match="280 different tokens and the config says 262"):
    ranked.source("train")
  ranked = feedback.rankings(name, length=8, vocabulary=280, count=3, tokenizer=str(folder / "tokenizer.json"))
  source = ranked.source("train")
  assert len(source) == 24
  assert source.about.left_out == ("12 lines of fewer than 3 answers", "12 answers of lines with more, the worst")
  assert feedback.decode(ranked.name, source[0]["tokens"]) == ["?a", "?b", "?c"]
  (folder / "short.jsonl").write_text("\n".join(json.dumps({"prompt": p, "answer": "!" * 9}) for p in ("z" * 9, "z")))
  short = feedback.answers(folder / "short.jsonl", length=8, vocabulary=280, tokenizer=str(folder / "tokenizer.json"))
  assert short.source("train").about.left_out == (
    "1 prompts of 8 tokens or more, which leave no room for an answer",
    "1 ends of answers, which with their prompts are longer than 8 tokens",
  )


def test_prompts_of_samples(folder):
  name = feedback.answers(folder / "lines.jsonl", length=32, vocabulary=280).name
  told = feedback.prompts(name, ["What is 1", "no?"], 32)
  for row, count, text in zip(told["tokens"], told["prompt"], ["What is 1", "no?"], strict=True):
    assert feedback.decode(name, row[None, :count]) == [text]
    assert (row[count:] == 0).all()
  with pytest.raises(UserError, match="leaves no room for an answer in a context of 6"):
    feedback.prompts(name, ["What is 17 and 18? " * 3], 6)


@pytest.mark.parametrize(
  ("line", "match"),
  [
    ('{"prompt": "a", "chosen": "b", "rejected": "b"}', "line 2, prefers an answer to one with the same text"),
    ('{"prompt": "a", "chosen": "b"}', "line 2, has no field 'rejected'"),
    ('{"prompt": "a", "chosen": 1, "rejected": "b"}', "line 2, has something else than texts"),
    ("[1, 2", "line 2, is not a JSON object"),
    ('{"prompt": "a", "chosen": "b\\ud800", "rejected": "c"}', "line 2, is not a JSON object of Unicode texts"),
  ],
)
def test_bad_lines_are_one_sentence(tmp_path, line, match):
  (tmp_path / "bad.jsonl").write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n' + line)
  with pytest.raises(UserError, match=match):
    feedback.rankings(tmp_path / "bad.jsonl", length=8, vocabulary=262).source("train")


def test_bad_files_are_one_sentence(tmp_path):
  (tmp_path / "bad.tsv").write_text("prompt\tanswer\nonly one")
  (tmp_path / "empty.jsonl").write_text("\n")
  (tmp_path / "nan.tsv").write_text("film\t1\t0.5\tfine\nfilm\t2\tnan\tgood\n")
  (tmp_path / "rated.tsv").write_text("film\t1\t0.5\tfine\n")
  for make, match in (
    (lambda: feedback.answers(tmp_path / "bad.tsv", length=8, vocabulary=262), "line of 2 fields"),
    (lambda: feedback.answers(tmp_path / "empty.jsonl", length=8, vocabulary=262), "no lines with answers"),
    (lambda: feedback.answers(tmp_path / "none.jsonl", length=8, vocabulary=262), "there is no file"),
    (lambda: feedback.answers(tmp_path / "rated.txt", length=8, vocabulary=262), "there is no file"),
    (lambda: feedback.rated(tmp_path / "rated.tsv", "book", length=8, vocabulary=262), "no texts of 'book'"),
    (lambda: feedback.rated(tmp_path / "nan.tsv", "film", length=8, vocabulary=262, count=2), "a finite number"),
    (lambda: feedback.rated(tmp_path / "bad.tsv", "film", length=8, vocabulary=262), "source, id, rating .* and text"),
  ):
    with pytest.raises(UserError, match=match):
      make().source("train")


@pytest.mark.skipif(not SNIPPETS.is_file(), reason="needs ../shared/data/text/rated_snippets.tsv")
def test_rankings_of_rated_snippets_are_in_the_order_of_their_ratings():
  lines = [line.split("\t") for line in SNIPPETS.read_text().split("\n") if line.startswith("movieReview\t")]
  rating = {text: float(number) for _, _, number, text in lines}
  data = feedback.rated(SNIPPETS, "movieReview", length=64, vocabulary=1_000)
  train, test = data.source("train"), data.source("test")
  assert (len(train), len(test)) == (9_545, 1_060)
  pairs = feedback.rated(SNIPPETS, "movieReview", length=64, vocabulary=1_000, count=2)
  source = pairs.source("train")
  assert len(source) > 18_000
  (alike,) = [reason for reason in source.about.left_out if "rated alike" in reason]
  assert int(alike.split()[0].replace(",", "")) + len(source) <= 4 * (9_545 // 2)
  seen = 0
  for pair in source.gather(np.arange(50))["tokens"]:
    first, second = feedback.decode(pairs.name, pair)
    if first in rating and second in rating:  # neither has lost its end
      assert rating[first] > rating[second]
      seen += 1
  assert seen > 20
