"""jaxgen compare RUN [RUN ...]: shows how runs differ and their last numbers; writes a page with curves and samples."""

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
    {"page": option(pathlib.Path | None, "also write a page with curves and samples to this .html file", None)},
    "Show how runs differ and their last numbers over seeds; with --page, also their curves and samples.",
  )
  if not runs:
    raise UserError("RUN is missing: jaxgen compare RUN [RUN ...] [--page FILE.html]")
  out = options["page"]
  if out is not None:
    if out.suffix != ".html":
      raise UserError(f"--page {out}: the file's name must end in .html")
    out = check_out(out, "--page")
  write([Folder(run) for run in runs], out)


def write(runs: list[Folder], out: files.Place | None) -> None:
  """Prints the tables of runs and, if `out` is given, writes their page."""
  groups = comparison.groups(runs)
  print(comparison.text(groups))
  if out is not None:
    files.write(out, comparison.page(groups))
    print(f"\npage  {out}")
