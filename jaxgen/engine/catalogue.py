"""Which configs there are, and where: those of ./configs and those that the package ships, in a folder for each family.

Nothing here runs a config's code, so that one that is broken only says so, and nothing needs jax.
"""

import ast
import difflib
import pathlib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from jaxgen.core.errors import UserError

LOCAL = pathlib.Path("configs")
NAMES = "NAMES"  # what a config calls the table of its further names

Names = Mapping[str, Mapping[str, Any]]  # a config's further names, each with the arguments that it stands for


class Entry(NamedTuple):
  """A config that can be found by its name.

  Attributes:
    family: its folder within the configs, "" for the top. names: its further names.
  """

  name: str
  family: str
  path: pathlib.Path
  names: Names = {}


class Found(NamedTuple):
  """What a name stands for: a file, and arguments over the defaults of its experiment()."""

  name: str
  path: pathlib.Path
  arguments: Mapping[str, Any] = {}


def shipped_folder() -> pathlib.Path:
  """The configs that came with the package: in a wheel inside it, in a checkout beside it."""
  package = pathlib.Path(__file__).resolve().parent.parent
  inside = package / "configs"
  return inside if inside.is_dir() else package.parent / "configs"


def folders() -> list[pathlib.Path]:
  """Where a config is looked for by name, in this order."""
  shipped = shipped_folder()
  return [LOCAL] if LOCAL.resolve() == shipped else [LOCAL, shipped]


def names_in(tree: ast.Module) -> Names:
  """The further names that a config's source gives it, a literal: NAMES = {"ddpm_mnist": {"preset": "mnist"}}.

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
  """Whether a statement gives a config its further names."""
  return isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == [NAMES]


def configs_in(folder: pathlib.Path) -> list[Entry]:
  """The configs in a folder and the folders in it, by family and name; a Python file that may be one counts.

  A file that defines no experiment() is a module that configs import. One that is not Python is left in: who asks for
  it is told what is wrong with it. Copies in hidden folders, such as .ipynb_checkpoints, are none.
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
  """The configs of all folders; a name of one in ./configs hides a shipped config, or further name, of this name."""
  entries: list[Entry] = []
  for folder in folders():
    hidden = {name for entry in entries for name in (entry.name, *entry.names)}
    for entry in configs_in(folder):
      if entry.name not in hidden:
        names = {name: arguments for name, arguments in entry.names.items() if name not in hidden}
        entries.append(entry._replace(names=names))
  return entries


def find_config(name: str) -> Found:
  """A config given by a path, by its path within the configs, by its name alone, or by one of its further names.

  Raises:
    UserError: there is none, and a near one is suggested; or several have the name.
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
