"""Files on object stores, gs://bucket/... and s3://bucket/..., by fsspec.

An object is written completely or not at all, and cannot be appended to or renamed. A folder exists if it has files.
"""

import errno
import fnmatch
import functools
import importlib.util
import os
import re
from collections.abc import Callable, Iterator
from typing import Any

from jaxgen.core.errors import Stopped, UserError

# The package that fsspec needs for each kind of store; memory:// is a store within this process, for tests.
PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "memory": "fsspec"}
ADDRESS = re.compile(r"([a-z][a-z0-9+]+):/+(.*)")  # pathlib makes one slash of two


def _as_oserror(method: Callable) -> Callable:
  """Turns errors of fsspec, its stores and their connections into an OSError with the address and a reason."""

  @functools.wraps(method)
  def call(self, *arguments: Any, **options: Any) -> Any:
    try:
      return method(self, *arguments, **options)
    except (Stopped, UserError):
      raise
    except Exception as error:
      text = (str(error) or type(error).__name__).splitlines()[0]
      for kind, number in ((FileNotFoundError, errno.ENOENT), (FileExistsError, errno.EEXIST)):
        if isinstance(error, kind):
          raise kind(number, text, str(self)) from error
      number = errno.EACCES if isinstance(error, PermissionError) else errno.EREMOTEIO
      raise OSError(number, text, str(self)) from error

  return call


class Remote:
  """An address on an object store, used like a pathlib.Path; failures raise an OSError.

  Raises:
    UserError: the kind of store is none of PACKAGES, or its package is not installed.
  """

  def __init__(self, address: str):
    match = ADDRESS.fullmatch(address)
    if match is None or match[1] not in PACKAGES:
      raise UserError(f"{address} is neither a folder nor an address of an object store, gs://... or s3://...")
    self._scheme, self._key = match[1], re.sub("/+", "/", match[2]).strip("/")
    if not self._key:
      raise UserError(f"{address} names no bucket: {self._scheme}://BUCKET/FOLDER")
    if importlib.util.find_spec(PACKAGES[self._scheme]) is None:
      raise UserError(
        f"{self} needs the package {PACKAGES[self._scheme]}, which is not installed: "
        f"pip install 'jaxgen[{self._scheme}]'"
      )

  def __str__(self) -> str:
    return f"{self._scheme}://{self._key}"

  def __repr__(self) -> str:
    return f"Remote({str(self)!r})"

  def __eq__(self, other: object) -> bool:
    return isinstance(other, Remote) and str(self) == str(other)

  def __lt__(self, other: "Remote") -> bool:
    return str(self) < str(other)

  def __hash__(self) -> int:
    return hash(str(self))

  def __truediv__(self, name: str) -> "Remote":
    return Remote(f"{self}/{name}")

  @property
  def name(self) -> str:
    return self._key.rpartition("/")[2]

  @property
  def suffix(self) -> str:
    return os.path.splitext(self.name)[1]

  @property
  def stem(self) -> str:
    return os.path.splitext(self.name)[0]

  @property
  def parent(self) -> "Remote":
    """The folder that it is in; a bucket's is the bucket."""
    return Remote(f"{self._scheme}://{self._key.rpartition('/')[0] or self._key}")

  def with_name(self, name: str) -> "Remote":
    return self.parent / name

  def absolute(self) -> "Remote":
    return self

  def mkdir(self, *, parents: bool = True, exist_ok: bool = True) -> None:
    """Nothing: folders are made by what is put into them."""

  @property
  def _store(self) -> Any:
    import fsspec

    # Other processes write there, too, so an earlier listing may be out of date. Orbax's paths use the same stores.
    for name in ("s3", "gs", "gcs"):
      fsspec.config.conf.setdefault(name, {}).setdefault("use_listings_cache", False)
    os.environ.setdefault("EPATH_USE_TF", "false")  # Orbax's paths would use TensorFlow where it is installed
    return fsspec.filesystem(self._scheme)

  @_as_oserror
  def is_file(self) -> bool:
    return self._store.isfile(self._key)

  @_as_oserror
  def is_dir(self) -> bool:
    return self._store.isdir(self._key)

  @_as_oserror
  def exists(self) -> bool:
    return self._store.exists(self._key)

  @_as_oserror
  def iterdir(self) -> Iterator["Remote"]:
    paths = {path.strip("/") for path in self._store.ls(self._key, detail=False)} - {self._key}
    return iter([self / name for name in sorted({path.rpartition("/")[2] for path in paths} - {""})])

  def glob(self, pattern: str) -> Iterator["Remote"]:
    """The files of the folder itself whose names match."""
    try:
      return (path for path in self.iterdir() if fnmatch.fnmatchcase(path.name, pattern))
    except FileNotFoundError:
      return iter(())

  @_as_oserror
  def sizes(self) -> dict[str, int]:
    """The files in the folder and in those within it: {path from here: bytes}."""
    found = self._store.find(self._key, detail=True)
    return {path.strip("/").removeprefix(f"{self._key}/"): int(info["size"]) for path, info in found.items()}

  @_as_oserror
  def read_bytes(self) -> bytes:
    return self._store.cat_file(self._key)

  def read_text(self, encoding: str = "utf-8") -> str:
    return self.read_bytes().decode(encoding)

  @_as_oserror
  def put(self, contents: bytes, *, new: bool = False) -> None:
    """Writes the file; with `new`, raises FileExistsError if it exists."""
    self._store.pipe_file(self._key, contents, mode="create" if new else "overwrite")

  @_as_oserror
  def upload(self, file: str) -> None:
    """Writes a file that lies on this machine."""
    self._store.put_file(file, self._key)

  @_as_oserror
  def unlink(self, missing_ok: bool = False) -> None:
    if self._store.isfile(self._key):
      self._store.rm_file(self._key)
    elif not missing_ok:
      raise FileNotFoundError("there is no such file")

  @_as_oserror
  def rmtree(self) -> None:
    """Removes all files of the folder."""
    self._store.rm(self._key, recursive=True)
