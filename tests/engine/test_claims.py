"""One process writes a folder: locks, and leases where there are none."""

import errno
import fcntl
import json
import secrets
import threading
import time

import numpy as np
import pytest
import tiny

from jaxgen.core import files
from jaxgen.core.errors import UserError
from jaxgen.core.method import State
from jaxgen.engine import claims
from jaxgen.engine.claims import Lost, claim
from jaxgen.engine.config import load_config
from jaxgen.engine.folder import Folder
from jaxgen.engine.frozen import RunCheckpoints
from jaxgen.engine.provenance import keep_config
from jaxgen.engine.record import write_figures, write_samples
from jaxgen.engine.run import Run
from jaxgen.show import report


@pytest.fixture(params=["store", "disk"])
def folder(request, tmp_path, monkeypatch):
  """A folder without locks, on an object store and in a file system, and leases of seconds' parts."""
  monkeypatch.setattr(claims, "RENEW", 0.05)
  monkeypatch.setattr(claims, "EXPIRE", 0.6)
  monkeypatch.setattr(claims, "SETTLE", 0.02)
  if request.param == "store":
    return files.place(f"memory://{secrets.token_hex(4)}/run")

  def flock(*_):
    raise OSError(errno.ENOLCK, "No locks available")

  monkeypatch.setattr(fcntl, "flock", flock)
  return tmp_path / "run"


def test_a_lease_that_is_renewed_keeps_others_out_and_one_that_is_released_does_not(folder):
  held = claim(folder, "choose another")
  time.sleep(0.2)
  said = []
  with pytest.raises(UserError, match="is being written by process .* wait for it, or choose another"):
    claim(folder, "choose another", said.append)
  assert len(said) == 1
  held.check()
  held.release()
  assert not (folder / "lease").exists()
  claim(folder, "choose another").release()


def test_a_lease_that_nobody_renews_is_taken_over_and_its_owner_stops(folder, monkeypatch):
  """The owner hangs for longer than a lease lasts, as a host that is suspended: it may write nothing afterwards."""
  hung = threading.Event()
  files_write = files.write
  monkeypatch.setattr(files, "write", lambda *arguments: hung.is_set() and files_write(*arguments))  # no renewal
  first = Folder(folder)
  first.lock()
  began = time.monotonic()
  second = Folder(folder)
  second.lock()
  assert time.monotonic() - began > claims.EXPIRE
  hung.set()
  time.sleep(0.3)
  with pytest.raises(Lost, match="was taken over by process .*; what was saved is kept"):
    first.append_metrics({"step": 1, "kind": "evaluate"})
  with pytest.raises(Lost):
    first.write_info({})
  first.unlock()
  assert json.loads((folder / "lease").read_text())["turn"] > 0  # the second's is still there
  second.append_metrics({"step": 1, "kind": "evaluate"})
  second.unlock()


def test_an_owner_that_has_not_renewed_its_lease_writes_nothing(folder, tmp_path, monkeypatch):
  """Before others may take the lease over, and where the thread that renews it hangs, too."""
  monkeypatch.setattr(claims._Lease, "_renew", lambda self: None)
  monkeypatch.setattr(report, "page", lambda run: "")
  owner = Folder(folder)
  owner.lock()
  owner.write_info({})
  there = files.sizes(folder)
  renewed = owner._claim.check.__self__._renewed
  monkeypatch.setattr(claims, "_now", lambda: renewed + claims.EXPIRE - claims.RENEW - 0.01)
  owner.check()
  monkeypatch.setattr(claims, "_now", lambda: renewed + claims.EXPIRE - 0.01)  # when nobody may take it over yet
  with pytest.raises(Lost, match="its lease was not renewed for 1 s; what was saved is kept"):
    owner.check()
  run = Run(owner, load_config(tiny.write(tmp_path)), {}, 0)
  checkpoints, state = RunCheckpoints(owner, {}), State(*([{}] * len(State.__dataclass_fields__)))
  for write in (
    lambda: owner.write_info({"config": "other"}),
    lambda: owner.append_metrics({"step": 1, "kind": "evaluate"}),
    lambda: owner.keep_metrics_until(0),
    lambda: keep_config(run),
    lambda: write_samples(run, np.zeros(3), 1),
    lambda: write_figures(owner, {"x.png": b""}, 1),
    lambda: report.write(run),
    lambda: checkpoints.save(1, state),
    lambda: checkpoints.rate(1, {}),
    lambda: checkpoints._remove_leftovers(),
    lambda: checkpoints._delete(1),
  ):
    with pytest.raises(Lost):
      write()
  assert files.sizes(folder) == there
  owner.unlock()
  assert files.sizes(folder) == there  # its lease is another's to remove


def test_the_lease_of_a_process_of_this_machine_that_is_gone_is_taken_over_at_once(folder, monkeypatch):
  monkeypatch.setattr(claims, "EXPIRE", 100.0)
  dead = {"owner": "process 99999999 on here", "id": "0", "machine": claims._machine(), "pid": 99999999, "turn": 3}
  files.write(folder / "lease", json.dumps(dead))
  claim(folder, "choose another").release()
  monkeypatch.setattr(claims, "EXPIRE", 0.6)
  files.write(folder / "lease", "cut sho")  # and one that cannot be read when it does not change
  claim(folder, "choose another").release()


def test_one_of_several_at_once_gets_it(folder):
  monkeys, got = 8, []

  def take():
    try:
      got.append(claim(folder, "choose another"))
    except UserError:
      got.append(None)

  threads = [threading.Thread(target=take) for _ in range(monkeys)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert len([held for held in got if held is not None]) == 1
  for held in got:
    if held is not None:
      held.release()


def test_one_of_several_at_once_gets_it_where_creation_is_not_exclusive(folder, monkeypatch):
  """On a store that ignores the condition of S3's conditional writes, and says that it has met it."""
  monkeypatch.setattr(claims, "EXPIRE", 20.0)
  monkeypatch.setattr(claims, "SETTLE", 0.5)
  monkeypatch.setattr(files, "create", lambda path, text: files.write(path, text) or True)
  test_one_of_several_at_once_gets_it(folder)
  held = claim(folder, "choose another")
  with pytest.raises(UserError, match="is being written by process"):
    claim(folder, "choose another")
  held.check()
  held.release()


def test_where_locks_are_another_process_is_named_at_once(tmp_path):
  held = claim(tmp_path / "run", "choose another")
  with pytest.raises(UserError, match="is being written by process .*: wait for it, or choose another"):
    claim(tmp_path / "run", "choose another")
  held.release()
  claim(tmp_path / "run", "choose another").release()
  assert not (tmp_path / "run" / "lease").exists()
