"""Who may write a folder: one process at a time, while it lives.

Where the file system has locks, FOLDER/lock is locked, and free when its process ends, however it does. On object
stores and some network file systems there is FOLDER/lease instead, a file that names the writer, who changes it every
few seconds. Whoever finds one watches it: it is taken over when it has not changed for a while, which needs no common
clock, or at once where its owner was a process of this machine that is gone. A process that takes a lease reads it
again before it relies on it, because stores without exclusive creation let two processes write it. An owner who finds
another's lease in the place of its own, or has not renewed it for nearly as long, stops: `Claim.check`, which is called
before every write, then raises `Lost`.
"""

import contextlib
import errno
import fcntl
import json
import os
import pathlib
import secrets
import threading
import time
from collections.abc import Callable
from typing import Any

from jaxgen.core import files
from jaxgen.core.errors import UserError

RENEW = 10.0  # seconds between an owner's changes of its lease
EXPIRE = 60.0  # seconds after which a lease that has not changed is free
SETTLE = 1.0  # seconds after which a process that took a lease checks whether another one took it as well


class Lost(UserError):
  """The folder is another's by now: nothing more may be written to it."""


class Claim:
  """A folder that is this process's to write, until `release`.

  Attributes:
    check: raises Lost where it is no longer; asks nobody, and so may be called before every write.
  """

  def __init__(self, release: Callable[[], Any], check: Callable[[], Any] = lambda: None):
    self.release, self.check = release, check


def claim(folder: files.Place, way_out: str, say: Callable[[str], Any] = lambda text: None) -> Claim:
  """Claims a folder, which is made if need be, for this process until it ends or releases it.

  Args:
    way_out: what one may do instead of waiting.
    say: is told where this takes long.

  Raises:
    UserError: another process has it; wait for it, or take the way out.
    OSError: the folder cannot be made or written.
  """
  folder.mkdir(parents=True, exist_ok=True)
  if not isinstance(folder, pathlib.Path):
    return _Lease(folder, way_out, say).claim
  # Without a buffer: what a full disk did not take would be written again, and fail again, when the file is closed.
  file = open(folder / "lock", "a+b", buffering=0)  # noqa: SIM115 - held by the claim
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except OSError as error:
    if error.errno not in (errno.EAGAIN, errno.EACCES):  # this file system has no locks
      file.close()
      return _Lease(folder, way_out, say).claim
    file.seek(0)
    owner = file.read().decode(errors="replace").strip()
    file.close()
    raise _taken(folder, owner, way_out) from None
  file.truncate(0)
  file.write(_name().encode())

  def release() -> None:  # the file stays, empty
    file.truncate(0)
    file.close()

  return Claim(release)


def _name() -> str:
  return f"process {os.getpid()} on {os.uname().nodename}"


def _taken(folder: files.Place, owner: str, way_out: str) -> UserError:
  return UserError(f"{folder} is being written by {owner or 'another process'}: wait for it, or {way_out}")


def _machine() -> str:
  """Where process numbers mean what they mean here: this start of this machine, and this container."""
  try:
    return f"{pathlib.Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
  except OSError:
    return secrets.token_hex(8)


def _now() -> float:
  """Seconds, those counted in which this machine was suspended, which `time.monotonic` leaves out on Linux."""
  return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class _Lease:
  """A lease of this process: taken when it is made, then renewed by a thread."""

  def __init__(self, folder: files.Place, way_out: str, say: Callable[[str], Any]):
    self.folder, self.file, self.lost = folder, folder / "lease", None
    self.mine = {"owner": _name(), "id": secrets.token_hex(8), "machine": _machine(), "pid": os.getpid()}
    self._turn, self._over, self._lock = 0, threading.Event(), threading.Lock()
    self._renewed, self._reason = _now(), ""  # when the last renewal began, and why the next one failed
    self._take(way_out, say)
    threading.Thread(target=self._renew, name="jaxgen-lease", daemon=True).start()
    self.claim = Claim(self._release, self._check)

  def _take(self, way_out: str, say: Callable[[str], Any]) -> None:
    seen, since = None, _now()
    while (there := self._read()) is not None or not self._create():
      if there is None:
        continue  # another was quicker
      if seen is not None and there != seen and there.get("id") == seen.get("id"):
        raise _taken(self.folder, there.get("owner", ""), way_out)
      if there != seen:
        seen, since = there, _now()
      if _is_gone(there) or _now() - since > EXPIRE:
        self.file.unlink(missing_ok=True)
        continue
      if _now() - since < RENEW / 10:
        say(f"{self.folder}: looking for {EXPIRE:.0f} s whether {there.get('owner')} still writes there")
      time.sleep(RENEW / 5)
    time.sleep(SETTLE)
    if not self._is_mine():
      raise _taken(self.folder, (self._read() or {}).get("owner", ""), way_out)

  def _create(self) -> bool:
    self._renewed = _now()
    return files.create(self.file, self._text())

  def _text(self) -> str:
    return json.dumps({**self.mine, "turn": self._turn}) + "\n"

  def _read(self) -> dict[str, Any] | None:
    """The lease that is there; {} for one that cannot be read, None for none."""
    try:
      there = json.loads(self.file.read_text())
      return there if isinstance(there, dict) else {}
    except FileNotFoundError:
      return None
    except ValueError:
      return {}

  def _is_mine(self) -> bool:
    return (self._read() or {}).get("id") == self.mine["id"]

  def _renew(self) -> None:
    with contextlib.suppress(Lost):
      while not self._over.wait(RENEW):
        try:
          with self._lock:
            if self._over.is_set():
              return
            self._check()  # one that is too old may be taken over at this moment
            began, there = _now(), self._read() or {}
            if there.get("id") != self.mine["id"]:
              owner = there.get("owner", "another process")
              self.lost = f"{self.folder} was taken over by {owner}, for this process had not renewed its lease"
              return
            self._turn += 1
            files.write(self.file, self._text())
            self._renewed, self._reason = began, ""
        except OSError as error:
          self._reason = f" ({error.strerror})"

  def _check(self) -> None:
    if self.lost is None and _now() - self._renewed > EXPIRE - RENEW:  # a write that begins now must end before EXPIRE
      self.lost = f"{self.folder}: its lease was not renewed for {EXPIRE - RENEW:.0f} s{self._reason}"
    if self.lost is not None:
      raise Lost(f"{self.lost}; what was saved is kept: the same command goes on from there")

  def _release(self) -> None:
    with self._lock, contextlib.suppress(OSError, Lost):
      self._over.set()
      self._check()
      if self._is_mine():
        self.file.unlink(missing_ok=True)


def _is_gone(owner: dict[str, Any]) -> bool:
  """Whether a lease's owner was a process of this machine that has ended."""
  if owner.get("machine") != _machine() or type(owner.get("pid")) is not int:
    return False
  return not pathlib.Path(f"/proc/{owner['pid']}").exists()
