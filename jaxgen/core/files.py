"""Files that are written completely or not at all."""

import contextlib
import os
import pathlib
import re
import secrets
from collections.abc import Iterator
from typing import BinaryIO


def write(path: str | os.PathLike, contents: bytes | str) -> None:
  """Replaces a file's contents; whatever happens, the file has the old or the new ones. Makes its folder if needed."""
  with written(path) as file:
    file.write(contents.encode() if isinstance(contents, str) else contents)


@contextlib.contextmanager
def written(path: str | os.PathLike) -> Iterator[BinaryIO]:
  """A file that replaces `path` when the block ends, and is removed if the block raises.

  Until then it has a random name beside `path`, and no existing file or link of that name is followed. Its contents are
  on the disk before it is renamed, so that a power cut leaves no empty file.
  """
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(_temporary_name())
  file = open(temporary, "xb")  # noqa: SIM115 - closed before it is renamed
  try:
    with file:
      yield file
    _sync(temporary)  # by its name: a library that was told it may have written another file under it
    os.replace(temporary, path)
    with contextlib.suppress(OSError):  # not every file system keeps the names of a folder so
      _sync(path.parent)
  finally:
    temporary.unlink(missing_ok=True)


def _temporary_name() -> str:
  return f".{secrets.token_hex(8)}.part"  # not longer than names may be, however long the file's own is


def remove_half_written(folder: pathlib.Path) -> None:
  """Removes what `written` left in a folder when its process was killed. No other process may be writing there."""
  for path in folder.glob(".*.part"):
    if re.fullmatch(r"\.[0-9a-f]{16}\.part", path.name):
      path.unlink()


def append(path: str | os.PathLike, text: str) -> None:
  """Adds lines to a file in one piece, so that lines of several processes do not mix. Makes its folder if needed.

  If the file's last line was cut short, it is ended first, so that only that line is lost.
  """
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  with open(path, "a+b", buffering=0) as file:
    if file.seek(0, os.SEEK_END):
      file.seek(-1, os.SEEK_END)
      text = text if file.read(1) == b"\n" else f"\n{text}"
    rest = text.encode()
    while rest:  # a disk that is nearly full takes a part, and then raises
      rest = rest[file.write(rest) :]
    os.fsync(file.fileno())


def _sync(path: pathlib.Path) -> None:
  """Puts a file, or the names in a folder, on the disk."""
  handle = os.open(path, os.O_RDONLY)
  try:
    os.fsync(handle)
  finally:
    os.close(handle)
