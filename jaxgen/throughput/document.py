"""All measurements of one config, in the form of the JSON file, which is rewritten after every result."""

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from jaxgen.data.units import unit
from jaxgen.engine.chips import data_sheet
from jaxgen.engine.config import Config
from jaxgen.engine.provenance import versions, where
from jaxgen.throughput import chips, summary
from jaxgen.throughput.cases import Case
from jaxgen.throughput.words import line

Document = dict[str, Any]
FORMAT = 1  # of the document


def begin(subject: str, config: Config, arguments: Mapping[str, Any], turns: int) -> Document:
  """A document without results."""
  each, sheet = unit(config.build(**arguments).data), data_sheet(jax.devices()[0].device_kind)
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
    "busy_load": chips.BUSY * chips.cores(),  # above this load, other work makes times longer
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
    judge: case -> the Fréchet distance of `samples` samples, and its floor; None: quality is not measured.
    keep: called with the document after each result.
    say: called with a line of text after each result.
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
    has_run = any((r["dtype"], r["solver"], r["sampling_steps"]) == key for r in document["rows"] if _sampled(r))
    if judge is not None and case.what == "sample" and key not in judged and has_run:
      judged[key] = judge(case)
      document["quality"] = summary.quality(document["rows"], judged, samples)
      keep(document)
      found = document["quality"][-1]  # of the newest of those judged
      say(f"{case.solver or 'samples'}: quality {found['quality']:.3g}, {found['seconds_per_quality']:.3g} s for it")
  document["finished"] = True
  keep(document)
  return document


def _sampled(row: Mapping[str, Any]) -> bool:
  return row["what"] == "sample" and row["status"] == "ok"
