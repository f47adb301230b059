"""A run's report: RUN/report.html, one file that needs nothing else and runs no script.

    path = report.write(run)

It is made from what the folder holds (run.json, config.py, metrics.jsonl, samples/, figures/) and, for the nearest
training examples, from the data; the state is not read. A run that has not finished, or draws no samples, has a shorter
one.
"""

import base64
import html
import io
import math
import pathlib
import re
import shlex
import string
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxgen.core import files
from jaxgen.core.errors import UserError
from jaxgen.engine.experiment import AnyRun

Rows = Sequence[Mapping[str, Any]]  # lines of metrics.jsonl

GRIDS = 8  # sample grids shown, first and last among them
PAIRS = 32  # samples shown beside their nearest training examples
REFERENCES = 512  # test examples whose distance to the training examples the samples' is compared with
SEARCHED = 60_000  # training examples that are searched
POINTS = 2_000  # points of a curve
INK = "#123456"  # stands for the page's text colour in figures, until `_figure` puts that in
HIDDEN = ("steps_per_second", "skipped")  # training numbers that the tables tell and no curve needs to


def write(run: AnyRun) -> pathlib.Path:
  """Writes RUN/report.html and returns its path.

  Raises:
    UserError: the folder is not a run, or the report cannot be written.
  """
  path = run.folder / "report.html"
  text = page(run)
  try:
    files.write(path, text)
  except OSError as error:
    raise UserError(f"{path} cannot be written: {error.strerror}") from error
  return path


def page(run: AnyRun) -> str:
  """The report as HTML."""
  info, rows = run.folder.info(), run.folder.metrics()
  title, _, rest = run.config.doc.partition("\n")
  title = title.removesuffix(".") or run.config.name
  step = max((row["step"] for row in rows), default=0)
  sections = (
    _summary(run, info, rows, step),
    _section("What it learned", _figures(run)),
    _section("Samples over training", _grids(run)),
    _section("Are the samples copies?", _copies(run)),
    _section("Curves", _curves(rows)),
    _section("How to reproduce this", _reproduce(run, info)),
  )
  head = f"<p class=name>{_text(run.name)}</p><h1>{_text(title)}</h1>{_prose(rest)}"
  return _PAGE.substitute(title=_text(f"{run.name}: {title}"), head=head, body="".join(sections))


def _summary(run: AnyRun, info: Mapping[str, Any], rows: Rows, step: int) -> str:
  steps = run.experiment.steps
  done = step >= steps
  state = "Finished" if done else "Not finished"
  of = f"{step:,} steps" if done else f"{step:,} of {steps:,} steps"
  seconds = sum(s["seconds"] for s in info.get("sessions", ()))
  facts = [
    (state, of),
    ("Time", _duration(seconds) if seconds else "not yet known"),
    ("Devices", _devices(info.get("devices", ()))),
    ("Parameters", _parameters(info.get("parameters", {}))),
    ("Data", f"{run.data.name}, batches of {run.experiment.batch_size:,}"),
  ]
  facts += run.experiment.method.facts.items()
  speeds = [row["steps_per_second"] for row in rows if row["kind"] == "train" and _number(row.get("steps_per_second"))]
  if speeds:
    facts.insert(2, ("Speed", f"{_format(float(np.median(speeds)))} steps/s (median)"))
  skipped = sum(row.get("skipped", 0) for row in rows if row["kind"] == "train")
  if skipped:
    facts.append(("Skipped updates", f"{skipped:,.0f}, whose loss or gradient was not finite"))
  listed = "".join(f"<div><dt>{_text(name)}</dt><dd>{_text(value)}</dd></div>" for name, value in facts if value)
  return f"<section><dl class=facts>{listed}</dl><div class=top>{_numbers(rows)}{_last_grid(run)}</div></section>"


def _numbers(rows: Rows) -> str:
  """The last evaluation as a table."""
  evaluations = [row for row in rows if row["kind"] == "evaluate"]
  if not evaluations:
    return "<div><h2>Numbers</h2><p>This run has not been evaluated yet.</p></div>"
  last = evaluations[-1]
  cells = []
  for name, value in last.items():
    if name in ("step", "kind") or name.removesuffix("_se") != name and name.removesuffix("_se") in last:
      continue
    error = last.get(f"{name}_se")
    shown = _with_error(value, error) if _number(error) else _format(value)
    cells.append(
      f"<tr><th scope=row>{_breakable(name)}<small>{_text(_meaning(name))}</small></th><td>{_text(shown)}</td></tr>"
    )
  note = "± is one standard error of the mean." if any(name.endswith("_se") for name in last) else ""
  if not cells:
    return "<div><h2>Numbers</h2><p>The config of this run names no evaluators.</p></div>"
  return f"<div><h2>Numbers at step {last['step']:,}</h2><table>{''.join(cells)}</table><p class=note>{note}</p></div>"


# What a number's name means: the first pattern that fits.
_MEANINGS: tuple[tuple[str, str], ...] = (
  (r"frechet_(\d+)_floor", "the same for as many training examples: what a perfect sampler would have"),
  (r"frechet_(\d+)_ratio", "distance over floor: 1 is as close to the test split as the training examples are"),
  (r"frechet_(\d+)", "Fréchet distance of this many samples to the test split"),
  (r"\w+_dequantized(_\d+)?", "negative log-likelihood, an upper bound, by uniformly dequantized values"),
  (r"\w+_importance_\d+", "negative log-likelihood, estimated by so many importance samples"),
  (r"\w+_density", "negative logarithm of a density, per unit of the data"),
  (r"\w+_(bits_per|nats_per|nll_nats)_\w+", "negative log-likelihood, or its upper bound"),
  (r"(\w+)_accuracy", "share classified correctly"),
  (r"(\w+)_examples", "examples evaluated"),
)


def _meaning(name: str) -> str:
  return next((text for pattern, text in _MEANINGS if re.fullmatch(pattern, name)), "")


def _sample_grids(run: AnyRun) -> list[tuple[int, list[pathlib.Path]]]:
  """The files that show samples, by step."""
  found: dict[int, list[pathlib.Path]] = {}
  for path in sorted((run.folder / "samples").glob("step_*.*")):
    match = re.fullmatch(r"step_(\d+)", path.stem)
    if match:
      found.setdefault(int(match[1]), []).append(path)
  return sorted(found.items())


def _last_grid(run: AnyRun) -> str:
  grids = _sample_grids(run)
  if not grids:
    return ""
  step, paths = grids[-1]
  shown = "".join(_show(path, f"samples at step {step}") for path in paths)
  return f"<figure>{shown}<figcaption>Samples at step {step:,}</figcaption></figure>"


def _grids(run: AnyRun) -> str:
  """Sample grids from the first to the last, evenly chosen where there are many."""
  grids = _sample_grids(run)
  if len(grids) < 2:
    return ""
  chosen = [grids[i] for i in np.unique(np.linspace(0, len(grids) - 1, GRIDS).round().astype(int))]
  figures = "".join(
    f"<figure>{_show(paths[0], f'samples at step {step}')}<figcaption>step {step:,}</figcaption></figure>"
    for step, paths in chosen
  )
  left = f" {len(grids) - len(chosen)} more are in the run's folder." if len(grids) > len(chosen) else ""
  return (
    f"<p>The same noise at every step, so a sample stays in its place as it gets better.{left}</p>"
    f"<div class=grids>{figures}</div>"
  )


def _figures(run: AnyRun) -> str:
  """What the config's figures drew, each under its file's name."""
  paths = [path for path in sorted((run.folder / "figures").glob("*")) if path.suffix in _SHOWN]
  name = lambda path: path.stem.replace("_", " ")
  return "".join(f"<figure class=drawn><h3>{_text(name(p))}</h3>{_show(p, name(p))}</figure>" for p in paths)


def _show(path: pathlib.Path, what: str) -> str:
  """A picture, a sound or a text; nothing for another kind of file."""
  show = _SHOWN.get(path.suffix)
  return show(path.read_bytes(), what) if show else ""


def _copies(run: AnyRun) -> str:
  """Samples beside their nearest training examples, and both distances."""
  try:
    with np.load(run.folder / "samples" / "final.npz", allow_pickle=False) as arrays:
      samples = arrays["samples"]
  except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
    return ""  # no samples yet, or a file that a crash cut short
  spec = run.data.batch_spec(1, train=False)
  if "image" not in spec:
    return ""
  shape = spec["image"].shape[1:]
  if samples.shape[1:] != shape or shape[-1] not in (1, 3, 4) or not np.isfinite(samples).all():
    return ""

  from jaxgen.core import pictures
  from jaxgen.data import real
  from jaxgen.evaluation.nearest import nearest

  splits = {split: len(run.data.source(split)) for split in ("train", "test")}
  searched = _spread(splits["train"], SEARCHED)
  test = np.concatenate(list(real.images(run.data, "test", _spread(splits["test"], REFERENCES))))
  queries = np.concatenate([samples, test]).astype(test.dtype)
  found = nearest(queries, real.images(run.data, "train", searched))
  of_samples, of_test = found.distance[: len(samples)], found.distance[len(samples) :]
  order = np.argsort(of_samples, kind="stable")[:PAIRS]  # the likeliest copies first
  figures = "".join(
    f"<figure>{_image(pictures.png(pair), 'a sample and the training example nearest to it')}"
    f"<figcaption>{of_samples[i]:.2f}</figcaption></figure>"
    for i, pair in zip(order, pictures.pairs(queries[order], found.image[order]), strict=True)
  )
  closer = float(np.mean(of_samples[:, None] < np.quantile(of_test, 0.01)))
  total = splits["train"]
  among = f"all {total:,}" if len(searched) == total else f"{len(searched):,} of the {total:,}"
  text = (
    f"<p>Each of {len(samples):,} samples was compared with {among} training examples, by Euclidean distance of "
    f"pixels in [-1, 1]. The median sample is {np.median(of_samples):.2f} from its nearest training example; for "
    f"{len(test):,} real test examples, which cannot be copies, it is {np.median(of_test):.2f}. "
    f"{closer:.0%} of the samples are nearer than 99% of the test examples are; a model that copies has many such "
    "samples, at distances near zero.</p>"
  )
  return (
    f"<div class=beside><div>{text}</div>{_distances(of_samples, of_test)}</div>"
    f"<h3>Sample (left), nearest training example (right), distance: the {len(order)} nearest pairs</h3>"
    f"<div class=pairs>{figures}</div>"
  )


def _distances(of_samples: np.ndarray, of_test: np.ndarray) -> str:
  """Both distributions of distances in one figure."""

  def draw(axes: Any) -> None:
    bins = np.linspace(0, max(of_samples.max(), of_test.max()) * 1.05 or 1.0, 31)
    for distances, color, label in ((of_test, _BLUE, "test examples"), (of_samples, _ORANGE, "samples")):
      share = np.full(len(distances), 1 / len(distances))
      axes.hist(distances, bins, weights=share, histtype="stepfilled", color=color, alpha=0.3)
      axes.hist(distances, bins, weights=share, histtype="step", color=color, linewidth=1.8, label=label)
    axes.set_xlim(0, bins[-1])
    axes.set_xlabel("distance to the nearest training example")
    axes.yaxis.set_major_formatter(lambda y, _: f"{100 * y:g}%")
    axes.legend()

  return _figure("share of images", "distances", draw)


def _spread(total: int, most: int) -> np.ndarray:
  """At most so many positions out of `total`, evenly spread."""
  return np.unique(np.linspace(0, total - 1, min(total, most)).round().astype(np.int64))


def _curves(rows: Rows) -> str:
  """Every training number over the steps, losses first, then every number evaluated more than once."""
  train = _columns(row for row in rows if row["kind"] == "train")
  evaluated = _columns(row for row in rows if row["kind"] == "evaluate")
  order = lambda name: (not name.endswith("loss"), "gradient_norm" in name)
  figures = [
    _curve("train", name, [(*train[name], None, True)]) for name in sorted(train, key=order) if name not in HIDDEN
  ]
  for name, (steps, _) in evaluated.items():
    if len(steps) < 2 or name.endswith(("_se", "_floor", "_ratio", "_examples")):
      continue
    per_value = {name.replace("_nll_nats", f"_bits_per_{word}") for word in ("dim", "token")}
    if "_nll_nats" in name and per_value & evaluated.keys():
      continue  # the same curve in another unit
    lines = [(*evaluated[name], None, False)]
    if f"{name}_floor" in evaluated:
      lines = [(*evaluated[name], "samples", False), (*evaluated[f"{name}_floor"], "floor: training examples", False)]
    figures.append(_curve("evaluate", name, lines, error=evaluated.get(f"{name}_se")))
  return f"<div class=curves>{''.join(figures)}</div>" if figures else ""


def _columns(rows: Iterable[Mapping[str, Any]]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
  """{name: (steps [n], values [n])}, what is not finite left out."""
  columns: dict[str, list[tuple[int, float]]] = {}
  for row in rows:
    for name, value in row.items():
      if name not in ("step", "kind") and _number(value):
        columns.setdefault(name, []).append((row["step"], float(value)))
  return {name: tuple(np.array(pairs).T) for name, pairs in columns.items()}


Line = tuple[np.ndarray, np.ndarray, str | None, bool]  # steps, values, label, whether it is noisy


def _curve(kind: str, name: str, lines: Sequence[Line], error: tuple[np.ndarray, np.ndarray] | None = None) -> str:
  """One figure of a number over the steps. Noisy lines are drawn pale, a running mean over them."""
  values = np.concatenate([line[1] for line in lines])
  log = bool(values.min() > 0 and values.max() / values.min() > 8)  # on a linear axis its last part would look flat

  def draw(axes: Any) -> None:
    for (steps, y, label, noisy), color in zip(lines, (_BLUE, _ORANGE), strict=False):
      if noisy and len(steps) > 50:
        thin = _spread(len(steps), POINTS)
        axes.plot(steps[thin], y[thin], color=color, alpha=0.3, linewidth=0.8)
        smooth = _running_mean(np.log(y) if log else y, max(5, len(y) // 50))
        axes.plot(steps[thin], (np.exp(smooth) if log else smooth)[thin], color=color, linewidth=1.8, label=label)
      else:
        floor = label is not None and label.startswith("floor")
        marker = "o" if len(steps) <= 30 and not floor else None
        style = "--" if floor else "-"
        axes.plot(steps, y, style, color=color, linewidth=1.8, marker=marker, markersize=4, label=label)
    if error is not None and len(error[0]) == len(lines[0][0]):
      steps, y = lines[0][:2]
      axes.fill_between(steps, y - error[1], y + error[1], color=_BLUE, alpha=0.2, linewidth=0)
    if log:
      axes.set_yscale("log")
      _label_log_axis(axes, values)
    axes.set_xlabel("step")
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
    if len(lines) > 1:
      axes.legend()

  return _figure(name + (" (log scale)" if log else ""), f"{kind}/{name}", draw)


def _running_mean(y: np.ndarray, width: int) -> np.ndarray:
  """Mean over a centred window, shorter at the ends."""
  total = np.concatenate([[0.0], np.cumsum(y)])
  i = np.arange(len(y))
  low, high = np.maximum(i - width // 2, 0), np.minimum(i + width // 2 + 1, len(y))
  return (total[high] - total[low]) / (high - low)


def _label_log_axis(axes: Any, values: np.ndarray) -> None:
  """Plain numbers at 1, 2 and 5 times the powers of ten, or at the powers alone where those are many."""
  from matplotlib import ticker

  decades = math.log10(values.max() / values.min())
  axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5) if decades < 2.5 else (1,), numticks=12))
  axes.yaxis.set_major_formatter(lambda y, _: f"{y:g}")
  axes.yaxis.set_minor_formatter(ticker.NullFormatter())


_BLUE, _ORANGE = "#3b82c4", "#e07b39"  # both readable on white and on near-black


def _figure(title: str, name: str, draw: Callable[[Any], None]) -> str:
  """A figure of one pair of axes as inline SVG, in the page's font and text colour.

  Args:
    name: tells the page's figures apart: names inside the SVG, which the whole page shares, are derived from it.
  """
  import matplotlib
  from matplotlib.backends.backend_svg import FigureCanvasSVG
  from matplotlib.figure import Figure

  settings = {
    "svg.fonttype": "none",
    "svg.hashsalt": name,
    "font.family": "sans-serif",
    "font.size": 10.5,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": INK,
    "grid.alpha": 0.15,
    "legend.frameon": False,
  }
  with matplotlib.rc_context(settings):
    figure = Figure(figsize=(4.8, 2.7), layout="constrained")
    FigureCanvasSVG(figure)
    figure.patch.set_alpha(0)
    axes = figure.add_subplot(facecolor="none")
    axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(5, steps=[1, 2, 2.5, 5, 10], integer=True))
    draw(axes)
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
  text = file.getvalue()
  opening, rest = text[text.index("<svg") :].split(">", 1)
  opening = re.sub(r'\b(width|height)="[^"]*"', "", opening)  # the view box stays, and the page gives the size
  opening = opening.replace("<svg", f'<svg role="img" aria-label="{_text(title)}"', 1)
  rest = re.sub(r"<metadata>.*?</metadata>", "", rest, flags=re.DOTALL).replace(INK, "currentColor")
  used = set(re.findall(r"#([\w.-]+)", rest))
  rest = re.sub(r' id="([^"]+)"', lambda m: m[0] if m[1] in used else "", rest)
  svg = f"{opening}>{rest}"
  return f"<figure><figcaption>{_breakable(title)}</figcaption>{svg}</figure>"


def _reproduce(run: AnyRun, info: Mapping[str, Any]) -> str:
  flags = {**{k: v for k, v in run.arguments.items() if v != run.config.defaults().get(k)}, "seed": info["seed"]}
  words = [w for name, value in flags.items() for w in (f"--{name.replace('_', '-')}", *_words(value))]
  command = shlex.join(["jaxgen", "train", f"{run.config.name}.py", *words])
  git = info.get("git")
  code = f"<code>{_text(git.removesuffix('+'))}</code>" if git else "unknown: not run from a git checkout"
  if git and git.endswith("+"):
    code += " with changes that are not committed"
  sessions = info.get("sessions", ())
  spans = ", ".join(f"{s['from']:,} to {s['to']:,} in {_duration(s['seconds'])}" for s in sessions)
  table = [
    ("Started with", f"<code>{_text(info.get('command', ''))}</code>"),
    ("Began", _text(info.get("created", ""))),
    ("Steps", _text(spans)),
    ("Revision", code),
    ("Devices", _text(_devices(info.get("devices", ())))),
    ("Versions", _text(", ".join(f"{k} {v}" for k, v in info.get("versions", {}).items()))),
    ("Arguments", "<br>".join(f"<code>{_text(k)} = {_text(repr(v))}</code>" for k, v in run.arguments.items())),
  ]
  listed = "".join(f"<tr><th scope=row>{name}</th><td>{value}</td></tr>" for name, value in table if value)
  source = run.config.source
  return (
    f"<p>With this code and the config below as <code>{_text(run.config.name)}.py</code>, on the same kind of device, "
    "the same bits:</p>"
    f"<pre>{_text(command)}</pre><table class=facts-table>{listed}</table>"
    f"<details><summary>The config</summary><pre>{_text(source)}</pre></details>"
  )


def _words(value: Any) -> list[str]:
  """A flag's value as words of a command line."""
  return [str(v) for v in value] if isinstance(value, (list, tuple)) else [str(value)]


def _section(title: str, body: str) -> str:
  return f"<section><h2>{_text(title)}</h2>{body}</section>" if body else ""


def _image(png: bytes, alt: str) -> str:
  width, height = (int.from_bytes(png[i : i + 4]) for i in (16, 20))  # where a PNG's header has them
  data = base64.b64encode(png).decode()
  return f'<img src="data:image/png;base64,{data}" width={width} height={height} alt="{_text(alt)}">'


def _sound(wav: bytes, what: str) -> str:
  return f'<audio controls src="data:audio/wav;base64,{base64.b64encode(wav).decode()}" title="{_text(what)}"></audio>'


def _words_of(text: bytes, what: str) -> str:
  return f"<pre>{_text(text.decode('utf-8', 'replace'))}</pre>"


_SHOWN: dict[str, Callable[[bytes, str], str]] = {".png": _image, ".wav": _sound, ".txt": _words_of}


def _text(x: Any) -> str:
  return html.escape(str(x))


def _breakable(name: str) -> str:
  """A name that may be broken where its words meet."""
  return _text(name).replace("_", "_<wbr>").replace("/", "/<wbr>")


def _prose(text: str) -> str:
  """A docstring's paragraphs; indented ones are code, addresses are links, and `Word:` at a line's start begins one."""
  out = []
  text = re.sub(r"\n(?=[A-Z]\w*: )", "\n\n", text)
  for paragraph in re.split(r"\n\s*\n", text.strip("\n")):
    for is_code, lines in _runs(paragraph.split("\n")):
      if is_code:
        out.append(f"<pre>{_text(_dedent(lines))}</pre>")
      elif any(line.strip() for line in lines):
        escaped = _text(" ".join(line.strip() for line in lines))
        out.append("<p>" + re.sub(r"https?://[^\s,)]+[^\s,).;:]", r'<a href="\g<0>">\g<0></a>', escaped) + "</p>")
  return "".join(out)


def _runs(lines: Sequence[str]) -> list[tuple[bool, list[str]]]:
  """Neighbouring lines that are both indented by four or more, or both not."""
  out: list[tuple[bool, list[str]]] = []
  for line in lines:
    is_code = line.startswith("    ")
    if out and out[-1][0] == is_code:
      out[-1][1].append(line)
    else:
      out.append((is_code, [line]))
  return out


def _dedent(lines: Sequence[str]) -> str:
  import textwrap

  return textwrap.dedent("\n".join(lines))


def _number(x: Any) -> bool:
  return isinstance(x, (int, float)) and math.isfinite(x)


def _format(x: float) -> str:
  """Four significant digits; whole numbers whole."""
  if not _number(x):
    return "not finite"
  if float(x).is_integer() and abs(x) < 1e9:
    return f"{int(x):,}"
  return f"{x:#.4g}".removesuffix(".") if 1e-3 <= abs(x) < 1e4 else f"{x:,.0f}" if 1e4 <= abs(x) < 1e9 else f"{x:.3e}"


def _with_error(x: float, error: float) -> str:
  """A value to the second significant digit of its standard error."""
  if not _number(x) or error <= 0:
    return _format(x)
  if abs(x) < 1e-3:
    return f"{x:.2e} ± {error:.1e}"
  digits = max(0, 1 - math.floor(math.log10(error)))
  return f"{x:,.{digits}f} ± {error:,.{digits}f}"


def _duration(seconds: float) -> str:
  if seconds < 120:
    return f"{seconds:.0f} s"
  minutes, rest = divmod(round(seconds), 60)
  return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _devices(kinds: Sequence[str]) -> str:
  return ", ".join(f"{list(kinds).count(kind)} × {kind}" for kind in dict.fromkeys(kinds))


def _parameters(sizes: Mapping[str, int]) -> str:
  parts = [f"{name} {size:,}" for name, size in sizes.items()]
  return ", ".join(parts) + (f" (together {sum(sizes.values()):,})" if len(parts) > 1 else "")


_PAGE = string.Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>$title</title>
<style>
:root {
  color-scheme: light dark; --ink: #1c2228; --dim: #5d6772; --paper: #ffffff; --box: #f4f6f8; --line: #dde2e7;
  --link: #1d63b3;
}
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e8ec; --dim: #9aa5b1; --paper: #14181c; --box: #1e242a; --line: #333c45; --link: #7db4ee; }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
}
main { max-width: 68rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
header p, header pre { max-width: 46rem; }
a { color: var(--link); overflow-wrap: anywhere; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .8rem; }
h2 { font-size: 1.3rem; margin: 0 0 .8rem; }
h3 { font-size: 1rem; margin: 1.5rem 0 .8rem; }
section { margin-top: 2.75rem; }
section > p { max-width: 46rem; }
.name {
  margin: 0 0 .2rem; color: var(--dim); font-family: ui-monospace, Menlo, Consolas, monospace; font-size: .9rem;
  overflow-wrap: anywhere;
}
.note, figcaption, small, dt { color: var(--dim); font-size: .85rem; }
.note { margin: .5rem 0 0; }
small { display: block; font-weight: 400; line-height: 1.35; }
pre {
  background: var(--box); border: 1px solid var(--line); border-radius: 6px; padding: .7rem .9rem;
  overflow-x: auto; font-size: .85rem; line-height: 1.45;
}
code, pre { font-family: ui-monospace, Menlo, Consolas, monospace; }
code { font-size: .88em; overflow-wrap: anywhere; }
dl.facts {
  display: flex; flex-wrap: wrap; gap: .8rem 2.5rem; margin: 0 0 2.25rem; padding: .8rem 1rem;
  background: var(--box); border: 1px solid var(--line); border-radius: 6px;
}
dd { margin: 0; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
.top { display: grid; grid-template-columns: minmax(0, 1fr) minmax(0, 28rem); gap: 2.5rem; align-items: start; }
.top > :only-child { grid-column: 1 / -1; }
table { border-collapse: collapse; width: 100%; }
th, td { border-top: 1px solid var(--line); padding: .5rem .75rem .5rem 0; text-align: left; vertical-align: top; }
tr:last-child > * { border-bottom: 1px solid var(--line); }
th { font-weight: 600; }
.top td {
  text-align: right; white-space: nowrap; padding-right: 0; font-variant-numeric: tabular-nums;
  font-size: 1.05rem;
}
.facts-table th { width: 8.5rem; }
.facts-table td { overflow-wrap: anywhere; }
figure { margin: 0; min-width: 0; }
audio { width: 100%; margin-top: .6rem; }
.drawn + .drawn { margin-top: 2rem; }
figure pre { margin: 0; white-space: pre-wrap; }
img { display: block; max-width: 100%; height: auto; border-radius: 3px; }
svg { display: block; width: 100%; height: auto; color: var(--ink); overflow: visible; }
svg text { font-family: inherit !important; }
.top figcaption, .grids figcaption { margin-top: .35rem; }
.grids { display: grid; grid-template-columns: repeat(auto-fill, minmax(13rem, 1fr)); gap: 1.5rem; }
.curves {
  display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 26rem), 1fr)); gap: 2rem 2.5rem;
}
.beside {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 1.5rem 2.5rem;
  align-items: start;
}
.beside p { margin-top: 0; }
.curves figcaption, .beside figcaption { color: var(--ink); font-weight: 600; margin-bottom: .25rem; }
.pairs { display: grid; grid-template-columns: repeat(auto-fill, minmax(6.5rem, max-content)); gap: 1.1rem; }
.pairs img { margin: 0 auto; }
.pairs figcaption { text-align: center; font-variant-numeric: tabular-nums; }
summary { cursor: pointer; margin-top: 1rem; font-weight: 600; }
@media (max-width: 52rem) {
  .top { grid-template-columns: minmax(0, 1fr); }
  .grids { grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)); gap: 1rem; }
}
@media (max-width: 30rem) {
  main { padding-top: 1.25rem; } h1 { font-size: 1.5rem; }
  .facts-table th, .facts-table td {
    display: block; width: auto; } .facts-table td { border-top: 0; padding-top: 0;
  }
}
@media print { section { break-inside: avoid-page; } }
</style>
</head>
<body>
<main>
<header>$head</header>
$body
</main>
</body>
</html>
""")
