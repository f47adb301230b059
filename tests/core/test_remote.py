"""Files on an object store: fsspec's in this process, which knows no folders and adds nothing to a file either."""

import secrets

import numpy as np
import pytest

from jaxgen.core import files
from jaxgen.core.errors import Stopped, UserError, in_words
from jaxgen.core.remote import Remote


@pytest.fixture
def bucket():
  return files.place(f"memory://{secrets.token_hex(4)}")


def test_addresses_whatever_pathlib_has_made_of_them(tmp_path):
  place = files.place("memory:/bucket//runs/x.npz")
  assert isinstance(place, Remote)
  assert (str(place), place.name, place.stem, place.suffix) == ("memory://bucket/runs/x.npz", "x.npz", "x", ".npz")
  assert place == files.place("memory://bucket") / "runs" / "x.npz"
  assert str(place.parent) == str(place.with_name("y").parent) == "memory://bucket/runs"
  assert not files.is_remote(tmp_path)
  assert not files.is_remote("runs/a:b")
  for address, match in (
    ("http://host/x", "neither a folder nor an address of an object store"),
    ("gs://", "names no bucket"),
  ):
    with pytest.raises(UserError, match=match):
      files.place(address)


def test_a_package_that_is_missing_is_named(monkeypatch):
  monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
  with pytest.raises(UserError, match=r"gs://bucket/x needs the package gcsfs, .*: pip install 'jaxgen\[gs\]'"):
    files.place("gs:/bucket/x")


def test_files_and_folders(bucket):
  assert not bucket.exists()
  assert list(bucket.glob("*")) == []
  files.write(bucket / "a" / "x.txt", "naïve\n")
  files.write(bucket / "a" / "x.txt", b"new\n")
  with files.written(bucket / "a" / "deep" / "y.npz") as file:
    np.savez(file, x=np.arange(3))
  assert (bucket / "a" / "x.txt").read_text() == "new\n"
  assert bucket.is_dir()
  assert not bucket.is_file()
  assert (bucket / "a" / "x.txt").is_file()
  assert [path.name for path in (bucket / "a").iterdir()] == ["deep", "x.txt"]
  files.write(bucket / "same" / "same", "")
  assert list((bucket / "same").iterdir()) == [bucket / "same" / "same"]
  (bucket / "same").rmtree()
  assert [path.name for path in (bucket / "a").glob("x.*")] == ["x.txt"]
  assert files.sizes(bucket)["a/x.txt"] == 4
  assert set(files.sizes(bucket)) == {"a/x.txt", "a/deep/y.npz"}
  files.append(bucket / "lines", "1\n")
  files.append(bucket / "lines", "2\n")
  assert (bucket / "lines").read_text() == "1\n2\n"
  assert files.create(bucket / "mine", "1")
  assert not files.create(bucket / "mine", "2")
  assert (bucket / "mine").read_text() == "1"
  (bucket / "mine").unlink()
  (bucket / "mine").unlink(missing_ok=True)
  with pytest.raises(FileNotFoundError):
    (bucket / "mine").unlink()
  files.remove_folder(bucket / "a")
  assert set(files.sizes(bucket)) == {"lines"}


def test_a_write_that_fails_leaves_the_old_file(bucket):
  files.write(bucket / "x", "old")

  def half():
    with files.written(bucket / "x") as file:
      file.write(b"half")
      raise KeyError

  with pytest.raises(KeyError):
    half()
  assert (bucket / "x").read_text() == "old"


def test_what_a_store_raises_is_an_error_of_the_system_in_words(bucket, monkeypatch):
  class NoCredentialsError(Exception):
    """As botocore's, which is no OSError."""

  def refuse(error):
    def cat_file(*_, **__):
      raise error

    monkeypatch.setattr(type(bucket._store), "cat_file", cat_file)

  for error, sentence in (
    (NoCredentialsError("Unable to locate credentials"), f"{bucket}/x: unable to locate credentials"),
    (PermissionError("Access Denied"), f"{bucket}/x: access denied: write somewhere else, or change its permissions"),
  ):
    refuse(error)
    with pytest.raises(OSError, match=str(error)) as raised:
      (bucket / "x").read_bytes()
    assert in_words(raised.value) == sentence
  refuse(Stopped("SIGTERM", 15))  # a signal's, which comes wherever the main thread is
  with pytest.raises(Stopped):
    (bucket / "x").read_bytes()
