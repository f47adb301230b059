"""Text in tokens: documents for language models, and sentences in pairs for translation.

`jaxgen.data.sources.text` and `jaxgen.data.sources.pairs` describe tokens and files.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Int

from jaxgen.core.errors import UserError
from jaxgen.data.dataset import Dataset
from jaxgen.data.sources.documents import tokens_of
from jaxgen.data.sources.pairs import END, PAD, START, tokenizer
from jaxgen.data.sources.pairs import sentences as read_sentences
from jaxgen.data.sources.text import Codec, codec, published
from jaxgen.data.sources.tokenizer import marks

__all__ = [
  "END",
  "PAD",
  "START",
  "decode",
  "document",
  "documents",
  "encode_prompts",
  "marks",
  "pairs",
  "render",
  "segments",
  "sentences",
]


def document(
  file: str | os.PathLike, *, length: int, vocabulary: int, characters: bool = True, tokenizer: str | None = None
) -> Dataset:
  """Windows of a text.

  Args:
    length: tokens to be said in a window, which has one more.
    vocabulary: number of tokens.
    characters: tokens are characters, of which the whole text must have `vocabulary`; else byte pair encoding.
    tokenizer: a published one's file or folder, in place of both.
  """
  tokens = jax.ShapeDtypeStruct((length + 1,), np.int32)
  name = f"text:{tokenizer or ('chars' if characters else vocabulary)}:{file}"
  return Dataset(name, {"tokens": tokens}, levels=vocabulary)


def documents(files: str | os.PathLike, *, length: int, vocabulary: int, tokenizer: str | None = None) -> Dataset:
  """Own documents, packed into rows of `length` tokens; see `jaxgen.data.sources.documents`.

  Args:
    files: a text file, a folder, a pattern, or JSON lines with a field's name, "data/*.jsonl#text".
    vocabulary: number of tokens.
    tokenizer: a published one's file or folder; None: byte pair encoding is trained.
  """
  tokens = jax.ShapeDtypeStruct((length,), np.int32)
  name = f"documents:{tokenizer or vocabulary}:{files}"
  return Dataset(name, {"tokens": tokens, "documents": tokens}, levels=vocabulary, feature="tokens")


def segments(files: str | os.PathLike, *, length: int, vocabulary: int, tokenizer: str | None = None) -> Dataset:
  """Pairs of segments of documents, as BERT reads them; see `jaxgen.data.sources.documents`.

  Args:
    files: as of `documents`; sentences are lines.
    length: tokens of a pair.
    vocabulary: number of tokens.
    tokenizer: a published one's file or folder; None: WordPiece in lower case is trained. Its special tokens are
      `marks(tokenizer)`.
  """
  row = jax.ShapeDtypeStruct((length,), np.int32)
  features = {"tokens": row, "types": row, "label": jax.ShapeDtypeStruct((), np.int32)}
  name = f"segments:{tokenizer or vocabulary}:{files}"
  return Dataset(name, features, levels=vocabulary, classes=2, feature="tokens")


def encode_prompts(name: str, prompts: Sequence[str]) -> Int[np.ndarray, "n length"]:
  """The tokens of prompts.

  Args:
    name: the data set's name, whose tokenizer is used.
    prompts: texts with equal numbers of tokens.

  Raises:
    UserError: the prompts have different numbers of tokens, or a character has no token.
  """
  rows = [_codec(name).encode(prompt) for prompt in prompts]
  if len({len(row) for row in rows}) > 1:
    raise UserError(f"prompts of {min(map(len, rows))} to {max(map(len, rows))} tokens: make them equally long")
  return np.stack(rows)


def _codec(name: str) -> Codec:
  return published(tokens_of(name), Path(name)) if name.startswith("documents:") else codec(name)


def render(name: str) -> Callable[[Any, Any], dict[str, bytes]]:
  """A function that shows samples, tokens [N, T], as text: (samples, conditions) -> {".txt": ..}."""

  def show(samples: Int[np.ndarray, "n length"], conditions: Any) -> dict[str, bytes]:
    line = lambda i: f"{f' sample {i} ':-^80}\n"
    pages = [line(i) + _codec(name).decode(row) for i, row in enumerate(samples)]
    return {".txt": ("\n".join(pages) + "\n").encode()}

  return show


def pairs(
  folder: str | os.PathLike,
  languages: tuple[str, str],
  *,
  vocabulary: int = 8_000,
  length: int = 64,
  train: str = "train",
  test: str = "test",
) -> Dataset:
  """Sentences of the first language and their translations into the second.

  Args:
    folder: where the files are.
    vocabulary: number of tokens, the three special ones included.
    length: tokens of a sequence, END included; longer ones lose their end.
    train, test: names of the splits' files.
  """
  tokens = jax.ShapeDtypeStruct((length,), np.int32)
  name = f"pairs:{'-'.join(languages)}:{vocabulary}:{folder}"
  return Dataset(name, {"source": tokens, "target": tokens}, vocabulary, train=train, test=test, feature="target")


def decode(name: str, tokens: Int[np.ndarray, "n length"]) -> list[str]:
  """The sentences of tokens, each up to its END.

  Args:
    name: the name of a data set of pairs.
    tokens: the tokens.
  """
  rows: Sequence[list[int]] = [row[: row.index(END)] if END in row else row for row in tokens.tolist()]
  return [text.strip() for text in tokenizer(name).decode_batch(list(rows), skip_special_tokens=True)]


def sentences(data: Dataset, split: str) -> tuple[list[str], list[str]]:
  """A split's sentences in both languages, as they are in the files.

  Args:
    data: a data set of pairs.
    split: "train", "test", or the name of the split's files.

  Raises:
    UserError: the two files have different numbers of lines.
  """
  return read_sentences(data.name, {"train": data.train, "test": data.test}.get(split, split))
