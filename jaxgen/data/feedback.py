"""Answers to prompts, and rankings of answers, in tokens; `data.sources.feedback` describes the files.

feedback.answers("answers.jsonl", length=64, vocabulary=2_000)               {"tokens" [T], "prompt" []}
feedback.rankings("pairs.jsonl", length=64, vocabulary=2_000)                {"tokens" [2, T], "prompt" []}
feedback.rated("rated_snippets.tsv", "movieReview", length=32, vocabulary=2_000, count=2)
"""

import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Int

from jaxgen.core.errors import UserError
from jaxgen.data.dataset import Dataset
from jaxgen.data.sources.feedback import Marks, marks_of, tokens_of

__all__ = ["Marks", "answers", "decode", "marks_of", "prompts", "rankings", "rated", "render"]


def _features(length: int, count: int | None) -> dict[str, jax.ShapeDtypeStruct]:
  shape = (length,) if count is None else (count, length)
  return {"tokens": jax.ShapeDtypeStruct(shape, np.int32), "prompt": jax.ShapeDtypeStruct((), np.int32)}


def answers(file: str | os.PathLike, *, length: int, vocabulary: int, tokenizer: str | None = None) -> Dataset:
  """Rows of a prompt and its answer.

  Args:
    file: JSON lines or tab separated, with the fields' names after a hash mark, "data.jsonl#prompt,answer".
    length: tokens of a row.
    vocabulary: number of tokens.
    tokenizer: a published one's file or folder; None: byte pair encoding is trained on the file.
  """
  name = f"feedback:{tokenizer or vocabulary}:{file}"
  return Dataset(name, _features(length, None), levels=vocabulary, feature="tokens")


def rankings(
  file: str | os.PathLike, *, length: int, vocabulary: int, count: int = 2, tokenizer: str | None = None
) -> Dataset:
  """Ranked answers to prompts, the best first.

  Args:
    file: as of `answers`, "data.jsonl#prompt,chosen,rejected".
    length: tokens of a row.
    vocabulary: number of tokens.
    count: answers to a prompt; of more the best are taken, and prompts with fewer are left out.
    tokenizer: as of `answers`.
  """
  name = f"feedback:{tokenizer or vocabulary}:{file}"
  return Dataset(name, _features(length, count), levels=vocabulary, feature="tokens")


def rated(
  file: str | os.PathLike,
  source: str,
  *,
  length: int,
  vocabulary: int,
  count: int | None = None,
  tokenizer: str | None = None,
) -> Dataset:
  """Texts with people's ratings, without prompts.

  Args:
    file: tab separated lines of source, id, rating and text.
    source: whose texts are read.
    length: tokens of a row.
    vocabulary: number of tokens.
    count: texts in a ranking; None: rows of single texts.
    tokenizer: as of `answers`.
  """
  name = f"rated:{tokenizer or vocabulary}:{source}:{file}"
  return Dataset(name, _features(length, count), levels=vocabulary, feature="tokens")


def decode(name: str, rows: Int[np.ndarray, "n length"]) -> list[str]:
  """The texts of rows, prompts included, each up to its end.

  Args:
    name: the data set's name, whose tokenizer is used.
  """
  marks, found = marks_of(name), []
  for row in np.asarray(rows)[:, 1:].tolist():
    found.append(row[: row.index(marks.end)] if marks.end in row else row)
  return tokens_of(name).decode_batch(found, skip_special_tokens=True)


def prompts(name: str, texts: list[str], length: int) -> dict[str, np.ndarray]:
  """The conditions of samples: rows [N, length] that begin with prompts, and their numbers of tokens.

  Raises:
    UserError: a prompt leaves no room for an answer.
  """
  marks = marks_of(name)
  encoded = [[marks.start, *row.ids] for row in tokens_of(name).encode_batch(texts, add_special_tokens=False)]
  counts = np.array([len(row) for row in encoded], np.int32)
  if counts.max() >= length:
    raise UserError(f"a prompt of {counts.max()} tokens leaves no room for an answer in a context of {length}: cut it")
  rows = np.full((len(texts), length), marks.pad, np.int32)
  for row, tokens in zip(rows, encoded, strict=True):
    row[: len(tokens)] = tokens
  return {"tokens": rows, "prompt": counts}


def render(name: str) -> Callable[[Any, Any], dict[str, bytes]]:
  """A function that shows samples, rows [N, T], as text: (samples, conditions) -> {".txt": ..}, a line each."""
  return lambda samples, conditions: {".txt": ("\n".join(decode(name, samples)) + "\n").encode()}
