"""Loads and calls configs. `engine.catalogue` finds them.

A config is a Python file with one function, `experiment`, whose keyword arguments are the command line's flags:

    def experiment(steps: int = 3_000, batch_size: int = 128) -> Experiment: ...

Calling it builds an `Experiment` and computes nothing. A run's folder keeps the config's arguments, its source, and the
sources of the modules that it imports from its own folder. `jaxgen.load(folder)` runs them to rebuild the experiment.

A config may have further names, each standing for some of its arguments. They are a literal, read without running the
file:

    NAMES = {"ddpm_cifar10": {"preset": "cifar10"}, "ddpm_mnist": {"preset": "mnist"}}

A config may also have a function `settled`, see `Config.settled`.
"""

import ast
import atexit
import dataclasses
import difflib
import enum
import importlib.util
import inspect
import pathlib
import re
import tempfile
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxgen.core import files
from jaxgen.core.errors import UserError
from jaxgen.engine.arguments import from_json, is_dtype, to_json
from jaxgen.engine.catalogue import Found, find_config, is_names, names_in
from jaxgen.engine.experiment import Experiment
from jaxgen.engine.imports import Imports

KEPT = "config.py"  # a run's copy of its config
KEPT_IMPORTS = "config"  # the folder with copies of the modules that the config imports
# Flags of the commands themselves; a config may not use these names for its own.
RESERVED = frozenset(
  ["config", "run", "runs", "name", "seed", "n", "first", "out", "fsdp", "tensor", "coordinator", "processes"]
  + ["process", "join_seconds", "layout", "fresh", "average", "seeds", "ledger", "compile", "other_data", "checkpoint"]
  + ["target", "format", "chunk", "batch", "what", "devices", "turns", "quality", "peers", "peer_python", "json"]
  + ["page", "quick", "help", "version", "data_dir", "manual_dir", "workers", "metrics", "space", "weights", "samples"]
  + ["against", "split", "resume", "over", "dry", "profile", "log"]
)

# The sentences in --help for arguments that nearly every config has.
SENTENCES = {
  "steps": "training steps",
  "batch_size": "examples in a batch, over all devices",
  "learning_rate": "the highest learning rate",
  "ema": "decay of the averaged parameters, which are evaluated and make the samples",
  "microbatches": "parts of a batch, one after the other, over which a step accumulates its gradients",
  "remat": "keep only each block's input for the backward pass, and compute the rest again: less memory, more work",
  "unroll": "blocks that a turn of the loop over blocks computes; all of them are faster and take longer to compile",
  "tfds_dir": "where tensorflow-datasets prepared its data sets; by default the folder where it looks itself",
}


@dataclasses.dataclass(frozen=True)
class Config:
  """A config file that is loaded; its function is not called yet.

  Attributes:
    name: the file's stem, or one of its further names.
    path: the file.
    source: its text.
    function: its `experiment`.
    imports: the modules that it imports from its own folder.
    arguments: the arguments that its name stands for; they replace defaults of `experiment`.
  """

  name: str
  path: pathlib.Path
  source: str
  function: Callable[..., Experiment]
  imports: Imports
  arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  @property
  def doc(self) -> str:
    return ast.get_docstring(ast.parse(self.source)) or ""

  @property
  def sentences(self) -> dict[str, str]:
    """A sentence on each argument for --help, from "Args:" in the docstring of `experiment` and from SENTENCES."""
    _, _, text = inspect.cleandoc(self.function.__doc__ or "").partition("Args:\n")
    found = {}
    for names, sentence in re.findall(r"^  (\w+(?:, \w+)*): (.*(?:\n    +\S.*)*)", text, re.MULTILINE):
      found |= dict.fromkeys(names.split(", "), " ".join(sentence.split()).removesuffix("."))
    return {name: found.get(name, SENTENCES.get(name, "")) for name in self.parameters}

  @property
  def parameters(self) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(self.function).parameters)

  @property
  def types(self) -> dict[str, Any]:
    annotated = {name: kind for name, kind in self.function.__annotations__.items() if name != "return"}
    function = types.SimpleNamespace(__annotations__=annotated)
    return typing.get_type_hints(function, self.function.__globals__)

  def defaults(self) -> dict[str, Any]:
    """The arguments' default values: those of the config's name, or of `experiment`."""
    return {**{name: p.default for name, p in self.parameters.items()}, **self.cast(self.arguments)}

  def files(self) -> dict[str, str]:
    """The sources that a run keeps, by path within the run's folder; see `load_kept`."""
    imported = sorted(self.imports.sources.items())
    return {KEPT: self.source, **{f"{KEPT_IMPORTS}/{name}": text for name, text in imported}}

  def cast(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Turns arguments from JSON into the types that the config declares: paths, members of Enums, dtypes, tuples."""
    defaults = {name: p.default for name, p in self.parameters.items()}
    return {name: self._cast(name, value, defaults.get(name)) for name, value in arguments.items()}

  def _cast(self, name: str, value: Any, default: Any) -> Any:
    try:
      if isinstance(value, str) and is_dtype(default):
        return np.dtype(value)
      return from_json(value, self.types.get(name, type(default)))
    except TypeError:
      raise UserError(f"config {self.name}: {name}={value!r} is no dtype: float32 and bfloat16 are two") from None
    except KeyError:
      members = ", ".join(type(default).__members__) if isinstance(default, enum.Enum) else "its members"
      raise UserError(f"config {self.name}: {name}={value!r} is none of {members}") from None

  def to_json(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments as run.json keeps them.

    Raises:
      UserError: an argument cannot be written as JSON.
    """
    kept = {}
    for name, value in arguments.items():
      try:
        kept[name] = to_json(value)
      except TypeError as error:
        raise UserError(f"config {self.name}: argument {name!r} {error}") from None
    return kept

  def settled(self, arguments: Mapping[str, Any], kept: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Arguments, with those that the config's function `settled` gives, where it has one.

    That function reads of a user's files what the run keeps among its arguments, such as the sizes of networks, so that
    it no longer needs the files. SETTLED, beside the function, has the names of these arguments.

    Args:
      arguments: those that are given.
      kept: those of the run, where it exists already.
    """
    code = self.function.__globals__
    if "settled" not in code:
      return dict(arguments)
    if kept is not None:
      return {**{name: kept[name] for name in code["SETTLED"] if name in kept}, **arguments}
    return {**code["settled"]({**self.defaults(), **arguments}), **arguments}

  def build(self, **arguments: Any) -> Experiment:
    """Calls the config with these arguments in place of its defaults.

    Raises:
      UserError: the config does not have an argument, or refuses its value.
    """
    arguments = {**self.arguments, **arguments}
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
      with self.imports.active():
        experiment = self.function(**cast)
    except (ValueError, ArithmeticError, ImportError) as error:
      raise UserError(f"config {self.name}: {error}") from error
    if not isinstance(experiment, Experiment):
      raise UserError(f"config {self.name}: experiment() returned a {type(experiment).__name__}, not an Experiment")
    return experiment


def code_of(source: str) -> str:
  """A config's code without docstrings, further names, comments and layout, to compare what two sources do."""
  tree = ast.parse(source)
  tree.body = [node for node in tree.body if not is_names(node)]
  for node in ast.walk(tree):
    if isinstance(node, (ast.Module, ast.FunctionDef)) and ast.get_docstring(node, clean=False) is not None:
      node.body = node.body[1:]
  return ast.dump(tree)


def load_config(name: str | pathlib.Path) -> Config:
  """Finds and loads a config. This runs the file's code, like an import.

  Raises:
    UserError: the file is missing or is not valid Python, or it has no function `experiment` whose arguments can be
      flags.
  """
  found = find_config(str(name))
  return _load(found, Imports(found.path.parent))


def load_kept(folder: files.Place, name: str) -> Config:
  """Loads the config that a run's folder keeps, under the name that it had when the run began.

  Raises:
    UserError: the folder has no config, or it cannot be loaded; see `load_config`.
  """
  if not (folder / KEPT).is_file():
    raise UserError(f"{folder} is not a whole run: it has no {KEPT}: put back a copy")
  folder = _here(folder)
  return _load(Found(name, folder / KEPT), Imports(folder / KEPT_IMPORTS))


def _here(folder: files.Place) -> pathlib.Path:
  """The folder or, if it is on an object store, a local copy of its config files, until this process ends."""
  if isinstance(folder, pathlib.Path):
    return folder
  copy = tempfile.mkdtemp(prefix="jaxgen-config-")
  atexit.register(files.remove_folder, pathlib.Path(copy))
  imported = (f"{KEPT_IMPORTS}/{name}" for name in files.sizes(folder / KEPT_IMPORTS))
  for path in [KEPT, *imported]:
    files.write(f"{copy}/{path}", (folder / path).read_bytes())
  return pathlib.Path(copy)


def _load(found: Found, imports: Imports) -> Config:
  path = found.path
  try:
    source = path.read_text()
  except (UnicodeDecodeError, OSError) as error:
    raise UserError(f"{path} is not a config: {error}") from error
  spec = importlib.util.spec_from_file_location(f"jaxgen_config_{path.stem}", path)
  if spec is None:
    raise UserError(f"{path} is not a config: a config is a Python file with a function experiment()")
  module = imports.modules[spec.name] = importlib.util.module_from_spec(spec)
  imports.adopt(module)
  try:
    with imports.active():
      spec.loader.exec_module(module)
  except SyntaxError as error:
    raise UserError(f"{error.filename or path}, line {error.lineno}: {error.msg}") from error
  except ImportError as error:
    raise UserError(f"{path} cannot be imported: {error}") from error
  except Exception as error:  # whatever the user's code raises
    raise UserError(f"{path} fails when it is loaded: {type(error).__name__}: {error}") from error
  function = getattr(module, "experiment", None)
  if not callable(function):
    raise UserError(f"{path} has no function experiment(): a config is a file with one that returns an Experiment")
  imports.keep(source)
  try:
    names = names_in(ast.parse(source))
  except ValueError as error:
    raise UserError(f"{path}: NAMES cannot be read, for {error}") from error
  config = Config(found.name, path, source, function, imports, names.get(found.name, found.arguments))
  for argument, parameter in config.parameters.items():
    if argument in RESERVED:
      raise UserError(
        f"{path}: experiment() may not have an argument {argument!r}, which is a flag of the commands themselves"
      )
    if parameter.default is parameter.empty:
      raise UserError(f"{path}: argument {argument!r} of experiment() needs a default")
  try:
    _ = config.types
  except (NameError, TypeError) as error:
    raise UserError(
      f"{path}: the annotations of experiment() cannot be read ({error}): import what they name when the file runs"
    ) from error
  config.to_json(config.defaults())  # says what cannot be kept
  return config
