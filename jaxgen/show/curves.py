"""A run's curves as inline SVG, in the page's font and text colour."""

import io
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import markupsafe
import numpy as np

from jaxgen.show import words

Rows = Sequence[Mapping[str, Any]]  # lines of metrics.jsonl

POINTS = 2_000  # points of a curve
INK = "#123456"  # stands for the page's text colour in figures, until `drawing` puts that in
HIDDEN = (
  "steps_per_second",
  "examples_per_second",
  "device_peak_gib",
  "data_wait_seconds",
  "skipped",
)  # the tables tell these, and no curve needs to
BLUE, ORANGE = "#3b82c4", "#e07b39"  # both readable on white and on near-black


class Drawing(NamedTuple):
  """A figure of one pair of axes."""

  title: str
  svg: markupsafe.Markup


class Line(NamedTuple):
  """A number over the steps; a noisy one is drawn pale, a running mean over it."""

  steps: np.ndarray
  values: np.ndarray
  label: str | None = None
  noisy: bool = False


def curves(rows: Rows) -> list[Drawing]:
  """Every training number over the steps, losses first, then every number evaluated more than once."""
  train = _columns(row for row in rows if row["kind"] == "train")
  evaluated = _columns(row for row in rows if row["kind"] == "evaluate")
  order = lambda name: (not name.endswith("loss"), "gradient_norm" in name)
  drawings = [
    _curve("train", name, [Line(*train[name], noisy=True)]) for name in sorted(train, key=order) if name not in HIDDEN
  ]
  for name, (steps, _) in evaluated.items():
    if len(steps) < 2 or name.endswith(("_se", "_floor", "_ratio", "_examples")):
      continue
    per_value = {name.replace("_nll_nats", f"_bits_per_{word}") for word in ("dim", "token")}
    if "_nll_nats" in name and per_value & evaluated.keys():
      continue  # the same curve in another unit
    lines = [Line(*evaluated[name])]
    if f"{name}_floor" in evaluated:
      floor = Line(*evaluated[f"{name}_floor"], "floor: training examples")
      lines = [Line(*evaluated[name], "samples"), floor]
    drawings.append(_curve("evaluate", name, lines, error=evaluated.get(f"{name}_se")))
  return drawings


def _columns(rows: Iterable[Mapping[str, Any]]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
  """{name: (steps [n], values [n])}, without values that are not finite."""
  columns: dict[str, list[tuple[int, float]]] = {}
  for row in rows:
    for name, value in row.items():
      if name not in ("step", "kind") and words.is_number(value):
        columns.setdefault(name, []).append((row["step"], float(value)))
  return {name: tuple(np.array(pairs).T) for name, pairs in columns.items()}


def _curve(kind: str, name: str, lines: Sequence[Line], error: tuple[np.ndarray, np.ndarray] | None = None) -> Drawing:
  """A number over the steps, with a band for its standard error if there is one."""
  values = np.concatenate([line.values for line in lines])

  def draw(axes: Any, log: bool) -> None:
    for (steps, y, label, noisy), color in zip(lines, (BLUE, ORANGE), strict=False):
      if noisy and len(steps) > 50:
        thin = spread(len(steps), POINTS)
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
      axes.fill_between(steps, y - error[1], y + error[1], color=BLUE, alpha=0.2, linewidth=0)
    if len(lines) > 1:
      axes.legend()

  return _over_steps(name, f"{kind}/{name}", values, draw)


COLORS = (BLUE, ORANGE, "#3f9c5a", "#a35bbf", "#c2484f", "#8a7a2e", "#2f9aa0", "#9a6a4a")  # of runs in one figure


def overlaid(title: str, name: str, lines: Sequence[tuple[str | None, int, Sequence[tuple[int, float]]]]) -> Drawing:
  """Several runs' curves of one number in one pair of axes.

  Args:
    title: the number's name.
    name: as in `drawing`.
    lines: of each run its label (None: it has that of the one before), the number of its colour, and (step, value)
      pairs. Long curves are shown by their running means.
  """
  values = np.array([y for _, _, points in lines for _, y in points])

  def draw(axes: Any, log: bool) -> None:
    for label, number, points in lines:
      steps, y = np.array(points, np.float64).T
      if len(y) > 50:
        smooth = _running_mean(np.log(y) if log else y, max(5, len(y) // 50))
        thin = spread(len(steps), POINTS)
        steps, y = steps[thin], (np.exp(smooth) if log else smooth)[thin]
      marker = "o" if len(y) <= 30 else None
      color = COLORS[number % len(COLORS)]
      style = ("-", (0, (6, 5)), (0, (2, 6)))[number % 3]  # where curves are equal, the lower one shows in the gaps
      axes.plot(steps, y, color=color, linestyle=style, linewidth=1.6, marker=marker, markersize=3.5, label=label)

  return _over_steps(title, name, values, draw)


def _over_steps(title: str, name: str, values: np.ndarray, draw: Callable[[Any, bool], None]) -> Drawing:
  """A figure whose axes are steps and values, by a function of (axes, whether the values' axis is logarithmic)."""
  log = bool(values.min() > 0 and values.max() / values.min() > 8)  # on a linear axis its last part would look flat

  def drawn(axes: Any) -> None:
    draw(axes, log)
    if log:
      axes.set_yscale("log")
      _label_log_axis(axes, values)
    axes.set_xlabel("step")
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")

  return drawing(title + (" (log scale)" if log else ""), name, drawn)


def _running_mean(y: np.ndarray, width: int) -> np.ndarray:
  """Mean over a centred window, shorter at the ends."""
  total = np.concatenate([[0.0], np.cumsum(y)])
  i = np.arange(len(y))
  low, high = np.maximum(i - width // 2, 0), np.minimum(i + width // 2 + 1, len(y))
  return (total[high] - total[low]) / (high - low)


def _label_log_axis(axes: Any, values: np.ndarray) -> None:
  """Labels at 1, 2 and 5 times the powers of ten, or only at the powers if there are many."""
  from matplotlib import ticker

  decades = math.log10(values.max() / values.min())
  axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5) if decades < 2.5 else (1,), numticks=12))
  axes.yaxis.set_major_formatter(lambda y, _: f"{y:g}")
  axes.yaxis.set_minor_formatter(ticker.NullFormatter())


def drawing(title: str, name: str, draw: Callable[[Any], None], height: float = 2.7) -> Drawing:
  """Draws one pair of axes.

  Args:
    name: tells the page's figures apart: names inside the SVG, which the whole page shares, are derived from it.
    height: of the figure; it is 4.8 wide.
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
    figure = Figure(figsize=(4.8, height), layout="constrained")
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
  opening = opening.replace("<svg", f'<svg role="img" aria-label="{markupsafe.escape(title)}"', 1)
  rest = re.sub(r"<metadata>.*?</metadata>", "", rest, flags=re.DOTALL).replace(INK, "currentColor")
  used = set(re.findall(r"#([\w.-]+)", rest))
  rest = re.sub(r' id="([^"]+)"', lambda m: m[0] if m[1] in used else "", rest)
  return Drawing(title, markupsafe.Markup(f"{opening}>{rest}"))


def distances(of_samples: np.ndarray, of_test: np.ndarray) -> Drawing:
  """Both distributions of distances in one figure; without test examples, the samples' alone."""

  def draw(axes: Any) -> None:
    bins = np.linspace(0, max(of_samples.max(), of_test.max(initial=0.0)) * 1.05 or 1.0, 31)
    for values, color, label in ((of_test, BLUE, "test examples"), (of_samples, ORANGE, "samples")):
      if not len(values):
        continue
      share = np.full(len(values), 1 / len(values))
      axes.hist(values, bins, weights=share, histtype="stepfilled", color=color, alpha=0.3)
      axes.hist(values, bins, weights=share, histtype="step", color=color, linewidth=1.8, label=label)
    axes.set_xlim(0, bins[-1])
    axes.set_xlabel("distance to the nearest training example")
    axes.yaxis.set_major_formatter(lambda y, _: f"{100 * y:g}%")
    axes.legend()

  return drawing("share of images", "distances", draw)


def spread(total: int, most: int) -> np.ndarray:
  """At most so many positions out of `total`, evenly spread."""
  return np.unique(np.linspace(0, total - 1, min(total, most)).round().astype(np.int64))
