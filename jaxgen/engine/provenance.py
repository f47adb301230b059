"""What a run's bits depend on, as run.json keeps it."""

import contextlib
import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib import metadata
from typing import Any

from jaxgen.core.errors import UserError
from jaxgen.engine.config import Config, code_of
from jaxgen.engine.folder import Folder

PACKAGES = ("jaxgen", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "grain", "tensorflow-datasets")


def describe(config: Config, arguments: Mapping[str, Any], seed: int) -> dict[str, Any]:
  """What run.json says of a new run."""
  return {
    "config": config.name,
    "arguments": dict(arguments),
    "seed": seed,
    "command": " ".join(["jaxgen", *sys.argv[1:]]),
    "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    "versions": versions(),
    **where(),
    "sessions": [],
  }


def where() -> dict[str, Any]:
  """What the bits of a session depend on besides its arguments and versions."""
  import jax

  return {
    "git": git_revision(),
    "devices": [d.device_kind for d in jax.devices()],
    "processes": jax.process_count(),
    "xla_flags": os.environ.get("XLA_FLAGS", ""),
  }


def versions() -> dict[str, str]:
  found = {"python": sys.version.split()[0]}
  for package in PACKAGES:
    with contextlib.suppress(metadata.PackageNotFoundError):
      found[package] = metadata.version(package)
  return found


def git_revision() -> str | None:
  """The revision of the code that runs, with "+" where the tree has changes; None outside a git checkout."""
  here = pathlib.Path(__file__).resolve().parent
  git = lambda *words: (
    subprocess.run(["git", "-C", here, *words], capture_output=True, text=True, timeout=10, check=True).stdout
  )
  try:
    return git("rev-parse", "HEAD").strip() + (
      "+" if git("status", "--porcelain", "--untracked-files=no").strip() else ""
    )
  except (OSError, subprocess.SubprocessError):
    return None


def check_same(folder: Folder, config: Config, arguments: Mapping[str, Any], seed: int) -> None:
  """Raises a UserError, naming the difference, unless the folder's run is one of this config, arguments and seed.

  `steps` may be raised, which also moves schedules that the config makes of it; the config's docstring, comments and
  layout may change.
  """
  info = folder.info()
  other = f"{folder.path} is a run of"
  way_out = "choose another --name for a new run"
  if info["config"] != config.name:
    raise UserError(f"{other} config {info['config']}, not {config.name}: {way_out}")
  old = {**info["arguments"], "seed": info["seed"]}
  new = {**json.loads(json.dumps(dict(arguments))), "seed": seed}
  steps_of = lambda steps: config.build(**{**arguments, "steps": steps}).steps  # None is what a preset says
  for name in sorted(old.keys() | new.keys()):
    if old.get(name) == new.get(name):
      continue
    if name != "steps" or steps_of(new.get(name)) < steps_of(old.get(name)):
      flag = name.replace("_", "-")
      raise UserError(
        f"{other} --{flag} {old.get(name)}, not {new.get(name)}: give that to go on with it, or {way_out}"
      )
  if code_of((folder / "config.py").read_text()) != code_of(config.source):
    raise UserError(
      f"{config.path} has changed since {folder.path} began, which keeps its own copy in config.py: {way_out}"
    )
