"""The benchmark that is written for a GPU runs through at tiny sizes on a CPU. test_processes.py imports them all."""

import json
import math
import os
import subprocess
import sys

import conftest
import pytest

BENCHMARKS = conftest.REPOSITORY / "benchmarks"


@pytest.mark.nightly
@pytest.mark.processes(1)
@pytest.mark.timeout(600)
def test_the_benchmark_of_an_accelerator_runs_through(tmp_path):
  command = [sys.executable, BENCHMARKS / "accelerator" / "run.py", "--out", tmp_path, "--dry-run", "--brief"]
  environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}  # one device, as on a GPU
  done = subprocess.run([*command, "--limit", "280"], capture_output=True, text=True, env=environment)
  assert done.returncode == 0, done.stdout + done.stderr
  found = json.loads((tmp_path / "accelerator.json").read_text())
  assert list(found["steps"]) == ["b", "f", "e", "d", "c"]
  assert not [step for step in found["steps"].values() if "error" in step], done.stdout
  races = {name: race for step in "bed" for name, race in found["steps"][step]["jobs"].items()}
  assert len(races) == 4
  for race in races.values():
    row = race["competitors"]["jaxgen"]
    # The shares are of what is counted and timed here: milliseconds of a call, images and FLOPs in a second agree.
    calls = race["network_calls"]
    assert row["images_per_second"] == pytest.approx(1e3 * race["batch"] / (calls * row["ms"]))
    assert row["flops_per_second"] == pytest.approx(1e3 * race["flops"] / (calls * row["ms"]))
  assert math.isfinite(found["steps"]["f"]["curve"][-1][1])
  assert (tmp_path / "samples.png").read_bytes()[1:4] == (tmp_path / "loss.png").read_bytes()[1:4] == b"PNG"
  for case in found["steps"]["c"]["cases"].values():
    assert case["forms"]["jaxgen"]["ms"] > 0
