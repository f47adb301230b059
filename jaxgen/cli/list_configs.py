"""jaxgen list: the configs, with their further names, their papers, expected numbers and costs."""

import itertools

from rich.console import Console
from rich.table import Table
from rich.text import Text

from jaxgen.core.errors import UserError
from jaxgen.engine.arguments import as_flags
from jaxgen.engine.catalogue import all_configs, config_summary


def list_configs(words: list[str]) -> None:
  if words and words[0] in ("-h", "--help"):
    print(
      "usage: jaxgen list\n\nThe configs by family, their papers, expected numbers and costs, and their further names "
      "with the flags that each stands for."
    )
    return
  if words:
    raise UserError(f"jaxgen list takes no arguments, not {' '.join(words)}")
  table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
  for name in ("config", "what", "paper", "expect", "cost"):
    table.add_column(name, overflow="fold", no_wrap=name == "config")
  for family, configs in itertools.groupby(all_configs(), key=lambda entry: entry.family):
    if family:
      table.add_row(Text(family, style="bold"))
      table.add_row()
    indent = "  " if family else ""
    for entry in configs:
      summary = config_summary(entry.path)
      texts = (summary[field] for field in ("title", "paper", "expect", "cost"))
      table.add_row(Text(indent + entry.name), *map(Text, texts))
      for name, arguments in entry.names.items():
        table.add_row(Text(f"{indent}  {name}"), Text(as_flags(arguments)))
      table.add_row()
  console = Console()
  Console(width=max(console.width, 120) if not console.is_terminal else None).print(table)
