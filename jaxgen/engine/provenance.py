"""Records in run.json everything that a run's bits depend on, and checks what may differ when a run is resumed.

run.json has the run's config, arguments and seed. Its list "sessions" has, for every start of the run, the first and
last step, and the arguments, command, versions, revisions, devices and data.
"""

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
from jaxgen.core.method import network_sizes
from jaxgen.engine import identity
from jaxgen.engine.config import KEPT, KEPT_IMPORTS, Config, code_of, load_kept
from jaxgen.engine.folder import Folder
from jaxgen.engine.run import Run

PACKAGES = ("jaxgen", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "grain", "tensorflow-datasets")

# The settings of jax that change bits.
JAX_CONFIG = ("jax_enable_x64", "jax_default_matmul_precision", "jax_default_prng_impl", "jax_threefry_partitionable")


def describe(run: Run, start: Mapping[str, Any] | None = None) -> dict[str, Any]:
  """The contents of run.json for a new run.

  Args:
    run: the run.
    start: the result of `start_of`, for a run that begins to train at once.
  """
  start = start or {"arguments": run.config.to_json(run.arguments), **_start(run.config)}
  return {
    "config": run.config.name,
    "seed": run.seed,
    "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    **{name: value for name, value in start.items() if name not in ("data", "test_data")},
    "sessions": [],
  }


def start_of(run: Run) -> dict[str, Any]:
  """An entry of run.json's "sessions" for a start of a run, without its steps."""
  arguments = run.config.to_json(run.arguments)
  content = {"data": identity.of_data(run.data)}
  if run.experiment.evaluators and run.data.has("test"):
    content["test_data"] = identity.of_data(run.data, "test")
  return {"arguments": arguments, **content, **_start(run.config)}


def record_start(run: Run, start: Mapping[str, Any], step: int, frozen: Mapping[str, Any]) -> None:
  """Records a start at this step in the folder: config, arguments, and the frozen networks of a new run.

  A session is recorded when it starts; one without an end was killed. If nothing is left to train, a session is added
  only if its arguments differ, since they may be evaluated.
  """
  keep_config(run)
  info = run.folder.info()
  if step < run.experiment.steps:
    info["sessions"].append({"from": step, **start})
  elif info["arguments"] != start["arguments"]:
    info["sessions"].append({"from": step, **start, "to": step, "seconds": 0.0})
  info |= {"arguments": start["arguments"], "parameters": network_sizes(run.state.params)}
  run.folder.write_info(info | ({"frozen": dict(frozen)} if frozen else {}))


def record_end(folder: Folder, step: int, seconds: float) -> None:
  """Writes the step at which the last session ends to run.json."""
  info = folder.info()
  info["sessions"][-1] |= {"to": step, "seconds": round(seconds, 1)}
  folder.write_info(info)


def _start(config: Config) -> dict[str, Any]:
  return {
    "config_git": git_revision(config.path),
    "command": " ".join(["jaxgen", *sys.argv[1:]]),
    "versions": versions(),
    **where(),
  }


def where() -> dict[str, Any]:
  """What a session's bits depend on, besides its arguments and versions: devices, XLA's flags, jax's settings."""
  import jax

  too_late = set_xla_flags().too_late
  return {
    "git": git_revision(pathlib.Path(__file__)),
    "devices": [d.device_kind for d in jax.devices()],
    "processes": jax.process_count(),
    "xla_flags": os.environ.get("XLA_FLAGS", ""),
    "jax_config": {name: getattr(jax.config, name) for name in JAX_CONFIG},
    # Flags that could not be set, because jax had started before jaxgen was imported.
    **({"xla_flags_too_late": list(too_late)} if too_late else {}),
  }


def versions() -> dict[str, str]:
  found = {"python": sys.version.split()[0]}
  for package in PACKAGES:
    with contextlib.suppress(metadata.PackageNotFoundError):
      found[package] = metadata.version(package)
  return found


def git_revision(file: pathlib.Path) -> str | None:
  """The revision of the checkout that a file belongs to, followed by "+" if the tree has changes.

  None if git does not track the file: a package in an environment inside a repository is not part of the repository.
  Variables that point git to another repository (GIT_DIR, inside a hook) are ignored.

  A repository's settings may name programs that git runs when it looks for changes. They are not run.
  """
  settings = {"core.fsmonitor": "false"}
  outside = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}

  def git(*words: str) -> str:
    given = {"GIT_CONFIG_COUNT": str(len(settings)), "GIT_OPTIONAL_LOCKS": "0"}
    for i, (name, value) in enumerate(settings.items()):
      given |= {f"GIT_CONFIG_KEY_{i}": name, f"GIT_CONFIG_VALUE_{i}": value}
    command = ["git", "-C", file.resolve().parent, *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True, env=outside | given).stdout

  try:
    git("ls-files", "--error-unmatch", file.name)
    filters = [name for name in git("config", "--name-only", "--list", "-z").split("\0") if name.startswith("filter.")]
    settings |= {name: "false" if name.endswith(".required") else "" for name in filters}
    # Changes inside a submodule are not requested, because git would run there with that repository's settings.
    changes = git("status", "--porcelain", "--untracked-files=no", "--ignore-submodules=dirty")
    return git("rev-parse", "HEAD").strip() + ("+" if changes.strip() else "")
  except (OSError, subprocess.SubprocessError):
    return None


def check_same(folder: Folder, config: Config, arguments: Mapping[str, Any], seed: int) -> None:
  """Raises a UserError that names the difference unless the run may be resumed with this config, arguments and seed.

  Arguments that change no update may differ: see `identity.of_updates`. So may the sources of the config and of what it
  imports from its own folder, if they change no update. `steps` may be raised, which also changes schedules that depend
  on it.
  """
  info = folder.info()
  other = f"{folder.path} is a run of"
  way_out = "choose another --name for a new run"
  if info["config"] != config.name:
    raise UserError(f"{other} config {info['config']}, not {config.name}: {way_out}")
  refuse = lambda name, old, new: UserError(
    f"{other} --{name.replace('_', '-')} {old}, not {new}: give that to go on with it, or {way_out}"
  )
  if info["seed"] != seed:
    raise refuse("seed", info["seed"], seed)
  old, new = dict(info["arguments"]), config.to_json(arguments)
  if old.get("steps") != new.get("steps"):
    steps_of = lambda steps: config.build(**{**arguments, "steps": steps}).steps  # None stands for the preset's value
    if steps_of(new.get("steps")) < steps_of(old.get("steps")):
      raise refuse("steps", old.get("steps"), new.get("steps"))
    old["steps"] = new["steps"]
  changed = _changed(folder, config)
  if old == new and not changed:
    return
  before = load_kept(folder.path, config.name) if changed else config
  # Traced for one device: the run's mesh is not known here, and does not change the updates.
  updates = lambda config, arguments: identity.of_updates(Run(folder, config, arguments, seed, devices=1))
  begun = updates(before, old)
  if begun == updates(config, new):
    return
  for name in sorted(old.keys() | new.keys()):
    both = name in old and name in new
    if both and old[name] != new[name] and updates(before, {**old, name: new[name]}) != begun:
      raise refuse(name, old.get(name), new.get(name))
  names = [name for name in old.keys() | new.keys() if old.get(name) != new.get(name)]
  if names and not changed:
    raise refuse(min(names), old.get(min(names)), new.get(min(names)))
  source = lambda name: config.path if name == KEPT else config.imports.folder / name.removeprefix(f"{KEPT_IMPORTS}/")
  raise UserError(
    f"{' or '.join(str(source(name)) for name in changed)} has changed since {folder.path} began, which keeps its own "
    f"copies of its config, and trains otherwise: {way_out}"
  )


def check_data(folder: Folder, now: Mapping[str, Any]) -> None:
  """Raises a UserError if the training examples are not those that the run was trained on.

  Args:
    folder: the run's folder.
    now: the result of `identity.of_data`.
  """
  known = [session["data"] for session in folder.info()["sessions"] if "data" in session]
  if known and known[-1] != now:
    same = f"as many, {now['examples']:,}" if known[-1]["examples"] == now["examples"] else f"{now['examples']:,}"
    raise UserError(
      f"the data has changed: {folder.path} was trained on {known[-1]['examples']:,} examples, and these are {same} "
      "with other content: put the data back, or continue with these by --other-data True"
    )


def note_on_test_data(run: Run) -> str | None:
  """A sentence if the test examples are not those that the run's last session was evaluated on; otherwise None."""
  if not run.folder.exists() or not run.experiment.evaluators:
    return None
  known = [session["test_data"] for session in run.folder.info()["sessions"] if "test_data" in session]
  if not known or known[-1] == identity.of_data(run.data, "test"):
    return None
  return f"the test data of {run.folder.path} has changed: its numbers do not compare with those of its training"


def _changed(folder: Folder, config: Config) -> list[str]:
  """The config's files whose code differs from the copies that a run keeps."""
  changed = []
  for name, text in config.files().items():
    path = folder / name
    try:
      if not path.is_file() or code_of(path.read_text()) != code_of(text):
        changed.append(name)
    except (SyntaxError, ValueError) as error:
      raise UserError(f"{path} is damaged: put back a copy of {config.path}") from error
  return changed


def keep_config(run: Run) -> None:
  """Writes the run's copies of the config and of the modules that it imports from its own folder, and, once, the
  further files that the experiment keeps.

  Earlier copies that differ are kept in earlier/<n>/, with n counting from 0.
  """
  folder, config = run.folder, run.config
  folder.check()
  if not (folder / KEPT).is_file():
    for name, contents in run.experiment.keeps().items():
      files.write(folder / name, contents)
  if (folder / KEPT).is_file() and _changed(folder, config):
    number = len(list((folder / "earlier").glob("*")))
    imported = (f"{KEPT_IMPORTS}/{name}" for name in files.sizes(folder / KEPT_IMPORTS) if name.endswith(".py"))
    for name in [KEPT, *imported]:
      files.write(folder / f"earlier/{number}/{name}", (folder / name).read_text())
  for name, text in config.files().items():
    files.write(folder / name, text)
