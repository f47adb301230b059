"""Byte pair encoding on bytes, so that no character is unknown: Sennrich et al. 2016, https://arxiv.org/abs/1508.07909;
and WordPiece, BERT's, which splits at spaces and marks first: Wu et al. 2016, https://arxiv.org/abs/1609.08144, section
4.1.

Both are trained by the library `tokenizers` and kept in jaxgen's cache folder, under the SHA-256 of what they were
trained on.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from jaxgen.core import files
from jaxgen.core.cache import cache_folder
from jaxgen.core.errors import UserError


def trained(
  text: Sequence[str],
  size: int,
  source: Path,
  *,
  special: tuple[str, ...],
  prefix_space: bool,
  pieces: Literal["bytes", "words"] = "bytes",
):
  """The `tokenizers.Tokenizer` trained on `text`, or from the cache.

  Args:
    text: lines.
    size: number of tokens.
    source: where the text is from, for error messages.
    special: the special tokens, which come first in the vocabulary.
    prefix_space: a line is read as if it began with a space, so that its first word is the same token as elsewhere.
    pieces: byte pair encoding of "bytes", or WordPiece of "words" in lower case, whose second special token is what is
      unknown.

  Raises:
    UserError: the text is so small that it does not make `size` tokens.
  """
  from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

  what = (size, special, prefix_space) if pieces == "bytes" else (size, special, pieces)
  digest = hashlib.sha256("\n".join([str(what), *text]).encode()).hexdigest()
  path = cache_folder() / "tokenizers" / f"{digest}.json"
  if path.is_file():
    return Tokenizer.from_file(str(path))
  options = dict(vocab_size=size, special_tokens=list(special), show_progress=False)
  if pieces == "bytes":
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), **options)
  else:
    made = Tokenizer(models.WordPiece(unk_token=special[1]))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(**options)
  made.train_from_iterator(text, trainer)
  if made.get_vocab_size() != size:
    raise UserError(
      f"{source} makes {made.get_vocab_size()} tokens and not {size}: change the vocabulary to that number"
    )
  files.write(path, made.to_str())
  return made
