"""A run's folder."""

import contextlib
import fcntl
import json
import math
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

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
    """The contents of run.json.

    Raises:
      UserError: the folder is not a run.
    """
    try:
      return json.loads((self / "run.json").read_text())
    except FileNotFoundError:
      raise UserError(f"{self.path} is not a run: it has no run.json") from None
    except (json.JSONDecodeError, OSError) as error:
      raise UserError(f"{self / 'run.json'} cannot be read: {error}") from error

  def write_info(self, info: Mapping[str, Any]) -> None:
    files.write(self / "run.json", json.dumps(info, indent=2) + "\n")

  def lock(self) -> None:
    """Claims the folder for this process until it ends.

    Raises:
      UserError: another process writes it.
    """
    self.path.mkdir(parents=True, exist_ok=True)
    file = open(self / "lock", "a+")  # noqa: SIM115 - held until `unlock`
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
      file.seek(0)
      owner = file.read().strip() or "another process"
      file.close()
      raise UserError(f"{self.path} is being written by {owner}: wait for it, or choose another --name") from None
    file.truncate(0)
    file.write(f"process {os.getpid()} on {os.uname().nodename}")
    file.flush()
    self._lock = file

  def unlock(self) -> None:
    if self._lock is not None:
      self._lock.close()
      self._lock = None

  def metrics(self) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl; a last line that a kill cut short is dropped."""
    lines = []
    with contextlib.suppress(FileNotFoundError), open(self / "metrics.jsonl") as file:
      for line in file:
        with contextlib.suppress(json.JSONDecodeError):
          lines.append({k: math.nan if v is None else v for k, v in json.loads(line).items()})
    return lines

  def evaluation(self, step: int) -> dict[str, float] | None:
    """The numbers of the last evaluation at a step, None if there was none."""
    lines = [line for line in self.metrics() if line["kind"] == "evaluate" and line["step"] == step]
    return {k: v for k, v in lines[-1].items() if k not in ("step", "kind")} if lines else None

  def keep_metrics_until(self, step: int) -> None:
    """Drops the lines that a run, resumed at `step`, will write again."""
    lines = [line for line in self.metrics() if line["step"] <= step]
    files.write(self / "metrics.jsonl", "".join(_json_line(line) for line in lines))

  def append_metrics(self, line: Mapping[str, Any]) -> None:
    with open(self / "metrics.jsonl", "a") as file:
      file.write(_json_line(line))


def _json_line(line: Mapping[str, Any]) -> str:
  """A line of metrics.jsonl. JSON has no NaN and no infinity: they become null."""
  finite = lambda v: None if isinstance(v, float) and not math.isfinite(v) else v
  return json.dumps({k: finite(v) for k, v in line.items()}, allow_nan=False) + "\n"
