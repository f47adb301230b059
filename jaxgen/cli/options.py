"""A command's options and a config's arguments, parsed together."""

import dataclasses
import os
import pathlib
import secrets
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import tyro

from jaxgen.core import files
from jaxgen.core.errors import UserError
from jaxgen.data import ahead
from jaxgen.engine.arguments import as_flag
from jaxgen.engine.folder import Folder

Options = dict[str, tuple[Any, Any]]  # by name: (type, default); see `option`

RUNS = pathlib.Path("runs")


def option(kind: Any, help: str, default: Any) -> tuple[Any, Any]:
  """An option of a command: its type with its sentence in --help, and its default."""
  return Annotated[kind, tyro.conf.arg(help=help)], default


def cluster_options() -> Options:
  """Options of every command that computes."""
  return {
    "fsdp": option(int, "number of devices that share one copy of the state (1: each has its own)", 1),
    "tensor": option(
      int, "number of devices that divide a network's heads and hidden layers among them, for the same examples", 1
    ),
    "coordinator": option(str | None, "HOST:PORT of process 0, if the environment does not give it", None),
    "processes": option(int | None, "number of processes of the job", None),
    "process": option(int | None, "number of this process, from 0", None),
    "join_seconds": option(float, "seconds that the job's processes wait for each other at the start", 60.0),
  }


CHECKPOINT = {"checkpoint": option(str, "the checkpoint: last, best (if the config keeps it), or a step", "last")}


EMA = {
  "ema": option(
    float | None,
    "relative width of a parameter average that is computed from those that the run has stored (0.10: about the last "
    "tenth of training); by default the run's own average",
    None,
  )
}


def workers_option() -> Options:
  """The option of commands that read data sets larger than the memory."""
  help = "number of processes that read data which is not in memory, 0 for threads; it does not change the results"
  return {"workers": option(int, help, ahead.of_machine())}


def parse(
  command: str,
  words: list[str],
  options: Options,
  description: str,
  config: Any = None,
  arguments: Mapping[str, Any] | None = None,
) -> tuple[dict[str, Any], dict[str, Any]]:
  """Parses a command's options and the arguments of a config (an `engine.config.Config`), all of them flags.

  Args:
    arguments: values of the config's arguments, which replace its defaults; flags replace both.

  Returns:
    (the options, the config's arguments that flags have set)
  """
  fields = [(name, kind, dataclasses.field(default=default)) for name, (kind, default) in options.items()]
  defaults = {}
  if config is not None:
    defaults = {**config.defaults(), **(arguments or {})}
    # An option of the command hides a config's argument of the same name: `jaxgen benchmark --solver ddim,heun`.
    defaults = {name: value for name, value in defaults.items() if name not in options}
    for name, value in defaults.items():
      kind, defaults[name] = as_flag(config.types.get(name, type(value)), value)
      kind, default = option(kind, config.sentences[name], defaults[name])
      fields.append((name, kind, dataclasses.field(default=default)))
  parsed = tyro.cli(
    dataclasses.make_dataclass("flags", fields),
    args=words,
    prog=f"jaxgen {command}",
    description=description,
    config=(tyro.conf.FlagConversionOff,),
  )
  given = {field.name: getattr(parsed, field.name) for field in dataclasses.fields(parsed)}
  chosen = {name: given.pop(name) for name in defaults}
  return given, {name: value for name, value in chosen.items() if value != defaults[name]}


def join(options: Mapping[str, Any]) -> None:
  """Joins the job of several processes that the options of `cluster_options`, or the environment, describe."""
  from jaxgen.engine.cluster import join_cluster

  join_cluster(*(options[name] for name in ("coordinator", "processes", "process", "join_seconds")))


def load_run(
  command: str,
  subject: str,
  words: list[str],
  options: Options,
  description: str,
  *,
  cluster: bool = True,
  yielding: Sequence[str] = (),
):
  """(a run with some of its config's arguments changed by flags, the command's options).

  Args:
    cluster: whether several processes may give the command together; if so, joins their job.
    yielding: options that the config's arguments of the same name replace; they are None then.
  """
  from jaxgen.engine.run import load

  run = load(subject)
  yielded = [name for name in yielding if name in run.config.parameters]
  options = {name: one for name, one in options.items() if name not in yielded}
  given, changed = parse(
    f"{command} {subject}",
    words,
    {**options, **(cluster_options() if cluster else {})},
    description,
    run.config,
    run.arguments,
  )
  if cluster:
    join(given)
  how = {name: given[name] for name in ("fsdp", "tensor", "checkpoint", "workers") if name in given}
  run = load(subject, **how, **changed)
  if given.get("ema") is not None:
    from jaxgen.engine.averages import reconstructed

    run.state = reconstructed(run, given["ema"])
  return run, given | dict.fromkeys(yielded)


def folder_of(runs: files.Place, name: str | None, otherwise: str) -> Folder:
  """The folder of the run `name`, or of `otherwise` if it is None.

  Raises:
    UserError: the name leads out of the folder of runs.
  """
  name = otherwise if name is None else name
  path = pathlib.PurePath(name)
  if not path.parts or ".." in path.parts or path.is_absolute():
    raise UserError(
      f"--name {name!r} is not a folder within {runs}: choose another --name, or name the parent folder with --runs"
    )
  return Folder(runs / str(path))


def check_out(path: files.PathLike, flag: str = "--out") -> files.Place:
  """Checks that a file can be written, before the long work whose result it gets. On an object store it tries.

  Raises:
    UserError: it cannot be written there.
  """
  path = files.place(path)
  if isinstance(path, files.Remote):
    try:
      files.write(probe := path.with_name(f".{secrets.token_hex(8)}.probe"), b"")  # others may try there, too
      probe.unlink()
    except OSError as error:
      raise UserError(f"{path} cannot be written ({error.strerror}): choose another place with {flag}") from error
    return path
  if not path.parent.is_dir():
    raise UserError(f"{flag} {path}: there is no folder {path.parent}")
  if path.is_dir():
    raise UserError(f"{flag} {path} is a folder: name a file in it")
  if not os.access(path.parent, os.W_OK):  # files are written under another name beside it, and then named
    raise UserError(f"{path} cannot be written, because {path.parent} is read-only: choose another place with {flag}")
  return path


def print_numbers(numbers: Mapping[str, float]) -> None:
  """Prints numbers by name, a line each."""
  width = max((len(name) for name in numbers), default=0)
  for name, value in numbers.items():
    print(f"{name:<{width}}  {value:.6g}")
