"""What a run's bits depend on, as run.json keeps it."""

import contextlib
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib import metadata
from typing import Any

from jaxgen.core import files
from jaxgen.core.environment import set_xla_flags
from jaxgen.core.errors import UserError
from jaxgen.engine.config import KEPT, KEPT_IMPORTS, Config, code_of
from jaxgen.engine.folder import Folder

PACKAGES = ("jaxgen", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "grain", "tensorflow-datasets")


def describe(config: Config, arguments: Mapping[str, Any], seed: int) -> dict[str, Any]:
  """What run.json says of a new run."""
  return {
    "config": config.name,
    "arguments": config.to_json(arguments),
    "seed": seed,
    "config_git": git_revision(config.path),
    "command": " ".join(["jaxgen", *sys.argv[1:]]),
    "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    "versions": versions(),
    **where(),
    "sessions": [],
  }


def where() -> dict[str, Any]:
  """What the bits of a session depend on besides its arguments and versions."""
  import jax

  too_late = set_xla_flags().too_late
  return {
    "git": git_revision(pathlib.Path(__file__)),
    "devices": [d.device_kind for d in jax.devices()],
    "processes": jax.process_count(),
    "xla_flags": os.environ.get("XLA_FLAGS", ""),
    # What jaxgen would have set, had jax not started before it was imported.
    **({"xla_flags_too_late": list(too_late)} if too_late else {}),
  }


def versions() -> dict[str, str]:
  found = {"python": sys.version.split()[0]}
  for package in PACKAGES:
    with contextlib.suppress(metadata.PackageNotFoundError):
      found[package] = metadata.version(package)
  return found


def git_revision(file: pathlib.Path) -> str | None:
  """The revision of the checkout that a file belongs to, with "+" where the tree has changes.

  None where git does not track the file: a package in an environment within a repository is not part of that.

  A repository's own settings may name programs that git runs to look for changes, which nobody asked for: they are not.
  """
  settings = {"core.fsmonitor": "false"}

  def git(*words: str) -> str:
    given = {"GIT_CONFIG_COUNT": str(len(settings)), "GIT_OPTIONAL_LOCKS": "0"}
    for i, (name, value) in enumerate(settings.items()):
      given |= {f"GIT_CONFIG_KEY_{i}": name, f"GIT_CONFIG_VALUE_{i}": value}
    command = ["git", "-C", file.resolve().parent, *words]
    return subprocess.run(
      command, capture_output=True, text=True, timeout=10, check=True, env=os.environ | given
    ).stdout

  try:
    git("ls-files", "--error-unmatch", file.name)
    filters = [name for name in git("config", "--name-only", "--list", "-z").split("\0") if name.startswith("filter.")]
    settings |= {name: "false" if name.endswith(".required") else "" for name in filters}
    # What has changed inside a submodule is not asked for: git would run there by that repository's settings.
    changes = git("status", "--porcelain", "--untracked-files=no", "--ignore-submodules=dirty")
    return git("rev-parse", "HEAD").strip() + ("+" if changes.strip() else "")
  except (OSError, subprocess.SubprocessError):
    return None


def check_same(folder: Folder, config: Config, arguments: Mapping[str, Any], seed: int) -> None:
  """Raises a UserError, naming the difference, unless the folder's run is one of this config, arguments and seed.

  `steps` may be raised, which also moves schedules that the config makes of it; docstrings, comments and layout of the
  config and of what it imports from its own folder may change.
  """
  info = folder.info()
  other = f"{folder.path} is a run of"
  way_out = "choose another --name for a new run"
  if info["config"] != config.name:
    raise UserError(f"{other} config {info['config']}, not {config.name}: {way_out}")
  old = {**info["arguments"], "seed": info["seed"]}
  new = {**config.to_json(arguments), "seed": seed}
  steps_of = lambda steps: config.build(**{**arguments, "steps": steps}).steps  # None is what a preset says
  for name in sorted(old.keys() | new.keys()):
    if old.get(name) == new.get(name):
      continue
    if name != "steps" or steps_of(new.get(name)) < steps_of(old.get(name)):
      flag = name.replace("_", "-")
      raise UserError(
        f"{other} --{flag} {old.get(name)}, not {new.get(name)}: give that to go on with it, or {way_out}"
      )
  for name, text in config.files().items():
    path = folder / name
    try:
      is_same = path.is_file() and code_of(path.read_text()) == code_of(text)
    except (SyntaxError, ValueError) as error:
      raise UserError(f"{path} is damaged: put back a copy of {config.path}") from error
    if not is_same:
      source = config.path if name == KEPT else config.imports.folder / name.removeprefix(f"{KEPT_IMPORTS}/")
      raise UserError(f"{source} has changed since {folder.path} began, which keeps its own copy in {name}: {way_out}")


def keep_config(folder: Folder, config: Config) -> None:
  """Writes the run's copies of the config and of what it imports from its own folder."""
  for name, text in config.files().items():
    files.write(folder / name, text)
