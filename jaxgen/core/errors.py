"""The errors that the command line turns into one sentence and an exit status."""

import errno
from collections.abc import Sequence


class UserError(Exception):
  """Something that the user gave cannot be used. The message is one sentence that names the thing and the way out."""


class Stopped(Exception):
  """Work was stopped by a signal. The message says what is saved; `code`, 128 + the signal, is the exit status."""

  def __init__(self, message: str, signum: int):
    super().__init__(message)
    self.code = 128 + signum


def is_disk_full(error: BaseException | None) -> bool:
  """Whether an error, or one that it came from, is that of a full disk; TensorStore and Orbax wrap the system's."""
  while error is not None:
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
      return True
    if any(text in str(error) for text in ("ENOSPC", "No space left", "EDQUOT", "Disk quota exceeded")):
      return True
    error = error.__cause__ or error.__context__
  return False


def check_sizes(what: str, least: int = 1, **sizes: int | Sequence[int]) -> None:
  """Raises a UserError where a size, or one of several under the same name, is below the least.

  check_sizes("MADE", hidden=(500, 0))    MADE has hidden=(500, 0): it takes 1 or more
  """
  for name, size in sizes.items():
    if any(each < least for each in (size if isinstance(size, Sequence) else [size])):
      raise UserError(f"{what} has {name}={size}: it takes {least} or more")
