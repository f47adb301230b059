"""Byte pair encoding on bytes, so that no character is unknown: Sennrich et al. 2016, https://arxiv.org/abs/1508.07909.

It is trained by the library `tokenizers` and kept in jaxgen's cache folder, under the SHA-256 of what it was trained
on.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from jaxgen.core import files
from jaxgen.core.cache import cache_folder
from jaxgen.core.errors import UserError


def trained(text: Sequence[str], size: int, source: Path, *, special: tuple[str, ...], prefix_space: bool):
  """The `tokenizers.Tokenizer` trained on `text`, or from the cache.

  Args:
    text: lines.
    size: number of tokens.
    source: where the text is from, for what is said of it.
    special: the first tokens, which stand for nothing in the text.
    prefix_space: a line is read as if it began with a space, so that its first word is the same token as elsewhere.

  Raises:
    UserError: the text is so small that it does not make `size` tokens.
  """
  from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

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
