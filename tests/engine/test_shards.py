"""Samples that go to disk chunk by chunk: the same bits however they are cut, stopped and gone on with."""

import hashlib
import json
import re
import weakref

import numpy as np
import pytest
import tiny
from PIL import Image

from jaxgen.core import pictures
from jaxgen.core.errors import UserError
from jaxgen.engine import shards
from jaxgen.engine.config import load_config
from jaxgen.engine.drawing import stream
from jaxgen.engine.folder import Folder
from jaxgen.engine.run import Run

N, FIRST = 21, 2  # tiny draws in batches of 8


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  config = load_config(tiny.write(tmp_path_factory.mktemp("shards")))
  run = Run(Folder(""), config, {}, 0)
  raw = {name: np.zeros(s.shape, s.dtype) for name, s in run.data.raw_spec(run.experiment.batch_size).items()}
  run.state = run.program.init(0, raw)
  return run


@pytest.fixture(scope="module")
def samples(run):
  return run.sample(N, first=FIRST)


class Killed(BaseException):
  """Stands for SIGKILL: nothing may catch it."""


def contents(folder):
  return {path.name: path.read_bytes() for path in folder.iterdir()}


def killed_after(monkeypatch, count):
  """Lets so many files be written, the folder's own ones among them, and the next one only by half."""
  done, write = [], shards.files.write

  def some(path, text):
    if len(done) == count:
      (path.parent / shards.files._temporary_name()).write_bytes(text[: len(text) // 2])
      raise Killed
    done.append(path)
    write(path, text)

  monkeypatch.setattr(shards.files, "write", some)


@pytest.mark.parametrize("chunk", [3, 8, 64])
def test_bits_do_not_depend_on_the_size_of_chunks(run, samples, tmp_path, chunk):
  assert shards.draw(run, tmp_path, N, first=FIRST, chunk=chunk) == (0, N)
  names = [f"samples_{i:08d}.npz" for i in range(FIRST, FIRST + N, chunk)]
  assert sorted(contents(tmp_path)) == sorted([*names, "samples.json", "chunks.jsonl", "lock"])
  parts = [np.load(tmp_path / name, allow_pickle=False)["samples"] for name in names]
  assert {len(part) for part in parts[:-1]} <= {chunk}
  np.testing.assert_array_equal(np.concatenate(parts), samples)


def test_another_batch_gives_the_same_samples_up_to_rounding(run, samples):
  np.testing.assert_allclose(run.sample(N, first=FIRST, batch=16), samples, atol=1e-5)
  with pytest.raises(UserError, match="at least 1 at once, not 0"):
    run.sample(3, batch=0)


@pytest.mark.parametrize(("kind", "files_written"), [("npz", 4), ("images", 2), ("images", 12)])
def test_killed_and_gone_on_with_gives_the_same_bytes(run, samples, tmp_path, monkeypatch, kind, files_written):
  whole, stopped = tmp_path / "whole", tmp_path / "stopped"
  shards.draw(run, whole, N, first=FIRST, kind=kind, chunk=5)
  with monkeypatch.context() as patch:
    killed_after(patch, files_written)
    with pytest.raises(Killed):
      shards.draw(run, stopped, N, first=FIRST, kind=kind, chunk=5)
  assert contents(stopped) != contents(whole)
  done = len((stopped / "chunks.jsonl").read_text().splitlines())
  assert done == max(0, files_written - 2) // (1 if kind == "npz" else 5)  # what stands in the index is complete
  with open(stopped / "chunks.jsonl", "a") as index:
    index.write('{"first": 7, "cou')  # and a line that was cut short
  assert shards.draw(run, stopped, N, first=FIRST, kind=kind, chunk=5) == (5 * done, N - 5 * done)
  assert contents(stopped) == contents(whole)
  if kind == "images":
    for i, sample in enumerate(samples, FIRST):
      np.testing.assert_array_equal(np.asarray(Image.open(whole / f"{i:08d}.png")), pictures.to_uint8(sample)[..., 0])


def test_what_is_complete_is_verified_and_not_drawn_again(run, tmp_path, monkeypatch):
  shards.draw(run, tmp_path, N, first=FIRST, chunk=4)
  whole = contents(tmp_path)
  for line in map(json.loads, whole["chunks.jsonl"].decode().splitlines()):
    assert line["sha256"] == hashlib.sha256(whole[f"samples_{line['first']:08d}.npz"]).hexdigest()
  damaged = bytearray(whole["samples_00000010.npz"])
  damaged[-200] ^= 1
  (tmp_path / "samples_00000010.npz").write_bytes(damaged)
  (tmp_path / "samples_00000018.npz").unlink()
  begun = []
  sample = run.program.sample
  monkeypatch.setattr(run.program, "sample", lambda *words: begun.append(1) or sample(*words))
  assert shards.draw(run, tmp_path, N, first=FIRST, chunk=4) == (N - 8, 8)
  assert len(begun) == 2  # 10 to 13 are of the batch from 8, 18 to 21 of that from 16
  assert contents(tmp_path) == whole
  assert shards.draw(run, tmp_path, N, first=FIRST, chunk=4) == (N, 0)
  assert shards.draw(run, tmp_path, N + 4, first=FIRST, chunk=4) == (N - 1, 5)  # the last chunk has grown
  shards.draw(run, tmp_path / "whole", N + 4, first=FIRST, chunk=4)
  there = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
  assert there == contents(tmp_path / "whole")


def test_memory_is_bounded_and_the_next_batch_is_begun_before_the_last_is_written(run, tmp_path, monkeypatch):
  alive, most, events = weakref.WeakSet(), [], []

  class Array(np.ndarray):
    __hash__ = object.__hash__

  def sample(state, keys, conditions):
    drawn = np.zeros((len(keys), 8, 8, 1), np.float32).view(Array)
    alive.add(drawn)
    most.append(len(alive))
    events.append("begin")
    return drawn

  write = shards._Writer.write
  monkeypatch.setattr(run.program, "sample", sample)
  monkeypatch.setattr(shards._Writer, "write", lambda *words: events.append("write") or write(*words))
  monkeypatch.setattr(shards, "_like", lambda run: ((8, 8, 1), np.dtype(np.float32)))
  shards.draw(run, tmp_path, 8 * 40, chunk=16)
  assert len(most) == 40
  assert max(most) <= 8  # two on the devices, and two chunks of two
  assert max(most[20:]) == max(most[:20])  # it does not grow
  for i in range(20):  # a batch of the next chunk is on its way before a chunk is written
    before = [k for k, what in enumerate(events) if what == "write"][i]
    assert events[:before].count("begin") >= min(2 * (i + 1) + 1, 40)


def test_what_cannot_be_is_one_sentence(run, tmp_path):
  shards.draw(run, tmp_path / "a", 4)
  for words, text in (
    (dict(seed=1), "--seed 0, not 1"),
    (dict(chunk=3), "--chunk 8, not 3"),
    (dict(kind="images"), "--format npz, not images"),
  ):
    with pytest.raises(UserError, match=re.escape(f"holds samples of {text}: choose another folder")):
      shards.draw(run, tmp_path / "a", 4, **words)
  with pytest.raises(UserError, match="--n 4, not 3"):
    shards.draw(run, tmp_path / "a", 3)
  with pytest.raises(UserError, match="cannot draw 0 samples"):
    stream(run, 0)
  with pytest.raises(UserError, match="at least 1 sample"):
    shards.draw(run, tmp_path / "b", 4, chunk=-1)
  assert not (tmp_path / "b").exists()
  with shards._locked(tmp_path / "a"), pytest.raises(UserError, match="being written by process"):
    shards.draw(run, tmp_path / "a", 4)
  (tmp_path / "a" / "samples.json").write_text("{")
  with pytest.raises(UserError, match="cannot be read"):
    shards.draw(run, tmp_path / "a", 4)
