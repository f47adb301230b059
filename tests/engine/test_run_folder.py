"""A run's folder that is damaged, or lies where it cannot be written or locked."""

import errno
import fcntl
import json
import pathlib

import pytest

from jaxgen.core.errors import UserError
from jaxgen.engine.folder import Folder

GOOD = {"config": "tiny", "arguments": {}, "seed": 0, "sessions": []}


@pytest.mark.parametrize(
  ("contents", "match"),
  [
    (b"{}", "is damaged: it does not say the run's config; put back a copy"),
    (b"[]", "does not say the run's config"),
    (b"3", "does not say the run's config"),
    (b"\xff\xfe{", "cannot be read: 'utf-8' codec"),
    (b'{"config": "t', "cannot be read: Unterminated string"),
    (json.dumps({**GOOD, "arguments": []}).encode(), "does not say the run's arguments"),
    (json.dumps({**GOOD, "seed": "0"}).encode(), "does not say the run's seed"),
    (json.dumps({**GOOD, "sessions": {}}).encode(), "does not say the run's sessions"),
  ],
)
def test_a_damaged_run_json(tmp_path, contents, match):
  (tmp_path / "run.json").write_bytes(contents)
  with pytest.raises(UserError, match=match):
    Folder(tmp_path).info()


def test_a_run_json_without_sessions_begins_them(tmp_path):
  Folder(tmp_path).write_info({k: v for k, v in GOOD.items() if k != "sessions"})
  assert Folder(tmp_path).info() == GOOD


def test_damaged_lines_of_the_metrics_are_left_out_and_counted(tmp_path):
  folder = Folder(tmp_path)
  good = [{"step": step, "kind": kind, "x": 0.5} for step in (5, 10) for kind in ("train", "evaluate")]
  for line in good:
    folder.append_metrics(line)
  with open(tmp_path / "metrics.jsonl", "ab") as file:
    file.write(
      b'3\n[1]\n\xff\xfe\n{"kind": "train"}\n{"step": "7", "kind": "train"}\n{"step": 7, "kind": 1}\n{"step": 12, "k'
    )
  assert folder.metrics() == good
  assert folder.evaluation(10) == {"x": 0.5}
  assert folder.keep_metrics_until(5) == 6
  assert folder.metrics() == good[:2]
  assert folder.keep_metrics_until(5) == 0


def test_where_no_run_can_be_written(tmp_path):
  (tmp_path / "file").write_text("")
  for path in (tmp_path / "file", tmp_path / "file" / "run", tmp_path / ("x" * 300)):
    with pytest.raises(UserError, match="no run can be written to .*: choose another --runs or --name"):
      Folder(path).lock()


def test_a_file_system_without_locks_is_not_another_process(tmp_path, monkeypatch):
  def refuse(number):
    def flock(*args):
      raise OSError(number, "No locks available")

    return flock

  monkeypatch.setattr(fcntl, "flock", refuse(errno.ENOLCK))
  assert "this file system has no locks (No locks available)" in Folder(tmp_path).lock()
  monkeypatch.setattr(fcntl, "flock", refuse(errno.EWOULDBLOCK))
  with pytest.raises(UserError, match="is being written by another process"):
    Folder(tmp_path).lock()


@pytest.mark.parametrize("path", ["gs://bucket/runs/x", "s3://bucket/x", pathlib.Path("gs://bucket") / "x"])
def test_addresses_on_object_stores_are_refused_and_not_made_folders_here(path):
  with pytest.raises(UserError, match="on an object store, where runs cannot be written: give a folder"):
    Folder(path)
