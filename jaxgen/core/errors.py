"""The errors that the command line turns into one sentence and an exit status."""

import errno
import numbers
import os
import traceback
from collections.abc import Iterable, Sequence
from typing import Any


class UserError(Exception):
  """An input of the user is wrong. The message is one sentence that names it and says what to do."""


class TooSmall(UserError):
  """A size is 0 or less. The message may not know from which argument it comes."""


class NoSplit(UserError):
  """A data set lacks a split."""


class Stopped(Exception):
  """Work was stopped by a signal. The message says what is saved; `code`, 128 + the signal, is the exit status."""

  def __init__(self, message: str, signum: int):
    super().__init__(message)
    self.code = 128 + signum


def is_disk_full(error: BaseException | None) -> bool:
  """Whether an error, or one of its causes, is a full disk: TensorStore and Orbax wrap the system's error."""
  while error is not None:
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
      return True
    if any(text in str(error) for text in ("ENOSPC", "No space left", "EDQUOT", "Disk quota exceeded")):
      return True
    error = error.__cause__ or error.__context__
  return False


WAYS_OUT = {
  errno.ENAMETOOLONG: ": choose a shorter one",
  **dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM), ": write somewhere else, or change its permissions"),
}


def in_words(error: BaseException) -> str | None:
  """A sentence for an error of the system, its memory or its devices; None for any other error."""
  text = str(error)
  if is_disk_full(error):
    return "the disk is full: free some space and start again"
  if isinstance(error, OSError) and error.errno is not None:
    where = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
    return f"{where}{(error.strerror or os.strerror(error.errno)).lower()}{WAYS_OUT.get(error.errno, '')}"
  if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in text:
    return (
      f"out of memory ({text.splitlines()[0] if text else 'of the host'}): take a smaller batch, --microbatches where "
      "the config has it, --fsdp over several devices, or a smaller network"
    )
  frames = traceback.extract_tb(error.__traceback__)
  # If the plugin for a platform is missing, jax 0.10 raises an AssertionError.
  asserted = isinstance(error, AssertionError) and bool(frames) and frames[-1].filename.endswith("xla_bridge.py")
  if asserted or (isinstance(error, RuntimeError) and "Unable to initialize backend" in text):
    return (
      f"jax finds no device of the platforms in JAX_PLATFORMS={os.environ.get('JAX_PLATFORMS', '')}"
      f"{f' ({text.splitlines()[0]})' if text else ''}: unset it, or install jax for that device"
    )
  return None


def check_decays(decays: Iterable[Any]) -> None:
  """Raises a UserError if the decay of an average is a number outside [0, 1), with which it would not move."""
  for d in decays:
    if isinstance(d, numbers.Real) and not 0 <= d < 1:
      raise UserError(
        f"the decay of an average lies in [0, 1), and this is {d:g}: change it, or keep no average with None"
      )


def check_sizes(what: str, least: int = 1, **sizes: int | Sequence[int]) -> None:
  """Raises a UserError if a size, or one entry of a sequence of sizes, is below `least`; `TooSmall` if it is below 1.

  `check_sizes("MADE", hidden=(500, 0))` raises "MADE has hidden=(500, 0): it takes 1 or more".
  """
  for name, size in sizes.items():
    smallest = min(size if isinstance(size, Sequence) else [size], default=least)
    if smallest < least:
      kind = TooSmall if smallest < 1 else UserError
      raise kind(f"{what} has {name}={size}: it takes {least} or more")
