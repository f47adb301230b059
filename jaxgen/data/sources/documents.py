"""The data sets `documents:TOKENIZER:FILES` and `segments:TOKENIZER:FILES`: own documents for language models.

FILES is a text file, whose documents stand between empty lines; a folder or a pattern such as "notes/*.txt", of which
each text file is a document; or files of JSON lines, each line a document, whose text is the field after a hash mark,
"data/*.jsonl#text". TOKENIZER is the number of tokens of one that is trained on the split "train", or a published one
(`data.sources.tokenizer`). The split "train" is the first nine tenths of the documents, "test" the rest.

`documents` gives rows of several documents, each ended by a token, one after the other until a row is full:

    {"tokens": int32 [length], "documents": int32 [length]}     0: padding; 1, 2, ..: the number of a token's document

A document that does not fit into what is left of a row begins a new row; one that is longer than a row is cut into
several documents. `segments` gives BERT's pairs, [CLS] first [SEP] second [SEP], of sentences, which are lines:

    {"tokens": int32 [length], "types": int32 [length], "label": int32 []}

Half of the seconds follow their firsts (label 0) and half are of another document (1), drawn anew in every epoch.
"""

import functools
import glob
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from jaxgen.core.errors import NoSplit, UserError
from jaxgen.data.sources import bpe, tokenizer
from jaxgen.data.sources.base import About, Arrays, Example, Examples, Request, json_of, text_of
from jaxgen.data.sources.text import TRAIN_SHARE

PACKED = ("<pad>", "<end>")  # of a tokenizer of bytes that is trained on the documents


def read(pattern: str) -> list[str]:
  """The documents of files, see above; empty ones are left out.

  Raises:
    UserError: no such files, files that are no text or no JSON lines with the field, or nothing in them.
  """
  pattern, _, field = pattern.partition("#")
  whole = Path(pattern).expanduser()
  if whole.is_dir():
    paths = sorted(path for path in whole.rglob("*") if path.is_file() and not path.name.startswith("."))
  else:
    paths = [whole] if whole.is_file() else sorted(map(Path, glob.glob(str(whole), recursive=True)))
  if not paths:
    raise UserError(f"there are no files {pattern}: give a text file, a folder, or a pattern such as notes/*.txt")
  found = []
  for path in paths:
    text = text_of(path)
    if path.suffix == ".jsonl":
      found += _field(path, text, field)
    else:
      found += text.replace("\r\n", "\n").split("\n\n") if path == whole else [text]
  found = [document.replace("\r\n", "\n").strip("\n") for document in found if document.strip()]
  if not found:
    raise UserError(f"{pattern} has no document with a word in it: use other files")
  return found


def _field(path: Path, text: str, field: str) -> list[str]:
  if not field:
    raise UserError(f"{path} is of JSON lines: say which field is the text, {path}#text for one")
  found = []
  for number, line in enumerate(text.split("\n"), 1):
    if not line.strip():
      continue
    try:
      value = json_of(line)[field]
      if not isinstance(value, str):
        raise TypeError
    except (ValueError, KeyError, TypeError):
      raise UserError(f"{path}, line {number}, is not a JSON object whose {field!r} is a Unicode text") from None
    found.append(value)
  return found


def _parts(name: str) -> tuple[str, str, str]:
  """(kind, tokenizer, files)."""
  kind, _, rest = name.partition(":")
  which, _, files = rest.partition(":")
  if not which or not files:
    raise UserError(f"{name!r} is not {kind}:TOKENIZER:FILES: {kind}:2000:notes/*.txt is one")
  return kind, which, files


@functools.lru_cache(maxsize=4)
def splits(files: str) -> dict[str, list[str]]:
  """The documents by split.

  Raises:
    UserError: there is only one, which leaves nothing to train on, or they cannot be read.
  """
  found = read(files)
  if len(found) < 2:
    raise UserError(f"{files} is one document, and both splits take one: put empty lines between those of a text file")
  cut = int(TRAIN_SHARE * len(found))
  return {"train": found[:cut], "test": found[cut:]}


@functools.lru_cache(maxsize=4)
def tokens_of(name: str):
  """The `tokenizers.Tokenizer` of a data set.

  Raises:
    UserError: it cannot be read, or the documents do not make so many tokens.
  """
  kind, which, files = _parts(name)
  if not which.isdecimal():
    return tokenizer.opened(which)
  text = splits(files)["train"]
  if kind == "segments":
    return tokenizer.trained(text, int(which), Path(files))
  return bpe.trained(text, int(which), Path(files), special=PACKED, prefix_space=False)


def end_of(name: str) -> int:
  """The token that ends a document.

  Raises:
    UserError: a published tokenizer has none of the end tokens that jaxgen knows.
  """
  found = tokens_of(name)
  for mark in (PACKED[1], "<|endoftext|>", "</s>", "[SEP]"):
    if (number := found.token_to_id(mark)) is not None:
      return number
  raise UserError(f"the tokenizer of {name} has no token that ends a document, such as <|endoftext|>: use another one")


def _checked(request: Request, names: set[str]) -> int:
  """The length of an example."""
  if request.split not in ("train", "test"):
    raise NoSplit(f"{request.name} has no split {request.split!r}: it has train (the first nine tenths) and test")
  if unknown := set(request.features) - names:
    raise UserError(f"{request.name} has {', '.join(sorted(names))}, and no {min(unknown)!r}")
  return request.features["tokens"].shape[0]


def open_documents(request: Request) -> Arrays:
  length, end = _checked(request, {"tokens", "documents"}), end_of(request.name)
  texts = splits(_parts(request.name)[2])[request.split]
  encoded = tokens_of(request.name).encode_batch(texts, add_special_tokens=False)
  tokens, documents = packed([[*row.ids, end] for row in encoded], length)
  source = Arrays({"tokens": tokens, "documents": documents})
  source.vocabulary = tokens_of(request.name).get_vocab_size()
  return source


def packed(
  rows: list[list[int]], length: int, pad: int = 0
) -> tuple[Int[np.ndarray, "n {length}"], Int[np.ndarray, "n {length}"]]:
  """(tokens, the number of each token's document in its row, 0 for padding), documents one after the other."""
  pieces = [row[i : i + length] for row in rows for i in range(0, len(row), length)]
  filled, room = [], 0
  for piece in pieces:
    if len(piece) > room:
      filled.append([])
      room = length
    filled[-1].append(piece)
    room -= len(piece)
  tokens, documents = (np.full((len(filled), length), value, np.int32) for value in (pad, 0))
  for i, row in enumerate(filled):
    whole = [token for piece in row for token in piece]
    tokens[i, : len(whole)] = whole
    documents[i, : len(whole)] = np.repeat(np.arange(1, len(row) + 1), [len(piece) for piece in row])
  return tokens, documents


class Segments:
  """A source of BERT's pairs. Two numbers are drawn for each: whether the second follows, and which it is if not."""

  in_memory, draws = True, 2

  def __init__(self, documents: list[list[list[int]]], length: int, marks: tokenizer.Marks, vocabulary: int):
    self.length, self.marks, self.vocabulary = length, marks, vocabulary
    self.documents = [lines for document in documents if (lines := [line for line in document if line])]
    if len(self.documents) < 2:
      raise UserError("pairs of segments take at least two documents: those of one file stand between empty lines")
    self.places = [(d, s) for d, lines in enumerate(self.documents) for s in range(len(lines))]
    self.firsts = [(d, s) for d, s in self.places if s + 1 < len(self.documents[d])]
    if not self.firsts:
      raise UserError("pairs of segments take documents of several lines, and each of these has one: put them together")
    self.before = np.cumsum([0, *map(len, self.documents)])
    flat = [marks.pad, marks.start, marks.end, *(t for lines in self.documents for line in lines for t in line)]
    # What examples may have, in the shares that are drawn.
    self.arrays = {
      "tokens": np.array(flat, np.int32),
      "types": np.arange(2, dtype=np.int32),
      "label": np.arange(len(self.firsts)) % 2,
    }
    self.about = About()

  def __len__(self) -> int:
    return len(self.firsts)

  def __getitem__(self, index: int) -> Example:
    return {name: array[0] for name, array in self.gather(np.array([index])).items()}

  def gather(self, indices: Int[np.ndarray, "n"], uniform: Float[np.ndarray, "n 2"] | None = None) -> Examples:
    """Without numbers that are drawn, an example's are a function of its index: an evaluation's are always the same."""
    if uniform is None:
      uniform = np.stack([np.random.default_rng(int(index)).random(2) for index in indices])
    examples = [self._pair(*self.firsts[index], *draw) for index, draw in zip(indices, uniform, strict=True)]
    return {name: np.stack([example[name] for example in examples]) for name in ("tokens", "types", "label")}

  def _pair(self, document: int, sentence: int, coin: float, other: float) -> Example:
    room = self.length - 3
    lines = self.documents[document]
    first, next_sentence = self._from(lines[:-1], sentence, room // 2)
    follows = coin < 0.5
    if follows:
      second, _ = self._from(lines, next_sentence, room - len(first))
    else:
      place = int(other * (len(self.places) - len(lines)))
      place += len(lines) * (place >= self.before[document])  # those of this document are passed over
      where, sentence = self.places[place]
      second, _ = self._from(self.documents[where], sentence, room - len(first))
    marks = self.marks
    pair = [marks.start, *first, marks.end, *second, marks.end]
    tokens, types = np.full(self.length, marks.pad, np.int32), np.zeros(self.length, np.int32)
    tokens[: len(pair)], types[len(first) + 2 : len(pair)] = pair, 1
    return {"tokens": tokens, "types": types, "label": np.int32(not follows)}

  @staticmethod
  def _from(lines: list[list[int]], sentence: int, room: int) -> tuple[list[int], int]:
    """(whole sentences from this one on, or its beginning if it does not fit; the next one's number)."""
    found = lines[sentence][:room]
    sentence += 1
    while sentence < len(lines) and len(found) + len(lines[sentence]) <= room:
      found = found + lines[sentence]
      sentence += 1
    return found, sentence


def open_segments(request: Request) -> Segments:
  length, name = _checked(request, {"tokens", "types", "label"}), request.name
  _, which, files = _parts(name)
  encode = tokens_of(name).encode_batch
  texts = splits(files)[request.split]
  documents = [[row.ids for row in encode(text.split("\n"), add_special_tokens=False)] for text in texts]
  marks = tokenizer.marks(None if which.isdecimal() else which)
  return Segments(documents, length, marks, tokens_of(name).get_vocab_size())
