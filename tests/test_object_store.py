"""Whole runs at s3://, in moto's emulation of S3 on this machine, as commands see them."""

import logging
import os
import re
import time

import conftest
import pytest
import tiny
from test_cli import command, error_of, state_sha
from test_processes import finish, start, two_processes

from jaxgen.core import files
from jaxgen.engine import claims
from jaxgen.engine.folder import Folder

pytest.importorskip("s3fs")
pytest.importorskip("moto")


@pytest.fixture(scope="module")
def bucket():
  """The address of a bucket on a server in a thread, which is in the environment."""
  from moto.server import ThreadedMotoServer

  logging.getLogger("werkzeug").setLevel(logging.ERROR)
  server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
  server.start()
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.get_host_and_port()[1]}")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
      patch.setenv(name, "tests")
    patch.setenv("AWS_REGION", "us-east-1")
    patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    import fsspec

    fsspec.filesystem("s3").mkdir("bucket")
    yield "s3://bucket"
  server.stop()


def test_a_run_is_as_one_in_a_folder(bucket, tmp_path, monkeypatch):
  """Trained, resumed, sampled from, reported and inspected; one of another process and one in no bucket are refused."""
  config = tiny.write(tmp_path)
  command("train", config, "--runs", tmp_path / "runs")
  words = ["train", config, "--runs", f"{bucket}/runs"]
  command(*words, "--steps", 20)
  run = f"{bucket}/runs/tiny"
  monkeypatch.setattr(claims, "RENEW", 0.2)
  other = Folder(run)
  other.lock()
  with monkeypatch.context() as patch:
    patch.setattr(claims, "_is_gone", lambda owner: False)
    assert f"{run} is being written by process {os.getpid()}" in error_of(*words)
  other.unlock()
  assert f"resuming {run} at step 20" in command(*words).stdout
  assert state_sha(run) == state_sha(tmp_path / "runs" / "tiny")

  there = {name for name in files.sizes(files.place(run)) if not name.startswith("checkpoints/")}
  assert there == {
    *("run.json", "config.py", "metrics.jsonl", "report.html", "samples/final.npz"),
    *("samples/step_00000020.png", "samples/step_00000030.png"),
  }
  steps = [path.name for path in (files.place(run) / "checkpoints").iterdir()]
  assert steps == ["00000020", "00000030"]
  untimed = lambda folder: [
    {k: v for k, v in line.items() if not k.endswith(("per_second", "seconds"))} for line in Folder(folder).metrics()
  ]
  assert [line for line in untimed(run) if line["step"] != 20 or line["kind"] == "train"] == untimed(
    tmp_path / "runs" / "tiny"
  )

  command("sample", run, "--n", 8, "--out", f"{bucket}/samples.npz")
  command("sample", run, "--n", 16, "--chunk", 8, "--out", f"{bucket}/many")
  assert "16 samples existed" in command("sample", run, "--n", 24, "--chunk", 8, "--out", f"{bucket}/many").stderr
  assert len((files.place(f"{bucket}/many") / "chunks.jsonl").read_text().splitlines()) == 3
  assert command("report", run).stdout.strip() == f"{run}/report.html"
  assert "the specified bucket does not exist" in error_of("train", config, "--runs", "s3://none/runs")
  assert "s3://bucket/none is not a run" in error_of("inspect", "s3://bucket/none")


def test_what_a_kill_has_left_is_no_checkpoint_and_damage_is_found(bucket, tmp_path):
  config = tiny.write(tmp_path)
  words = ["train", config, "--runs", f"{bucket}/kills"]
  command(*words, "--steps", 20)
  folder = files.place(f"{bucket}/kills/tiny/checkpoints")
  sha = state_sha(folder.parent)
  for name in files.sizes(folder / "00000020"):  # half of one that was being written, without the file that comes last
    if name != "commit_success.txt":
      files.write(folder / "00000025" / name, (folder / "00000020" / name).read_bytes())
  assert state_sha(folder.parent) == sha
  data = max(files.sizes(folder / "00000020").items(), key=lambda each: each[1])[0]
  flipped = bytearray((folder / "00000020" / data).read_bytes())
  flipped[len(flipped) // 2] ^= 1
  files.write(folder / "00000020" / data, bytes(flipped))
  out = command(*words, "--steps", 20).stdout
  assert "00000020 is damaged" in out
  assert "at step 10" in out
  assert state_sha(folder.parent) == sha
  assert [path.name for path in folder.iterdir()] == ["00000010", "00000020"]


@pytest.mark.nightly
@pytest.mark.processes(4)
def test_killed_and_resumed_is_bit_equal(bucket, tmp_path):
  """SIGKILL, also while a checkpoint is written; the lease of a process that is gone from here holds nobody up."""
  config = tiny.write(tmp_path)
  words = ["--runs", f"{bucket}/killed", "--steps", 600, "--checkpoint-every", 25]
  checkpoints = files.place(f"{bucket}/killed/tiny/checkpoints")
  newest = lambda: max([int(path.name) for path in checkpoints.glob("0*")], default=0)
  for _ in range(4):
    before, training = newest(), start("train", config, *words, devices=8)
    until = time.time() + 100 * conftest.patience()
    while newest() <= before and training.poll() is None and time.time() < until:
      time.sleep(0.01)
    assert training.poll() is None, training.communicate()
    training.kill()
    training.communicate()
  command("train", config, *words)
  command("train", config, "--runs", tmp_path, "--steps", 600, "--checkpoint-every", 25)
  assert state_sha(f"{bucket}/killed/tiny") == state_sha(tmp_path / "tiny")


@pytest.mark.nightly
@pytest.mark.processes(8)
def test_two_processes_write_one_run(bucket, tmp_path):
  """Each writes its part of the state and reads it again, with the bits of a folder; one goes on with it."""
  config = tiny.write(tmp_path)
  for runs in (f"{bucket}/two", tmp_path):
    words = ["train", config, "--runs", runs, "--fsdp", 8]
    for steps in (20, 30):
      for code, out, err in finish(two_processes(*words, "--steps", steps)):
        assert code == 0, out + err
  run = f"{bucket}/two/tiny"
  assert any("ocdbt.process_1/d/" in name for name in files.sizes(files.place(run) / "checkpoints"))
  assert state_sha(run) == state_sha(tmp_path / "tiny")
  assert [session["processes"] for session in Folder(run).info()["sessions"]] == [2, 2]
  assert re.search("resuming .* at step 30", command("train", config, "--runs", f"{bucket}/two", "--steps", 34).stdout)
