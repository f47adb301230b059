"""The lines between processes, each process a thread of this one with sockets of its own."""

import socket
import threading
import types

import pytest

from jaxgen.core.errors import UserError
from jaxgen.engine import peers
from jaxgen.engine.cluster import join_cluster


@pytest.fixture
def address():
  with socket.socket() as free:
    free.bind(("localhost", 0))
    return f"localhost:{free.getsockname()[1]}"


@pytest.fixture
def left(monkeypatch):
  """(exit status, what it says) of every process that leaves, instead of ending this one."""
  ends = []

  def leave(self, code, why):
    self._ending = True
    ends.append((self.process, code, self.news))

  monkeypatch.setattr(peers.Lines, "leave", leave)
  monkeypatch.setattr(peers, "GRACE", 0.01)
  yield ends
  threading.Event().wait(0.2)  # whoever still leaves must not find the real `leave`, which ends the tests


def meet_all(address, numbers, processes, seconds=20.0):
  """What `meet` returns or raises for each of these processes."""
  found = {}

  def work(i, number):
    try:
      found[i] = peers.meet(address, processes, number, seconds)
    except UserError as error:
      found[i] = str(error)

  threads = [threading.Thread(target=work, args=item) for item in enumerate(numbers)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  return [found[i] for i in range(len(numbers))]


def test_one_says_why_it_ends_and_the_others_end_with_it(address, left, capfd):
  lines = meet_all(address, range(3), 3)
  lines[2]._tell("has ended: the disk is full")
  for line in lines[:2]:
    assert line.lost(20.0) == "process 2 has ended: the disk is full"
  assert lines[2].lost(0.0) is None
  wait_for(lambda: len(left) == 2)
  assert sorted(left) == [(p, 1, "process 2 has ended: the disk is full") for p in (0, 1)]
  assert capfd.readouterr().err.count("jaxgen: error: process 2 has ended: the disk is full") == 2


@pytest.mark.parametrize("lost", [0, 1])
def test_one_that_is_killed_lets_go_of_its_line(address, left, lost):
  lines = meet_all(address, range(3), 3)
  lines[lost]._ending = True  # whoever is killed says nothing any more
  for line in list(lines[lost]._sockets.values()):
    line.shutdown(socket.SHUT_RDWR)  # as the system does for it
  for number in {0, 1, 2} - {lost}:
    assert lines[number].lost(20.0).startswith(f"process {lost} was lost: it was killed")
  wait_for(lambda: len(left) == 2)


def test_a_good_end_is_no_news(address, left):
  lines = meet_all(address, range(2), 2)
  for line in lines:
    line._tell("")
  for line in list(lines[1]._sockets.values()):
    line.shutdown(socket.SHUT_RDWR)
  wait_for(lambda: not lines[0]._sockets)
  assert lines[0].news is None
  assert not left


def wait_for(is_so):
  for _ in range(400):
    if is_so():
      return
    threading.Event().wait(0.05)
  raise AssertionError


def test_who_is_absent_is_named(address):
  sentence = "processes 1, 3 of 4 did not come within 1 s: start all processes with the same --coordinator"
  assert all(text.startswith(sentence) for text in meet_all(address, [0, 2], 4, seconds=1.0))
  (text,) = meet_all(address, [1], 2, seconds=0.3)
  assert text.startswith(f"process 0 does not answer at {address} after 0.3 s (Connection refused): start it")


def test_whoever_else_connects_is_passed_over(address):
  stop = threading.Event()

  def scan():
    host, port = address.split(":")
    while not stop.is_set():
      try:
        with socket.create_connection((host, int(port)), 1) as line:
          line.sendall(b"GET / HTTP/1.1\r\n\r\n")
          return
      except OSError:
        stop.wait(0.01)

  scanner = threading.Thread(target=scan)
  scanner.start()
  lines = meet_all(address, range(2), 2)
  stop.set()
  scanner.join()
  assert [line.process for line in lines] == [0, 1]
  for line in lines:
    line._tell("")


def test_two_of_the_same_number(address):
  texts = [text for text in meet_all(address, [0, 1, 1], 3) if isinstance(text, str)]
  assert len(texts) == 3
  assert all("process 1 of 3 has come to a job of 3 processes and has no place there, or a second" in t for t in texts)


def test_bad_addresses(address):
  with pytest.raises(UserError, match="--coordinator nowhere is not HOST:PORT"):
    peers.meet("nowhere", 2, 0, 1.0)
  with socket.create_server(("", int(address.split(":")[1]))), pytest.raises(UserError, match="cannot listen on port"):
    peers.meet(address, 2, 0, 1.0)


def test_what_the_environment_does_not_say(monkeypatch):
  for name in ("JAX_COORDINATOR_ADDRESS", "SLURM_JOB_ID", "OMPI_MCA_orte_hnp_uri", "KUBERNETES_SERVICE_HOST"):
    monkeypatch.delenv(name, raising=False)
  monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
  monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "1")
  with pytest.raises(UserError, match=r"\(Open MPI 5 hides it\): give --coordinator HOST:PORT, --processes and"):
    join_cluster()
  with pytest.raises(UserError, match="process 0 does not answer at localhost:1 after"):  # the rest is Open MPI's
    join_cluster("localhost:1", seconds=0.1)
  monkeypatch.delenv("OMPI_COMM_WORLD_SIZE")
  monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
  monkeypatch.setenv("JOB_COMPLETION_INDEX", "0")
  monkeypatch.setitem(__import__("sys").modules, "kubernetes", None)
  with pytest.raises(UserError, match=r"not installed: pip install 'jaxgen\[k8s\]', or give --coordinator"):
    join_cluster()

  def load():
    raise FileNotFoundError("Service token file does not exist.")

  fake = types.SimpleNamespace(config=types.SimpleNamespace(load_incluster_config=load))
  monkeypatch.setitem(__import__("sys").modules, "kubernetes", fake)
  with pytest.raises(UserError, match=r"Service token file does not exist.*; or give --coordinator"):
    join_cluster()
