"""One of two processes is killed with SIGKILL, or their disk is full: both end, and the job goes on to the same."""

import contextlib
import json
import os
import re
import signal
import subprocess
import time

import conftest
import jax
import numpy as np
import pytest
import tiny
from test_cli import command, state_sha
from test_processes import finish, two_processes

import jaxgen

pytestmark = pytest.mark.nightly


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


@pytest.mark.processes(10)
def test_one_of_two_processes_is_killed(tmp_path):
  """Process 1, then process 0; then two go on to the bits of a job that nobody has killed, and one to the same numbers.

  The number of processes is not the mesh: it changes the order of summation, and so float64 to 1e-9.
  """
  config = tiny.write(tmp_path)
  words = ["train", config, "--runs", tmp_path, "--fsdp", 8, "--dtype", "float64", "--checkpoint-every", 20, "--steps"]
  env = {"JAX_ENABLE_X64": "1"}
  seconds = []
  for victim in (1, 0):
    said, took = kill_one([*words, 120, "--name", "killed"], tmp_path / "killed", victim, **env)
    sentence = [line for line in said.splitlines() if line.startswith("jaxgen: error:")]
    assert len(sentence) == 1, said
    assert f"process {victim} was lost" in sentence[0]
    assert "Traceback" not in said
    seconds.append(took)
  print("ended after", seconds)
  assert 0 < newest(tmp_path / "killed") < 120
  for name in ("killed", "whole"):
    for code, out, err in finish(two_processes(*words, 120, "--name", name, **env)):
      assert code == 0, out + err
  sessions = json.loads((tmp_path / "killed" / "run.json").read_text())["sessions"]
  assert [session.get("to") for session in sessions] == [None, None, 120]
  with conftest.enable_x64():
    assert state_sha(tmp_path / "killed") == state_sha(tmp_path / "whole")
    assert re.search("resuming .* at step 120", command(*words, 130, "--name", "killed").stdout)
    for code, out, err in finish(two_processes(*words, 130, "--name", "whole", **env)):
      assert code == 0, out + err
    one, two = (jaxgen.load(tmp_path / name).state for name in ("killed", "whole"))
    for a, b in zip(jax.tree.leaves(one.params), jax.tree.leaves(two.params), strict=True):
      np.testing.assert_allclose(a, b, rtol=0, atol=1e-9)


@pytest.mark.processes(6)
def test_a_disk_that_two_processes_fill(tmp_path):
  """It is full from some moment of training on: both say so and end, what was saved is intact, and both go on."""
  disk = tmp_path / "disk"
  disk.mkdir()
  mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk]
  if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
    pytest.skip("needs the right to mount a small file system")
  try:
    config, run, filler = tiny.write(tmp_path), disk / "tiny", disk / "filler"
    words = ["train", config, "--fsdp", 8, "--checkpoint-every", 20]
    processes = two_processes(*words, "--runs", disk, "--steps", 120)
    until = time.time() + 100 * conftest.patience()
    while not newest(run) and time.time() < until:
      assert all(p.poll() is None for p in processes), [p.communicate() for p in processes]
      time.sleep(0.01)
    began = time.monotonic()
    with open(filler, "wb", buffering=0) as file:
      while all(p.poll() is None for p in processes) and time.time() < until:  # what is deleted makes room again
        with contextlib.suppress(OSError):
          while file.write(bytes(4096)):
            pass
    results = finish(processes)
    print(f"ended after {time.monotonic() - began:.1f} s", [err[-300:] for _, _, err in results])
    assert [code for code, _, _ in results] == [1, 1], results
    assert any("the disk is full" in err for _, _, err in results), results
    assert all(re.search("is full|No space left", err) and "Traceback" not in err for _, _, err in results), results
    filler.unlink()
    assert 0 < newest(run) < 120
    for runs in (disk, tmp_path):
      for code, out, err in finish(two_processes(*words, "--runs", runs, "--steps", 120)):
        assert code == 0, out + err
    assert state_sha(run) == state_sha(tmp_path / "tiny")
  finally:
    subprocess.run(["umount", "-l", disk], check=True)
