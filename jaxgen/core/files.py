"""Files that are written completely or not at all, in folders of a file system and on object stores."""

import contextlib
import os
import pathlib
import re
import secrets
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from typing import BinaryIO

from jaxgen.core.remote import ADDRESS, Remote

Place = pathlib.Path | Remote
PathLike = str | os.PathLike | Remote

# Errors of reading an .npz that is damaged, truncated, another kind of file, or lacks an array.
NPZ_ERRORS = (
  OSError,
  ValueError,
  TypeError,
  KeyError,
  EOFError,
  NotImplementedError,
  zipfile.BadZipFile,
  zlib.error,
)


def place(path: PathLike) -> Place:
  """Where a file or folder is: in a file system, or on an object store, gs://bucket/... or s3://bucket/...

  Raises:
    UserError: as `Remote`.
  """
  return path if isinstance(path, Remote) else Remote(str(path)) if ADDRESS.match(str(path)) else pathlib.Path(path)


def is_remote(path: PathLike) -> bool:
  """Whether a path is on an object store."""
  return isinstance(place(path), Remote)


def write(path: PathLike, contents: bytes | str) -> None:
  """Replaces a file's contents atomically: it always has the old or the new ones. Makes its folder if needed."""
  contents, path = contents.encode() if isinstance(contents, str) else contents, place(path)
  if isinstance(path, Remote):
    path.put(contents)
    return
  with written(path) as file:
    file.write(contents)


def create(path: PathLike, contents: str) -> bool:
  """Writes a file if it does not exist, and returns whether it did so. If several processes try, one succeeds."""
  path = place(path)
  try:
    if isinstance(path, Remote):
      path.put(contents.encode(), new=True)
    else:
      with open(path, "x") as file:
        file.write(contents)
  except FileExistsError:
    return False
  return True


@contextlib.contextmanager
def written(path: PathLike) -> Iterator[BinaryIO]:
  """A file that replaces `path` when the block ends, and is removed if the block raises.

  Until then it has a random name beside `path`, and no existing file or link of that name is followed. Its contents are
  on the disk before it is renamed, so that a power cut leaves no empty file.
  """
  path = place(path)
  if isinstance(path, Remote):
    with tempfile.NamedTemporaryFile() as file:
      yield file
      file.flush()
      path.upload(file.name)
    return
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(_temporary_name())
  file = open(temporary, "xb")  # noqa: SIM115 - closed before it is renamed
  try:
    with file:
      yield file
    _sync(temporary)  # by its name, because a library that was given the name may have replaced the file
    os.replace(temporary, path)
    with contextlib.suppress(OSError):  # not every file system can sync a folder
      _sync(path.parent)
  finally:
    temporary.unlink(missing_ok=True)


def _temporary_name() -> str:
  return (
    f".{secrets.token_hex(8)}.part"  # its length does not depend on the file's name, which may have the largest length
  )


def remove_half_written(folder: Place) -> None:
  """Removes what `written` left in a folder when its process was killed. No other process may be writing there."""
  for path in folder.glob(".*.part"):
    if re.fullmatch(r"\.[0-9a-f]{16}\.part", path.name):
      path.unlink()


def append(path: PathLike, text: str) -> None:
  """Adds lines to a file in one piece, so that lines of several processes do not mix. Makes its folder if needed.

  If the file's last line lacks its end, it is ended first, so that only that line is lost.
  On an object store, which cannot append, the whole file is written anew: only one process at a time may do so.
  """
  path = place(path)
  if isinstance(path, Remote):
    path.put((path.read_bytes() if path.is_file() else b"") + text.encode())
    return
  path.parent.mkdir(parents=True, exist_ok=True)
  with open(path, "a+b", buffering=0) as file:
    if file.seek(0, os.SEEK_END):
      file.seek(-1, os.SEEK_END)
      text = text if file.read(1) == b"\n" else f"\n{text}"
    rest = text.encode()
    while rest:  # a nearly full disk writes a part, and the next call raises
      rest = rest[file.write(rest) :]
    os.fsync(file.fileno())


def sizes(folder: Place) -> dict[str, int]:
  """The files in a folder and in those within it: {path from there: bytes}."""
  if isinstance(folder, Remote):
    return folder.sizes()
  found = (path for path in sorted(folder.rglob("*")) if path.is_file())
  return {path.relative_to(folder).as_posix(): path.stat().st_size for path in found}


def remove_folder(folder: Place) -> None:
  """Removes a folder with its contents, as far as possible, and raises no error."""
  if isinstance(folder, Remote):
    with contextlib.suppress(OSError):
      folder.rmtree()
  else:
    shutil.rmtree(folder, ignore_errors=True)


def _sync(path: pathlib.Path) -> None:
  """Syncs a file, or the names in a folder, to the disk."""
  handle = os.open(path, os.O_RDONLY)
  try:
    os.fsync(handle)
  finally:
    os.close(handle)
