"""jaxgen list: the configs, their papers, expected numbers and costs."""

from rich.console import Console
from rich.table import Table

from jaxgen.core.errors import UserError
from jaxgen.engine.config import config_summary, shipped_configs


def list_configs(words: list[str]) -> None:
  if words and words[0] in ("-h", "--help"):
    print("usage: jaxgen list\n\nThe configs, their papers, expected numbers and costs.")
    return
  if words:
    raise UserError(f"jaxgen list takes no arguments, not {' '.join(words)}")
  configs = shipped_configs()
  if not configs:
    raise UserError("there are no configs here: run jaxgen in a folder with a configs/ folder")
  table = Table(box=None, pad_edge=False, padding=(0, 2, 1, 0))
  for name in ("config", "what", "paper", "expect", "cost"):
    table.add_column(name, overflow="fold", no_wrap=name == "config")
  for path in configs:
    summary = config_summary(path)
    table.add_row(path.stem, summary["title"], summary["paper"], summary["expect"], summary["cost"])
  console = Console()
  Console(width=max(console.width, 120) if not console.is_terminal else None).print(table)
