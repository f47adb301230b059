"""jaxgen list: the configs, their papers, expected numbers and costs."""

import itertools

from rich.console import Console
from rich.table import Table
from rich.text import Text

from jaxgen.core.errors import UserError
from jaxgen.engine.catalogue import all_configs, config_summary


def list_configs(words: list[str]) -> None:
  if words and words[0] in ("-h", "--help"):
    print("usage: jaxgen list\n\nThe configs by family, their papers, expected numbers and costs.")
    return
  if words:
    raise UserError(f"jaxgen list takes no arguments, not {' '.join(words)}")
  table = Table(box=None, pad_edge=False, padding=(0, 2, 1, 0))
  for name in ("config", "what", "paper", "expect", "cost"):
    table.add_column(name, overflow="fold", no_wrap=name == "config")
  for family, configs in itertools.groupby(all_configs(), key=lambda entry: entry.family):
    if family:
      table.add_row(Text(family, style="bold"))
    for entry in configs:
      summary = config_summary(entry.path)
      texts = (summary[field] for field in ("title", "paper", "expect", "cost"))
      table.add_row(Text(f"  {entry.name}" if family else entry.name), *map(Text, texts))
  console = Console()
  Console(width=max(console.width, 120) if not console.is_terminal else None).print(table)
