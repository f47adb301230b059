"""The training loop, in this process: what it writes, how it resumes, and when it stops."""

import errno
import fcntl
import os
import signal
import threading
import time
import types

import jax
import numpy as np
import pytest
import tiny

import jaxgen
from jaxgen.core import files
from jaxgen.core.errors import Stopped, UserError
from jaxgen.engine import claims, record
from jaxgen.engine import loop as training
from jaxgen.engine.catalogue import find_config
from jaxgen.engine.checkpoint import Checkpoints
from jaxgen.engine.chips import Sheet
from jaxgen.engine.config import load_config
from jaxgen.engine.folder import Folder
from jaxgen.engine.hashing import state_hash
from jaxgen.engine.run import Run


def make_run(folder, name="run", seed=0, source=tiny.SOURCE, **arguments):
  return Run(Folder(folder / name), load_config(tiny.write(folder, source=source)), arguments, seed)


TIMES = ("steps_per_second", "examples_per_second", "data_wait_seconds")  # numbers that differ from run to run


def quiet():
  return training.Progress(quiet=True)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  """A run of 30 steps, straight through."""
  run = make_run(tmp_path_factory.mktemp("runs"))
  numbers = training.train(run, quiet())
  return run, numbers


def test_what_a_run_writes(finished):
  run, numbers = finished
  folder = run.folder
  names = {path.name for path in folder.path.iterdir()}
  assert {"run.json", "config.py", "metrics.jsonl", "samples", "checkpoints", "tensorboard"} <= names
  assert sorted(p.name for p in (folder / "samples").glob("*.png")) == ["step_00000020.png", "step_00000030.png"]
  lines = folder.metrics()
  assert [line["step"] for line in lines if line["kind"] == "train"] == [5, 10, 15, 20, 25, 30]
  assert all(0 <= line["data_wait_seconds"] < 60 for line in lines if line["kind"] == "train")
  assert lines[-1] == {"step": 30, "kind": "evaluate", **numbers}
  assert np.isfinite(numbers["test_bits_per_dim_17_levels"])
  info = folder.info()
  assert info["config"] == "tiny"
  assert info["arguments"]["steps"] == 30
  assert info["sessions"][0]["to"] == 30
  assert info["parameters"]["network"] == sum(x.size for x in jax.tree.leaves(run.state.params["network"]))
  assert run.program.traces == 1


def test_figures_and_what_shows_samples(tmp_path):
  source = tiny.SOURCE.replace(
    "    log_every=5,\n",
    "    log_every=5,\n"
    '    figures=(lambda run: {"step.txt": str(run.step).encode()},),\n'
    '    render=lambda samples, conditions: {".txt": str(samples.shape).encode()},\n',
  )
  run = make_run(tmp_path, source=source, steps=4)
  training.train(run, quiet())
  assert (run.folder / "figures" / "step.txt").read_text() == "4"
  assert (run.folder / "samples" / "step_00000004.txt").read_text() == "(4, 8, 8, 1)"
  assert run.suffixes() == [".txt"]
  longer = make_run(tmp_path, source=source, steps=6)
  training.train(longer, quiet())
  assert (run.folder / "figures" / "step.txt").read_text() == "6"
  assert sorted(p.name for p in (run.folder / "figures").iterdir()) == ["step.txt", "step_00000006"]


def test_the_utilisation_of_a_device_with_a_data_sheet(tmp_path, monkeypatch):
  monkeypatch.setattr(record, "data_sheet", lambda kind: Sheet(bfloat16=1e9, float32=5e8, source=kind))
  run = make_run(tmp_path, steps=5)
  training.train(run, quiet())
  (line,) = [line for line in run.folder.metrics() if line["kind"] == "train"]
  # A forward pass multiplies by 65 x 32 and 32 x 64 weights, and the gradient does both again for the weights, and the
  # second for what comes before it.
  work = 16 * 2 * (2 * (65 * 32 + 32 * 64) + 32 * 64)
  assert line["mfu"] == pytest.approx(work * line["steps_per_second"] / (1e9 * run.program.mesh.size))
  assert "learning_rate" not in line  # optax.adam does not say it
  assert "images_per_second" not in line


def test_a_finished_run_only_says_so(finished):
  run, numbers = finished
  again = Run(run.folder, run.config, {}, 0)
  assert training.train(again, quiet()) == numbers
  assert len(run.folder.info()["sessions"]) == 1
  assert state_hash(again.state) == state_hash(run.state)


def test_two_runs_are_bit_equal_and_another_seed_is_not(finished, tmp_path):
  run, _ = finished
  same, other = make_run(tmp_path), make_run(tmp_path, "other", seed=1)
  for each in (same, other):
    training.train(each, quiet())
  assert state_hash(same.state) == state_hash(run.state)
  assert state_hash(other.state) != state_hash(run.state)


def test_a_kill_while_a_run_begins_leaves_a_run_that_begins(tmp_path, monkeypatch):
  """run.json makes a folder a run: whatever a later start needs is there before it."""

  class Killed(BaseException):
    pass

  def killed(*_):
    raise Killed

  whole = Folder.write_info
  for moment in ("before", "after"):
    monkeypatch.setattr(Folder, "write_info", killed if moment == "before" else lambda *a: (whole(*a), killed()))
    with pytest.raises(Killed):
      training.train(make_run(tmp_path, moment, steps=2), quiet())
    monkeypatch.setattr(Folder, "write_info", whole)
    assert training.train(make_run(tmp_path, moment, steps=2), quiet()) is not None


def test_a_signal_stops_and_the_same_command_goes_on(finished, tmp_path):
  run, numbers = finished
  stopped = make_run(tmp_path, steps=30)
  progress = quiet()
  update, before = progress.update, signal.getsignal(signal.SIGINT)

  def press_control_c(step, loss):
    update(step, loss)
    if step == 14:
      os.kill(os.getpid(), signal.SIGINT)

  progress.update = press_control_c
  with pytest.raises(Stopped, match=r"SIGINT: saved .* at step (14|18|20) of 30") as caught:
    training.train(stopped, progress)
  assert caught.value.code == 130
  assert signal.getsignal(signal.SIGINT) is before
  resumed = make_run(tmp_path)
  assert training.train(resumed, quiet()) == numbers
  assert state_hash(resumed.state) == state_hash(run.state)
  whole = lambda r: [{k: v for k, v in line.items() if k not in TIMES} for line in r.folder.metrics()]
  steps = [line["step"] for line in whole(resumed)]
  assert steps == sorted(steps)
  assert [line["step"] for line in whole(resumed)] == [line["step"] for line in whole(run)]


def test_a_run_that_another_may_have_taken_over_writes_nothing_more(tmp_path, monkeypatch):
  """In a folder without locks, by a process that hung for longer than its lease lasts."""
  monkeypatch.setattr(fcntl, "flock", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOLCK, "No locks available")))
  monkeypatch.setattr(claims, "SETTLE", 0.01)
  monkeypatch.setattr(claims._Lease, "_renew", lambda self: None)
  run, progress, there = make_run(tmp_path), quiet(), {}
  update = progress.update

  def hang(step, loss):
    update(step, loss)
    if step >= 14 and not there:
      while not (run.folder / "checkpoints" / "00000010").is_dir():
        time.sleep(0.01)
      there.update(files.sizes(run.folder.path))
      monkeypatch.setattr(claims, "EXPIRE", claims.RENEW)  # whatever its age, a lease is too old now

  progress.update = hang
  with pytest.raises(claims.Lost, match="was not renewed"):
    training.train(run, progress)
  changed = files.sizes(run.folder.path).items() ^ there.items()
  assert not [name for name, _ in changed if not name.startswith("tensorboard/")]
  assert Checkpoints(run.folder / "checkpoints").steps() == [10]


def test_a_process_of_several_that_has_lost_the_folder_does_not_have_the_others_save(monkeypatch):
  def lose(step):
    raise claims.Lost("another has it")

  monkeypatch.setattr(jax, "process_count", lambda: 2)
  monkeypatch.setattr(training, "agreed", lambda value: value)
  hook = training.Hook("", 1, lose, lambda step: False)
  experiment = types.SimpleNamespace(steps=2)
  progress = types.SimpleNamespace(status=lambda text: None)
  told = types.SimpleNamespace(
    hooks=[hook], step=1, run=types.SimpleNamespace(experiment=experiment), progress=progress, save=None, failed=None
  )
  told.tell = lambda: pytest.fail("the others were told, and would save")
  with pytest.raises(claims.Lost):
    training._Training.act(told)
  assert told.failed is None


def test_a_longer_run_goes_on_from_the_shorter(finished, tmp_path):
  run, _ = finished
  short = make_run(tmp_path, steps=13)
  training.train(short, quiet())
  longer = make_run(tmp_path, steps=30)
  training.train(longer, quiet())
  assert state_hash(longer.state) == state_hash(run.state)
  assert longer.folder.info()["arguments"]["steps"] == 30


def test_data_that_are_not_what_the_method_is_of_are_refused(tmp_path):
  source = find_config("density_digits").path.read_text()
  source = source.replace("data.binarized(DIGITS)", "dataclasses.replace(DIGITS, levels=2, source_levels=17)")
  run = make_run(tmp_path, source=f"import dataclasses\n{source}", model="fvsbn")
  with pytest.raises(UserError, match="of values of 2 levels, and the data has others, such as .*: binarize them"):
    training.train(run, quiet())


def test_losses_that_are_not_finite_stop_the_run_and_keep_the_checkpoint(tmp_path):
  source = tiny.SOURCE.replace("optax.adam(learning_rate)", "optax.sgd(lambda count: 1e15 * (count >= 12))")
  run = make_run(tmp_path, source=source)
  with pytest.raises(UserError, match=r"not been finite since step 14 \(. updates skipped\)"):
    training.train(run, quiet())
  # The update of step 13 was finite and ruined the parameters; the checkpoint of step 10 is from before.
  state = jaxgen.load(run.folder.path).state
  assert int(state.step) == 10
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(state.params))


EVALUATED = (
  tiny.SOURCE.replace("evaluators=(likelihood(),),", "evaluators=(lambda run: score(run),),")
  + """

def score(run):
  raise NotImplementedError
"""
)


def scored(folder, score, source=EVALUATED, **arguments):
  """A run whose evaluator is `score`."""
  run = make_run(folder, source=source, **arguments)
  run.config.function.__globals__["score"] = score
  return run


def test_an_error_of_the_evaluation_leaves_the_newest_state_and_is_made_good(tmp_path):
  source = EVALUATED.replace("log_every=5", "log_every=5,\n    evaluate_every=10")

  def fails(run):
    raise ZeroDivisionError

  run = scored(tmp_path, fails, source, checkpoint_every=20)
  with pytest.raises(ZeroDivisionError):
    training.train(run, quiet())
  assert Checkpoints(run.folder / "checkpoints").steps() == [10]  # no checkpoint was due
  assert [line["step"] for line in run.folder.metrics()] == [5, 10]
  again = scored(tmp_path, lambda run: {"score": float(run.step)}, source, checkpoint_every=20)
  assert training.train(again, quiet()) == {"score": 30.0}
  assert [line["step"] for line in again.folder.metrics() if line["kind"] == "evaluate"] == [10, 20, 30]


def test_an_error_of_the_data_leaves_the_newest_state(tmp_path, monkeypatch):
  whole = Run.batches

  def damaged(run):
    stream = whole(run)
    take = stream.take

    def fails(start, count):
      if start + count > 17:
        raise OSError("a damaged picture")
      return take(start, count)

    monkeypatch.setattr(stream, "take", fails, raising=False)
    return stream

  monkeypatch.setattr(Run, "batches", damaged)
  run = make_run(tmp_path)
  with pytest.raises(OSError, match="a damaged picture"):
    training.train(run, quiet())
  assert Checkpoints(run.folder / "checkpoints").steps()[-1] == run.folder.info()["sessions"][0]["to"] == 14


def test_the_best_is_kept_where_evaluations_and_checkpoints_fall_on_other_steps(tmp_path):
  scores = {6: 1.0, 12: 3.0, 18: 2.0, 24: 1.0, 30: 0.0}
  options = 'log_every=5,\n    evaluate_every=6,\n    keep=1,\n    best=("score", "max")'
  run = scored(tmp_path, lambda run: {"score": scores[run.step]}, EVALUATED.replace("log_every=5", options))
  training.train(run, quiet())
  checkpoints = Checkpoints(run.folder / "checkpoints")
  assert checkpoints.steps() == [12, 30]
  assert [checkpoints.manifest(step)["metrics"]["score"] for step in (12, 30)] == [3.0, 0.0]
  assert [jaxgen.load(run.folder.path, checkpoint=which).step for which in ("best", "last", 12)] == [12, 30, 12]
  for which, match in {18: "no checkpoint of step 18", "first": "it is last, best, or the step of one"}.items():
    with pytest.raises(UserError, match=match):
      _ = jaxgen.load(run.folder.path, checkpoint=which).state


def test_another_process_writes_the_run(finished):
  run, _ = finished
  run.folder.lock()
  try:
    with pytest.raises(UserError, match="is being written by process"):
      training.train(Run(Folder(run.folder.path), run.config, {}, 0), quiet())
  finally:
    run.folder.unlock()


@pytest.mark.parametrize(
  ("change", "match"),
  [
    ({"learning_rate": 5e-3}, "--learning-rate 0.001, not 0.005"),
    ({"seed": 4}, "--seed 0, not 4"),
  ],
)
def test_a_run_of_other_arguments_is_refused(finished, change, match):
  run, _ = finished
  seed = change.pop("seed", 0)
  with pytest.raises(UserError, match=match):
    training.train(Run(Folder(run.folder.path), run.config, change, seed), quiet())


def test_a_run_of_a_changed_config_is_refused_but_comments_may_change(finished, tmp_path):
  run, _ = finished
  changed = load_config(
    tiny.write(tmp_path, source=tiny.SOURCE.replace("averaged(method, 0.9)", "averaged(method, 0.8)"))
  )
  with pytest.raises(UserError, match="has changed since"):
    training.train(Run(Folder(run.folder.path), changed, {}, 0), quiet())
  commented = load_config(
    tiny.write(tmp_path, source="# a remark\n" + tiny.SOURCE.replace("for tests", "for the tests"))
  )
  training.train(Run(Folder(run.folder.path), commented, {}, 0), quiet())


def test_loading_sampling_and_evaluating(finished):
  run, numbers = finished
  loaded = jaxgen.load(run.folder.path)
  assert loaded.step == 30
  samples = loaded.sample(20, seed=3)
  assert samples.shape == (20, 8, 8, 1)
  assert samples.dtype == np.float32
  assert len(np.unique(samples, axis=0)) == 20  # of three chunks
  np.testing.assert_array_equal(loaded.sample(5, seed=3, first=9), samples[9:14])
  for start in range(0, 20, 4):
    np.testing.assert_array_equal(loaded.sample(4, seed=3, first=start), samples[start : start + 4])
  assert not np.array_equal(loaded.sample(4, seed=4), samples[:4])
  assert loaded.evaluate() == numbers
  more = jaxgen.load(run.folder.path, sampling_steps=10, solver="ancestral")
  assert not np.array_equal(more.sample(4, seed=3), samples[:4])
  with pytest.raises(UserError, match="n must be at least 1"):
    loaded.sample(0)
  with pytest.raises(UserError, match=r"layers=\(32, 32\) changes the state of .*float32\[64\] in the checkpoint"):
    jaxgen.load(run.folder.path, layers=(32, 32))
  with pytest.raises(UserError, match="perhaps you meant 'sampling_steps'"):
    jaxgen.load(run.folder.path, sampling_step=10)


def test_samples_on_eight_devices_agree_with_one(finished):
  run, _ = finished
  one = jaxgen.load(run.folder.path)
  from jaxgen.engine.mesh import make_mesh
  from jaxgen.engine.program import Program

  e = one.experiment
  spec, prepare = e.data.raw_spec(e.batch_size), e.data.transform
  one._program = Program(e.method, spec, make_mesh(devices=jax.devices()[:1]), prepare=prepare)
  eight = jaxgen.load(run.folder.path, fsdp=2)
  assert eight.program.mesh.size == 8
  a, b = one.sample(64), eight.sample(64)
  assert np.abs(a - b).max() <= 1e-5 * (a.max() - a.min())


def test_hooks_cut_dispatches():
  hook = lambda every: training.Hook("", every, lambda step: None, lambda step: False)
  assert list(training.cuts(0, 20, 8, [hook(5), hook(None), hook(12)])) == [(0, 5), (5, 5), (10, 2), (12, 3), (15, 5)]
  assert list(training.cuts(13, 20, 8, [])) == [(13, 7)]
  assert list(training.cuts(20, 20, 8, [])) == []


def test_training_outside_the_main_thread(tmp_path):
  run, error = make_run(tmp_path, steps=4), []

  def work():
    try:
      training.train(run, quiet())
    except BaseException as e:  # noqa: BLE001 - handed to the main thread
      error.append(e)

  thread = threading.Thread(target=work)
  thread.start()
  thread.join()
  assert not error
  assert run.step == 4
