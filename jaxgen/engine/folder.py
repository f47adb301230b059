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
  """A run's folder: what is in it, and who may write it.

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
    """Claims the folder for this process until it ends; it is made if need be.

    Returns None, or a sentence where its file system has no locks, so that nothing keeps others from writing it.

    Raises:
      UserError: another process writes it, or it cannot be made.
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
    """The lines of metrics.jsonl that are whole: one that a kill cut short, or that is damaged, is left out."""
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
    """Drops the lines that a run, resumed at `step`, will write again, and those that are damaged, whose number it
    returns; a last one that a kill cut short does not count."""
    damaged = sum(_line(line) is None for line in self._metrics()[:-1])
    lines = [line for line in self.metrics() if line["step"] <= step]
    files.write(self / "metrics.jsonl", "".join(_json_line(line) for line in lines))
    return damaged

  def append_metrics(self, line: Mapping[str, Any]) -> None:
    with open(self / "metrics.jsonl", "a") as file:
      file.write(_json_line(line))


def locked(folder: pathlib.Path, way_out: str) -> tuple[TextIO, str | None]:
  """Claims a folder, which is made if need be, for this process until it ends or `release`s the file that it gets.

  The file is `lock` in the folder, and says who has it. Returns with it None, or a sentence where the folder's file
  system has no locks, so that nothing keeps others from writing there.

  Raises:
    UserError: another process has it; wait for it, or take the way out.
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
  """Lets go of a folder; its lock's file stays, empty."""
  file.truncate(0)
  file.close()


def _line(text: bytes) -> dict[str, Any] | None:
  """A line of metrics.jsonl, with its step and kind; None where it is none."""
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
