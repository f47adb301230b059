"""The data sets `captions:TOKENIZER:PATH`: pictures and captions, {"image": uint8 [H, W, C], "tokens": int32 [T]}.

PATH is a list of pictures and captions: `.jsonl`, an object with "file" and "caption" a line, or `.tsv`, both with a
tab between them. Files are looked up from the list's folder. Or it is a folder with a list for each split,
DIR/<split>.jsonl or .tsv; or with shards as in `tar`, an image and a `.txt` beside it. A list or a shard alone is the
training split.

TOKENIZER is CLIP's merges file, the folder of a tokenizer as transformers writes CLIP's (see `clip_bpe`), or the number
of tokens of byte pair encoding that is trained on the captions of the training split, with PAD, START and END before
them, as in `pairs`. Pictures without a caption are left out and named.
"""

import io
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from jaxgen.core.errors import NoSplit, UserError
from jaxgen.data.sources import bpe, clip_bpe, tar
from jaxgen.data.sources.base import About, Decoded, Example, Fit, Request, Texts, json_of, text_of
from jaxgen.data.sources.folder import listed
from jaxgen.data.sources.images import decode
from jaxgen.data.sources.pairs import END, PAD, SPECIAL, START

LISTS = (".jsonl", ".tsv")


class Pairs(NamedTuple):
  """A split's pictures with captions.

  Attributes:
    names: what the pictures are called in errors; for files, their paths.
    captions: as many texts.
    rows: of a tar's split, the members' numbers in `index`; None for files.
    left_out: names of pictures without a caption.
  """

  names: Sequence[str]
  captions: list[str]
  rows: np.ndarray | None
  index: tar.Index | None
  left_out: list[str]


def parts(name: str) -> tuple[str, Path]:
  """(tokenizer, path)."""
  kind, _, path = name.removeprefix("captions:").partition(":")
  if not kind or not path:
    raise UserError(f"{name!r} is not captions:TOKENIZER:PATH: captions:bpe_simple_vocab_16e6.txt.gz:pairs is one")
  return kind, Path(path).expanduser()


def encode(kind: str, texts: Sequence[str], length: int, trained_on: Sequence[str], source: Path):
  """(tokens int32 [n, length], number of truncated texts); a row is START, the text's tokens, END, and padding.

  Args:
    kind: a merges file, the folder of a tokenizer of CLIP's, or a number of tokens.
    texts: the texts.
    length: tokens of a row.
    trained_on: texts, where `kind` is a number.
    source: where these are from.
  """
  if Path(kind).expanduser().is_dir():
    found = clip_bpe.reading(kind)
    return clip_bpe.framed(found.made, texts, length, found.start, found.end, found.pad)
  if not kind.isdecimal():
    return clip_bpe.encode(kind, texts, length)
  made = bpe.trained(trained_on, int(kind), source, special=SPECIAL, prefix_space=True)
  return clip_bpe.framed(made, texts, length, START, END, PAD)


def _list_of(path: Path, split: str) -> Path | None:
  """The list of a split; None if the path has shards.

  Raises:
    UserError: there is no such split.
  """
  if path.is_file():
    if path.suffix == ".tar":
      return None
    if path.suffix not in LISTS:
      raise UserError(f"{path} is no list of captions: it is {' or '.join(LISTS)}, or a .tar")
    if split != "train":
      raise NoSplit(f"{path} is one list, the training split: there is no split {split!r}")
    return path
  if not path.is_dir():
    raise UserError(f"there is no folder or file {path.absolute()} of pictures with captions")
  found = [path / f"{split}{suffix}" for suffix in LISTS if (path / f"{split}{suffix}").is_file()]
  if not found and any(file.suffix in LISTS for file in path.iterdir()):
    raise NoSplit(f"{path} has no list {split}.jsonl or {split}.tsv of the split {split!r}")
  return found[0] if found else None


def _lines(path: Path) -> list[tuple[str, str]]:
  """(file, caption) of each line."""
  rows = []
  for number, line in enumerate(text_of(path).split("\n"), 1):
    line = line.removesuffix("\r")
    if not line.strip():
      continue
    if path.suffix == ".tsv":
      file, tab, caption = line.partition("\t")
      rows.append((file, caption if tab else ""))
      continue
    try:
      row = json_of(line)
      file, caption = row["file"], row.get("caption")
    except (ValueError, KeyError, AttributeError, TypeError):
      raise UserError(f'line {number} of {path} is no {{"file": .., "caption": ..}}: {line[:60]}') from None
    if not isinstance(file, str) or not isinstance(caption, str | None):
      raise UserError(f"line {number} of {path}: file and caption are texts, and one of these is not: {line[:60]}")
    rows.append((file, caption or ""))
  return rows


def pairs_of(request: Request) -> Pairs:
  """A split's pictures and captions.

  Raises:
    UserError: there is no such split, a picture's file is missing, a caption cannot be read, or none is there.
  """
  _, path = parts(request.name)
  file = _list_of(path, request.split)
  if file is None:
    index, _, captions, _ = tar.split_of(request._replace(rest=str(path)))
    names, texts = [index.name(i) for i in range(len(captions))], []
    for name, caption in zip(names, captions, strict=True):
      try:
        texts.append((caption or b"").decode("utf-8").strip())
      except UnicodeDecodeError as error:
        raise UserError(f"the caption of {name} cannot be read as text: {error}") from error
  else:
    lines = [(file.parent / name, caption.strip()) for name, caption in _lines(file)]
    if missing := [name for name, _ in lines if not name.is_file()]:
      raise UserError(f"{file} names {len(missing):,} pictures that are not there, the first is {missing[0]}")
    index, names, texts = None, [str(name) for name, _ in lines], [caption for _, caption in lines]
  kept = [i for i, caption in enumerate(texts) if caption]
  if not kept:
    raise UserError(f"{request.name} has no picture with a caption in its split {request.split!r}")
  left_out = [name for name, caption in zip(names, texts, strict=True) if not caption]
  rows = None if index is None else np.array(kept)
  return Pairs(Texts(names[i] for i in kept), [texts[i] for i in kept], rows, index, left_out)


def open_captions(request: Request) -> Decoded:
  if unknown := set(request.features) - {"image", "tokens"}:
    raise UserError(f"{request.name} has an image and tokens, no {min(unknown)!r}")
  (kind, path), found = parts(request.name), pairs_of(request)
  (length,) = request.features["tokens"].shape
  train = found.captions
  if kind.isdecimal() and request.split != "train":
    train = pairs_of(request._replace(split="train")).captions
  tokens, cut = encode(kind, found.captions, length, train, path)
  left_out = [f"{len(found.left_out):,} without a caption: {listed(found.left_out)}"] if found.left_out else []
  left_out += [f"the ends of {cut:,} captions, which are longer than {length - 2:,} tokens"] if cut else []
  look = partial(_read, found._replace(captions=[], left_out=[]), tokens, request.features["image"].shape)
  return Decoded(len(tokens), partial(look, request.fit), {"tokens": tokens}, About((), tuple(left_out)), look)


def _read(
  found: Pairs,
  tokens: Int[np.ndarray, "n length"],
  shape: tuple[int, ...],
  fit: Fit,
  indices: list[int],
  uniform: np.ndarray | None = None,
) -> list[Example]:
  examples = []
  for n, i in enumerate(indices):
    name = found.names[i]
    file = name if found.index is None else io.BytesIO(found.index.bytes(int(found.rows[i])))
    drawn = None if uniform is None else uniform[n]
    examples.append({"image": decode(file, name, shape, fit, drawn), "tokens": tokens[i]})
  return examples
