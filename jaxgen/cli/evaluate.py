"""jaxgen evaluate RUN|PICTURES: a run's evaluation, or metrics of its samples or of pictures from other programs."""

import contextlib
import hashlib
import json
import pathlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from jaxgen.cli.options import CHECKPOINT, EMA, check_out, load_run, option, parse, print_numbers, workers_option
from jaxgen.core import files
from jaxgen.core.cache import cache_folder
from jaxgen.core.errors import UserError
from jaxgen.data import Dataset
from jaxgen.data.own import own
from jaxgen.engine.folder import Folder
from jaxgen.engine.provenance import note_on_test_data
from jaxgen.evaluation import moments
from jaxgen.judging import METRICS, SPACES, Pictures, judge, of_data, of_run, of_subject, open_space, trained_space
from jaxgen.judging.numbers import check_metrics, check_names
from jaxgen.judging.pictures import plain
from jaxgen.judging.spaces import JUDGE, UNTRAINED, Space, check_space

Reference = Pictures | tuple[str, moments.Moments]

SPACE = {
  "space": option(str, f"the features in which pictures are compared: {', '.join((*SPACES, JUDGE))}", "inception_tf1"),
  "weights": option(pathlib.Path | None, "the network's weights, .safetensors or .npz", None),
}
OPTIONS = {
  "metrics": option(str | None, f"metrics of samples, separated by commas: {', '.join(METRICS)}", None),
  "samples": option(
    int | None, "number of samples (for a run, by default as many as there are training examples)", None
  ),
  **SPACE,
  "against": option(
    str | None, "reference to compare samples with: DATA, a folder, or an .npz of pictures or of mu and sigma", None
  ),
  "split": option(str | None, "the reference's split (train)", None),
  "resume": option(bool, "continue from what the same command computed before it was killed", False),
  "out": option(pathlib.Path | None, "also write the numbers to this .json file", None),
}


def evaluate(subject: str, words: list[str]) -> None:
  if not Folder(subject).exists():
    of_others(subject, words)
    return
  options = {
    **CHECKPOINT,
    **EMA,
    **workers_option(),
    **OPTIONS,
    "seed": option(int, "for --metrics: sample i depends only on the seed and i", 0),
    "batch": option(int | None, "for --metrics: number of samples that are computed at once (the config's)", None),
  }
  text = "Compute a run's evaluation, or --metrics of its samples, with some of its arguments changed."
  run, options = load_run("evaluate", subject, words, options, text)
  if options["out"]:
    check_out(files.place(options["out"]))
  if options["metrics"] is not None:
    of_samples(run, options)
    return
  given = [name for name in ("samples", "against", "split", "weights") if options[name] is not None]
  if given:
    raise UserError(f"--{given[0]} needs --metrics: choose from {', '.join(METRICS)}")
  if not run.experiment.evaluators:
    raise UserError(f"config {run.config.name} has no evaluators: give --metrics to compute metrics of its samples")
  if jax.process_index() == 0 and (note := note_on_test_data(run)):
    print(note)
  numbers = run.evaluate()
  if jax.process_index() == 0:
    print_numbers(numbers)
    if options["out"]:
      document = {"step": run.step, "arguments": run.config.to_json(run.arguments), "ema": options["ema"], **numbers}
      files.write(options["out"], json.dumps(document, indent=2) + "\n")


def of_samples(run: Any, options: dict[str, Any]) -> None:
  """Metrics of a run's samples."""
  check_space(options["space"])
  names = metric_names(options)
  n = len(run.data.source(run.data.train)) if options["samples"] is None else options["samples"]
  samples = of_run(run, n, options["seed"], options["batch"])
  reference = reference_of(options) if options["against"] else of_data(run.data, options["split"] or "train")
  space = space_of(options, names, samples, reference, lambda: run.data)
  reference = in_space(reference, space)
  where = run.folder.path / "judged" / folder_name(samples, reference, space)
  numbers, document = compute(samples, reference, space, names, where, options["resume"])
  if jax.process_index() == 0:
    about = {"run": str(run.folder.path), "step": run.step, "arguments": run.config.to_json(run.arguments)}
    write(numbers, {**about, "seed": options["seed"], **document}, where, options["out"])


def of_others(subject: str, words: list[str]) -> None:
  """Metrics of pictures that some program has written."""
  options, _ = parse(f"evaluate {subject}", words, OPTIONS, "Compute metrics of pictures against a reference.")
  if not pathlib.Path(subject).exists() and ":" not in subject:
    Folder(subject).info()  # says why it is no run
  if options["out"]:
    check_out(files.place(options["out"]))
  if options["metrics"] is None or options["against"] is None:
    raise UserError(
      f"{subject} is not a run; if it has pictures, give --metrics ({', '.join(METRICS)}) and --against DATA"
    )
  check_space(options["space"])
  names, samples = metric_names(options), of_subject(subject)
  if options["samples"] is not None:
    samples = samples.first(options["samples"])
  reference = reference_of(options)
  space = space_of(options, names, samples, reference, lambda: own(options["against"], labelled=True))
  reference = in_space(reference, space)
  where = cache_folder() / "judged" / folder_name(samples, reference, space)
  numbers, document = compute(samples, reference, space, names, where, options["resume"])
  write(numbers, {"pictures": subject, **document, "against": options["against"]}, where, options["out"])


def metric_names(options: dict[str, Any]) -> list[str]:
  """The metrics that --metrics names. Raises a UserError for an unknown one, before a network is opened."""
  names = [name.strip() for name in options["metrics"].split(",") if name.strip()]
  check_names(names)
  return names


def reference_of(options: dict[str, Any]) -> Pictures | pathlib.Path:
  """The reference that --against names: pictures, or a file of statistics, which is of features of this --space."""
  against, path = options["against"], pathlib.Path(options["against"]).expanduser()
  if path.suffix != ".npz" or ":" in against:
    return of_subject(against, options["split"])
  if not moments.is_statistics(path):
    return of_subject(against, options["split"])
  moments.read(path, features=options["space"])  # refused before a network is opened
  return path


def space_of(
  options: dict[str, Any],
  names: list[str],
  samples: Pictures,
  reference: Pictures | pathlib.Path,
  data: Callable[[], Dataset],
) -> Space:
  """The space that --space names. A classifier is trained for it only if all metrics can be computed afterwards."""
  if options["space"] != JUDGE:
    return open_space(options["space"], options["weights"])
  check_metrics(names, UNTRAINED, samples, reference)
  return trained_space(data())


def in_space(reference: Pictures | pathlib.Path, space: Space) -> Reference:
  """The reference of `reference_of`, with the moments of a file of statistics read."""
  if isinstance(reference, Pictures):
    return reference
  found, _ = moments.read(reference, features=space.name, weights=space.content)
  if len(found.mu) != space.width:
    raise UserError(
      f"{reference} has {len(found.mu)} features and {space.name} has {space.width}: compare statistics of the "
      "same features"
    )
  return plain(reference.stem), found


def folder_name(samples: Pictures, reference: Reference, space: Space) -> str:
  """The folder of features: one for each set of samples, reference and space."""
  about = [samples.about, reference.about if isinstance(reference, Pictures) else "", space.content]
  digest = hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode()).hexdigest()
  return f"{space.name}_{reference[0]}_{samples.n}_{digest[:12]}"


def compute(samples: Pictures, reference: Reference, space: Space, names: list[str], where: files.Place, resume: bool):
  """(the numbers, a record of how they were computed)"""
  began, rates = {}, {}
  with _progress() as tell:

    def progress(what: str, done: int, total: int) -> None:
      now = time.perf_counter()
      start, first = began.setdefault(what, (now, done))
      if done > first:
        rates[what] = (done - first) / (now - start)
      tell(what, done, total, rates.get(what))

    numbers = judge(samples, reference, space, names, where, resume=resume, progress=progress)
  for what, rate in rates.items():
    if jax.process_index() == 0:
      print(f"{what}: {rate:,.4g} images a second", file=sys.stderr)
  document = {"space": space.name, "weights": space.content, "samples": samples.n, "against": reference[0]}
  return numbers, {**document, "images_per_second": rates, **numbers}


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[str, int, int, float | None], None]]:
  columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
  with Progress(*columns, disable=jax.process_index() != 0 or not sys.stdout.isatty()) as bar:
    tasks: dict[str, Any] = {}

    def tell(what: str, done: int, total: int, rate: float | None) -> None:
      if what not in tasks:
        tasks[what] = bar.add_task(what, total=total)
      speed = "" if rate is None else f" {rate:,.3g} images/s"
      bar.update(tasks[what], completed=done, description=f"{what}{speed}")

    yield tell


def write(numbers: dict[str, float], document: dict[str, Any], where: files.Place, out: pathlib.Path | None) -> None:
  """Prints the numbers and writes them beside the features, and to --out."""
  print_numbers(numbers)
  text = json.dumps(document, indent=2, default=str) + "\n"
  files.write(where / "numbers.json", text)
  print(f"numbers  {where / 'numbers.json'}")
  if out:
    files.write(out, text)
