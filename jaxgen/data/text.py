"""Text in pairs, for translation: files of lines, cut into tokens by byte pair encoding.

A folder holds, for each split and language, a file of one sentence a line, the lines of two languages in step:
`train.en`, `train.de`, `val.en`, ... or the same packed, `train.en.gz`. The data set `pairs:LANGUAGES:SIZE:DIR`,
`pairs:en-de:8000:data/multi30k`, gives

    {"source": int32 [S], "target": int32 [T]}

tokens of the first and of the second language, each sequence ended by END and then filled with PAD. One vocabulary of
SIZE tokens serves both; it is trained on the split "train" (Sennrich et al. 2016, https://arxiv.org/abs/1508.07909, on
bytes, so that no character is unknown) by the library `tokenizers`, and kept in jaxgen's cache folder under the SHA-256
of what it was trained on.
"""

import functools
import gzip
import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Int

from jaxgen.data.dataset import Dataset
from jaxgen.data.sources import Examples, Features
from jaxgen.errors import UserError

PAD, START, END = 0, 1, 2
SPECIAL = ("<pad>", "<start>", "<end>")


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
  return Dataset(name, {"source": tokens, "target": tokens}, train=train, test=test)


def _parts(name: str) -> tuple[tuple[str, str], int, Path]:
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
  try:
    text = gzip.decompress(path.read_bytes()) if path == packed else path.read_bytes()
    return text.decode("utf-8").splitlines()
  except FileNotFoundError:
    raise UserError(f"there is no file {plain.absolute()}, nor one with .gz, of the split {split!r}") from None
  except (OSError, EOFError, UnicodeDecodeError) as error:
    raise UserError(f"{path} cannot be read as text: {error}") from error


@functools.lru_cache(maxsize=4)
def tokenizer(name: str):
  """The `tokenizers.Tokenizer` of a data set, trained or from the cache.

  Raises:
    UserError: the training text is missing, or so small that it does not make `SIZE` tokens.
  """
  from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

  from jaxgen.experiment import cache_folder

  languages, size, folder = _parts(name)
  text = [line for language in languages for line in lines(folder, "train", language)]
  digest = hashlib.sha256("\n".join([str(size), *text]).encode()).hexdigest()
  path = cache_folder() / "tokenizers" / f"{digest}.json"
  if path.is_file():
    return Tokenizer.from_file(str(path))
  made = Tokenizer(models.BPE())
  made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
  made.decoder = decoders.ByteLevel()
  alphabet = pre_tokenizers.ByteLevel.alphabet()
  made.train_from_iterator(
    text,
    trainers.BpeTrainer(vocab_size=size, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False),
  )
  if made.get_vocab_size() != size:
    raise UserError(
      f"{folder} makes {made.get_vocab_size()} tokens and not {size}: change the vocabulary to that number"
    )
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(f".{path.name}.{os.getpid()}")
  made.save(str(temporary))
  os.replace(temporary, path)
  return made


def encode(name: str, sentences: Iterable[str], length: int) -> Int[np.ndarray, "n {length}"]:
  """Tokens of sentences, each ended by END and filled with PAD."""
  rows = tokenizer(name).encode_batch(list(sentences), add_special_tokens=False)
  array = np.full((len(rows), length), PAD, np.int32)
  for i, row in enumerate(rows):
    ids = [*row.ids[: length - 1], END]
    array[i, : len(ids)] = ids
  return array


def decode(name: str, tokens: Int[np.ndarray, "n length"]) -> list[str]:
  """Sentences of tokens; each is read up to its END."""
  rows: Sequence[list[int]] = [row[: row.index(END)] if END in row else row for row in tokens.tolist()]
  return [text.strip() for text in tokenizer(name).decode_batch(list(rows), skip_special_tokens=True)]


def sentences(data: Dataset, split: str) -> tuple[list[str], list[str]]:
  """A split's sentences in both languages, as they are in the files. split: "train", "test", or a name of files.

  Raises:
    UserError: the two files are not in step.
  """
  languages, _, folder = _parts(data.name)
  split = {"train": data.train, "test": data.test}.get(split, split)
  first, second = (lines(folder, split, language) for language in languages)
  if len(first) != len(second):
    raise UserError(
      f"{folder}, split {split!r}: {len(first)} lines of {languages[0]} and {len(second)} of {languages[1]} "
      "are not in step: they must be as many"
    )
  return first, second


def read(name: str, split: str, features: Features) -> Examples:
  """A split's tokens, in arrays."""
  data = Dataset(name, features)
  return {
    key: encode(name, text, features[key].shape[0])
    for key, text in zip(("source", "target"), sentences(data, split), strict=True)
  }
