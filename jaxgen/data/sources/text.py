"""The data sets `text:chars:FILE`, `text:SIZE:FILE` and `text:TOKENIZER:FILE`: windows of one text.

    {"tokens": int32 [length + 1]}

In a window, `length` tokens are predicted, each after at least one other. Tokens are characters, numbered in the order
of their code points; or SIZE of byte pair encoding, trained on the split "train"; or those of a published tokenizer, a
file or folder (`data.sources.tokenizer`). The split "train" is the first nine tenths of the characters, with a window
from every token on; the rest is "test", whose windows overlap by one token, so that every token is predicted once.
"""

import functools
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from jaxgen.core.errors import NoSplit, UserError
from jaxgen.data.sources import bpe, tokenizer
from jaxgen.data.sources.base import About, Examples, Request, text_of

TRAIN_SHARE = 0.9  # of a document, its beginning


class Codec(NamedTuple):
  """A tokenizer.

  Attributes:
    encode: text -> its tokens. A UserError names a character that has no token.
    decode: tokens -> their text. A UserError names a token that has no text.
    size: the number of different tokens.
  """

  encode: Callable[[str], Int[np.ndarray, "n"]]
  decode: Callable[[Int[np.ndarray, "n"]], str]
  size: int


def _document(name: str) -> tuple[str, Path, str]:
  """(kind of tokens, file, its text)."""
  kind, _, file = name.removeprefix("text:").partition(":")
  if not file or not (kind == "chars" or kind.isdecimal() or Path(kind).expanduser().exists()):
    raise UserError(
      f"{name!r} is neither text:chars:FILE nor text:SIZE:FILE nor text:TOKENIZER:FILE with a tokenizer's file: "
      "text:chars:tiny_shakespeare.txt is one"
    )
  path = Path(file).expanduser()
  return kind, path, text_of(path, f"there is no file {path.absolute()}, which the data set {name} names")


def _splits(text: str) -> dict[str, str]:
  cut = int(TRAIN_SHARE * len(text))
  return {"train": text[:cut], "test": text[cut:]}


@functools.lru_cache(maxsize=4)
def codec(name: str) -> Codec:
  """How a document's text becomes tokens, and back. With a published tokenizer the text itself is not read."""
  kind = name.split(":")[1]
  if kind != "chars" and not kind.isdecimal() and Path(kind).expanduser().exists():
    return published(tokenizer.opened(kind), Path(kind))
  kind, path, text = _document(name)
  return _characters(text, path) if kind == "chars" else _pieces(_splits(text)["train"], int(kind), path)


def _checked(tokens: Int[np.ndarray, "n"], count: int, path: Path) -> list[int]:
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

  decode = lambda tokens: "".join(letters[token] for token in _checked(tokens, len(letters), path))
  return Codec(encode, decode, len(letters))


def _pieces(text: str, size: int, path: Path) -> Codec:
  lines = io.StringIO(text, newline="\n").readlines()  # ended by line feeds alone, unlike those of `str.splitlines`
  return published(bpe.trained(lines, size, path, special=(), prefix_space=False), path)


def published(pieces: Any, path: Path) -> Codec:
  """The codec of a `tokenizers.Tokenizer`; `path` is its file, for error messages."""
  size = pieces.get_vocab_size()
  encode = lambda text: np.array(pieces.encode(text, add_special_tokens=False).ids, np.int32)
  return Codec(encode, lambda tokens: pieces.decode(_checked(tokens, size, path)), size)


class Windows:
  """A source of `width` tokens in a row, the i-th from token i * stride on."""

  in_memory, draws = True, 0

  def __init__(self, tokens: Int[np.ndarray, "n"], width: int, stride: int, vocabulary: int):
    self.tokens, self.width, self.stride, self.vocabulary = tokens, width, stride, vocabulary
    self.arrays = {"tokens": tokens}  # all values that examples have
    rest = (len(tokens) - width) % stride
    self.about = About(left_out=(f"the last {rest:,} tokens, fewer than a window of {width:,} takes",) if rest else ())

  def __len__(self) -> int:
    return max(0, (len(self.tokens) - self.width) // self.stride + 1)

  def __getitem__(self, index: int) -> dict[str, np.ndarray]:
    return {name: array[0] for name, array in self.gather(np.array([index])).items()}

  def gather(self, indices: Int[np.ndarray, "n"]) -> Examples:
    return {"tokens": self.tokens[indices[:, None] * self.stride + np.arange(self.width)]}


def open_text(request: Request) -> Windows:
  """Raises a UserError where the split is no window long."""
  name, split, features = request.name, request.split, request.features
  _, path, text = _document(name)
  if split not in ("train", "test"):
    raise NoSplit(f"{name} has no split {split!r}: it has train (the first nine tenths) and test")
  if set(features) != {"tokens"}:
    raise UserError(f"{name} has tokens, and no {min(set(features) - {'tokens'}, default='other')!r}")
  (width,) = features["tokens"].shape
  tokens = codec(name).encode(_splits(text)[split])
  if len(tokens) < width:
    raise UserError(
      f"{path} has {len(tokens)} tokens in its split {split!r}, and the config's windows take {width}: "
      "use a longer text or a shorter context"
    )
  return Windows(tokens, width, 1 if split == "train" else width - 1, codec(name).size)
