"""A run's folder."""

import json
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

from jaxgen.core import files
from jaxgen.core.errors import UserError
from jaxgen.engine.claims import claim

TOGETHER = 10.0  # seconds of lines that are added to metrics.jsonl at once on an object store


class Folder:
  """A run's folder, in a file system or on an object store: its files and its lock.

  Raises:
    UserError: as `files.place`.
  """

  def __init__(self, path: files.PathLike):
    self.path = files.place(path)
    self._claim = None
    self._lines: list[str] = []  # of metrics.jsonl, not written yet
    self._written = time.monotonic()

  def __truediv__(self, name: str) -> files.Place:
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
    sessions = info.get("sessions")
    if wrong or not isinstance(sessions, list) or not all(isinstance(session, dict) for session in sessions):
      raise UserError(f"{path} is damaged: it does not say the run's {(wrong or ['sessions'])[0]}; put back a copy")
    return info

  def write_info(self, info: Mapping[str, Any]) -> None:
    self.check()
    files.write(self / "run.json", json.dumps(info, indent=2) + "\n")

  def lock(self, say: Callable[[str], Any] = lambda text: None) -> None:
    """Locks the folder for this process until it ends, and makes it if needed. `say` gets a message if this takes long.

    Raises:
      UserError: another process has the lock, or the folder cannot be made.
    """
    try:
      self._claim = claim(self.path, "choose another --name", say)
    except OSError as error:
      reason = (error.strerror or str(error)).lower()
      raise UserError(f"no run can be written to {self.path} ({reason}): choose another --runs or --name") from error

  def unlock(self) -> None:
    if self._claim is not None:
      self._claim.release()
      self._claim = None

  def check(self) -> None:
    """Whoever has locked the folder and is about to write into it asks first.

    Raises:
      claims.Lost: another process has it by now, or may have it.
    """
    if self._claim is not None:
      self._claim.check()

  def metrics(self) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, without damaged lines and lines that a kill cut short."""
    return [line for line in map(_line, self._metrics()) if line is not None]

  def _metrics(self) -> list[bytes]:
    self.flush()
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
    self.check()
    damaged = sum(_line(line) is None for line in self._metrics()[:-1])
    lines = [line for line in self.metrics() if line["step"] <= step]
    files.write(self / "metrics.jsonl", "".join(_json_line(line) for line in lines))
    return damaged

  def append_metrics(self, line: Mapping[str, Any]) -> None:
    """Adds a line; on an object store some together, and at the latest when `flush` is called."""
    self.check()
    if not files.is_remote(self.path):
      with open(self / "metrics.jsonl", "a") as file:
        file.write(_json_line(line))
      return
    self._lines.append(_json_line(line))
    if line["kind"] != "train" or time.monotonic() - self._written > TOGETHER:
      self.flush()

  def flush(self) -> None:
    """Writes the lines that are not written yet, which a checkpoint of their step must not precede."""
    if self._lines:
      self.check()
      files.append(self / "metrics.jsonl", "".join(self._lines))
      self._lines, self._written = [], time.monotonic()


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
