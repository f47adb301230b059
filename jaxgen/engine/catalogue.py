"""Finds configs by name: those in ./configs and those that the package ships, in a folder for each family.

This module never runs a config's code and does not need jax. A broken config only affects its own line of the list.
"""

import ast
import difflib
import pathlib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from jaxgen.core.errors import UserError

LOCAL = pathlib.Path("configs")
NAMES = "NAMES"  # the name of a config's table of named presets

Names = Mapping[str, Mapping[str, Any]]  # a config's named presets, each with its arguments


class Entry(NamedTuple):
  """A config that can be found by its name.

  Attributes:
    name: the file's stem.
    family: its folder within the configs, "" for the top.
    path: the file.
    names: its further names.
  """

  name: str
  family: str
  path: pathlib.Path
  names: Names = {}


class Found(NamedTuple):
  """The config and arguments of a name: a file, and arguments that replace defaults of its experiment()."""

  name: str
  path: pathlib.Path
  arguments: Mapping[str, Any] = {}


def shipped_folder() -> pathlib.Path:
  """The configs that come with the package: inside it when installed from a wheel, beside it in a checkout."""
  package = pathlib.Path(__file__).resolve().parent.parent
  inside = package / "configs"
  return inside if inside.is_dir() else package.parent / "configs"


def folders() -> list[pathlib.Path]:
  """The folders in which configs are searched for by name, in this order."""
  shipped = shipped_folder()
  return [LOCAL] if LOCAL.resolve() == shipped else [LOCAL, shipped]


def names_in(tree: ast.Module) -> Names:
  """The further names of a config, from a literal in its source: NAMES = {"ddpm_mnist": {"preset": "mnist"}}.

  Raises:
    ValueError: NAMES is something else.
  """
  for node in tree.body:
    if is_names(node):
      names = ast.literal_eval(node.value)
      if not isinstance(names, dict) or not all(
        isinstance(name, str) and isinstance(arguments, dict) for name, arguments in names.items()
      ):
        raise ValueError(f"{NAMES} is not a dict of names, each with a dict of arguments")
      return names
  return {}


def is_names(node: ast.stmt) -> bool:
  """Whether a statement assigns NAMES."""
  return isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == [NAMES]


def configs_in(folder: pathlib.Path) -> list[Entry]:
  """The configs in a folder and its subfolders, sorted by family and name.

  A file that defines no experiment() is a module that configs import, and is left out. A file with a syntax error is
  listed, so that whoever asks for it learns what is wrong. Hidden folders, such as .ipynb_checkpoints, are left out.
  """
  entries = []
  for path in folder.rglob("*.py"):
    if any(part.startswith(".") for part in path.relative_to(folder).parts):
      continue
    try:
      tree = ast.parse(path.read_text())
      names = names_in(tree)
    except (SyntaxError, ValueError, OSError):
      tree, names = None, {}
    if tree is None or any(isinstance(node, ast.FunctionDef) and node.name == "experiment" for node in tree.body):
      entries.append(Entry(path.stem, path.parent.relative_to(folder).as_posix().removeprefix("."), path, names))
  return sorted(entries, key=lambda entry: (entry.family, entry.name))


def all_configs() -> list[Entry]:
  """The configs of all folders. A name in ./configs hides the shipped config, or further name, of the same name."""
  entries: list[Entry] = []
  for folder in folders():
    hidden = {name for entry in entries for name in (entry.name, *entry.names)}
    for entry in configs_in(folder):
      if entry.name not in hidden:
        names = {name: arguments for name, arguments in entry.names.items() if name not in hidden}
        entries.append(entry._replace(names=names))
  return entries


def find_config(name: str) -> Found:
  """Finds a config by a path, its path within the configs, its name, or one of its further names.

  Raises:
    UserError: there is no such config (the message suggests a similar name), or several have the name.
  """
  path = pathlib.Path(name)
  if path.is_file():
    return Found(path.stem, path)
  known = all_configs()
  same = [Found(entry.name, entry.path) for entry in known if entry.name == path.name.removesuffix(".py")]
  same += [Found(name, entry.path, entry.names[name]) for entry in known if name in entry.names]
  if len(path.parts) == 1 and same:
    if len(same) > 1:
      paths = " or ".join(str(found.path) for found in same)
      raise UserError(f"there are {len(same)} configs {name!r}: give the path of one, {paths}")
    return same[0]
  within = "/".join(path.parts[1:] if path.parts[:1] == (LOCAL.name,) else path.parts)
  for folder in folders():
    for file in (folder / within, folder / f"{within}.py"):
      if file.is_file():
        return Found(file.stem, file)
  names = sorted({name for entry in known for name in (entry.name, *entry.names)})
  near = difflib.get_close_matches(path.stem, names, 1)
  if same:
    hint = f"perhaps you meant {same[0].path}"
  else:
    hint = f"perhaps you meant {near[0]!r}" if near else "`jaxgen list` shows the configs there are"
  raise UserError(f"there is no config {name!r}: {hint}")


def config_summary(path: pathlib.Path) -> dict[str, str]:
  """A config's title and the `Paper:`, `Expect:` and `Cost:` paragraphs of its docstring, or what is wrong with it."""
  fields = ("paper", "expect", "cost")
  try:
    doc = ast.get_docstring(ast.parse(path.read_text())) or ""
  except (SyntaxError, ValueError, OSError) as error:
    line = f", line {error.lineno}" if isinstance(error, SyntaxError) else ""
    return {"title": f"cannot be read{line}: {getattr(error, 'msg', error)}", **dict.fromkeys(fields, "")}
  summary = {"title": doc.split("\n", 1)[0]}
  for field in fields:
    match = re.search(rf"^{field.title()}:\s*(.*?)(?=\n\s*\n|\n\S+:|\Z)", doc, re.MULTILINE | re.DOTALL)
    summary[field] = " ".join(match[1].split()) if match else ""
  return summary
