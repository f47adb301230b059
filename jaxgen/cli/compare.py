"""jaxgen compare RUN [RUN ...]: shows how runs differ, their last numbers, and a page with curves and samples."""

import pathlib

from jaxgen.cli.options import check_out, option, parse
from jaxgen.core import files
from jaxgen.core.errors import UserError
from jaxgen.engine.folder import Folder
from jaxgen.show import compare as comparison


def compare(words: list[str]) -> None:
  first_flag = next((i for i, word in enumerate(words) if word.startswith("-")), len(words))
  runs, flags = words[:first_flag], words[first_flag:]
  options, _ = parse(
    "compare RUN [RUN ...]",
    flags,
    {"page": option(pathlib.Path | None, "the page to write, an .html file (compare.html)", None)},
    "Show how runs differ and their last numbers over seeds, and write a page with their curves and samples.",
  )
  if not runs:
    raise UserError("RUN is missing: jaxgen compare RUN [RUN ...] [--page FILE.html]")
  out = options["page"] or pathlib.Path("compare.html")
  if out.suffix != ".html":
    raise UserError(f"--page {out}: the file's name must end in .html")
  check_out(out, "--page")
  write([Folder(run) for run in runs], out)


def write(runs: list[Folder], out: files.Place) -> None:
  """Prints the tables of runs and writes their page."""
  groups = comparison.groups(runs)
  print(comparison.text(groups))
  files.write(out, comparison.page(groups))
  print(f"\npage  {out}")
