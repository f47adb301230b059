"""The ledger: what papers report, and what was measured here.

A config names the numbers that papers give of its experiment, as `Published`. `jaxgen reproduce CONFIG` trains and
evaluates it and appends a line to the ledger for each number; `jaxgen ledger` shows the lines, in one table for each
data set and unit, and the configs that have not been run, with their cost.
"""

import datetime
import hashlib
import json
import math
import pathlib
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jaxgen.core import files
from jaxgen.core.errors import UserError
from jaxgen.engine.arguments import as_flags
from jaxgen.engine.catalogue import Entry, config_summary
from jaxgen.engine.config import Config, code_of
from jaxgen.engine.experiment import Experiment
from jaxgen.engine.folder import Folder
from jaxgen.engine.provenance import versions, where
from jaxgen.engine.run import Run
from jaxgen.evaluation import likelihood

if TYPE_CHECKING:
  from jaxgen.engine.progress import Progress

FILE = pathlib.Path("benchmarks/ledger.jsonl")


Line = dict[str, Any]  # a line of the ledger: see `reproduce`


def reproduce(
  config: Config,
  arguments: Mapping[str, Any],
  *,
  seeds: int,
  runs: pathlib.Path,
  fsdp: int = 1,
  tensor: int = 1,
  workers: int = 0,
  progress: "Progress | None" = None,
) -> list[Line]:
  """Trains a config with the seeds 0 .. seeds - 1 and evaluates it. Returns a line for each of its published numbers.

  The runs are in `runs`/CONFIG_seedN. Runs that exist are continued, so that an interrupted command can be repeated.

  Lines have: paper, table, metric, published, note; mean, std (over seeds; null for one), values, standard_error (the
  last seed's, if its evaluation gives one); config, arguments, config_hash, state_hashes; data; data_content, as in
  run.json; git, versions, devices, seconds (of training, summed over seeds), date; best, true if the number is that of
  each run's best evaluation.

  Raises:
    UserError: the config names no published numbers, or ones that its evaluators do not give.
  """
  from jaxgen.engine.frozen import RunCheckpoints
  from jaxgen.engine.hashing import state_hash
  from jaxgen.engine.loop import train
  from jaxgen.engine.rehearsal import rehearse
  from jaxgen.show import report

  experiment = config.build(**arguments)
  if not experiment.published:
    raise UserError(f"config {config.name} names no published number to reproduce: give its Experiment published=(...)")
  if experiment.best is None and any(published.best for published in experiment.published):
    raise UserError(
      f"config {config.name} has a published number of the best evaluation but keeps no best checkpoint: give "
      "Experiment(best=)"
    )
  if seeds < 1:
    raise UserError(f"at least 1 seed is needed, not {seeds}")
  numbers, hashes, seconds = [], [], 0.0
  for seed in range(seeds):
    how = {"fsdp": fsdp, "tensor": tensor, "workers": workers}
    run = Run(Folder(runs / f"{config.name}_seed{seed}"), config, arguments, seed, **how)
    if seed == 0:
      _check_names(config, experiment, rehearse(run))
    found = train(run, progress, report.write)
    _check_names(config, experiment, found)
    best = found
    if experiment.best is not None:
      step = RunCheckpoints(run.folder, {}, best=experiment.best).best()
      best = run.folder.evaluation(step)
      if best is None:
        raise UserError(f"{run.folder.path} has lost the evaluation of its best checkpoint, step {step}: train it anew")
    numbers.append((found, best))
    hashes.append(state_hash(run.state))
    seconds += sum(session.get("seconds", 0.0) for session in run.folder.info()["sessions"])
  here, sessions = where(), run.folder.info()["sessions"]
  content = next((session["data"] for session in reversed(sessions) if "data" in session), None)
  return [
    {
      "paper": published.paper,
      "table": published.table,
      "metric": published.metric,
      "published": published.number,
      "mean": statistics.fmean(values := [both[published.best][published.metric] for both in numbers]),
      "std": statistics.stdev(values) if seeds > 1 else None,
      "values": values,
      "standard_error": numbers[-1][published.best].get(f"{published.metric}_se"),
      "note": published.note,
      **({"best": True} if published.best else {}),
      "config": config.name,
      "arguments": {name: _without_places(value) for name, value in config.to_json(arguments).items()},
      "config_hash": config_hash(config, arguments),
      "state_hashes": hashes,
      "data": _without_place(experiment.data.title),
      "data_content": content,
      "git": here["git"],
      "versions": versions(),
      "devices": here["devices"],
      "seconds": round(seconds),
      "date": datetime.date.today().isoformat(),
    }
    for published in experiment.published
  ]


def _without_places(value: Any) -> Any:
  """Absolute paths without their folders, which differ between machines; "data_content" identifies the data."""
  if isinstance(value, (list, tuple)):
    return [_without_places(each) for each in value]
  is_path = isinstance(value, str) and value.startswith("/")
  return pathlib.PurePath(value).name if is_path else value


def _without_place(title: str) -> str:
  """A data set's title, "text:chars:data/tiny.txt", without the folder of its file."""
  kind, colon, file = title.rpartition(":")
  return title if "://" in title else f"{kind}{colon}{pathlib.PurePath(file).name}"


def _check_names(config: Config, experiment: Experiment, names: Iterable[str] | None) -> None:
  """Raises a UserError where a published number is none of those that evaluators give; None: not known yet."""
  for published in experiment.published:
    if names is not None and published.metric not in names:
      raise UserError(
        f"config {config.name} names {published.metric} as published, but its evaluators do not give it: "
        f"{', '.join(name for name in names if not name.endswith('_se'))}"
      )


def config_hash(config: Config, arguments: Mapping[str, Any]) -> str:
  """SHA-256 of a config's files without docstrings and comments, and of the arguments that flags or its name set."""
  first, *imported = (code_of(text) for text in config.files().values())
  given = config.to_json({**config.arguments, **arguments})
  return hashlib.sha256(json.dumps([first, given, *imported], sort_keys=True).encode()).hexdigest()


def append(path: pathlib.Path, lines: Iterable[Line]) -> None:
  """Adds lines to a ledger."""
  files.append(path, "".join(json.dumps(line) + "\n" for line in lines))


def read(path: pathlib.Path) -> list[Line]:
  """A ledger's lines. If several have the same number, config and arguments, the last one counts.

  Raises:
    UserError: the file is missing or damaged.
  """
  try:
    lines = [json.loads(line) for line in files.place(path).read_text().splitlines() if line.strip()]
    last = {(x["config"], json.dumps(x["arguments"]), x["paper"], x["metric"]): x for x in lines}
  except FileNotFoundError:
    raise UserError(f"there is no ledger {path}: `jaxgen reproduce CONFIG` makes one") from None
  except (json.JSONDecodeError, KeyError, TypeError) as error:
    raise UserError(f"{path} is not a ledger: {error}") from error
  return list(last.values())


def larger_is_better(metric: str) -> bool:
  return metric.endswith(("_accuracy", "_bleu"))


def close(line: Line) -> bool:
  """Whether a line's number is within 1 % or 1 nat per example of the published one, or better."""
  difference = (line["mean"] - line["published"]) * (-1 if larger_is_better(line["metric"]) else 1)
  nats = "_nll_nats_" in line["metric"]
  return difference <= max(0.01 * abs(line["published"]), 1.0 if nats else 0.0)


def tables(lines: Sequence[Line]) -> dict[str, list[Line]]:
  """The lines of each data set and unit, by a title of both; the best lines first."""
  found: dict[str, list[Line]] = {}
  for line in lines:
    known = likelihood.unit(line["metric"])
    shared = "_".join(known[0]) if known else line["metric"]
    found.setdefault(f"{line['data']}: {shared}", []).append(line)
  best = lambda line: -line["mean"] if larger_is_better(line["metric"]) else line["mean"]
  return {title: sorted(found[title], key=best) for title in sorted(found)}


COLUMNS = ("config", "paper", "published", "measured", "estimate", "seeds", "device, seconds", "note")


def cells(line: Line) -> tuple[str, ...]:
  """A line as the cells of `COLUMNS`."""
  error, kind = (line["std"], "over seeds") if line["std"] is not None else (line["standard_error"], "standard error")
  measured = f"{line['mean']:.5g}" + (f" ± {error:.2g} ({kind})" if error is not None and math.isfinite(error) else "")
  known = likelihood.unit(line["metric"])
  devices = f"{len(line['devices'])} x {line['devices'][0]}"
  note = line["note"] if close(line) else f"falls short. {line['note']}".strip()
  return (
    f"{line['config']} {as_flags(line['arguments'])}".strip(),
    f"{line['paper']}, {line['table']}",
    f"{line['published']:.5g}",
    measured,
    " ".join(([known[1]] if known and known[1] else []) + ["best evaluation"] * line.get("best", False)),
    str(len(line["values"])),
    f"{devices}, {line['seconds']:,} s",
    note,
  )


def not_run(lines: Sequence[Line], configs: Iterable[Entry]) -> list[tuple[str, str, str, str]]:
  """(config, paper's number, metric, cost) of each published number of a config, or a named preset, without a line.

  This runs the code of those configs that mention such a number.
  """
  from jaxgen.engine.config import load_config

  done, waiting = {(line["paper"], line["metric"], line["published"]) for line in lines}, []
  for entry in configs:
    if "published" not in entry.path.read_text():
      continue
    config = load_config(entry.path)
    for name, arguments in {**entry.names, entry.name: {}}.items():
      for published in config.build(**arguments).published:
        number = (published.paper, published.metric, published.number)
        if number not in done:
          done.add(number)  # a config's name is often also the name of a preset
          paper = f"{published.paper}, {published.table}: {published.number:.5g}"
          waiting.append((name, paper, published.metric, config_summary(entry.path)["cost"]))
  return waiting


def page(lines: Sequence[Line], waiting: Sequence[tuple[str, str, str, str]]) -> str:
  """The ledger in Markdown."""
  row = lambda words: "| " + " | ".join(word.replace("|", "\\|").replace("\n", " ") for word in words) + " |"
  out = [
    "# The ledger",
    "",
    "Papers' numbers and those that were measured here, the best first. A number that is worse than the paper's "
    "by more "
    'than 1 % and more than 1 nat is marked "falls short". `jaxgen reproduce CONFIG` adds a line, `jaxgen ledger --out '
    "ledger.md` writes this page.",
  ]
  for title, some in tables(lines).items():
    out += ["", f"## {title}", "", row(COLUMNS), row(["---"] * len(COLUMNS)), *(row(cells(line)) for line in some)]
  if waiting:
    out += ["", "## Not run here", "", row(("config", "published", "as", "cost")), row(["---"] * 4), *map(row, waiting)]
  return "\n".join(out) + "\n"
