"""TCP connections between the processes of a job: each learns which others are there, which have ended, and why.

When a process ends by itself, the others wait in a collective operation, where nothing reaches them, until the runtime
aborts them after minutes. Therefore every process keeps a TCP connection to process 0, called its line. The lines are
opened at the coordinator's address before jax listens there, so that an absent process can be named. A process that
ends says why on its line, and the line of a killed process breaks. The other processes then print one sentence and end.

The messages are JSON, one a line: {"from": number of the process, "why": a sentence, "" at a good end}.
"""

import atexit
import contextlib
import json
import os
import selectors
import socket
import sys
import threading
import time
from typing import NoReturn

from jaxgen.core.errors import UserError

GRACE = 3.0  # seconds in which a process may end by itself once it knows that another has
KEEPALIVE = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}  # a silent host is given up after 30 s
LEAVING = 10.0  # seconds that process 0 waits for the others at its end, for the runtime aborts them without it


class Lines:
  """This process's lines: one to process 0, or in process 0 one to each of the others.

  Attributes:
    news: a sentence on the first process that has ended too early; None: none has.
    grace: seconds that this process has to end by itself after another has ended.
  """

  def __init__(self, process: int, sockets: dict[int, socket.socket]):
    self.process, self.news, self.grace = process, None, GRACE
    self._sockets = sockets
    self._gone: set[int] = set()  # processes that have reported why they end
    self._heard, self._lock, self._ending = threading.Event(), threading.Lock(), False
    self._selector = selectors.DefaultSelector()
    for number, line in sockets.items():
      line.settimeout(None)
      line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # a host that fails says nothing
      for name, value in KEEPALIVE.items():
        if hasattr(socket, name):  # on Linux
          line.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
      self._selector.register(line, selectors.EVENT_READ, (number, bytearray()))
    threading.Thread(target=self._listen, name="jaxgen-lines", daemon=True).start()
    atexit.register(self._tell, "")

  def lost(self, seconds: float) -> str | None:
    """Waits up to so many seconds for `news` and returns it: the devices notice a lost process before its line does."""
    self._heard.wait(seconds)
    return self.news

  def leave(self, code: int, why: str) -> NoReturn:
    """Ends this process at once and all others with it, and tells them why. Print everything before."""
    with self._lock:
      is_second, self._ending = self._ending, True
    if is_second:  # another thread is at it
      time.sleep(2 * LEAVING)
    self._tell(why)
    until = time.monotonic() + max(LEAVING, self.grace)
    while self.process == 0 and self._sockets and time.monotonic() < until:
      time.sleep(0.02)
    with contextlib.suppress(OSError, ValueError):
      sys.stdout.flush()
    os._exit(code)

  def _tell(self, why: str, source: int | None = None) -> None:
    message = json.dumps({"from": self.process if source is None else source, "why": why}).encode() + b"\n"
    for number, line in list(self._sockets.items()):
      if number != source:
        with contextlib.suppress(OSError):
          line.sendall(message)

  def _listen(self) -> None:
    while self._sockets:
      for key, _ in self._selector.select():
        number, buffer = key.data
        try:
          data = key.fileobj.recv(2**16)
        except OSError:
          data = b""
        buffer += data
        *messages, rest = buffer.split(b"\n")
        buffer[:] = rest
        for message in map(json.loads, messages):
          self._gone.add(message["from"])
          if message["why"]:
            self._ended(message["from"], message["why"], wait=True)
        if not data:
          self._selector.unregister(key.fileobj)
          del self._sockets[number]
          if number not in self._gone:
            why = "was lost: it was killed, or its host or the network failed; start the job again, which goes on"
            self._ended(number, f"{why} from the newest checkpoint", wait=False)

  def _ended(self, number: int, why: str, wait: bool) -> None:
    if self.news is None and not self._ending:
      self.news = f"process {number} {why}"
      self._heard.set()
      if self.process == 0:
        self._tell(why, number)
      # Without process 0 the runtime aborts this one in a moment.
      grace = self.grace if wait else GRACE / 6 if number else 0.0
      threading.Thread(target=self._end, args=(grace,), daemon=True).start()

  def _end(self, grace: float) -> None:
    time.sleep(grace)  # the main thread may be about to print more
    if not self._ending:
      with contextlib.suppress(OSError, ValueError):
        print(f"jaxgen: error: {self.news}", file=sys.stderr, flush=True)
    self.leave(1, "ended with it")


def meet(address: str, processes: int, process: int, seconds: float) -> Lines:
  """Waits until all processes of the job have connected.

  Args:
    address: HOST:PORT of process 0, where jax will listen afterwards.

  Raises:
    UserError: a process is still absent after so many seconds, or the address cannot be used.
  """
  host, _, port = address.rpartition(":")
  if not host or not port.isdigit() or not 0 < int(port) < 2**16:
    raise UserError(f"--coordinator {address} is not HOST:PORT")
  host, until = host.strip("[]"), time.monotonic() + seconds
  if process == 0:
    return Lines(0, _gather(int(port), processes, until, seconds))
  return Lines(process, {0: _call(host, int(port), f"jaxgen {process} {processes}", until, seconds)})


def _gather(port: int, processes: int, until: float, seconds: float) -> dict[int, socket.socket]:
  """Process 0's lines to the other processes, by their numbers."""
  found: dict[int, socket.socket] = {}
  family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
  try:
    server = socket.create_server(
      ("", port), family=family, backlog=processes, dualstack_ipv6=family == socket.AF_INET6
    )
  except OSError as error:
    raise UserError(
      f"process 0 cannot listen on port {port} ({error.strerror}): give all processes another one in --coordinator"
    ) from error

  def refuse(why: str) -> NoReturn:
    for line in found.values():
      with contextlib.suppress(OSError):
        line.sendall(f"{why}\n".encode())
    raise UserError(why)

  with server:
    while len(found) < processes - 1:
      server.settimeout(max(until - time.monotonic(), 1e-3))
      try:
        line, _ = server.accept()
      except TimeoutError:
        absent = sorted(set(range(1, processes)) - found.keys())
        names = ", ".join(map(str, absent[:8])) + (f" and {len(absent) - 8} more" if len(absent) > 8 else "")
        refuse(
          f"process{'es' * (len(absent) > 1)} {names} of {processes} did not come within {seconds:g} s: start all "
          "processes with the same --coordinator and --processes, or wait longer with --join-seconds"
        )
      number, theirs = _said(line)
      if theirs is None:  # whoever looks which ports are open
        line.close()
        continue
      if theirs != processes or not 0 < number < processes or number in found:
        found[-number - 1] = line  # it is informed as well
        refuse(
          f"process {number} of {theirs} has come to a job of {processes} processes and has no place there, or a "
          "second: give each its own --process and all the same --processes"
        )
      found[number] = line
  for line in found.values():
    line.sendall(b"\n")
  return found


def _said(line: socket.socket) -> tuple[int, int | None]:
  """(its number, the number of processes) as a process says on its line; (0, None) for any other line."""
  line.settimeout(5)
  try:
    word, number, processes = line.makefile("rb").readline(64).split()
    return (int(number), int(processes)) if word == b"jaxgen" else (0, None)
  except (OSError, ValueError):
    return 0, None


def _call(host: str, port: int, greeting: str, until: float, seconds: float) -> socket.socket:
  """Connects to process 0, and returns the line when all processes have connected."""
  while True:
    try:
      line = socket.create_connection((host, port), timeout=max(min(5, until - time.monotonic()), 0.1))
      break
    except OSError as error:
      if time.monotonic() > until:
        raise UserError(
          f"process 0 does not answer at {host}:{port} after {seconds:g} s ({error.strerror or error}): start it, look "
          "at --coordinator and the firewall, or wait longer with --join-seconds"
        ) from error
      time.sleep(0.2)
  answer = b""
  with contextlib.suppress(OSError):
    line.sendall(f"{greeting}\n".encode())
    line.settimeout(max(until - time.monotonic(), 0) + 5)
    while not answer.endswith(b"\n") and (more := line.recv(2**12)):
      answer += more
  if answer != b"\n":
    ended = f"process 0 at {host}:{port} has ended before all processes were there"
    raise UserError(answer.decode(errors="replace").strip() or ended)
  return line
