"""A run's folder."""

import errno
import fcntl
import json
import math
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any, TextIO

from jaxgen.core import files
from jaxgen.core.errors import UserError


class Folder:
  """A run's folder: its files and its lock.

  Raises:
    UserError: the path is an address on an object store, gs://... or s3://...
  """

  def __init__(self, path: str | os.PathLike):
    self.path = pathlib.Path(path)
    if re.match(r"[a-z0-9]+:/", str(path)):
      raise UserError(f"{path} is on an object store, where runs cannot be written: give a folder of a file system")
    self._lock = None

  def __truediv__(self, name: str) -> pathlib.Path:
    return self.path / name

  def exists(self) -> bool:
    return (self / "run.json").is_file()

  def info(self) -> dict[str, Any]:
    """The contents of run.json, with a "config", its "arguments", a "seed" and "sessions", a list.

    Raises:
      UserError: the folder is not a run, or the file is damaged.
    """
    path = self / "run.json"
    try:
      info = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
      raise UserError(f"{self.path} is not a run: it has no run.json") from None
    except (ValueError, OSError) as error:  # not JSON, not UTF-8
      raise UserError(f"{path} cannot be read: {error}; put back a copy") from error
    wanted = {"config": str, "arguments": dict, "seed": int}
    info = {"sessions": []} | info if isinstance(info, dict) else {}
    wrong = [name for name, kind in wanted.items() if not isinstance(info.get(name), kind)]
    if wrong or not isinstance(info["sessions"], list):
      raise UserError(f"{path} is damaged: it does not say the run's {(wrong or ['sessions'])[0]}; put back a copy")
    return info

  def write_info(self, info: Mapping[str, Any]) -> None:
    files.write(self / "run.json", json.dumps(info, indent=2) + "\n")

  def lock(self) -> str | None:
    """Locks the folder for this process until it ends, and makes it if needed.

    Returns None, or a warning if the file system has no locks, so that other processes could write there.

    Raises:
      UserError: another process has the lock, or the folder cannot be made.
    """
    try:
      self._lock, note = locked(self.path, "choose another --name")
    except OSError as error:
      reason = (error.strerror or str(error)).lower()
      raise UserError(f"no run can be written to {self.path} ({reason}): choose another --runs or --name") from error
    return note

  def unlock(self) -> None:
    if self._lock is not None:
      release(self._lock)
      self._lock = None

  def metrics(self) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, without damaged lines and lines that a kill cut short."""
    return [line for line in map(_line, self._metrics()) if line is not None]

  def _metrics(self) -> list[bytes]:
    try:
      return (self / "metrics.jsonl").read_bytes().splitlines()
    except FileNotFoundError:
      return []

  def evaluation(self, step: int) -> dict[str, float] | None:
    """The numbers of the last evaluation at a step, None if there was none."""
    lines = [line for line in self.metrics() if line["kind"] == "evaluate" and line["step"] == step]
    return {k: v for k, v in lines[-1].items() if k not in ("step", "kind")} if lines else None

  def keep_metrics_until(self, step: int) -> int:
    """Drops damaged lines, and lines of steps after `step`, which a run that is resumed there writes again.

    Returns the number of damaged lines. A last line that a kill cut short does not count.
    """
    damaged = sum(_line(line) is None for line in self._metrics()[:-1])
    lines = [line for line in self.metrics() if line["step"] <= step]
    files.write(self / "metrics.jsonl", "".join(_json_line(line) for line in lines))
    return damaged

  def append_metrics(self, line: Mapping[str, Any]) -> None:
    with open(self / "metrics.jsonl", "a") as file:
      file.write(_json_line(line))


def locked(folder: pathlib.Path, way_out: str) -> tuple[TextIO, str | None]:
  """Locks a folder for this process until it ends or calls `release`, and makes the folder if needed.

  Returns the lock file `lock` in the folder, which says who has the lock; and None, or a warning if the folder's file
  system has no locks, so that other processes could write there.

  Raises:
    UserError: another process has the lock. The message ends with `way_out`.
    OSError: the folder cannot be made or written.
  """
  folder.mkdir(parents=True, exist_ok=True)
  file = open(folder / "lock", "a+")  # noqa: SIM115 - held by the caller
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except OSError as error:
    if error.errno not in (errno.EAGAIN, errno.EACCES):
      return (
        file,
        f"{folder}: this file system has no locks ({error.strerror}), so see that one process alone writes it",
      )
    file.seek(0)
    owner = file.read().strip() or "another process"
    file.close()
    raise UserError(f"{folder} is being written by {owner}: wait for it, or {way_out}") from None
  file.truncate(0)
  file.write(f"process {os.getpid()} on {os.uname().nodename}")
  file.flush()
  return file, None


def release(file: TextIO) -> None:
  """Unlocks a folder. Its lock file stays, empty."""
  file.truncate(0)
  file.close()


def _line(text: bytes) -> dict[str, Any] | None:
  """A parsed line of metrics.jsonl, with its step and kind; None if the line is damaged."""
  try:
    line = json.loads(text)
  except ValueError:  # not JSON, not UTF-8
    return None
  if not isinstance(line, dict) or type(line.get("step")) is not int or not isinstance(line.get("kind"), str):
    return None
  return {k: math.nan if v is None else v for k, v in line.items()}


def _json_line(line: Mapping[str, Any]) -> str:
  """A line of metrics.jsonl. JSON has no NaN and no infinity: they become null."""
  finite = lambda v: None if isinstance(v, float) and not math.isfinite(v) else v
  return json.dumps({k: finite(v) for k, v in line.items()}, allow_nan=False) + "\n"
