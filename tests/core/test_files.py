"""Files are there whole or not at all."""

import os

import pytest

from jaxgen.core import files


def test_text_and_bytes_are_written_over_what_was_there(tmp_path):
  path = tmp_path / "new" / "folder" / "x"
  files.write(path, "naïve\n")
  assert path.read_bytes() == b"na\xc3\xafve\n"
  files.write(str(path), b"\x00")
  assert path.read_bytes() == b"\x00"
  assert [f.name for f in path.parent.iterdir()] == ["x"]


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
  path = tmp_path / "x"
  files.write(path, "old")

  def full(*args):
    raise OSError("no space")

  monkeypatch.setattr(os, "replace", full)
  with pytest.raises(OSError, match="no space"):
    files.write(path, "new")
  assert path.read_text() == "old"
  assert [f.name for f in tmp_path.iterdir()] == ["x"]
