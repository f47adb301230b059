"""The command line as a user meets it: its commands and each kind of bad input.

Commands run here, through `cli.main`, on this process's eight devices. What is about processes (kills, jobs of two, a
full disk, the time of --help) is in test_processes.py.
"""

import contextlib
import errno
import io
import json
import os
import pkgutil
import re
import runpy
import shlex
import signal
import subprocess
import sys
import tomllib

import conftest
import numpy as np
import pytest
import tiny

from jaxgen import cli
from jaxgen.cli import sweep
from jaxgen.engine.folder import Folder
from jaxgen.engine.progress import Progress


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  """(folder of runs, output) of a run of 30 steps."""
  folder = tmp_path_factory.mktemp("cli")
  config = tiny.write(folder)
  result = command("train", config, "--runs", folder / "runs")
  return folder, result.stdout


def command(*words, code=0):
  """Runs a command in this process and returns its output; fails unless it exits with `code`."""
  out, err = io.StringIO(), io.StringIO()
  with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as end:
    cli.main([str(word) for word in words])
  found = end.value.code or 0
  assert found == code, f"{words} ended with {found}:\n{out.getvalue()}\n{err.getvalue()}"
  return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())


def state_sha(run):
  return re.search(r"SHA-256 of the state\s+(\w{64})", command("inspect", run).stdout)[1]


def error_of(*words, code=1):
  """The one sentence that a wrong command prints."""
  result = command(*words, code=code)
  lines = [line for line in result.stderr.splitlines() if line.startswith("jaxgen: error: ")]
  assert len(lines) == 1, result.stderr
  assert "Traceback" not in result.stderr
  return lines[0]


def test_train_prints_where_things_are(trained):
  folder, out = trained
  assert "test_bits_per_dim_17_levels" in out
  for what in ("checkpoints", "samples", "report.html"):
    assert re.search(rf"{folder}/runs/tiny/{what}", out)
  assert (folder / "runs" / "tiny" / "report.html").stat().st_size > 10_000
  assert "step 30/30" in out
  assert "digits, split 'train': 1,437 examples, in memory\n  image: uint8 [8, 8, 1], values 0 to 16\n" in out
  assert "digits, split 'test': 360 examples" in out  # which it is evaluated on
  assert "skipped" not in out


def test_sample_writes_pictures_and_arrays_that_do_not_depend_on_how_many(trained):
  folder, _ = trained
  run = folder / "runs" / "tiny"
  command("sample", run, "--n", 16, "--seed", 5, "--out", folder / "a.npz")
  command("sample", run, "--n", 4, "--first", 6, "--seed", 5, "--out", folder / "b.npz")
  command("sample", run, "--n", 16, "--seed", 5, "--out", folder / "c.npz", "--fsdp", 2)
  a, b, c = (np.load(folder / f"{name}.npz")["samples"] for name in "abc")
  assert a.shape == (16, 8, 8, 1)
  np.testing.assert_array_equal(a[6:10], b)
  np.testing.assert_allclose(a, c, atol=1e-5 * (a.max() - a.min()))
  out = command("sample", run, "--n", 9, "--sampling-steps", 5, "--out", folder / "grid.png")
  assert str(folder / "grid.png") in out.stdout
  assert (folder / "grid.png").read_bytes().startswith(b"\x89PNG")


def test_sample_fills_a_folder_goes_on_and_says_how_fast_it_was(trained):
  folder, _ = trained
  run = folder / "runs" / "tiny"
  words = ["sample", run, "--out", folder / "drawn", "--n", 20, "--format", "images"]
  found = command(*words)
  assert found.stdout == f"{folder / 'drawn'}\n"
  assert re.search(r"^20 samples drawn, \S+ images a second after the first 8$", found.stderr, re.MULTILINE)
  assert len(list((folder / "drawn").glob("*.png"))) == 20
  assert "20 samples existed already" in command(*words).stderr
  assert "holds samples of --sampling-steps 3, not 2" in error_of(*words, "--sampling-steps", 2)
  assert "--chunk 5 needs a folder" in error_of("sample", run, "--chunk", 5)
  assert "--batch 0: it must be 1 or more" in error_of("sample", run, "--batch", 0)


def test_evaluate_and_report(trained):
  folder, out = trained
  run = folder / "runs" / "tiny"
  bits = lambda text: re.search(r"test_bits_per_dim_17_levels\s+(\S+)", text)[1]
  result = command("evaluate", run, "--out", folder / "numbers.json")
  assert bits(result.stdout) == bits(out)
  assert json.loads((folder / "numbers.json").read_text())["step"] == 30
  (run / "report.html").unlink()
  assert "report.html" in command("report", run).stdout
  assert (run / "report.html").exists()


def test_evaluate_judges_samples_as_papers_do(trained, tmp_path, monkeypatch):
  from jaxgen.evaluation import judge

  small, trained_on = judge.Recipe(channels=(4,), features=8, steps=20, batch_size=64, dropout=0.0), judge.trained_on
  monkeypatch.setattr(judge, "trained_on", lambda data: trained_on(data, small))
  monkeypatch.setenv("JAXGEN_CACHE", str(tmp_path / "cache"))
  run = trained[0] / "runs" / "tiny"
  words = ("--space", "judge", "--metrics", "fid,kid,prdc,authentic", "--split", "test", "--out", tmp_path / "n.json")
  result = command("evaluate", run, "--samples", 48, *words)
  numbers = json.loads((tmp_path / "n.json").read_text())
  assert {"fid_48_judge_test", "fid_48_judge_test_se", "kid_48_judge_test", "precision_k3_48_judge_test"} <= set(
    numbers
  )
  assert (numbers["step"], numbers["samples"], numbers["against"]) == (30, 48, "test")
  assert "fid_48_judge_test" in result.stdout
  again = command("evaluate", run, "--samples", 48, *words, "--resume", True)
  assert "images a second" not in again.stderr  # nothing was left to compute
  assert json.loads((tmp_path / "n.json").read_text())["fid_48_judge_test"] == numbers["fid_48_judge_test"]
  command("sample", run, "--n", 48, "--out", tmp_path / "drawn.npz")
  words = (
    "--space",
    "judge",
    "--metrics",
    "fid",
    "--against",
    "digits",
    "--split",
    "test",
    "--out",
    tmp_path / "m.json",
  )
  command("evaluate", tmp_path / "drawn.npz", *words)
  found = json.loads((tmp_path / "m.json").read_text())["fid_48_judge_digits_test"]
  assert found == pytest.approx(numbers["fid_48_judge_test"], rel=0.05)  # not rounded to the digits' 17 levels first
  assert "there is no metric 'fdd'" in error_of("evaluate", run, "--metrics", "fdd")
  assert "--samples needs --metrics" in error_of("evaluate", run, "--samples", 5)
  assert "which is not a file: make it from pt_inception" in error_of("evaluate", run, "--metrics", "fid")
  assert "give --metrics" in error_of("evaluate", tmp_path / "drawn.npz", "--against", "digits")
  assert "none is not a run" in error_of("evaluate", tmp_path / "none", "--metrics", "fid")


def test_a_sweep_trains_every_combination_goes_on_and_compares(trained, tmp_path, monkeypatch):
  config = trained[0] / "tiny.py"
  words = ("sweep", config, "--over", "learning_rate=1e-3,3e-3", "--steps", 4, "--runs", tmp_path)
  dry = command(*words, "--seeds", 2, "--dry", True).stdout.split()
  assert [name.rpartition("/")[2] for name in dry] == [
    f"learning_rate={rate}_seed={seed}" for rate in ("0.001", "0.003") for seed in (0, 1)
  ]
  trained_ones, train = [], sweep.loop.train

  def killed(run, **options):
    if trained_ones:
      raise KeyboardInterrupt
    trained_ones.append(run.name)
    return train(run, **options)

  monkeypatch.setattr(sweep.loop, "train", killed)
  command(*words, code=130)
  monkeypatch.setattr(
    sweep.loop, "train", lambda run, **options: trained_ones.append(run.name) or train(run, **options)
  )
  out = command(*words).stdout
  assert trained_ones == ["learning_rate=0.001_seed=0", "learning_rate=0.003_seed=0"]  # each once
  assert re.search(r"learning_rate\s+.*test_bits_per_dim_17_levels", out)
  assert "Samples from the same noise" in (tmp_path / "tiny_sweep" / "compare.html").read_text()
  one = command("compare", tmp_path / "tiny_sweep" / "learning_rate=0.001_seed=0", "--page", tmp_path / "p.html").stdout
  assert "training examples" in one
  monkeypatch.chdir(tmp_path)
  one = command("compare", tmp_path / "tiny_sweep" / "learning_rate=0.001_seed=0").stdout
  assert "training examples" in one
  assert not (tmp_path / "compare.html").exists()  # nothing is written that was not asked for
  _array_of_jobs(config, tmp_path, monkeypatch)
  for given, words in (
    (("learning_rat=1",), "has no argument 'learning_rat': perhaps you meant 'learning_rate'"),
    (("learning_rate=fast,1",), "'fast' is not a value of learning_rate, which takes float"),
    (("learning_rate",), "write it as NAME=VALUE,VALUE"),
    (("steps=1,1",), "has a value twice"),
    (("data_name=a/b,a_b",), "two values that differ only in signs"),
    ((f"data_name=npz:{'x' * 300},digits",), "a run of this sweep would be called data_name=npz_x"),
    (("layers=16,0",), "layers=(0,) makes no program"),
    (("steps=1", "steps=2"), "--over steps is given twice"),
    (("solver=ddim,nonsuch",), "'nonsuch' is not a value of solver, which takes 'ancestral' or 'ddim' or "),
  ):
    assert words in error_of("sweep", config, "--runs", tmp_path, "--over", *given)
  assert "is also in --over" in error_of("sweep", config, "--over", "steps=1,2", "--steps", 3)
  assert "a sweep needs --over with at least one argument" in error_of("sweep", config)
  assert "RUN is missing" in error_of("compare")
  assert "--only 2: the sweep has 2 runs" in error_of("sweep", config, "--seeds", 2, "--only", 2)
  assert "--slurm submits all" in error_of("sweep", config, "--seeds", 2, "--only", 1, "--slurm", "partition=gpu")
  spaced = command("sweep", config, "--seeds", 2, "--dry", True, "--slurm", "comment=two words", "time=4:00:00").stdout
  assert "#SBATCH --comment='two words'\n#SBATCH --time=4:00:00\n" in spaced
  for word, words in (("partition gpu", "write sbatch's options as"), ("array=1", "the sweep sets --array itself")):
    assert words in error_of("sweep", config, "--seeds", 2, "--slurm", word)


def _array_of_jobs(config, folder, monkeypatch):
  """A sweep's array, whose jobs are run here: an sbatch that keeps its arguments stands for SLURM."""
  words = ("sweep", config, "--seeds", 2, "--steps", 2, "--runs", folder, "--name", "an array")
  monkeypatch.setenv("PATH", str(folder))
  submit = (*words, "--slurm", "partition=gpu", "exclusive")
  assert f"there is no sbatch on this machine; run sbatch {folder}/an array/array.sbatch" in error_of(*submit)
  for code, name in ((1, "echo bad partition >&2; exit 1"), (0, f'echo "$@" > "{folder}/asked"; echo 7')):
    (folder / "sbatch").write_text(f"#!/bin/sh\n{name}\n")
    (folder / "sbatch").chmod(0o755)
    if code:
      assert "bad partition" in error_of(*submit)
  assert "job 7, 2 runs" in command(*submit).stdout
  script = folder / "an array" / "array.sbatch"
  assert (folder / "asked").read_text() == f"--parsable {script}\n"
  lines = script.read_text().splitlines()
  assert {"#SBATCH --array=0-1", "#SBATCH --partition=gpu", "#SBATCH --exclusive", "#SBATCH --requeue"} <= set(lines)
  assert f"#SBATCH --output='{folder}/an array/slurm_%a.log'" in lines
  (line,) = [line for line in lines if line.startswith("srun")]
  job = shlex.split(line)
  assert job[:5] == ["srun", "--kill-on-bad-exit=0", sys.executable, "-m", "jaxgen"]
  assert job[-2:] == ["--only", "$SLURM_ARRAY_TASK_ID"]
  assert "--slurm" not in job
  assert "partition=gpu" not in job
  assert "1 of 2 runs are not trained yet" in command(*job[5:-1], 1).stdout
  assert not (folder / "an array" / "compare.html").exists()
  command(*job[5:-1], 0)
  page = folder / "an array" / "compare.html"
  assert page.exists()  # the last one compares them
  page.unlink()
  trained, later = [folder / "an array" / f"seed={seed}" for seed in (0, 1)], folder / "later"
  later.mkdir()
  for run in trained:
    run.rename(later / run.name)
  # Job 1 begins before job 0 has ended, and ends after it.
  with monkeypatch.context() as patch:
    patch.setattr(sweep.loop, "train", lambda *args, **options: [(later / run.name).rename(run) for run in trained])
    command(*job[5:-1], 1)
  assert page.exists()


def test_inspect(trained):
  folder, _ = trained
  run = command("inspect", folder / "runs" / "tiny").stdout
  assert re.search(r"parameters of network\s+4,224\b", run)  # 65 x 32 + 32 + 32 x 64 + 64 = 2,112 + 2,112
  assert re.search(r"step\s+30\b", run)
  assert "FLOPs a step" in run
  assert re.search(r"step\s+20\b", command("inspect", folder / "runs" / "tiny", "--checkpoint", 20).stdout)
  assert "keeps no best checkpoint" in error_of("inspect", folder / "runs" / "tiny", "--checkpoint", "best")
  config = command("inspect", folder / "tiny.py", "--layers", 16).stdout
  assert re.search(r"parameters of network\s+2,144\b", config)
  assert "SHA-256" not in config
  for subject in (folder / "runs" / "tiny", folder / "tiny.py"):
    assert "--quick True needs --target" in error_of("inspect", subject, "--quick", True)


def test_list_names_every_config():
  out = command("list").stdout
  for path in (conftest.REPOSITORY / "configs").rglob("*_*.py"):
    assert path.stem in out
  lines = out.splitlines()
  assert max(map(len, lines)) <= 150
  mnist = next(line for line in lines if line.strip().startswith("vae_mnist "))
  assert "Kingma" not in mnist  # papers are in the whole
  some = command("list", "cifar", "diffusion").stdout
  assert "score_sde_cifar10" in some
  assert "gan_mnist" not in some
  assert len(some.splitlines()) < len(lines) / 2
  one = command("list", "ddpm_cifar10").stdout
  assert "Ho et al. 2020" in one
  assert "--preset cifar10" in one
  assert "no config has 'nonsuch'" in error_of("list", "nonsuch")
  assert "takes words and no flags, not --all" in error_of("list", "--all")


@pytest.mark.parametrize(
  ("words", "count"),
  [
    ("train ddpm_digits", 1), ("import weights.npz vit_imagenet --name vit", 1), ("sample runs/x --n 8", 1),
    ("", 0), ("--help", 0), ("trian ddpm_digits", 0), ("list", 0), ("train", 0), ("import weights.npz", 0),
    ("train --help", 0), ("train --steps 3 ddpm_digits", 0), ("train ddpm_digits --help", 0),
    ("train ddpm_digits -h", 0),
  ],
)  # fmt: skip
def test_only_the_command_itself_starts_anew_and_only_to_compute(words, count, monkeypatch):
  """A script that calls `cli.main()` would begin again from its first line."""
  started = []
  monkeypatch.setattr(cli.environment, "use_huge_pages", lambda: started.append("anew"))
  monkeypatch.setattr(cli, "_run", lambda name, words: started.append("run"))
  monkeypatch.setattr("sys.argv", ["jaxgen", *words.split()])
  with pytest.raises(SystemExit):
    cli.main()
  assert "anew" not in started
  for module in ("jaxgen", "jaxgen.cli"):
    started.clear()
    with pytest.raises(SystemExit):
      runpy.run_module(module, run_name="__main__")
    assert started.count("anew") == count
    assert started[-1:] != ["anew"]  # a command that does not start anew goes on
  scripts = tomllib.loads((conftest.REPOSITORY / "pyproject.toml").read_text())["project"]["scripts"]
  assert pkgutil.resolve_name(scripts["jaxgen"]) is cli.console


def test_the_help_of_a_config_shows_its_flags(trained):
  folder, _ = trained
  out = command("train", folder / "tiny.py", "--help").stdout
  for flag in ("--learning-rate", "--sampling-steps", "--runs", "--seed", "--fsdp"):
    assert flag in out


def test_two_runs_have_the_same_sha(trained):
  folder, _ = trained
  command("train", folder / "tiny.py", "--runs", folder / "again")
  assert state_sha(folder / "again" / "tiny") == state_sha(folder / "runs" / "tiny")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_says_so_and_ends_with_its_number(tmp_path, monkeypatch, number):
  """SIGTERM to a real process, and its lock on the run, are in test_processes.py."""
  config, update = tiny.write(tmp_path), Progress.update
  words = ["train", config, "--runs", tmp_path, "--steps", 1_000_000, "--checkpoint-every", 100_000]

  def press(self, step, loss):
    update(self, step, loss)
    if step >= steps[-1] + 10 and not pressed:  # a second SIGINT would not wait
      pressed.append(step)
      os.kill(os.getpid(), number)

  steps, pressed = [0], []
  monkeypatch.setattr(Progress, "update", press)
  for _ in range(2):
    pressed.clear()
    result = command(*words, code=128 + number)
    if steps[-1]:
      assert f"resuming {tmp_path / 'tiny'} at step {steps[-1]}\n" in result.stdout
    (error,) = [line for line in result.stderr.splitlines() if line.startswith("jaxgen: SIG")]
    steps.append(int(re.search(rf"{number.name}: saved .* at step (\d+) of 1000000", error)[1]))
    assert (tmp_path / "tiny" / "checkpoints" / f"{steps[-1]:08d}").is_dir()
  assert 10 <= steps[1] <= steps[2] - 10
  assert "--steps 1000000, not 3" in error_of(*words, "--steps", 3)


def test_bad_flags_and_configs(trained, tmp_path):
  folder, _ = trained
  config = folder / "tiny.py"
  result = command("train", config, "--leraning-rate", "1", code=2)
  assert "--learning-rate" in result.stderr + result.stdout
  assert "perhaps you meant 'train'" in error_of("trian", code=2)
  for name in ("", ".", "../x", "a/../..", "/x"):
    assert f"--name {name!r} is not a folder within" in error_of("train", config, "--name", name)
  assert "CONFIG comes before the flags" in error_of("train", "--steps", "3", str(config))
  assert "perhaps you meant 'ddpm_digits'" in error_of("train", "configs/ddpm_digit.py")
  # Weights are written by one process, so flags of several would mean nothing.
  result = command("export", folder / "runs" / "tiny", tmp_path / "x.npz", "--processes", 2, code=2)
  assert "--processes" in result.stderr + result.stdout
  empty = tmp_path / "empty.py"
  empty.write_text("x = 1\n")
  assert "has no function experiment()" in error_of("train", empty)
  empty.write_text("def experiment(:\n")
  assert "line 1" in error_of("train", empty)
  empty.write_text("def experiment(seed: int = 0): ...\n")
  assert "'seed', which is a flag of the commands themselves" in error_of("train", empty)
  empty.write_text("import nothing_of_that_name\ndef experiment(): ...\n")
  assert "cannot be imported" in error_of("train", empty)


def test_bad_data_and_batches(trained, tmp_path):
  folder, _ = trained
  config, runs = folder / "tiny.py", ["--runs", tmp_path]
  assert "a batch of 12 does not divide over the 8 devices" in error_of("train", config, *runs, "--batch-size", 12)
  assert "digitz" in error_of("train", config, *runs, "--data-name", "digitz")
  assert "(12, 12, 1)" in error_of("train", config, *runs, "--side", 12)
  np.savez(tmp_path / "small.npz", train_image=np.zeros((4, 6, 6, 1), np.uint8), train_label=np.zeros(4, np.int32))
  message = error_of("train", config, *runs, "--data-name", f"npz:{tmp_path / 'small.npz'}")
  assert "6, 6, 1" in message
  assert "8, 8, 1" in message
  assert "missing.npz" in error_of("train", config, *runs, "--data-name", f"npz:{tmp_path / 'missing.npz'}")


def test_what_cannot_be_traced_is_said_before_a_folder_is_made(tmp_path):
  config = tiny.write(
    tmp_path,
    source=tiny.SOURCE.replace("  batch_size: int = 16,", "  batch_size: int = 16,\n  microbatches: int = 1,").replace(
      "    steps=steps,", "    steps=steps,\n    microbatches=microbatches,"
    ),
  )
  words = ["train", config, "--runs", tmp_path / "runs"]
  assert "16 examples does not divide into 3" in error_of(*words, "--microbatches", 3)
  assert "microbatches must be at least 1" in error_of(*words, "--microbatches", 0)
  assert not (tmp_path / "runs").exists()


def test_a_config_without_steps_can_be_loaded(tmp_path):
  source = tiny.SOURCE.replace("  steps: int = 30,\n", "").replace("steps=steps", "steps=5")
  config = tiny.write(tmp_path, source=source)
  command("train", config, "--runs", tmp_path)
  assert "test_bits_per_dim_17_levels" in command("evaluate", tmp_path / "tiny").stdout


def test_bad_runs(trained, tmp_path):
  folder, _ = trained
  config, run = folder / "tiny.py", folder / "runs" / "tiny"
  assert "is not a run" in error_of("sample", folder)
  assert "is not a run" in error_of("sample", tmp_path / "nothing")
  assert "--learning-rate 0.001, not 0.5" in error_of(
    "train", config, "--runs", folder / "runs", "--learning-rate", 0.5
  )
  assert "changes the state" in error_of("sample", run, "--layers", 8)
  other = tiny.write(tmp_path, "other")
  assert "is a run of config tiny, not other" in error_of("train", other, "--runs", folder / "runs", "--name", "tiny")
  assert "written as .npz or .png" in error_of("sample", run, "--out", tmp_path / "a.jpg")
  assert "there is no folder" in error_of("sample", run, "--out", tmp_path / "no" / "a.png")


def test_a_damaged_checkpoint_is_said_and_the_one_before_is_used(tmp_path):
  config = tiny.write(tmp_path)
  command("train", config, "--runs", tmp_path)
  sha = state_sha(tmp_path / "tiny")
  newest = max((tmp_path / "tiny" / "checkpoints").glob("0*"))
  largest = max((p for p in newest.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
  largest.write_bytes(largest.read_bytes()[:-100])
  result = command("train", config, "--runs", tmp_path)
  assert "is damaged" in result.stdout
  assert "at step 20" in result.stdout
  assert state_sha(tmp_path / "tiny") == sha


def test_what_the_system_refuses_is_one_sentence(trained, tmp_path, monkeypatch):
  folder, _ = trained
  config, run = folder / "tiny.py", folder / "runs" / "tiny"
  (tmp_path / "file").write_text("")
  assert "choose another --runs or --name" in error_of("train", config, "--runs", tmp_path / "file")
  assert "too long: choose a shorter" in error_of("train", config, "--runs", tmp_path, "--name", "x" * 300)
  assert "name too long" in error_of("sample", "x" * 300)
  monkeypatch.setattr(os, "access", lambda path, mode: False)
  assert "is read-only: choose another place with --out" in error_of("sample", run)
  monkeypatch.undo()
  assert "there is no folder" in error_of("evaluate", run, "--out", tmp_path / "no" / "numbers.json")
  assert "is a folder: name a file in it" in error_of("evaluate", run, "--out", tmp_path)
  assert "is a folder: name a file in it" in error_of("reproduce", config, "--runs", tmp_path, "--ledger", tmp_path)
  assert "out of memory" in error_of("train", config, "--runs", tmp_path, "--batch-size", 8 * 10**11)


def test_an_error_of_the_system_in_training_keeps_what_was_saved(tmp_path, monkeypatch):
  """A file system that has become read-only after the first checkpoint."""
  config = tiny.write(tmp_path)
  command("train", config, "--runs", tmp_path, "--steps", 10)
  before = state_sha(tmp_path / "tiny")

  def refuse(self, line):
    raise OSError(errno.EROFS, "Read-only file system", str(self / "metrics.jsonl"))

  monkeypatch.setattr(Folder, "append_metrics", refuse)
  message = error_of("train", config, "--runs", tmp_path, "--steps", 20)
  assert (
    "metrics.jsonl: read-only file system: write somewhere else, or change its permissions; what was saved is kept"
    in message
  )
  monkeypatch.undo()
  assert state_sha(tmp_path / "tiny") == before
  command("train", config, "--runs", tmp_path, "--steps", 20)


def test_a_seed_of_64_bits_and_those_that_are_none(trained, tmp_path):
  folder, _ = trained
  words = ["sample", folder / "runs" / "tiny", "--n", 2]
  for seed in (0, 2**32, 2**64 - 1):
    command(*words, "--seed", seed, "--out", tmp_path / f"{seed}.npz")
  drawn = [np.load(path)["samples"] for path in tmp_path.glob("*.npz")]
  assert not any(np.array_equal(a, b) for i, a in enumerate(drawn) for b in drawn[:i])
  for seed in (-1, 2**64):
    assert "a seed must be an integer from 0 to 18446744073709551615" in error_of(*words, "--seed", seed)
    assert "a seed must be an integer from 0" in error_of(
      "train", folder / "tiny.py", "--runs", tmp_path, "--seed", seed
    )
