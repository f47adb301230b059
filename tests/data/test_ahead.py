"""Worker processes: the bits of threads, errors in words, and nothing left over."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import patience
from PIL import Image

from jaxgen.core.errors import UserError
from jaxgen.data import RandomResizedCrop, ahead, dataset, images, sources
from jaxgen.data.pipeline import Stream, in_order


@pytest.fixture
def photographs(tmp_path, monkeypatch):
  """40 JPEGs of several sizes in two classes, none of them kept in memory."""
  whole = sources.open_source
  monkeypatch.setattr(dataset, "open_source", lambda *arguments: whole(*arguments[:5], memory_bytes=0))
  rng = np.random.default_rng(0)
  for i in range(40):
    path = tmp_path / "photographs" / "train" / "ab"[i % 2] / f"{i:02}.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    small = Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8))
    small.resize((20 + i, 50 - i), Image.Resampling.BICUBIC).save(path)
  return tmp_path / "photographs"


def drawn(folder):
  return images(f"folder:{folder}", (16, 16, 3), classes=2, view=RandomResizedCrop(), repeats=3)


@pytest.mark.parametrize(
  "workers",
  [
    pytest.param(2, marks=pytest.mark.processes(2)),
    pytest.param(1, marks=[pytest.mark.processes(1), pytest.mark.nightly]),
    pytest.param(4, marks=[pytest.mark.processes(4), pytest.mark.nightly]),
  ],
)
def test_any_number_of_workers_reads_the_same_bits_and_an_error_names_the_file(photographs, workers, monkeypatch):
  """In pieces of 8 of batches of 20, over the end of an epoch; then one file is damaged, and read by a worker."""
  monkeypatch.setattr("jaxgen.data.pipeline.PIECE", 8)
  data = drawn(photographs)
  here, there = (Stream(data.training(), 3, 20, repeats=3, workers=n) for n in (0, workers))
  try:
    expected, got = here.take(1, 3), there.take(1, 3)
    for name, array in expected.items():
      np.testing.assert_array_equal(got[name], array, strict=True)
    for path in (photographs / "train" / "b").iterdir():
      path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match=r"train/b/\d\d.jpg cannot be read as an image .*: repair or remove it"):
      there.take(4, 12)
  finally:
    here.close()
    there.close()


@pytest.mark.nightly
@pytest.mark.processes(2)
def test_an_evaluation_reads_the_same_bits(photographs, monkeypatch):
  monkeypatch.setattr("jaxgen.data.pipeline.PIECE", 8)
  source = drawn(photographs).source("train")
  for (batch, count), (again, its) in zip(*(in_order(source, 16, workers=n) for n in (0, 2)), strict=True):
    assert count == its
    for name in batch:
      np.testing.assert_array_equal(again[name], batch[name], strict=True)


@pytest.mark.processes(1)
def test_workers_that_are_killed_are_said(photographs):
  """As the system kills one for want of memory."""
  with pytest.raises(UserError, match="--workers is a number of processes, 0 for none, not -1"):
    ahead.Ahead(int, 0, 5, -1)
  parts = ahead.Ahead(_dies, 0, 5, 1)
  try:
    with pytest.raises(UserError, match="has ended with exit code -9: it was killed, .* fewer --workers, or 0"):
      list(parts)
  finally:
    parts.close()


def _dies(i):
  os.kill(os.getpid(), signal.SIGKILL)


def test_an_error_that_cannot_be_sent_is_sent_in_words():
  class Odd(Exception):
    def __init__(self, a, b):
      super().__init__(f"{a} and {b}")

  def fails(i):
    raise Odd("this", "that")

  with pytest.raises(RuntimeError, match="Odd: this and that"):
    ahead._portable(fails, 0)


SCRIPT = """
import multiprocessing, sys, time
from jaxgen.data import images, pipeline, sources, dataset
whole = sources.open_source
dataset.open_source = lambda *arguments: whole(*arguments[:5], memory_bytes=0)
if __name__ == "__main__":
  stream = pipeline.Stream(images("folder:" + sys.argv[1], (16, 16, 3)).source("train"), 0, 8, workers=2)
  stream.take(0, 1)
  print(*(p.pid for p in multiprocessing.active_children()), flush=True)
  for step in range(1, 10**9):
    stream.take(step, 1)
    time.sleep(0.01)
"""


@pytest.mark.processes(1)
@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="needs POSIX")
@pytest.mark.parametrize(
  "signum", [signal.SIGKILL, *(pytest.param(s, marks=pytest.mark.nightly) for s in (signal.SIGINT, signal.SIGTERM))]
)
def test_no_worker_outlives_its_parent(photographs, tmp_path, signum):
  """However it ends; an interrupt goes to the whole group, as from a terminal."""
  (tmp_path / "script.py").write_text(SCRIPT)
  parent = subprocess.Popen(
    [sys.executable, tmp_path / "script.py", photographs], stdout=subprocess.PIPE, text=True, start_new_session=True
  )
  try:
    workers = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(workers) == 2
    os.kill(parent.pid, signum) if signum == signal.SIGKILL else os.killpg(parent.pid, signum)
    parent.wait(60)
    deadline = time.monotonic() + 10 * patience()
    while any(_lives(pid) for pid in workers) and time.monotonic() < deadline:
      time.sleep(0.05)
    assert not any(_lives(pid) for pid in workers)
  finally:
    parent.kill()
    parent.wait()


def _lives(pid):
  try:
    with open(f"/proc/{pid}/stat") as file:
      return file.read().rpartition(")")[2].split()[0] != "Z"
  except FileNotFoundError:
    return False


def test_workers_suit_the_machine(monkeypatch):
  for cores, workers in ((1, 0), (2, 0), (4, 3), (8, 7), (256, 16)):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid, n=cores: set(range(n)), raising=False)
    assert ahead.of_machine() == workers
