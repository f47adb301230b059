"""Benchmarks: that of a GPU runs through at tiny sizes on a CPU, few_steps by parts. test_processes.py imports all."""

import importlib
import json
import math
import os
import subprocess
import sys
import types

import conftest
import numpy as np
import pytest

from jaxgen.core.errors import UserError
from jaxgen.engine.config import load_config
from jaxgen.engine.folder import Folder
from jaxgen.engine.run import Run
from jaxgen.evaluation.frechet import frechet_distance

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


@pytest.fixture
def few_steps(monkeypatch):
  monkeypatch.syspath_prepend(BENCHMARKS)
  return importlib.import_module("few_steps")


def test_runs_of_few_steps_are_measured_with_the_calls_that_they_take(few_steps, tmp_path, monkeypatch):
  """Students, and their teachers' solvers, by their configs under both of a config's names."""
  given = {
    "progressive_8": ("progressive_digits", {"teacher": "none"}),
    "mean_flow": ("few_steps_digits", {}),
    "shortcut": ("shortcut_digits", {}),
    "teacher": ("edm_digits", {}),
    "flow": ("flow_matching", {}),
  }

  def load(folder, **changed):
    name, arguments = given[folder]
    return Run(Folder(tmp_path / folder), load_config(name), {**arguments, **changed}, 0)

  monkeypatch.setattr(few_steps.jaxgen, "load", load)
  taken = {name: [n for n in (1, 2, 3, 8) if few_steps.of_student(name, n)] for name in list(given)[:3]}
  assert taken == {"progressive_8": [8], "mean_flow": [1, 2, 3, 8], "shortcut": [1, 2, 8]}

  def steps(name, solver):
    found = [few_steps.of_teacher(name, solver, calls) for calls in (1, 2, 7)]
    return [run and run.arguments["sampling_steps"] for run in found]

  assert steps("teacher", "ddim") == steps("flow", "ddim") == [1, 2, 7]
  assert steps("teacher", "heun") == [1, None, 4]  # 2 n - 1 calls
  with pytest.raises(UserError, match="mean_flow is a run of few_steps_digits"):
    few_steps.of_teacher("mean_flow", "ddim", 1)


def test_the_table_of_few_steps_has_a_row_of_each_run_also_of_one_that_broke(few_steps, tmp_path):
  """Runs that copy the training pictures have a distance of exactly its floor; features are the pixels here."""
  train, test = (np.random.default_rng(i).integers(0, 17, (60, 2, 2, 1)) / 8 - 1.0 for i in range(2))
  looks = types.SimpleNamespace(features=lambda x: x.reshape(len(x), -1))
  floor = frechet_distance(looks.features(train), looks.features(test))

  class Copies:
    data, config, arguments, step = types.SimpleNamespace(levels=17), types.SimpleNamespace(name="c"), {}, 1_000

    def __init__(self, name, samples):
      info = lambda: {"sessions": [{"seconds": 60.0}, {"seconds": 30.0}]}
      self.samples, self.folder = samples, types.SimpleNamespace(path=tmp_path / name, info=info)

    def sample(self, n, *, seed, progress):
      for done in (n // 2, n):
        progress(done)
      return self.samples

  rows = []
  for name, samples in (("copies", train), ("broken", np.full_like(train, np.nan))):
    for calls in (1, 2):
      run = Copies(name, samples)
      row = few_steps.measured(run, calls, name, 2, looks, looks.features(test), len(train), floor)
      rows.append({**row, "teacher": False})
  assert rows[0]["ratio"] == pytest.approx([1, 1])
  assert 0 < rows[0]["precision"][0] <= 1
  assert np.isnan(rows[2]["ratio"] + rows[2]["precision"] + rows[2]["recall"]).all()
  lines = few_steps.table(rows).splitlines()
  assert len(lines) == 6
  assert lines[2].startswith("| copies | 1 | 1.00 ± 0.00 |")
  assert lines[2].endswith("| 1,000 steps, 1.5 min |")
  assert "| broken | 2 | nan ± nan |" in lines[5]
  few_steps.figure(rows, tmp_path / "figure.png")
  assert (tmp_path / "figure.png").read_bytes()[1:4] == b"PNG"
