"""The data sets `pairs:LANGUAGES:SIZE:DIR`: sentences and their translations.

The folder holds, for each split and language, a file of one sentence a line, the lines of two languages in step:
`train.en`, `train.de`, `val.en`, ... or the same packed, `train.en.gz`. Lines end at line feeds, with or without a
carriage return before them, and nowhere else. `pairs:en-de:8000:data/multi30k` gives

    {"source": int32 [S], "target": int32 [T]}

tokens of the first and of the second language, each sequence ended by END and then filled with PAD. One vocabulary of
SIZE tokens of byte pair encoding, trained on the split "train", serves both.
"""

import functools
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from jaxtyping import Int

from jaxgen.core.errors import UserError
from jaxgen.data.sources import bpe
from jaxgen.data.sources.base import About, Arrays, Request, text_of

PAD, START, END = 0, 1, 2
SPECIAL = ("<pad>", "<start>", "<end>")


def _parts(name: str) -> tuple[tuple[str, str], int, Path]:
  """(both languages, the number of tokens, the folder)."""
  try:
    languages, size, folder = name.removeprefix("pairs:").split(":", 2)
    first, second = languages.split("-")
    return (first, second), int(size), Path(folder).expanduser()
  except ValueError:
    raise UserError(f"{name!r} is not pairs:LANGUAGES:SIZE:DIR: pairs:en-de:8000:data/multi30k is one") from None


def lines(folder: Path, split: str, language: str) -> list[str]:
  """The sentences of one file.

  Raises:
    UserError: there is no such file, or it cannot be read.
  """
  plain = folder / f"{split}.{language}"
  packed = plain.with_name(f"{plain.name}.gz")
  path = plain if plain.is_file() else packed
  text = text_of(path, f"there is no file {plain.absolute()}, nor one with .gz, of the split {split!r}")
  # Not `splitlines`: it splits at ten more characters, U+2028 and U+0085 among them, which stand within sentences.
  return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")] if text else []


@functools.lru_cache(maxsize=4)
def tokenizer(name: str):
  """The `tokenizers.Tokenizer` of a data set of pairs, trained or from the cache.

  Raises:
    UserError: the training text is missing, or so small that it does not make `SIZE` tokens.
  """
  languages, size, folder = _parts(name)
  text = [line for language in languages for line in lines(folder, "train", language)]
  return bpe.trained(text, size, folder, special=SPECIAL, prefix_space=True)


def encode(name: str, sentences: Iterable[str], length: int) -> Int[np.ndarray, "n {length}"]:
  """Tokens of sentences, each ended by END and filled with PAD."""
  return _encode(name, sentences, length)[0]


def _encode(name: str, sentences: Iterable[str], length: int) -> tuple[Int[np.ndarray, "n {length}"], int]:
  """(tokens of sentences, number of truncated sentences)."""
  rows = tokenizer(name).encode_batch(list(sentences), add_special_tokens=False)
  array = np.full((len(rows), length), PAD, np.int32)
  for i, row in enumerate(rows):
    ids = [*row.ids[: length - 1], END]
    array[i, : len(ids)] = ids
  return array, sum(len(row.ids) >= length for row in rows)


def sentences(name: str, split: str) -> tuple[list[str], list[str]]:
  """A split's sentences in both languages, as they are in the files.

  Raises:
    UserError: the two files are not in step.
  """
  languages, _, folder = _parts(name)
  first, second = (lines(folder, split, language) for language in languages)
  if len(first) != len(second):
    raise UserError(
      f"{folder}, split {split!r}: {len(first)} lines of {languages[0]} and {len(second)} of {languages[1]} "
      "are not in step: they must be as many"
    )
  return first, second


def open_pairs(request: Request) -> Arrays:
  name, features = request.name, request.features
  if unknown := set(features) - {"source", "target"}:
    raise UserError(f"{name} has source and target, no {min(unknown)!r}")
  both = dict(zip(("source", "target"), sentences(name, request.split), strict=True))
  encoded = {key: _encode(name, both[key], features[key].shape[0]) for key in features}
  left_out = tuple(
    f"the ends of {cut:,} sentences of {key!r}, which are longer than {features[key].shape[0] - 1:,} tokens"
    for key, (_, cut) in encoded.items()
    if cut
  )
  return Arrays({key: tokens for key, (tokens, _) in encoded.items()}, About(left_out=left_out))
