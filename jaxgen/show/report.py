"""A run's report: RUN/report.html, one file that needs nothing else and runs no script.

    path = report.write(run)

It is made from the folder's files (run.json, config.py, metrics.jsonl, samples/, figures/) and, for the nearest
training examples, from the data; the state is not read. A run that has not finished, or draws no samples, has a shorter
one. This file gathers the page's contents; `templates/report.html.j2` and `report.css` define its looks.
"""

import base64
import io
import pathlib
import re
import shlex
from collections.abc import Mapping
from typing import Any, NamedTuple

import jinja2
import markupsafe
import numpy as np

from jaxgen.core import files, pictures
from jaxgen.core.errors import UserError
from jaxgen.data import real
from jaxgen.engine.experiment import AnyRun
from jaxgen.engine.folder import Folder
from jaxgen.evaluation.nearest import nearest
from jaxgen.show import words
from jaxgen.show.curves import Rows, curves, distances, spread

GRIDS = 8  # sample grids shown, first and last among them
PAIRS = 32  # samples shown beside their nearest training examples
REFERENCES = 512  # test examples whose distance to the training examples the samples' is compared with
SEARCHED = 60_000  # training examples that are searched
KINDS = {".png": "image", ".webp": "clip", ".wav": "sound", ".txt": "text"}  # of the files that a page can show


class Shown(NamedTuple):
  """A file as the page has it inside: a picture, a clip or a sound in base 64, a text unchanged."""

  kind: str
  title: str
  data: str
  width: int = 0  # px, of a picture or a clip
  height: int = 0


class Grid(NamedTuple):
  """The files that show the samples of a step."""

  step: int
  files: list[Shown]


def write(run: AnyRun) -> files.Place:
  """Writes RUN/report.html and returns its path.

  Raises:
    UserError: the folder is not a run, or the report cannot be written.
  """
  path = run.folder / "report.html"
  text = page(run)
  run.folder.check()
  try:
    files.write(path, text)
  except OSError as error:
    raise UserError(f"{path} cannot be written: {error.strerror}") from error
  return path


def page(run: AnyRun) -> str:
  """The report as HTML."""
  info, rows = run.folder.info(), run.folder.metrics()
  title, _, rest = run.config.doc.partition("\n")
  grids = _grids(run.folder)
  chosen = [grids[i] for i in spread(len(grids), GRIDS)] if grids else []
  return template("report.html.j2").render(
    name=run.name,
    title=title.removesuffix(".") or run.config.name,
    prose=words.prose(rest),
    facts=_facts(run, info, rows),
    numbers=_numbers(rows),
    figures=_figures(run),
    grids=[Grid(step, [shown(path, f"samples at step {step}") for path in paths]) for step, paths in chosen],
    more_grids=len(grids) - len(chosen),
    copies=_copies(run),
    curves=curves(rows),
    origin=_origin(run, info),
  )


def template(name: str) -> jinja2.Template:
  """A page's template; its values are escaped."""
  loader = jinja2.FileSystemLoader(pathlib.Path(__file__).parent / "templates")
  environment = jinja2.Environment(
    loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
  )
  environment.filters |= {"breakable": _breakable, "linked": _linked}
  return environment.get_template(name)


def _breakable(name: str) -> markupsafe.Markup:
  """A name that may be broken where its words meet."""
  return markupsafe.escape(name).replace("_", markupsafe.Markup("_<wbr>")).replace("/", markupsafe.Markup("/<wbr>"))


def _linked(text: str) -> markupsafe.Markup:
  """A paragraph whose addresses are links."""
  link = r'<a href="\g<0>">\g<0></a>'
  return markupsafe.Markup(re.sub(r"https?://[^\s,)]+[^\s,).;:]", link, str(markupsafe.escape(text))))


def shown(path: files.Place, title: str) -> Shown:
  """A file whose suffix is one of KINDS, as the page has it."""
  return _shown(KINDS[path.suffix], path.read_bytes(), title)


def _shown(kind: str, contents: bytes, title: str) -> Shown:
  if kind == "text":
    return Shown(kind, title, contents.decode("utf-8", "replace"))
  data = base64.b64encode(contents).decode()
  if kind == "sound":
    return Shown(kind, title, data)
  if kind == "clip":
    from PIL import Image

    with Image.open(io.BytesIO(contents), formats=("WEBP",)) as image:
      return Shown(kind, title, data, *image.size)
  width, height = (int.from_bytes(contents[i : i + 4]) for i in (16, 20))  # where a PNG's header has them
  return Shown(kind, title, data, width, height)


def _facts(run: AnyRun, info: Mapping[str, Any], rows: Rows) -> list[tuple[str, str]]:
  """The facts at the top of the page, by name."""
  step, steps = max((row["step"] for row in rows), default=0), run.experiment.steps
  train = [row for row in rows if row["kind"] == "train"]
  seconds = sum(s.get("seconds", 0.0) for s in info.get("sessions", ()))
  speeds = [row["steps_per_second"] for row in train if words.is_number(row.get("steps_per_second"))]
  skipped = sum(row.get("skipped", 0) for row in train)
  facts = {
    "Finished" if step >= steps else "Not finished": (
      f"{step:,} steps" if step >= steps else f"{step:,} of {steps:,} steps"
    ),
    "Time": words.duration(seconds) if seconds else "not yet known",
    "Speed": f"{words.number(float(np.median(speeds)))} steps/s (median)" if speeds else "",
    "Devices": words.devices(info.get("devices", ())),
    "Parameters": words.parameters(info.get("parameters", {})),
    "Data": f"{run.data.name}, batches of {run.experiment.batch_size:,}",
    **run.experiment.method.facts,
    "Skipped updates": f"{skipped:,.0f}, whose loss, gradient or change was not finite" if skipped else "",
  }
  return list(facts.items())


def _numbers(rows: Rows) -> dict[str, Any] | None:
  """The last evaluation; None if there was none."""
  evaluations = [row for row in rows if row["kind"] == "evaluate"]
  if not evaluations:
    return None
  last = evaluations[-1]
  is_error = lambda name: name.endswith("_se") and name.removesuffix("_se") in last
  lines = []
  for name, value in last.items():
    if name in ("step", "kind") or is_error(name):
      continue
    error = last.get(f"{name}_se")
    text = words.with_error(value, error) if words.is_number(error) else words.number(value)
    lines.append({"name": name, "meaning": words.meaning(name), "value": text})
  return {"step": last["step"], "rows": lines, "has_errors": any(map(is_error, last))}


def _grids(folder: Folder) -> list[tuple[int, list[files.Place]]]:
  """The files that show samples, by step."""
  found: dict[int, list[files.Place]] = {}
  for path in sorted((folder / "samples").glob("step_*.*")):
    match = re.fullmatch(r"step_(\d+)", path.stem)
    if match and path.suffix in KINDS:
      found.setdefault(int(match[1]), []).append(path)
  return sorted(found.items())


def pictures_of(folder: Folder) -> list[Shown]:
  """The files that show a run's last samples, drawn in training; [] if there are none yet."""
  grids = _grids(folder)
  return [shown(path, f"samples at step {grids[-1][0]}") for path in grids[-1][1]] if grids else []


def _figures(run: AnyRun) -> list[Shown]:
  """The figures of the config, under their files' names."""
  paths = [path for path in sorted((run.folder / "figures").glob("*")) if path.suffix in KINDS]
  return [shown(path, path.stem.replace("_", " ")) for path in paths]


def _final_samples(run: AnyRun) -> np.ndarray | None:
  """samples/final.npz, if it holds pictures like the data's: [N, H, W, C]."""
  try:
    contents = (run.folder / "samples" / "final.npz").read_bytes()
    with np.load(io.BytesIO(contents), allow_pickle=False) as arrays:
      samples = arrays["samples"]
  except files.NPZ_ERRORS:
    return None  # no samples yet, or a file that a crash cut short
  spec = run.data.batch_spec(1, train=False)
  shape = spec["image"].shape[1:] if "image" in spec else ()
  is_picture = samples.shape[1:] == shape and len(shape) == 3 and shape[-1] in (1, 3, 4)
  return samples if is_picture and np.isfinite(samples).all() else None


def _copies(run: AnyRun) -> dict[str, Any] | None:
  """Samples beside their nearest training examples, the likeliest copies first, with numbers that show copying."""
  samples = _final_samples(run)
  if samples is None:
    return None
  total = len(run.data.source("train"))
  searched, test = spread(total, SEARCHED), samples[:0]
  if run.data.has("test"):
    test = np.concatenate(list(real.images(run.data, "test", spread(len(run.data.source("test")), REFERENCES))))
  queries = np.concatenate([samples, test]).astype(test.dtype)
  found = nearest(queries, real.images(run.data, "train", searched))
  of_samples, of_test = found.distance[: len(samples)], found.distance[len(samples) :]
  order = np.argsort(of_samples, kind="stable")[:PAIRS]
  title = "a sample and the training example nearest to it"
  pairs = zip(order, pictures.pairs(queries[order], found.image[order]), strict=True)
  return {
    "samples": len(samples),
    "searched": len(searched),
    "total": total,
    "median": float(np.median(of_samples)),
    "tests": len(test),
    "test_median": float(np.median(of_test)) if len(test) else None,
    "closer": float(np.mean(of_samples[:, None] < np.quantile(of_test, 0.01))) if len(test) else None,
    "distances": distances(of_samples, of_test),
    "pairs": [
      {"picture": _shown("image", pictures.png(pair), title), "distance": float(of_samples[i])} for i, pair in pairs
    ],
  }


def _origin(run: AnyRun, info: Mapping[str, Any]) -> dict[str, Any]:
  """Where the run came from, and the command that repeats it."""
  defaults = run.config.defaults()
  changed = {name: value for name, value in run.arguments.items() if value != defaults.get(name)}
  flags = {**run.config.to_json(changed), "seed": info["seed"]}
  file = f"{run.config.name}.py"
  command = ["jaxgen", "train", file]
  for name, value in flags.items():
    values = value if isinstance(value, (list, tuple)) else [value]
    command += [f"--{name.replace('_', '-')}", *map(str, values)]
  ended = lambda s: f"to {s['to']:,} in {words.duration(s['seconds'])}" if "to" in s else "on, killed"
  spans = (f"{s['from']:,} {ended(s)}" for s in info.get("sessions", ()))
  return {
    "file": file,
    "command": shlex.join(command),
    "started_with": info.get("command", ""),
    "began": info.get("created", ""),
    "steps": ", ".join(spans),
    "git": info.get("git"),
    "devices": words.devices(info.get("devices", ())),
    "versions": ", ".join(f"{name} {version}" for name, version in info.get("versions", {}).items()),
    "arguments": [f"{name} = {value!r}" for name, value in run.arguments.items()],
    "sources": run.config.files(),
  }
