"""All that is measured of one config, as a JSON file has it, written anew after every result."""

import os
import pathlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from jaxgen.core.errors import UserError
from jaxgen.data.units import unit
from jaxgen.engine.config import Config
from jaxgen.engine.provenance import versions, where
from jaxgen.throughput import chips, summary
from jaxgen.throughput.cases import Case
from jaxgen.throughput.words import line

Document = dict[str, Any]
FORMAT = 1  # of the document


def begin(subject: str, config: Config, arguments: Mapping[str, Any], turns: int) -> Document:
  """A document without results."""
  each, sheet = unit(config.build(**arguments).data), chips.sheet(jax.devices()[0].device_kind)
  return {
    "format": FORMAT,
    "subject": subject,
    "config": config.name,
    "title": config.doc.partition("\n")[0],
    "arguments": config.to_json(arguments),
    "command": " ".join(["jaxgen", *sys.argv[1:]]),
    "began": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    "unit": {"name": each.name, "each": each.each},
    "platform": jax.devices()[0].platform,
    "cores": chips.cores(),
    "load": os.getloadavg()[0],
    "data_sheet": sheet._asdict() if sheet else None,
    "versions": versions(),
    **where(),
    "turns": turns,
    "rows": [],
    "scaling": [],
    "quality": [],
    "finished": False,
  }


def measure(
  document: Document,
  measured: Callable[[Case, int], dict[str, Any]],
  cases: Sequence[Case],
  judge: Callable[[Case], Mapping[str, float]] | None = None,
  samples: int = 0,
  keep: Callable[[Document], None] = lambda document: None,
  say: Callable[[str], None] = lambda text: None,
) -> Document:
  """Measures the cases one after the other into a document.

  Args:
    measured: (case, turns) -> its row, `Measure.row`.
    judge: the Fréchet distance of so many samples and its floor, for each way of sampling; None: none.
    keep: called with the document after each result.
    say: called with a line of each.
  """
  for case in cases:
    row = measured(case, document["turns"])
    document["rows"].append(row)
    summary.share_peaks(document["rows"])
    document["scaling"] = summary.scaling(document["rows"])
    keep(document)
    say(line(row, document["unit"]["name"]))
  judged: dict[tuple, Mapping[str, float]] = {}
  for case in cases:
    key = case.dtype, case.solver, case.sampling_steps
    if judge is not None and case.what == "sample" and key not in judged:
      judged[key] = judge(case)
      document["quality"] = summary.quality(document["rows"], judged, samples)
      keep(document)
      for found in document["quality"][-1:]:
        say(f"{case.solver or 'samples'}: quality {found['quality']:.3g}, {found['seconds_per_quality']:.3g} s for it")
  document["finished"] = True
  keep(document)
  return document


def check_place(flag: str, path: pathlib.Path | None, suffix: str) -> None:
  """Raises a UserError where a file cannot be written, before anything long starts."""
  if path is None:
    return
  if path.suffix != suffix:
    raise UserError(f"{flag} {path}: it is a {suffix} file")
  if not path.parent.is_dir():
    raise UserError(f"{flag} {path}: there is no folder {path.parent}")
  if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
    raise UserError(f"{flag} {path} cannot be written: choose another place")
