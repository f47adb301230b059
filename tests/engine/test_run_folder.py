"""A run's folder that is damaged, or lies where it cannot be written or locked."""

import json
import secrets

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


def test_lines_of_metrics_on_an_object_store_are_written_together_and_before_they_are_read():
  folder = Folder(f"memory://{secrets.token_hex(4)}/run")
  file = folder / "metrics.jsonl"
  for step in (5, 10):
    folder.append_metrics({"step": step, "kind": "train", "x": 0.5})
  assert not file.exists()
  folder.append_metrics({"step": 10, "kind": "evaluate", "x": 0.5})  # it says that something is done
  assert len(file.read_text().splitlines()) == 3
  folder.append_metrics({"step": 15, "kind": "train", "x": 0.5})
  assert [line["step"] for line in folder.metrics()] == [5, 10, 10, 15]
  assert folder.keep_metrics_until(5) == 0
  folder.append_metrics({"step": 10, "kind": "train", "x": 0.5})
  folder.flush()
  assert [json.loads(line)["step"] for line in file.read_text().splitlines()] == [5, 10]
