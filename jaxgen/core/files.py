"""Files that are there whole or not at all."""

import os
import pathlib


def write(path: str | os.PathLike, contents: bytes | str) -> None:
  """Writes a file that is either the old or the new one, whatever happens; its folder is made if need be."""
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(f".{path.name}.{os.getpid()}")
  try:
    temporary.write_bytes(contents.encode() if isinstance(contents, str) else contents)
    os.replace(temporary, path)
  finally:
    temporary.unlink(missing_ok=True)
