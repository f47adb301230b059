"""jaxgen ledger: papers' numbers and ours."""

import pathlib

from rich.console import Console
from rich.table import Table

from jaxgen import ledger
from jaxgen.cli.options import check_out, option, parse
from jaxgen.core import files
from jaxgen.engine.catalogue import configs_in, shipped_folder


def show_ledger(words: list[str]) -> None:
  options, _ = parse(
    "ledger",
    words,
    {
      "ledger": option(pathlib.Path, "file of the ledger", ledger.FILE),
      "out": option(pathlib.Path | None, "write it as a page, .md, instead", None),
    },
    "Papers' numbers and ours.",
  )
  out, lines = options["out"], ledger.read(options["ledger"])
  waiting = ledger.not_run(lines, configs_in(shipped_folder()))
  if out is None:
    print_ledger(lines, waiting)
    return
  out = check_out(out)
  files.write(out, ledger.page(lines, waiting))
  print(out)


def print_ledger(lines: list[ledger.Line], waiting: list[tuple[str, str, str, str]]) -> None:
  console = Console()
  if not console.is_terminal:
    console = Console(width=max(console.width, 160))
  for title, some in ledger.tables(lines).items():
    table = Table(*ledger.COLUMNS, title=title, title_justify="left", box=None, pad_edge=False)
    for line in some:
      table.add_row(*ledger.cells(line))
    console.print(table, "")
  if waiting:
    table = Table("config", "published", "as", "cost", title="not run here", title_justify="left", box=None)
    for row in waiting:
      table.add_row(*row)
    console.print(table)
