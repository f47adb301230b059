"""CLIP's tokenizer: byte pair encoding of lower-case words, from its published merges file.

Radford et al. 2021, https://arxiv.org/abs/2103.00020, section 2.4. The file is OpenAI's `bpe_simple_vocab_16e6.txt.gz`,
of whose lines it uses the first 48,894 after the heading, or transformers' `merges.txt`. Tokens are numbered as there:
256 bytes, the same at a word's end, the merges, START and END. Ids equal those of transformers' `CLIPTokenizer`, which
normalises text to Unicode's NFC and to lower case; OpenAI's own code repairs mojibake and HTML's entities first.
"""

import functools
import gzip
import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from jaxgen.core.errors import UserError

START, END = "<|startoftext|>", "<|endoftext|>"
MERGES = 49_152 - 256 - 2  # the most that count: their file has more
WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def _letters() -> list[str]:
  """A printable character for each byte, in the order of GPT-2's: the printable ones first, as themselves."""
  printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
  others = [byte for byte in range(256) if byte not in printable]
  return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(others))]


def _merges(path: Path) -> list[tuple[str, str]]:
  try:
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    lines = data.decode("utf-8").split("\n")
  except FileNotFoundError:
    raise UserError(f"there is no merges file {path.absolute()}: CLIP's tokenizer is read from one") from None
  except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
    raise UserError(f"{path} cannot be read as a merges file: {error}") from error
  lines = [line.removesuffix("\r") for line in lines]
  pairs = [tuple(line.split(" ")) for line in lines[1 if "#version" in lines[0] else 0 :] if line][:MERGES]
  if wrong := [pair for pair in pairs if len(pair) != 2]:
    raise UserError(f"{path} is no merges file: {' '.join(wrong[0])!r} is no pair of tokens with a space between them")
  return pairs


@functools.lru_cache(maxsize=2)
def tokenizer(file: str | Path):
  """The `tokenizers.Tokenizer` of a merges file.

  Raises:
    UserError: there is no such file, or it is no merges file.
  """
  path = Path(file).expanduser()
  merges, letters = _merges(path), _letters()
  words = [*letters, *(f"{letter}</w>" for letter in letters), *map("".join, merges), START, END]
  return _made(path, merges, {word: number for number, word in enumerate(words)})


def _made(path: Path, merges: Sequence[tuple[str, str]], vocabulary: Mapping[str, int]):
  """The `tokenizers.Tokenizer` of merges and the numbers of its tokens."""
  from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

  try:
    bpe = models.BPE(vocabulary, merges, end_of_word_suffix="</w>", unk_token=END, fuse_unk=False)
  except Exception as error:  # the library has one class for all that is wrong
    raise UserError(f"{path} is no merges file of CLIP's: {error}") from error
  made = Tokenizer(bpe)
  made.normalizer = normalizers.Sequence(
    [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
  )
  split = pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True)
  made.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False)])
  made.add_special_tokens([START, END])
  return made


class Reading(NamedTuple):
  """A tokenizer as transformers keeps it in a folder.

  Attributes:
    made: the `tokenizers.Tokenizer`.
    start, end, pad: the tokens that begin and end a text, and what follows it.
    length: the most tokens of a text, the first and the last included.
  """

  made: Any
  start: int
  end: int
  pad: int
  length: int


def reading(folder: str | Path) -> Reading:
  """The tokenizer of a folder with tokenizer.json, or with vocab.json and merges.txt, or of a merges file alone.

  Raises:
    UserError: there is none, or it cannot be read.
  """
  from tokenizers import Tokenizer

  folder = Path(folder).expanduser()
  if folder.is_file():
    made, said = tokenizer(folder), {}
  elif (folder / "tokenizer.json").is_file():
    try:
      made = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # the library has one class for all that is wrong
      raise UserError(f"{folder / 'tokenizer.json'} is no tokenizer: {error}") from error
    made.no_padding()
    made.no_truncation()
    said = _said(folder)
  elif (folder / "merges.txt").is_file() and (folder / "vocab.json").is_file():
    made, said = _made(folder, _merges(folder / "merges.txt"), _json(folder / "vocab.json")), _said(folder)
    if "pad_token" in said:  # transformers finds it in texts first: SD 2's and SDXL's is "!"
      made.add_special_tokens([said["pad_token"]])
  else:
    raise UserError(f"{folder} has no tokenizer: neither tokenizer.json nor vocab.json with merges.txt")
  names = {"bos_token": START, "eos_token": END, "pad_token": END} | said
  found = {name: made.token_to_id(names[name]) for name in ("bos_token", "eos_token", "pad_token")}
  if lacking := [names[name] for name, number in found.items() if number is None]:
    raise UserError(f"the tokenizer of {folder} lacks the token {lacking[0]!r}")
  return Reading(made, *found.values(), min(int(said.get("model_max_length", 77)), 10_000))


def _json(path: Path) -> dict[str, Any]:
  try:
    return json.loads(path.read_text("utf-8"))
  except (OSError, ValueError) as error:
    raise UserError(f"{path} cannot be read: {error}") from error


def _said(folder: Path) -> dict[str, Any]:
  """Special tokens and the length by the files beside a tokenizer."""
  said: dict[str, Any] = {}
  for name in ("special_tokens_map.json", "tokenizer_config.json"):
    if (folder / name).is_file():
      said |= _json(folder / name)
  return {name: value.get("content") if isinstance(value, dict) else value for name, value in said.items() if value}


def encode(file: str | Path, texts: Sequence[str], length: int) -> tuple[Int[np.ndarray, "n {length}"], int]:
  """(START, a text's tokens, END, filled with zeros as in OpenAI's code; how many texts lost their end).

  Args:
    file: the merges file.
    texts: the texts.
    length: tokens of a row; CLIP's is 77.
  """
  made = tokenizer(file)
  start, end = made.token_to_id(START), made.token_to_id(END)
  return framed(made, texts, length, start, end, 0)


def framed(made: Any, texts: Sequence[str], length: int, start: int, end: int, pad: int):
  """(start, a text's tokens, end, filled with pad, int32 [n, length]; how many texts lost their end).

  Args:
    made: the `tokenizers.Tokenizer`.

  Raises:
    UserError: a row has no room for its first and last token.
  """
  if length < 2:
    raise UserError(f"a text's first and last token take 2, and a row has {length}: make it longer")
  rows = [row.ids for row in made.encode_batch(list(texts), add_special_tokens=False)]
  array = np.full((len(rows), length), pad, np.int32)
  for i, row in enumerate(rows):
    ids = [start, *row[: length - 2], end]
    array[i, : len(ids)] = ids
  return array, sum(len(row) > length - 2 for row in rows)
