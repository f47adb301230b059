"""Configs: how they are found, loaded and called.

A config is a Python file with one function, `experiment`, whose keyword arguments are the command line's flags:

    def experiment(steps: int = 3_000, batch_size: int = 128) -> Experiment: ...

Calling it builds an `Experiment` and computes nothing. A run's folder keeps the config's source and its arguments, so
`jaxgen.load(folder)` rebuilds the experiment by running that source.
"""

import ast
import dataclasses
import difflib
import importlib.util
import inspect
import pathlib
import re
import sys
import typing
from collections.abc import Callable, Mapping
from typing import Any

from jaxgen.core.errors import UserError
from jaxgen.engine.experiment import Experiment

# Flags of the commands themselves; a config may not use these names for its own.
RESERVED = frozenset(
  ["config", "run", "runs", "name", "seed", "n", "first", "out", "fsdp", "coordinator", "processes", "process"]
  + ["layout", "fresh", "average", "seeds", "ledger"]
  + ["help", "version", "data_dir", "manual_dir"]
)


@dataclasses.dataclass(frozen=True)
class Config:
  """A config file that was found and loaded, its function not yet called.

  Attributes:
    name: the file's stem.
    path: the file.
    source: its text.
    function: its `experiment`.
  """

  name: str
  path: pathlib.Path
  source: str
  function: Callable[..., Experiment]

  @property
  def doc(self) -> str:
    return ast.get_docstring(ast.parse(self.source)) or ""

  @property
  def parameters(self) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(self.function).parameters)

  @property
  def types(self) -> dict[str, Any]:
    return typing.get_type_hints(self.function)

  def defaults(self) -> dict[str, Any]:
    return {name: p.default for name, p in self.parameters.items()}

  def cast(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments that went through JSON, with lists made tuples again where the config wants tuples."""
    return {name: _cast(value, self.types.get(name)) for name, value in arguments.items()}

  def build(self, **arguments: Any) -> Experiment:
    """Calls the config with these arguments over its defaults.

    Raises:
      UserError: an argument that the config does not have, or that it refuses.
    """
    for name in arguments:
      if name not in self.parameters:
        near = difflib.get_close_matches(name, self.parameters, 1)
        hint = f": perhaps you meant {near[0]!r}" if near else f"; it has {', '.join(self.parameters)}"
        raise UserError(f"config {self.name} has no argument {name!r}{hint}")
    cast = self.cast(arguments)
    for name, value in cast.items():
      kind = self.types.get(name)
      if typing.get_origin(kind) is typing.Literal and value not in typing.get_args(kind):
        choices = ", ".join(map(repr, typing.get_args(kind)))
        raise UserError(f"config {self.name}: {name}={value!r} is none of {choices}")
    try:
      experiment = self.function(**cast)
    except (ValueError, ArithmeticError) as error:
      raise UserError(f"config {self.name}: {error}") from error
    if not isinstance(experiment, Experiment):
      raise UserError(f"config {self.name}: experiment() returned a {type(experiment).__name__}, not an Experiment")
    return experiment


def _cast(value: Any, kind: Any) -> Any:
  """Undoes what JSON does to tuples."""
  if isinstance(value, list) and (kind is tuple or typing.get_origin(kind) is tuple):
    inner = [k for k in typing.get_args(kind) if k is not Ellipsis]
    return tuple(_cast(v, inner[min(i, len(inner) - 1)] if inner else None) for i, v in enumerate(value))
  return value


def code_of(source: str) -> str:
  """What a config's source does, without its docstrings, comments and layout."""
  tree = ast.parse(source)
  for node in ast.walk(tree):
    if isinstance(node, (ast.Module, ast.FunctionDef)) and ast.get_docstring(node, clean=False) is not None:
      node.body = node.body[1:]
  return ast.dump(tree)


def config_folders() -> list[pathlib.Path]:
  """Where a config is looked for by name: ./configs, then the `configs` beside the package."""
  return [pathlib.Path("configs"), pathlib.Path(__file__).resolve().parent.parent / "configs"]


def shipped_configs() -> list[pathlib.Path]:
  """The configs in the first of these folders that has any, sorted."""
  return next((found for folder in config_folders() if (found := sorted(folder.glob("*.py")))), [])


def find_config(name: str) -> pathlib.Path:
  """The file of a config given by path or by name.

  Raises:
    UserError: there is none; the nearest name is suggested.
  """
  path = pathlib.Path(name)
  if path.is_file():
    return path
  for folder in config_folders():
    for file in (folder / name, folder / f"{name}.py"):
      if file.is_file():
        return file
  known = sorted({f.stem for folder in config_folders() for f in folder.glob("*.py")})
  near = difflib.get_close_matches(path.stem, known, 1)
  hint = f"perhaps you meant {near[0]!r}" if near else "`jaxgen list` shows the configs there are"
  raise UserError(f"there is no config {name!r}: {hint}")


def load_config(name: str | pathlib.Path) -> Config:
  """Finds and loads a config; this runs the file's code, as importing it does.

  Raises:
    UserError: the file is missing, is not valid Python, has no function `experiment`, or one whose arguments cannot be
      flags.
  """
  path = find_config(str(name))
  try:
    source = path.read_text()
  except (UnicodeDecodeError, OSError) as error:
    raise UserError(f"{path} is not a config: {error}") from error
  spec = importlib.util.spec_from_file_location(f"jaxgen_config_{path.stem}", path)
  if spec is None:
    raise UserError(f"{path} is not a config: a config is a Python file with a function experiment()")
  module = importlib.util.module_from_spec(spec)
  bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True
  try:
    spec.loader.exec_module(module)
  except SyntaxError as error:
    raise UserError(f"{path}, line {error.lineno}: {error.msg}") from error
  except ImportError as error:
    raise UserError(f"{path} cannot be imported: {error}") from error
  except Exception as error:  # whatever the user's code raises
    raise UserError(f"{path} fails when it is loaded: {type(error).__name__}: {error}") from error
  finally:
    sys.dont_write_bytecode = bytecode
  function = getattr(module, "experiment", None)
  if not callable(function):
    raise UserError(f"{path} has no function experiment(): a config is a file with one that returns an Experiment")
  config = Config(path.stem, path, source, function)
  for argument, parameter in config.parameters.items():
    if argument in RESERVED:
      raise UserError(
        f"{path}: experiment() may not have an argument {argument!r}, which is a flag of the commands themselves"
      )
    if parameter.default is parameter.empty:
      raise UserError(f"{path}: argument {argument!r} of experiment() needs a default")
  return config


def config_summary(path: pathlib.Path) -> dict[str, str]:
  """A config's title and the `Paper:`, `Expect:` and `Cost:` paragraphs of its docstring, read without running it."""
  doc = ast.get_docstring(ast.parse(path.read_text())) or ""
  summary = {"title": doc.split("\n", 1)[0]}
  for field in ("Paper", "Expect", "Cost"):
    match = re.search(rf"^{field}:\s*(.*?)(?=\n\s*\n|\n\S+:|\Z)", doc, re.MULTILINE | re.DOTALL)
    summary[field.lower()] = " ".join(match[1].split()) if match else ""
  return summary
