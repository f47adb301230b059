"""What watches a run: `on_metrics`, a profile, and loggers of other programs."""

import gzip
import json
import sqlite3
import sys

import pytest
import tiny

from jaxgen.core.errors import UserError
from jaxgen.engine import loggers, profiling
from jaxgen.engine import loop as training
from jaxgen.engine.config import load_config
from jaxgen.engine.folder import Folder
from jaxgen.engine.hashing import state_hash
from jaxgen.engine.run import Run, load


def make_run(folder, **arguments):
  return Run(Folder(folder / "run"), load_config(tiny.write(folder)), arguments, 0)


def quiet():
  return training.Progress(quiet=True)


def test_hooks_hear_every_line_and_a_profile_changes_no_bit(tmp_path):
  (tmp_path / "plain").mkdir()
  plain = make_run(tmp_path / "plain", steps=20)
  training.train(plain, quiet())
  run, heard, closed = make_run(tmp_path, steps=20), [], []

  class Listener:
    def __call__(self, step, kind, numbers):
      heard.append({"step": step, "kind": kind, **numbers})

    def close(self):
      closed.append(True)

  run.on_metrics.append(Listener())
  run.hooks.append(profiling.Profile(run.folder, *profiling.parse("10:15"), run.experiment.steps))
  training.train(run, quiet())
  assert heard == run.folder.metrics()
  assert closed == [True]
  assert state_hash(run.state) == state_hash(plain.state)
  (trace,) = (run.folder / "profile").rglob("perfetto_trace.json.gz")
  events = json.loads(gzip.decompress(trace.read_bytes()))
  assert len(events["traceEvents"] if isinstance(events, dict) else events) > 10
  assert list((run.folder / "profile").rglob("*.xplane.pb"))


def test_a_hook_that_raises_ends_training_with_its_state_saved(tmp_path):
  """As a trial of a search is pruned."""

  class Pruned(Exception):
    pass

  def prune(step, kind, numbers):
    if step >= 10:
      raise Pruned

  run = make_run(tmp_path)
  run.on_metrics.append(prune)
  with pytest.raises(Pruned):
    training.train(run, quiet())
  assert load(run.folder.path).step >= 10


def test_bad_profiles_and_loggers_are_one_sentence(tmp_path, monkeypatch):
  folder = Folder(tmp_path)
  for text in ("10", "a:b", "-1:5", "3:"):
    with pytest.raises(UserError, match="write it as FIRST:LAST"):
      profiling.parse(text)
  for first, last in ((5, 5), (9, 3), (10, 31)):
    with pytest.raises(UserError, match="from one step to a later one of 0 to 30"):
      profiling.Profile(folder, first, last, 30)
  monkeypatch.setitem(sys.modules, "wandb", None)
  with pytest.raises(UserError, match=r"--log wandb needs the library wandb.*pip install 'jaxgen\[wandb\]'"):
    loggers.Wandb(make_run(tmp_path))


def test_mlflow_has_the_numbers_of_metrics_jsonl_in_a_local_database(tmp_path):
  pytest.importorskip("mlflow")
  run = make_run(tmp_path, steps=10)
  run.on_metrics.append(loggers.Mlflow(run))
  training.train(run, quiet())
  with sqlite3.connect(tmp_path / "run" / "mlflow.db") as database:
    rows = database.execute("select key, value, step from metrics").fetchall()
  expected = {
    (f"{x['kind']}/{k}", v, x["step"]) for x in run.folder.metrics() for k, v in x.items() if k not in ("kind", "step")
  }
  assert set(rows) == expected
