"""One of two processes is killed with SIGKILL: the other ends, and the job goes on from there to the same state."""

import json
import re
import signal
import time

import conftest
import jax
import numpy as np
import pytest
import tiny
from test_cli import command, finish, state_sha, two_processes

import jaxgen

pytestmark = [pytest.mark.nightly, pytest.mark.xdist_group("kills")]


def newest(run):
  return max((int(path.name) for path in (run / "checkpoints").glob("0*") if path.name.isdigit()), default=0)


def kill_one(words, run, victim, **options):
  """Starts a job of two, kills one when a checkpoint has come: (what the other says, seconds until it ends)."""
  before, processes = newest(run), two_processes(*words, **options)
  other = processes[1 - victim]
  until = time.time() + 100 * conftest.patience()
  while newest(run) <= before and time.time() < until:
    assert all(p.poll() is None for p in processes), [p.communicate() for p in processes]
    time.sleep(0.01)
  processes[victim].send_signal(signal.SIGKILL)
  began = time.monotonic()
  results = finish(processes)
  seconds = time.monotonic() - began
  assert results[victim][0] == -signal.SIGKILL
  assert other.returncode == 1, results
  return results[1 - victim][2], seconds


def test_one_of_two_processes_is_killed(tmp_path):
  """Process 1, then process 0; then two go on to the bits of a job that nobody has killed, and one to the same numbers.

  The number of processes is not the mesh: it changes the order of summation, and so float64 to 1e-9.
  """
  config = tiny.write(tmp_path)
  flags = ["train", config, "--runs", tmp_path, "--fsdp", 8, "--steps", 2000, "--checkpoint-every", 50]
  words = [*flags, "--dtype", "float64"]
  env = {"JAX_ENABLE_X64": "1"}
  seconds = []
  for victim in (1, 0):
    said, took = kill_one([*words, "--name", "killed"], tmp_path / "killed", victim, **env)
    sentence = [line for line in said.splitlines() if line.startswith("jaxgen: error:")]
    assert len(sentence) == 1, said
    assert f"process {victim} was lost" in sentence[0]
    assert "Traceback" not in said
    seconds.append(took)
  print("ended after", seconds)
  reached = newest(tmp_path / "killed")
  assert 0 < reached < 1800
  last = [*words[:-2], "--dtype", "float64", "--steps", str(reached + 100)]
  for name in ("killed", "whole"):
    for code, out, err in finish(two_processes(*last, "--name", name, **env)):
      assert code == 0, out + err
  sessions = json.loads((tmp_path / "killed" / "run.json").read_text())["sessions"]
  assert [session.get("to") for session in sessions] == [None, None, reached + 100]
  further = [*words[:-2], "--dtype", "float64", "--steps", str(reached + 150)]
  with conftest.enable_x64():
    assert state_sha(tmp_path / "killed") == state_sha(tmp_path / "whole")
    assert re.search(f"resuming .* at step {reached + 100}", command(*further, "--name", "killed").stdout)
    for code, out, err in finish(two_processes(*further, "--name", "whole", **env)):
      assert code == 0, out + err
    one, two = (jaxgen.load(tmp_path / name).state for name in ("killed", "whole"))
    for a, b in zip(jax.tree.leaves(one.params), jax.tree.leaves(two.params), strict=True):
      np.testing.assert_allclose(a, b, rtol=0, atol=1e-9)
