"""CLIP's tokenizer against transformers' (tests/fixtures/make_clip_tokens.py)."""

import gzip
import json

import conftest
import numpy as np
import pytest

from jaxgen.core.errors import UserError
from jaxgen.data.sources import clip_bpe

FOUND = json.loads((conftest.REPOSITORY / "tests" / "fixtures" / "clip_tokens.json").read_text())


def test_ids_equal_those_of_transformers(tmp_path):
  """Of Unicode, emoji, nothing, and line ends; from a packed file and from one with Windows' line ends."""
  packed, plain = tmp_path / "merges.txt.gz", tmp_path / "merges.txt"
  packed.write_bytes(gzip.compress(FOUND["merges"].encode()))
  plain.write_bytes(FOUND["merges"].replace("\n", "\r\n").encode())
  for path in (packed, plain):
    rows, cut = clip_bpe.encode(path, FOUND["texts"], 77)
    assert cut == 0
    assert clip_bpe.tokenizer(path).get_vocab_size() == FOUND["vocabulary"]
    for text, row, ids in zip(FOUND["texts"], rows, FOUND["ids"], strict=True):
      np.testing.assert_array_equal(row, ids + [0] * (77 - len(ids)), err_msg=repr(text))


def test_long_texts_are_cut_and_counted(tmp_path):
  path = tmp_path / "merges.txt"
  path.write_text(FOUND["merges"])
  rows, cut = clip_bpe.encode(path, FOUND["texts"], 6)
  expected = [ids if len(ids) <= 6 else [*ids[:5], ids[-1]] for ids in FOUND["ids"]]
  np.testing.assert_array_equal(rows, [ids + [0] * (6 - len(ids)) for ids in expected])
  assert cut == sum(len(ids) > 6 for ids in FOUND["ids"]) > 0


def test_what_is_no_merges_file(tmp_path):
  path = tmp_path / "merges.txt"
  with pytest.raises(UserError, match="there is no merges file"):
    clip_bpe.tokenizer(path)
  for text, said in (("#version\na b c\n", "'a b c' is no pair"), ("qq zz\n", "no merges file of CLIP's")):
    path.write_text(text)
    clip_bpe.tokenizer.cache_clear()
    with pytest.raises(UserError, match=said):
      clip_bpe.tokenizer(path)
  for contents in (b"no gzip", gzip.compress(b"#version")[:10] + b"\xff" * 20):  # the second is damaged within
    path.with_suffix(".gz").write_bytes(contents)
    with pytest.raises(UserError, match="cannot be read as a merges file"):
      clip_bpe.tokenizer(path.with_suffix(".gz"))
