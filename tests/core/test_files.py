"""Files are there whole or not at all."""

import ast
import os
import pathlib
import stat
from concurrent.futures import ThreadPoolExecutor

import conftest
import numpy as np
import pytest

from jaxgen.core import files


def test_text_and_bytes_are_written_over_what_was_there(tmp_path):
  path = tmp_path / "new" / "folder" / "x"
  files.write(path, "naïve\n")
  assert path.read_bytes() == b"na\xc3\xafve\n"
  files.write(str(path), b"\x00")
  assert path.read_bytes() == b"\x00"
  with files.written(path) as file:
    np.savez(file, x=np.arange(3))
  np.testing.assert_array_equal(np.load(path)["x"], [0, 1, 2])
  assert [f.name for f in path.parent.iterdir()] == ["x"]
  (path.parent / "others").touch()
  assert path.stat().st_mode == (path.parent / "others").stat().st_mode  # as readable as any file


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
  path = tmp_path / "x"
  files.write(path, "old")

  def half():
    with files.written(path) as file:
      file.write(b"half")
      raise KeyError

  with pytest.raises(KeyError):
    half()

  def full(*args):
    raise OSError("no space")

  for step in ("replace", "fsync"):
    with monkeypatch.context() as patch:
      patch.setattr(os, step, full)
      with pytest.raises(OSError, match="no space"):
        files.write(path, "new")
  assert path.read_text() == "old"
  assert [f.name for f in tmp_path.iterdir()] == ["x"]


def test_what_was_written_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
  done, fsync, replace = [], os.fsync, os.replace

  def note(handle):
    kind = "folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else f"file of {os.fstat(handle).st_size}"
    done.append(f"fsync of {kind}")
    fsync(handle)

  monkeypatch.setattr(os, "fsync", note)
  monkeypatch.setattr(os, "replace", lambda *paths: (done.append("rename"), replace(*paths)))
  files.write(tmp_path / "x", "four")
  assert done == ["fsync of file of 4", "rename", "fsync of folder"]


def test_the_temporary_name_cannot_be_prepared_by_others(tmp_path, monkeypatch):
  """Another name each time, which is not followed where it is a link, and is short enough for any file's name."""
  long, names = tmp_path / ("x" * 255), set()
  for _ in range(3):
    with files.written(long) as file:
      names.add(pathlib.Path(file.name).name)
  assert len(names) == 3
  assert not any(str(os.getpid()) == part for name in names for part in name.split("."))
  (tmp_path / "theirs").write_text("precious")

  def taken(count):
    (tmp_path / ".aa.part").symlink_to(tmp_path / "theirs")
    return "aa"

  monkeypatch.setattr(files.secrets, "token_hex", taken)
  with pytest.raises(FileExistsError):
    files.write(tmp_path / "y", "new")
  assert (tmp_path / "theirs").read_text() == "precious"


def test_lines_that_several_add_at_once_stay_whole(tmp_path):
  path = tmp_path / "new" / "x"
  with ThreadPoolExecutor(8) as pool:
    list(pool.map(lambda i: files.append(path, f"{i}" * 100 + "\n"), range(8)))
  assert sorted(path.read_text().splitlines()) == sorted(f"{i}" * 100 for i in range(8))
  path.write_text("whole\ncut")
  files.append(path, "next\n")
  assert path.read_text().splitlines() == ["whole", "cut", "next"]


def test_nothing_else_writes_files():
  """But for logs whose cut last line is dropped when they are read, a run's lock, and what is no file on a disk."""
  others = {
    "engine/claims.py: open(folder / 'lock', 'a+b', buffering=0)",
    "engine/folder.py: open(self / 'metrics.jsonl', 'a')",
    "throughput/chips.py: pathlib.Path('/proc/self/clear_refs').write_text('5')",
  }
  found = []
  for path in sorted((conftest.REPOSITORY / "jaxgen").rglob("*.py")):
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.Call) and _writes(node):
        found.append(f"{path.relative_to(conftest.REPOSITORY / 'jaxgen')}: {ast.unparse(node)}")
  assert {line for line in found if not line.startswith("core/files.py")} - others == set()
  assert any(line.startswith("core/files.py: open(temporary, 'xb')") for line in found)


def _writes(call: ast.Call) -> bool:
  """Whether a call may write a file by its path: `open` for writing, or a function that takes a path."""
  name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
  texts = [argument.value for argument in call.args if isinstance(argument, ast.Constant)]
  if name == "open":
    return any(isinstance(text, str) and set(text) & set("wax+") and len(text) < 4 for text in texts)
  return name in ("write_text", "write_bytes", "mkstemp", "NamedTemporaryFile", "mktemp", "tofile")
