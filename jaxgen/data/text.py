"""Text in tokens: documents for language models, and sentences in pairs for translation.

A document is one file, and the data set `text:chars:FILE` or `text:SIZE:FILE` gives windows of it,

    {"tokens": int32 [length + 1]}

so that there are `length` tokens to be said after at least one. Tokens are characters, numbered in the order of their
code points, or SIZE of byte pair encoding. The first nine tenths of the characters are the split "train", with a window
from every token on; the rest is "test", whose windows share one token each, so that every token is to be said once.

For pairs, a folder holds, for each split and language, a file of one sentence a line, the lines of two languages in
step: `train.en`, `train.de`, `val.en`, ... or the same packed, `train.en.gz`. The data set `pairs:LANGUAGES:SIZE:DIR`,
`pairs:en-de:8000:data/multi30k`, gives

    {"source": int32 [S], "target": int32 [T]}

tokens of the first and of the second language, each sequence ended by END and then filled with PAD. One vocabulary of
SIZE tokens serves both.

Byte pair encoding (Sennrich et al. 2016, https://arxiv.org/abs/1508.07909) is on bytes, so that no character is
unknown. It is trained on the split "train" by the library `tokenizers`, and kept in jaxgen's cache folder under the
SHA-256 of what it was trained on.
"""

import functools
import gzip
import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Int

from jaxgen.core import files
from jaxgen.core.errors import UserError
from jaxgen.data.dataset import Dataset
from jaxgen.data.sources import Examples, Features

PAD, START, END = 0, 1, 2
SPECIAL = ("<pad>", "<start>", "<end>")
TRAIN_SHARE = 0.9  # of a document, its beginning


# Documents ------------------------------------------------------------------------------------------------------------


def document(file: str | os.PathLike, *, length: int, vocabulary: int, characters: bool = True) -> Dataset:
  """Windows of a text.

  Args:
    length: tokens to be said in a window, which has one more.
    vocabulary: number of tokens.
    characters: tokens are characters, of which the whole text must have `vocabulary`; else byte pair encoding.
  """
  tokens = jax.ShapeDtypeStruct((length + 1,), np.int32)
  name = f"text:{'chars' if characters else vocabulary}:{file}"
  return Dataset(name, {"tokens": tokens}, levels=vocabulary)


class Codec(NamedTuple):
  """encode: text -> its tokens; a UserError names what has none. decode: tokens -> text; likewise. size: the number of
  tokens."""

  encode: Callable[[str], Int[np.ndarray, "n"]]
  decode: Callable[[Int[np.ndarray, "n"]], str]
  size: int


def _document(name: str) -> tuple[str, Path, str]:
  """(kind of tokens, file, its text)."""
  kind, _, file = name.removeprefix("text:").partition(":")
  if not file or not (kind == "chars" or kind.isdecimal()):
    raise UserError(f"{name!r} is neither text:chars:FILE nor text:SIZE:FILE: text:chars:tiny_shakespeare.txt is one")
  path = Path(file).expanduser()
  try:
    return kind, path, path.read_bytes().decode("utf-8")
  except FileNotFoundError:
    raise UserError(f"there is no file {path.absolute()}, which the data set {name} names") from None
  except (OSError, UnicodeDecodeError) as error:
    raise UserError(f"{path} cannot be read as text: {error}") from error


def _parts_of(text: str) -> dict[str, str]:
  """A document's splits."""
  cut = int(TRAIN_SHARE * len(text))
  return {"train": text[:cut], "test": text[cut:]}


@functools.lru_cache(maxsize=4)
def codec(name: str) -> Codec:
  """How a document's text becomes tokens, and back."""
  kind, path, text = _document(name)
  return _characters(text, path) if kind == "chars" else _pieces(_parts_of(text)["train"], int(kind), path)


def _known(tokens: Int[np.ndarray, "n"], count: int, path: Path) -> list[int]:
  tokens = tokens.tolist()
  if wrong := [token for token in tokens if not 0 <= token < count]:
    raise UserError(f"the token {wrong[0]} is none of the {count} of {path}: is the prompt in its tokens?")
  return tokens


def _characters(text: str, path: Path) -> Codec:
  letters = sorted(set(text))
  number = {letter: i for i, letter in enumerate(letters)}

  def encode(text: str) -> np.ndarray:
    if unknown := sorted(set(text) - number.keys()):
      raise UserError(f"{unknown[0]!r} is none of the {len(letters)} characters of {path}: leave it out")
    return np.array([number[letter] for letter in text], np.int32)

  decode = lambda tokens: "".join(letters[token] for token in _known(tokens, len(letters), path))
  return Codec(encode, decode, len(letters))


def _pieces(text: str, size: int, path: Path) -> Codec:
  made = _trained(text.splitlines(keepends=True), size, path, special=(), prefix_space=False)
  encode = lambda text: np.array(made.encode(text).ids, np.int32)
  return Codec(encode, lambda tokens: made.decode(_known(tokens, size, path)), size)


class Windows:
  """A source of `width` tokens in a row, the i-th from token i * stride on."""

  in_memory = True

  def __init__(self, tokens: Int[np.ndarray, "n"], width: int, stride: int, vocabulary: int):
    self.tokens, self.width, self.stride, self.vocabulary = tokens, width, stride, vocabulary
    self.arrays = {"tokens": tokens}  # all values that examples have

  def __len__(self) -> int:
    return max(0, (len(self.tokens) - self.width) // self.stride + 1)

  def __getitem__(self, index: int) -> dict[str, np.ndarray]:
    return {name: array[0] for name, array in self.gather(np.array([index])).items()}

  def gather(self, indices: Int[np.ndarray, "n"]) -> Examples:
    return {"tokens": self.tokens[indices[:, None] * self.stride + np.arange(self.width)]}


def open_document(name: str, split: str, features: Features) -> Windows:
  """Raises a UserError where the split is no window long."""
  kind, path, text = _document(name)
  if split not in ("train", "test"):
    raise UserError(f"{name} has no split {split!r}: it has train (the first nine tenths) and test")
  if set(features) != {"tokens"}:
    raise UserError(f"{name} has tokens, and no {min(set(features) - {'tokens'}, default='other')!r}")
  (width,) = features["tokens"].shape
  tokens = codec(name).encode(_parts_of(text)[split])
  if len(tokens) < width:
    raise UserError(
      f"{path} has {len(tokens)} tokens in its split {split!r}, and the config's windows take {width}: "
      "use a longer text or a shorter context"
    )
  return Windows(tokens, width, 1 if split == "train" else width - 1, codec(name).size)


def encode_prompts(name: str, prompts: Sequence[str]) -> Int[np.ndarray, "n length"]:
  """Tokens of texts of as many tokens each."""
  rows = [codec(name).encode(prompt) for prompt in prompts]
  if len({len(row) for row in rows}) > 1:
    raise UserError(f"prompts of {min(map(len, rows))} to {max(map(len, rows))} tokens: make them equally long")
  return np.stack(rows)


def render(name: str) -> Callable[[Any, Any], dict[str, bytes]]:
  """What shows samples, tokens [N, T] of a document's, as text: (samples, conditions) -> {".txt": ..}."""

  def show(samples: Int[np.ndarray, "n length"], conditions: Any) -> dict[str, bytes]:
    line = lambda i: f"{f' sample {i} ':-^80}\n"
    pages = [line(i) + codec(name).decode(row) for i, row in enumerate(samples)]
    return {".txt": ("\n".join(pages) + "\n").encode()}

  return show


# Pairs ----------------------------------------------------------------------------------------------------------------


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
  """The `tokenizers.Tokenizer` of a data set of pairs, trained or from the cache.

  Raises:
    UserError: the training text is missing, or so small that it does not make `SIZE` tokens.
  """
  languages, size, folder = _parts(name)
  text = [line for language in languages for line in lines(folder, "train", language)]
  return _trained(text, size, folder, special=SPECIAL, prefix_space=True)


def _trained(text: Sequence[str], size: int, source: Path, *, special: tuple[str, ...], prefix_space: bool):
  """Byte pair encoding, trained on `text`, or from the cache. source: where it is from, for what is said of it."""
  from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

  from jaxgen.core.cache import cache_folder

  digest = hashlib.sha256("\n".join([str((size, special, prefix_space)), *text]).encode()).hexdigest()
  path = cache_folder() / "tokenizers" / f"{digest}.json"
  if path.is_file():
    return Tokenizer.from_file(str(path))
  made = Tokenizer(models.BPE())
  made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
  made.decoder = decoders.ByteLevel()
  alphabet = pre_tokenizers.ByteLevel.alphabet()
  made.train_from_iterator(
    text,
    trainers.BpeTrainer(vocab_size=size, special_tokens=list(special), initial_alphabet=alphabet, show_progress=False),
  )
  if made.get_vocab_size() != size:
    raise UserError(
      f"{source} makes {made.get_vocab_size()} tokens and not {size}: change the vocabulary to that number"
    )
  files.write(path, made.to_str())
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
