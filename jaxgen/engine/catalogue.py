"""Which configs there are, and where: those of ./configs and those that the package ships, in a folder for each family.

Nothing here runs a config's code, so that one that is broken only says so, and nothing needs jax.
"""

import ast
import difflib
import pathlib
import re
from typing import NamedTuple

from jaxgen.core.errors import UserError

LOCAL = pathlib.Path("configs")


class Entry(NamedTuple):
  """A config that can be found by its name.

  family: its folder within the configs, "" for the top.
  """

  name: str
  family: str
  path: pathlib.Path


def shipped_folder() -> pathlib.Path:
  """The configs that came with the package: in a wheel inside it, in a checkout beside it."""
  package = pathlib.Path(__file__).resolve().parent.parent
  inside = package / "configs"
  return inside if inside.is_dir() else package.parent / "configs"


def folders() -> list[pathlib.Path]:
  """Where a config is looked for by name, in this order."""
  shipped = shipped_folder()
  return [LOCAL] if LOCAL.resolve() == shipped else [LOCAL, shipped]


def configs_in(folder: pathlib.Path) -> list[Entry]:
  """The configs in a folder and the folders in it, by family and name; a Python file that may be one counts.

  A file that defines no experiment() is a module that configs import. One that is not Python is left in: who asks for
  it is told what is wrong with it.
  """
  entries = []
  for path in folder.rglob("*.py"):
    try:
      tree = ast.parse(path.read_text())
    except (SyntaxError, ValueError, OSError):
      tree = None
    if tree is None or any(isinstance(node, ast.FunctionDef) and node.name == "experiment" for node in tree.body):
      entries.append(Entry(path.stem, path.parent.relative_to(folder).as_posix().removeprefix("."), path))
  return sorted(entries, key=lambda entry: (entry.family, entry.name))


def all_configs() -> list[Entry]:
  """The configs of all folders; one that stands in ./configs hides a shipped one of its name."""
  found: dict[str, list[Entry]] = {}
  for folder in folders():
    hidden = set(found)
    for entry in configs_in(folder):
      if entry.name not in hidden:
        found.setdefault(entry.name, []).append(entry)
  return [entry for entries in found.values() for entry in entries]


def find_config(name: str) -> pathlib.Path:
  """The file of a config given by a path, by its path within the configs, or by its name alone.

  Raises:
    UserError: there is none, and a near one is suggested; or several have the name.
  """
  path = pathlib.Path(name)
  if path.is_file():
    return path
  known = all_configs()
  same = [entry.path for entry in known if entry.name == path.name.removesuffix(".py")]
  if len(path.parts) == 1 and same:
    if len(same) > 1:
      raise UserError(f"there are {len(same)} configs {name!r}: give the path of one, {' or '.join(map(str, same))}")
    return same[0]
  within = "/".join(path.parts[1:] if path.parts[:1] == (LOCAL.name,) else path.parts)
  for folder in folders():
    for file in (folder / within, folder / f"{within}.py"):
      if file.is_file():
        return file
  near = difflib.get_close_matches(path.stem, sorted({entry.name for entry in known}), 1)
  if same:
    hint = f"perhaps you meant {same[0]}"
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
