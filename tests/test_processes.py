"""What only processes of their own show: what a fresh one imports and sets, kills, jobs of two, a disk that runs full.

Eleven are started here: a fresh one, five that are killed, two jobs of two, and one whose disk runs full. Elsewhere one
builds every config, four show how readers of the data read and end, and two are a competitor's stubs, which import
nothing. How many each test starts is counted (see conftest). Everything else runs in the tests' own process.
"""

import contextlib
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from importlib import metadata

import conftest
import jax
import job
import numpy as np
import pytest
import tiny
from test_cli import command, error_of, state_sha

import jaxgen
from jaxgen.core.environment import CPU_FLAGS, GPU_FLAGS, has_gpu_plugin, is_known
from jaxgen.engine.checkpoint import Checkpoints
from jaxgen.engine.hashing import state_hash

CLI = ("-m", "jaxgen.cli")
MOST = 18  # Python processes that all tests which are not nightly start


def start(*words, program=CLI, devices=1, **env):
  """Starts a command as a process of its own. env: None where a variable is not to be set."""
  env = {**os.environ, "XLA_FLAGS": conftest.xla_flags(devices), "PYTHONUNBUFFERED": "1", **env}
  return subprocess.Popen(
    [sys.executable, *map(str, (*program, *words))],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    cwd=conftest.REPOSITORY,
    env={name: value for name, value in env.items() if value is not None},
  )


def process(*words, code=0, timeout=100, **options):
  """Runs a command as a process of its own and returns its output; fails unless it ends with `code`.

  timeout: in seconds on a quiet machine.
  """
  ((found, out, err),) = finish([start(*words, **options)], timeout)
  assert found == code, f"{words} ended with {found}:\n{out}\n{err}"
  return subprocess.CompletedProcess(words, code, out, err)


def finish(processes, timeout=100):
  """What processes that end by themselves have ended with: (exit status, output, errors) of each."""
  try:
    outputs = [p.communicate(timeout=timeout * conftest.patience()) for p in processes]
  finally:
    for p in processes:
      p.kill()
  return [(p.returncode, *out) for p, out in zip(processes, outputs, strict=True)]


def read_until(process, text, timeout=100):
  """Reads a process's output up to the line with this text and returns it; fails where the process ends before."""
  late = threading.Timer(timeout * conftest.patience(), process.kill)
  late.start()
  try:
    lines = []
    while not lines or text not in lines[-1]:
      lines.append(process.stdout.readline())
      assert lines[-1], f"ended before it said {text!r}: {''.join(lines)}{process.stderr.read()}"
  finally:
    late.cancel()
  return "".join(lines)


def test_few_processes_are_started(request):
  tests = [item for item in request.session.items if item.get_closest_marker("nightly") is None]
  assert sum(map(conftest.may_start, tests)) <= MOST
  assert not conftest.STARTED
  sys.audit("subprocess.Popen", "/usr/bin/git", [], None, None)
  assert not conftest.STARTED
  sys.audit("subprocess.Popen", sys.executable, [sys.executable], None, None)
  assert len(conftest.STARTED) == 1
  conftest.STARTED.clear()


FRESH = """
import importlib, os, sys, time

def end(*words):
  try:
    cli.main(list(words))
  except SystemExit as ended:
    return ended.code or 0

def has_started():
  bridge = sys.modules.get("jax._src.xla_bridge")
  return bridge is not None and bridge.backends_are_initialized()

from jaxgen import cli
assert end("--help") == end("--version") == 0
assert not {"jax", "tyro", "numpy", "flax"} & set(sys.modules), "`jaxgen --help` imports what it does not need"
print("SECONDS", time.process_time())

import jaxgen
print("FLAGS", os.environ["XLA_FLAGS"])

from jaxgen.data import digits
from jaxgen.data.pipeline import Stream
data = digits()
data.batch_spec(4)
Stream(data.source("train"), 0, 4).take(0, 2)
heavy = {"sklearn", "scipy.stats", "grain", "tensorflow_datasets", "tensorflow", "PIL", "matplotlib"} & set(sys.modules)
assert not heavy and not has_started(), f"reading digits imports {heavy}"

from jaxgen.engine.checkpoint import Checkpoints
assert not {"orbax", "orbax.checkpoint"} & set(sys.modules)

import optax
from jaxgen import diffusion as d
from jaxgen.core.spec import Spec
from jaxgen.methods.diffusion.gaussian import gaussian_diffusion
from jaxgen.methods.diffusion.objective import Objective
from jaxgen.methods.diffusion.sampler import Sampler
continuous = (d.vp(), d.sub_vp(), d.ve(), d.edm(), d.rectified_flow(), d.continuous_cosine())
discrete = [make(1000) for make in d.SCHEDULES.values()]
for schedule in (*discrete, *continuous, d.geometric(100), d.shift(d.rectified_flow(), 2.0)):
  for grid in d.GRIDS.values():
    for solver in d.SOLVERS.values():
      gaussian_diffusion(
        None, schedule, Spec((8, 8, 1), levels=17), optax.adam(1e-3),
        objective=Objective(d.PREDICTIONS["v"], vlb=float(schedule.steps is not None)),
        sampler=Sampler(solver, grid, 50),
      )
assert not has_started(), "building a method touched a device"

folders, names = sys.argv[1:3], sys.argv[3:]
sys.path[:0] = folders
for name in names:
  importlib.import_module(name)
assert not has_started(), "importing a benchmark computed something"
print("BENCHMARKS", len(names))

assert end("inspect", "ddpm_digits") == 1

import jax
os.environ["XLA_FLAGS"] = os.environ.pop("ALL_FLAGS")
jax.config.update("jax_platforms", "cpu")
print("XLA", flush=True)
jax.devices()
print("KNOWN")
"""


@pytest.mark.processes(1)
def test_a_fresh_process_imports_starts_and_sets_no_more_than_it_needs():
  """Where jax has no device: whatever asks for one fails here, and `jaxgen` says so in one sentence.

  A cluster is joined after a config is built, and compiled programs are put where the flags say: so nothing may start
  jax before. At its end XLA is given flags that it does not know among those that it may: it names them all, as
  `is_known` does, and ends the process.
  """
  folders = [conftest.REPOSITORY / "benchmarks", conftest.REPOSITORY / "benchmarks" / "accelerator"]
  names = sorted(path.stem for folder in folders for path in folder.glob("*.py"))
  unknown = ["--xla_cpu_no_such_flag=1", "--xla_no_flag_either=true"]
  every = [*CPU_FLAGS, *GPU_FLAGS, *unknown]
  options = dict(JAX_PLATFORMS="cuda", XLA_FLAGS=None, ALL_FLAGS=" ".join(every))
  ((code, out, errors),) = finish([start(*folders, *names, program=("-c", FRESH), **options)])
  said = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line.split()}
  assert "XLA" in said, errors
  assert said["usage:"] == ["jaxgen", "COMMAND", "..."]
  assert said["jaxgen"] == [metadata.version("jaxgen")]
  assert float(said["SECONDS"][0]) < 1  # of the processor, whatever else the machine does
  flags = [*CPU_FLAGS, *(GPU_FLAGS if has_gpu_plugin() else ())]
  assert said["FLAGS"] == [flag for flag in flags if is_known(flag)]
  assert int(said["BENCHMARKS"][0]) == len(names) > 15
  (error,) = [line for line in errors.splitlines() if line.startswith("jaxgen: error: ")]
  assert "jax finds no device of the platforms in JAX_PLATFORMS=cuda" in error
  assert "Traceback" not in errors
  assert code != 0
  assert "KNOWN" not in said
  (named,) = re.findall(r"Unknown flags? in XLA_FLAGS: (.*)", errors)
  assert [flag for flag in every if not is_known(flag)] == named.split()
  assert not any(map(is_known, unknown))


@pytest.mark.parametrize(
  ("count", "steps"),
  [
    pytest.param(5, 1_500, marks=pytest.mark.processes(5)),
    pytest.param(20, 6_000, marks=[pytest.mark.processes(20), pytest.mark.nightly]),
  ],
)
def test_killed_and_resumed_is_bit_equal(tmp_path, count, steps):
  """SIGKILL at random moments, many of them while a checkpoint is written; another process goes on to the end."""
  config = tiny.write(tmp_path)
  train = lambda name, every: ["train", config, "--runs", tmp_path, "--name", name, "--checkpoint-every", every]
  more = ["--steps", steps]
  chance = random.Random(0)
  reached = []
  checkpoints = tmp_path / "killed" / "checkpoints"
  newest = lambda: max(Checkpoints(checkpoints).steps(), default=0)
  for kills in range(count):
    # On as many devices as this process has, which goes on with the run.
    before, training = newest(), start(*train("killed", 25), *more, devices=8)
    deadline = time.time() + 60 * conftest.patience()
    # Now and then while it starts, and else once it has got somewhere, so that all the kills happen before the end.
    if kills % 4:
      while newest() <= before and training.poll() is None and time.time() < deadline:
        time.sleep(0.01)
    time.sleep(chance.uniform(0, 0.3) if kills % 4 else chance.uniform(0, 4))
    assert training.poll() is None, training.communicate()
    training.kill()
    training.communicate()
    reached.append(newest())
  assert sorted(reached) == reached
  assert reached[-1] > 0
  out = command(*train("killed", steps), *more).stdout
  assert f"resuming {tmp_path / 'killed'} at step {reached[-1]}\n" in out
  assert "is damaged" not in out
  command(*train("whole", steps), *more)
  sessions = json.loads((tmp_path / "killed" / "run.json").read_text())["sessions"]
  assert sessions[-1]["to"] == steps
  assert any("to" not in session for session in sessions[:-1])  # a start is recorded before it can be killed
  assert all("sha256" in session["data"] for session in sessions)
  assert state_sha(tmp_path / "killed") == state_sha(tmp_path / "whole")


def two_processes(*words, program=lambda p, port: CLI, each=({}, {}), **env):
  """Starts one job as two processes of four devices each. each: what is of one process in its environment.

  program: what a process, of this number and with process 0 at this port, runs; `jaxgen` with flags that say both.
  """
  with socket.socket() as free:
    free.bind(("localhost", 0))
    port = free.getsockname()[1]
  said = lambda p: ["--coordinator", f"localhost:{port}", "--processes", 2, "--process", p]
  given = lambda p: [*words, *said(p)] if program(p, port) is CLI else words
  return [start(*given(p), program=program(p, port), devices=4, **env, **each[p]) for p in range(2)]


DAMAGED = """

import os
from jaxgen.data.pipeline import Stream
if os.environ.get("DAMAGED"):
  take = Stream.take
  def fails(self, start, count):
    if start + count > 12:
      raise OSError("a damaged picture")
    return take(self, start, count)
  Stream.take = fails
"""


@pytest.mark.processes(4)
@pytest.mark.parametrize("fsdp", [8, pytest.param(1, marks=pytest.mark.nightly)])
def test_two_processes_agree_with_one_and_share_a_run(tmp_path, fsdp):
  """A job of two processes of four devices each, fsdp or replicated, against one process: float64, to 1e-9.

  The first job also saves and restores arrays, and ends by an error in one of its processes; the second finds a damaged
  checkpoint, and ends by a signal to one.
  """
  config, run = tiny.write(tmp_path, source=tiny.SOURCE + DAMAGED), tmp_path / "two"
  words = ["train", config, "--runs", tmp_path, "--dtype", "float64", "--checkpoint-every", 8, "--max-skipped", 9]
  ours = [*words, "--name", "two", "--fsdp", fsdp]
  error_in_one([*ours, "--steps", 16], tmp_path)
  with conftest.enable_x64():
    # What two processes have trained one goes on with.
    shutil.copytree(run, tmp_path / "copy")
    out = command(*words, "--name", "copy", "--fsdp", fsdp, "--steps", 16).stdout
    assert f"resuming {tmp_path / 'copy'} at step 12\n" in out
    command(*words, "--name", "one", "--steps", 16)
    one, two = (jaxgen.load(tmp_path / name).state for name in ("one", "copy"))
    for a, b in zip(jax.tree.leaves(one.params), jax.tree.leaves(two.params), strict=True):
      np.testing.assert_allclose(a, b, rtol=0, atol=1e-9)
    os.truncate(run / "checkpoints" / "00000012" / "jaxgen.json", 100)
    stopped_by_a_signal([*ours, "--steps", 1_000_000, "--checkpoint-every", 100_000], run)


def error_in_one(words, folder):
  """Both save their state. Before, both save and restore arrays, of which one process had saved some."""
  arrays, code = folder / "arrays", "import sys; sys.path.append('tests'); import job; job.main()"
  with contextlib.closing(Checkpoints(arrays)) as checkpoints:
    checkpoints.save(1, job.state(1))
  program = lambda p, port: ("-c", code, p, port, arrays)
  started = two_processes(*words, program=program, each=({}, {"DAMAGED": "1"}), JAX_ENABLE_X64="1")
  whole, damaged = finish(started)
  assert (whole[0], damaged[0]) == (1, 1), (whole, damaged)
  for _, out, _ in (whole, damaged):
    assert f"HASH 3 {state_hash(job.state(3))}" in out
  step, restored = Checkpoints(arrays).restore(job.state(0))
  assert step == 4
  assert state_hash(restored) == state_hash(job.state(4))
  assert "process 1 has met an error (OSError: a damaged picture)" in whole[2]
  assert "OSError: a damaged picture" in damaged[2]
  assert sorted(os.listdir(folder / "two" / "checkpoints")) == ["00000008", "00000012"]
  assert f"saved {folder / 'two'} at step 12" in whole[1]
  lines = [json.loads(line) for line in (folder / "two" / "metrics.jsonl").read_text().splitlines()]
  assert [line["step"] for line in lines if line["kind"] == "train"] == [5, 10]  # one process writes them


def stopped_by_a_signal(words, run):
  """Both go back to the same checkpoint, and stop at the same step; meanwhile nobody else writes the run."""
  processes = two_processes(*words, JAX_ENABLE_X64="1")
  try:
    out = read_until(processes[0], "steps/s")
    assert "00000012 is damaged" in out
    assert f"resuming {run} at step 8\n" in out
    assert f"is being written by process {processes[0].pid}" in error_of(*words)
    processes[1].send_signal(signal.SIGTERM)
  except BaseException:
    for p in processes:
      p.kill()
    raise
  results = finish(processes)
  assert [code for code, _, _ in results] == [143, 143], results
  (step,) = {int(re.search(r"SIGTERM: saved .* at step (\d+) of 1000000", err)[1]) for _, _, err in results}
  assert jaxgen.load(run).step == step > 8


@pytest.mark.processes(1)
def test_a_full_disk(tmp_path):
  """One sentence, and not a word of the libraries' own, up to the process's end."""
  disk = tmp_path / "disk"
  disk.mkdir()
  if (
    os.geteuid() != 0
    or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk], capture_output=True).returncode
  ):
    pytest.skip("needs the right to mount a small file system")
  try:
    config = tiny.write(tmp_path)
    words = ["train", config, "--runs", disk]
    command(*words, "--steps", 10)
    before = state_sha(disk / "tiny")
    filler = disk / "filler"
    with open(filler, "wb", buffering=0) as file, contextlib.suppress(OSError):
      while file.write(bytes(4096)):
        pass
    *flags, error = process(*words, "--steps", 60, code=1).stderr.splitlines()
    assert error.startswith("jaxgen: error: ")
    assert "full" in error
    assert [line for line in flags if not re.match(r"jaxgen: [A-Z_]+ now has ", line)] == []
    filler.unlink()
    assert state_sha(disk / "tiny") == before
    command(*words, "--steps", 60)
  finally:
    subprocess.run(["umount", "-l", disk], check=True)
