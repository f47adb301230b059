"""Processes that answer a line of JSON with a line of JSON, each on a time limit, and ways to pause and to end them."""

import contextlib
import json
import os
import pathlib
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable

HERE = pathlib.Path(__file__).resolve().parent


class Failed(Exception):
  """A process that ended, or could not do what it was asked for."""


class Late(Failed):
  """An answer that did not come in time."""


def descendants(pid: int) -> list[int]:
  """A process and all that came of it, from Linux's /proc: compilers start process groups of their own."""
  children: dict[int, list[int]] = {}
  for entry in pathlib.Path("/proc").iterdir():
    if entry.name.isdigit():
      try:
        parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
      except (OSError, ValueError, IndexError):
        continue
      children.setdefault(parent, []).append(int(entry.name))
  found = [pid]
  for one in found:
    found.extend(children.get(one, []))
  return found


def send_signal(pids: Iterable[int], number: int) -> None:
  for pid in pids:
    try:
      os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
      continue


class Process:
  """A worker's process. Its first line says that it is ready, or why not; then it answers each message.

  Attributes:
    ready: the first answer, None until it came.
    started: when, by `time.perf_counter`, later by as long as it was paused.
  """

  alive: list["Process"] = []  # all that were started and not ended, for the end of the whole run

  def __init__(self, name: str, script: str, job: dict, environment: dict[str, str | None], logs: pathlib.Path):
    self.name, self.ready, self.started = name, None, time.perf_counter()
    self.paused: float | None = None  # since when
    self.log = logs / (name.replace(" ", "_").replace("/", "_") + ".log")
    self._answers, self._first = queue.Queue(), threading.Event()
    environment = {k: v for k, v in {**os.environ, **environment}.items() if v is not None}
    with self.log.open("wb") as log:
      self.process = subprocess.Popen(
        [sys.executable, str(HERE / script), json.dumps(job)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        env=environment,
        start_new_session=True,
        text=True,
      )
    Process.alive.append(self)
    threading.Thread(target=self._read, daemon=True).start()

  def _read(self) -> None:
    for line in self.process.stdout:
      try:
        answer = json.loads(line)
      except ValueError:
        continue
      if self.ready is None:
        self.ready = answer
        self._first.set()
      else:
        self._answers.put(answer)
    if self.ready is None:
      self.ready = {"error": f"the process ended with code {self.process.wait()}"}
      self._first.set()
    self._answers.put(None)

  def tail(self, lines: int = 12) -> str:
    """The last lines that it wrote to its standard error."""
    try:
      text = self.log.read_text(errors="replace")
    except OSError:
      return ""
    return "\n".join(line[:300] for line in text.strip().splitlines()[-lines:])

  def _checked(self, answer: dict | None) -> dict:
    if answer is None:
      answer = {"error": f"the process ended with code {self.process.wait()}"}
    if "error" in answer:
      raise Failed(f"{self.name}: {answer['error']}\n{self.tail()}")
    return answer

  def wait_ready(self, seconds: float) -> dict:
    """Its first answer.

    Raises:
      Failed: it says why it is not ready, or ended.
      Late: it said nothing in time.
    """
    if not self._first.wait(max(seconds, 0.0)):
      raise Late(f"{self.name}: not ready after {time.perf_counter() - self.started:.0f} s\n{self.tail(4)}")
    return self._checked(self.ready)

  def send(self, **message) -> None:
    try:
      self.process.stdin.write(json.dumps(message) + "\n")
      self.process.stdin.flush()
    except (OSError, ValueError):
      pass  # the answer, or its lack, says it

  def answer(self, seconds: float) -> dict:
    """The next answer. Raises as `wait_ready` does; a process that is late is ended, as its answers would be behind."""
    try:
      return self._checked(self._answers.get(timeout=max(seconds, 0.01)))
    except queue.Empty:
      tail = self.tail(4)
      self.end()
      raise Late(f"{self.name}: no answer in {seconds:.0f} s\n{tail}") from None

  def ask(self, seconds: float, /, **message) -> dict:
    self.send(**message)
    return self.answer(seconds)

  def pause(self, stop: bool) -> None:
    """Stops it and its children where they stand, or lets them go on."""
    if stop != (self.paused is not None):
      now = time.perf_counter()
      if self.paused is not None:
        self.started += now - self.paused
      self.paused = now if stop else None
      send_signal(descendants(self.process.pid), signal.SIGSTOP if stop else signal.SIGCONT)

  def end(self) -> None:
    """Ends it and all that came of it."""
    if self not in Process.alive:
      return
    Process.alive.remove(self)
    if self.process.poll() is None:
      send_signal(descendants(self.process.pid), signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
      self.process.wait(10)


def end_all() -> None:
  for process in list(Process.alive):
    process.end()


class Pool:
  """Processes that get ready in the background, a few at a time, in their order, and then wait to be asked."""

  def __init__(self, width: int, limit: float):
    self.width, self.limit = width, limit
    self.processes: dict[str, Process] = {}
    self.refused: dict[str, str] = {}
    self._waiting: list[tuple[str, Callable[[], Process]]] = []
    self._lock, self._quiet, self._closed = threading.RLock(), False, False
    threading.Thread(target=self._tend, daemon=True).start()

  def add(self, key: str, start: Callable[[], Process]) -> None:
    with self._lock:
      self._waiting.append((key, start))

  def _busy(self) -> list[Process]:
    return [p for p in self.processes.values() if p.ready is None and p in Process.alive]

  def _tend(self) -> None:
    while not self._closed:
      with self._lock:
        if not self._quiet:
          self._step()
      time.sleep(0.1)

  def _step(self) -> None:
    for process in self._busy():
      if time.perf_counter() - process.started > self.limit:
        process.ready = {"error": f"not ready after {self.limit:.0f} s"}
        process._first.set()
        process.end()
    while self._waiting and len(self._busy()) < self.width:
      key, start = self._waiting.pop(0)
      try:
        self.processes[key] = start()
      except OSError as error:
        self.refused[key] = f"{type(error).__name__}: {error}"

  def quiet(self, quiet: bool) -> int:
    """Stops all that is getting ready, or lets it go on. How many were at it."""
    with self._lock:
      self._quiet = quiet
      busy = self._busy()
      for process in busy:
        process.pause(quiet)
      return len(busy)

  def is_ready(self, key: str) -> bool:
    process = self.processes.get(key)
    return key in self.refused or (process is not None and process.ready is not None)

  def get(self, key: str, seconds: float) -> Process:
    """A process that is ready. Raises as `Process.wait_ready` does."""
    end = time.perf_counter() + seconds
    while key not in self.processes:
      if key in self.refused:
        raise Failed(self.refused[key])
      if time.perf_counter() > end:
        raise Late(f"{key}: not started in time")
      time.sleep(0.05)
    self.processes[key].wait_ready(end - time.perf_counter())
    return self.processes[key]

  def drop(self, keys: Iterable[str]) -> None:
    """Ends those that nobody will ask any more, and does not start the others."""
    keys = set(keys)
    with self._lock:
      self._waiting = [one for one in self._waiting if one[0] not in keys]
      for key in keys & self.processes.keys():
        self.processes[key].end()

  def close(self) -> None:
    with self._lock:
      self._closed, self._waiting = True, []
    for process in self.processes.values():
      process.end()


def serve(prepare: Callable[[dict], tuple[dict, Callable[[dict], dict]]]) -> None:
  """A worker's main program. prepare(job) -> (what it says when ready, message -> answer)."""
  stream = os.fdopen(os.dup(1), "w")
  os.dup2(2, 1)  # libraries may print; only answers go to the real standard output

  def say(message: dict) -> None:
    stream.write(json.dumps(message) + "\n")
    stream.flush()

  try:
    facts, handle = prepare(json.loads(sys.argv[1]))
  except BaseException as error:
    say({"error": described(error)})
    raise
  say(facts)
  for line in sys.stdin:
    message = json.loads(line)
    if message["do"] == "end":
      break
    try:
      say(handle(message))
    except Exception as error:
      import traceback

      traceback.print_exc()
      say({"error": described(error)})
  # Not sys.exit: the libraries' threads may take seconds to end, and hold the accelerator's memory meanwhile.
  stream.flush()
  os._exit(0)


def described(error: BaseException) -> str:
  lines = [line for line in str(error).strip().splitlines() if line.strip()]
  return f"{type(error).__name__}: {' | '.join(line.strip()[:400] for line in lines[:3])}"
