"""What processes say to each other of a state's digests, where one of them cannot make its own."""

import time

import jax
import numpy as np
import pytest

from jaxgen.core.errors import UserError
from jaxgen.engine import digests
from jaxgen.engine.checkpoint import Checkpoints


class Service(dict):
  """The coordination service of a job, whose processes are played one after the other."""

  key_value_set_bytes, key_value_delete = dict.__setitem__, dict.__delitem__

  def blocking_key_value_get_bytes(self, key, milliseconds):
    if key not in self:
      raise TimeoutError(f"{key} was waited for for {milliseconds / 1000:g} s")
    return self[key]


@pytest.fixture
def play(monkeypatch):
  """(number of the process) -> None: what follows is done in that of two processes."""
  service = Service()
  monkeypatch.setattr(digests, "coordination", lambda: service)

  def process(number):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "process_index", lambda: number)

  return process


def of_process_1():
  """Digests of an array that process 1 holds."""
  made = digests.Digests({"x": np.arange(10.0)})
  made._owners = {"x": (1,)}
  return made


def test_the_reader_gets_what_another_process_has_hashed(play):
  expected = digests.digests({"x": np.arange(10.0)})
  hashed = of_process_1()
  play(1)
  hashed.send()
  play(0)
  assert hashed.whole(b"", sent=True) == expected


def test_a_process_that_cannot_hash_says_so_at_once(play, monkeypatch):
  def fails(*_):
    raise MemoryError("no room for a block")

  hashed = of_process_1()
  monkeypatch.setattr(digests, "_paste", fails)
  play(1)
  with pytest.raises(MemoryError, match="no room"):
    hashed.send()
  play(0)
  with pytest.raises(UserError, match="process 1 could not hash its part of the state: no room for a block"):
    hashed.whole(b"", sent=True)


def test_a_save_that_cannot_be_hashed_is_an_error_of_the_next_wait(tmp_path, monkeypatch):
  """In process 0 by way of the writer; nothing is waited for, and the checkpoint before stays."""
  checkpoints = Checkpoints(tmp_path)
  checkpoints.save(1, {"x": jax.numpy.arange(4.0)})
  checkpoints.wait()
  monkeypatch.setattr(digests.Digests, "local", lambda self: 1 // 0)
  began = time.monotonic()
  checkpoints.save(2, {"x": jax.numpy.arange(4.0)})
  with pytest.raises(ZeroDivisionError):
    checkpoints.wait()
  assert time.monotonic() - began < 60
  assert checkpoints.steps() == [1]


def test_another_process_hears_of_its_own_error_at_the_next_wait(tmp_path, monkeypatch):
  """Before the writer, which waits for process 0."""
  checkpoints = Checkpoints(tmp_path)
  checkpoints.save(1, {"x": jax.numpy.arange(4.0)})
  checkpoints._hashing = checkpoints._hasher.submit(lambda: 1 // 0)
  monkeypatch.setattr(checkpoints._writer, "wait_until_finished", lambda: time.sleep(3600))
  monkeypatch.setattr(jax, "process_index", lambda: 1)
  with pytest.raises(ZeroDivisionError):
    checkpoints.wait()
