"""Tokenizers of published models, read by the library `tokenizers`, and WordPiece that is trained on a text.

A published tokenizer is `tokenizer.json`; or `vocab.txt`, WordPiece's; or `vocab.json` with `merges.txt` beside it,
byte pair encoding on bytes. For a folder, the first of these that it has is used.
"""

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from jaxgen.core.errors import UserError
from jaxgen.data.sources import bpe

WORDPIECES = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")  # BERT's names
FILES = ("tokenizer.json", "vocab.txt", "vocab.json")


class Marks(NamedTuple):
  """BERT's special tokens; those of a WordPiece that is trained here."""

  pad: int = 0
  unknown: int = 1
  start: int = 2
  end: int = 3
  mask: int = 4


@functools.lru_cache(maxsize=8)
def opened(path: str):
  """The `tokenizers.Tokenizer` of a published model; it neither cuts texts nor fills them up.

  Args:
    path: one of the files above, or the folder that they are in. `vocab.txt` is uncased unless `tokenizer_config.json`
      beside it says otherwise; without that, it is cased where a piece has a capital letter.

  Raises:
    UserError: there is no such file, it is of another kind, or it is damaged.
  """
  import tokenizers
  from tokenizers.implementations import BertWordPieceTokenizer, ByteLevelBPETokenizer

  given = Path(path).expanduser()
  file = next((given / name for name in FILES if (given / name).is_file()), given) if given.is_dir() else given
  if not file.is_file() or file.name not in FILES and file.suffix not in (".json", ".txt"):
    raise UserError(f"{given} is no tokenizer: give {', '.join(FILES)} with merges.txt, or the folder that has them")
  try:
    if file.suffix == ".txt":
      return BertWordPieceTokenizer(str(file), lowercase=not _cased(file))._tokenizer
    if file.name.endswith("vocab.json"):
      merges = file.with_name(file.name.replace("vocab.json", "merges.txt"))
      if not merges.is_file():
        raise UserError(f"{file} is half of a tokenizer: put {merges.name} beside it")
      return ByteLevelBPETokenizer(str(file), str(merges))._tokenizer
    found = tokenizers.Tokenizer.from_file(str(file))
    found.no_truncation()  # a file may ask for both, of whatever text it encodes
    found.no_padding()
    return found
  except UserError:
    raise
  except Exception as error:  # the library raises plain Exceptions
    raise UserError(f"{file} cannot be read as a tokenizer: {str(error).splitlines()[0]}") from error


def _cased(vocabulary: Path) -> bool:
  config = vocabulary.with_name("tokenizer_config.json")
  if config.is_file():
    said = json.loads(config.read_text()).get("do_lower_case")
    if said is not None:
      return not said
  pieces = vocabulary.read_text(encoding="utf-8").splitlines()
  return any(piece != piece.lower() for piece in pieces if not (piece.startswith("[") and piece.endswith("]")))


def marks(tokenizer: str | None) -> Marks:
  """BERT's special tokens in a published tokenizer, or in one that is trained here (None).

  Raises:
    UserError: the tokenizer cannot be read, or lacks one of them.
  """
  if tokenizer is None:
    return Marks()
  found = [opened(tokenizer).token_to_id(name) for name in WORDPIECES]
  if None in found:
    raise UserError(f"{tokenizer} has no token {WORDPIECES[found.index(None)]}: BERT's tokenizers have it")
  return Marks(*found)


def trained(text: Sequence[str], size: int, source: Path):
  """WordPiece of `size` tokens, uncased, trained on `text` or from the cache; see `data.sources.bpe.trained`."""
  return bpe.trained(text, size, source, special=WORDPIECES, prefix_space=False, pieces="words")
