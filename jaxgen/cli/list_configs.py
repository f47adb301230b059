"""jaxgen list [WORD ...]: one line for each config, by family; jaxgen list NAME: the description of one."""

import ast
import itertools
import re
import textwrap

from rich.console import Console
from rich.table import Table
from rich.text import Text

from jaxgen.core.errors import UserError
from jaxgen.engine.arguments import as_flags
from jaxgen.engine.catalogue import Entry, all_configs, config_summary

USAGE = """usage: jaxgen list [WORD ...]

One line for each config, grouped by family: its name, its title, its first expected number ("not run" if none was
measured here), and its cost. The lines below it are its named presets, with the flags that each stands for. With words,
only configs that have all of them in their name, family, title, paper or presets. With a config's name, its whole
description: paper, numbers, costs and commands.
"""
LINE = 150  # columns of a line where the output is no terminal


def list_configs(words: list[str]) -> None:
  if words and words[0] in ("-h", "--help"):
    print(USAGE, end="")
    return
  if flags := [word for word in words if word.startswith("-")]:
    raise UserError(f"jaxgen list takes words and no flags, not {flags[0]}")
  entries = all_configs()
  same = [entry for entry in entries if len(words) == 1 and words[0] in (entry.name, *entry.names)]
  if same:
    print("\n\n".join(whole(entry) for entry in same))
    return
  chosen = [entry for entry in entries if all(word.lower() in _searched(entry) for word in words)]
  if not chosen:
    raise UserError(f"no config has {' and '.join(map(repr, words))}: `jaxgen list` shows all {len(entries)}")
  console = Console()
  console = console if console.is_terminal else Console(width=LINE)
  console.print(table(chosen))


def table(entries: list[Entry]) -> Table:
  """A line for each config, truncated to the width of the terminal."""
  found = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), expand=True)
  found.add_column("config", no_wrap=True)
  for name, share in (("what", 5), ("expect", 4), ("cost", 3)):
    found.add_column(name, no_wrap=True, overflow="ellipsis", ratio=share)
  for family, configs in itertools.groupby(entries, key=lambda entry: entry.family):
    if family:
      found.add_row(Text(family, style="bold"))
    indent = "  " if family else ""
    for entry in configs:
      summary = config_summary(entry.path)
      texts = summary["title"].rstrip("."), headline(summary["expect"]), first_clause(summary["cost"])
      found.add_row(Text(indent + entry.name), *map(Text, texts))
      for name, arguments in entry.names.items():
        found.add_row(Text(f"{indent}  {name}", style="dim"), Text(as_flags(arguments), style="dim"))
  return found


def headline(expect: str) -> str:
  """The first expected number of a config, or "not run" if its first sentence says so."""
  sentence = re.split(r"\.\s+(?=[A-Za-z])", expect, maxsplit=1)[0]
  return "not run" if not expect or re.search(r"not run|not measured", sentence) else first_clause(expect)


def first_clause(text: str) -> str:
  """A text up to its first semicolon, or the end of its first sentence."""
  return re.split(r";\s|\.\s+(?=[A-Za-z])", text, maxsplit=1)[0].strip().rstrip(".")


def whole(entry: Entry) -> str:
  """A config's docstring, and its named presets with their flags."""
  try:
    doc = ast.get_docstring(ast.parse(entry.path.read_text())) or "It has no docstring."
  except (SyntaxError, ValueError, OSError):
    doc = config_summary(entry.path)["title"]
  parts = [f"{entry.name}  ({entry.path})", doc]
  if entry.names:
    width = max(map(len, entry.names))
    lines = [f"{name:<{width}}  {as_flags(arguments)}" for name, arguments in entry.names.items()]
    parts.append("Named presets, with the flags that each stands for:\n\n" + textwrap.indent("\n".join(lines), "    "))
  parts.append(f"`jaxgen train {entry.name} --help` shows its flags.")
  return "\n\n".join(parts)


def _searched(entry: Entry) -> str:
  summary = config_summary(entry.path)
  return " ".join((entry.name, entry.family, summary["title"], summary["paper"], *entry.names)).lower()
