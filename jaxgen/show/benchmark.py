"""The page of `jaxgen benchmark`: a single file without scripts, made from its JSON document.

    page(document)    the HTML

`throughput.measure` defines the numbers. This file chooses those that the page has, and `templates/benchmark.html.j2`
and `benchmark.css` define its looks.
"""

import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jinja2

from jaxgen.show import words
from jaxgen.show.curves import BLUE, ORANGE, Drawing, drawing

Row = Mapping[str, Any]
COLORS = (BLUE, ORANGE, "#3f9e6b", "#b55dbd", "#c9a227", "#d1495b", "#4aa3a2", "#8a8f98")
LINES = 8  # of the figure of scaling; the table has all
PARTS = {"train": "Training", "sample": "Sampling"}


def page(document: Mapping[str, Any]) -> str:
  """The document as HTML."""
  rows, unit = document["rows"], document["unit"]["name"]
  loader = jinja2.FileSystemLoader(pathlib.Path(__file__).parent / "templates")
  environment = jinja2.Environment(
    loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
  )
  environment.filters |= {"number": number, "bytes": size, "share": share, "ms": lambda s: number(1e3 * s)}
  return environment.get_template("benchmark.html.j2").render(
    document=document,
    title=document["title"].removesuffix("."),
    devices=_machine(document),
    unit=unit,
    facts=_facts(document),
    parts=[
      {
        "name": name,
        "what": what,
        "rows": [row for row in rows if row["what"] == what],
        "has_sheet": any(row.get("mfu_data_sheet") for row in rows),
        "has_peak": any(row.get("device_peak_bytes") for row in rows),
        "has_solver": any(row["solver"] or row["sampling_steps"] for row in rows if row["what"] == what),
        "has_calls": any(row.get("network_calls") for row in rows if row["what"] == what),
      }
      for what, name in PARTS.items()
      if any(row["what"] == what for row in rows)
    ],
    peers=_peers(rows),
    load=max((row["load"] for row in rows), default=0.0),
    headlines=_headlines(rows, unit),
    figures=_figures(document),
    versions=", ".join(f"{name} {version}" for name, version in document["versions"].items()),
  )


def _machine(document: Mapping[str, Any]) -> str:
  """The devices in words."""
  count = len(document["devices"])
  if document["platform"] == "cpu":
    return "a CPU" if count == 1 else f"a CPU with {count} simulated devices"
  return words.devices(document["devices"])


def number(x: float | int) -> str:
  """Three significant digits, with commas between thousands."""
  if not words.is_number(x):
    return "–"
  if x == 0 or abs(x) >= 100:
    return f"{x:,.0f}"
  return f"{x:.{max(0, 2 - math.floor(math.log10(abs(x))))}f}" if abs(x) >= 1e-3 else f"{x:.1e}"


def size(count: int | None) -> str:
  """Bytes in MiB or GiB."""
  if count is None:
    return "–"
  return f"{count / 2**30:,.1f} GiB" if count >= 10 * 2**30 else f"{number(count / 2**20)} MiB"


def share(x: float | int | None) -> str:
  if x is None:
    return "–"
  return f"{100 * x:.1f} %" if x < 0.1 else f"{100 * x:.0f} %"


def _facts(document: Mapping[str, Any]) -> list[tuple[str, str]]:
  """The facts at the top of the page, by name."""
  peaks: dict[str, float] = {}
  for row in document["rows"]:
    if row["status"] == "ok":
      peaks[row["dtype"]] = max(peaks.get(row["dtype"], 0.0), row["peak_flops"] / row["devices"])
  sheet = document["data_sheet"]
  return [
    ("Devices", _machine(document)),
    ("Host", f"{document['cores']} cores, load {document['load']:.1f} at the start"),
    *((f"Measured peak, {dtype}", f"{_flops(peak)} per device") for dtype, peak in peaks.items()),
    *((f"Data sheet, {dtype}", f"{_flops(sheet[dtype])} per device") for dtype in peaks if sheet),
    ("Timing", f"median of {document['turns']} turns, after warming up"),
    ("Started", document["began"]),
  ]


def _flops(x: float | int) -> str:
  return f"{x / 1e12:,.1f} TFLOP/s" if x >= 1e12 else f"{x / 1e9:,.1f} GFLOP/s"


def _good(rows: Sequence[Row], what: str, latency: bool = False) -> list[Row]:
  return [row for row in rows if row["what"] == what and row["status"] == "ok" and (latency or not row["latency"])]


def _headlines(rows: Sequence[Row], unit: str) -> list[dict[str, str]]:
  """The best results: value, name, and the case in which it was measured."""
  found = []
  for what, name in PARTS.items():
    if good := _good(rows, what):
      best = max(good, key=lambda row: row["per_second"])
      where = f"{_series(best)}, batch {best['batch']}, {_devices(best)}"
      found.append(
        {"value": f"{number(best['per_second'])} {unit}/s", "what": f"{name}, highest throughput", "where": where}
      )
      if any(row["flops"] for row in good):
        best = max(good, key=lambda row: row["mfu"])
        where = f"{_series(best)}, batch {best['batch']}, {_devices(best)}"
        what_is = f"{name}, highest share of the measured peak"
        found.append({"value": share(best["mfu"]), "what": what_is, "where": where})
  if one := [row for row in _good(rows, "sample", latency=True) if row["latency"]]:
    best = min(one, key=lambda row: row["seconds"])
    found.append(
      {"value": f"{number(1e3 * best['seconds'])} ms", "what": "Latency of one sample", "where": _series(best)}
    )
  return found


def _devices(row: Row) -> str:
  return f"{row['devices']} device" + "s" * (row["devices"] > 1)


def _series(row: Row) -> str:
  """The label of a line in a figure, without batch and devices."""
  solver = [row["solver"]] if row["solver"] else []
  steps = [f"{row['sampling_steps']} steps"] if row["sampling_steps"] else []
  return ", ".join([*solver, *steps, row["dtype"]])


def _peers(rows: Sequence[Row]) -> dict[str, Any]:
  """PyTorch's times beside ours, and the reasons where there are none."""
  beside = [row for row in rows if row.get("peers")]
  timed = [row for row in beside if any("seconds" in found for found in row["peers"].values())]
  names = list(dict.fromkeys(name for row in timed for name in row["peers"]))
  lines = []
  for row in timed:
    cells = [row["peers"].get(name, {}) for name in names]
    lines.append(
      {
        "name": f"{row['what']}, {_series(row)}",
        "batch": row["batch"],
        "seconds": row["seconds_per_call"] or row["seconds"],
        "cells": [number(1e3 * found["seconds"]) if "seconds" in found else "–" for found in cells],
        "ratio": row["against_best_peer"],
      }
    )
  errors = [found["error"] for row in beside for found in row["peers"].values() if "error" in found]
  unfair = any(row["against_best_peer"] is None for row in timed)
  return {"rows": lines, "names": names, "notes": list(dict.fromkeys(errors)), "has_unfair": unfair}


def _grouped(rows: Sequence[Row], name: Callable[[Row], str]) -> dict[str, list[Row]]:
  groups: dict[str, list[Row]] = {}
  for row in rows:
    groups.setdefault(name(row), []).append(row)
  return groups


def _figures(document: Mapping[str, Any]) -> list[Drawing]:
  """All figures for which there are enough results."""
  rows, unit = document["rows"], document["unit"]["name"]
  several = len({row["devices"] for row in rows}) > 1
  label = lambda row: _series(row) + (f", {_devices(row)}" if several else "")
  found: list[Drawing | None] = []
  for what, name in PARTS.items():
    lines = _grouped(_good(rows, what), label)
    out = [row["batch"] for row in rows if row["what"] == what and row["status"] == "out of memory"]
    found.append(_over_batch(f"{name}: {unit} per second", lines, "per_second", bars=True, out=out))
    found.append(_over_batch(f"{name}: share of the measured peak", lines, "mfu", percent=True))
    found.append(_over_batch(f"{name}: planned memory per device, MiB", lines, "planned_bytes", scale=2**-20))
  found += [_over_steps(rows, unit), _latency(rows), _scaling(document["scaling"]), _quality(document["quality"])]
  return [figure for figure in found if figure is not None]


def _over_batch(
  title: str,
  lines: Mapping[str, Sequence[Row]],
  field: str,
  *,
  scale: float = 1.0,
  bars: bool = False,
  percent: bool = False,
  out: Sequence[int] = (),
) -> Drawing | None:
  """A number over the batch's size; None if there are fewer than two sizes.

  Args:
    bars: from the slowest to the fastest turn. out: batches that memory did not suffice for.
  """
  batches = sorted({row["batch"] for group in lines.values() for row in group} | set(out))
  if len(batches) < 2 or not any(row[field] for group in lines.values() for row in group):
    return None
  labels = [*lines, *["out of memory"] * bool(out)]

  def draw(axes: Any) -> None:
    for (label, group), color in zip(lines.items(), _colors(), strict=False):
      group = sorted((row for row in group if row[field] is not None), key=lambda row: row["batch"])
      x, y = [row["batch"] for row in group], [row[field] * scale for row in group]
      axes.plot(x, y, color=color, marker="o", markersize=4, linewidth=1.8, label=label)
      if bars:
        low = [v - v * row["seconds"] / max(row["turns"]) for v, row in zip(y, group, strict=True)]
        high = [v * row["seconds"] / min(row["turns"]) - v for v, row in zip(y, group, strict=True)]
        axes.errorbar(x, y, yerr=(low, high), color=color, fmt="none", linewidth=1, capsize=2)
    if out:
      axes.plot(sorted(set(out)), [0] * len(set(out)), "x", color=COLORS[5], markersize=8, label="out of memory")
    _log_batch(axes, batches)
    _finish(axes, percent, labels)

  return drawing(title, f"{title}/{field}", draw, _height(labels))


def _colors() -> Sequence[str]:
  return COLORS * 8


def _log_batch(axes: Any, batches: Sequence[int]) -> None:
  from matplotlib import ticker

  axes.set_xscale("log", base=2)
  axes.set_xlabel("batch")
  axes.xaxis.set_major_locator(ticker.FixedLocator(batches))
  axes.xaxis.set_minor_locator(ticker.NullLocator())
  axes.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")


def _finish(axes: Any, percent: bool = False, labels: Sequence[str] = ()) -> None:
  """From 0 to a little above the highest point; a legend, where there are several lines."""
  axes.set_ylim(0, 1.08 * axes.dataLim.y1 or 1)
  axes.yaxis.set_major_formatter((lambda y, _: f"{100 * y:g} %") if percent else (lambda y, _: f"{y:,.10g}"))
  if len(labels) > 4:  # beneath the axes, which stay free
    place = dict(loc="upper center", bbox_to_anchor=(0.45, -0.22), columnspacing=1.2)
    axes.legend(fontsize=8, ncols=_columns(labels), **place)
  elif len(labels) > 1:
    axes.legend(fontsize=9)


def _columns(labels: Sequence[str]) -> int:
  """Of a legend."""
  return 2 if max(map(len, labels)) < 36 else 1


def _height(labels: Sequence[str]) -> float:
  """Of a figure with such a legend."""
  return 2.7 + (0.17 * math.ceil(len(labels) / _columns(labels)) if len(labels) > 4 else 0)


def _over_steps(rows: Sequence[Row], unit: str) -> Drawing | None:
  """Samples a second over the solver's steps, each at its fastest batch."""
  steps = sorted({row["sampling_steps"] for row in _good(rows, "sample") if row["sampling_steps"]})
  if len(steps) < 2:
    return None
  best: dict[tuple, Row] = {}
  for row in _good(rows, "sample"):
    key = row["solver"] or "", row["dtype"], row["sampling_steps"]
    if key not in best or row["per_second"] > best[key]["per_second"]:
      best[key] = row
  lines = _grouped(list(best.values()), lambda row: ", ".join(filter(None, (row["solver"], row["dtype"]))))

  def draw(axes: Any) -> None:
    for (label, group), color in zip(lines.items(), _colors(), strict=False):
      group = sorted(group, key=lambda row: row["sampling_steps"])
      x, y = [row["sampling_steps"] for row in group], [row["per_second"] for row in group]
      axes.plot(x, y, color=color, marker="o", markersize=4, linewidth=1.8, label=label)
    axes.set_xlabel("steps of the solver")
    axes.set_xlim(0, 1.04 * steps[-1])
    _finish(axes, labels=list(lines))

  return drawing(f"Sampling: {unit} per second at the fastest batch", "steps", draw, _height(list(lines)))


def _latency(rows: Sequence[Row]) -> Drawing | None:
  """Milliseconds of one sample, with a bar for each solver and number of steps."""
  one = [row for row in _good(rows, "sample", latency=True) if row["latency"]]
  if len(one) < 2:
    return None

  def draw(axes: Any) -> None:
    one.sort(key=lambda row: -row["seconds"])
    axes.barh([_series(row) for row in one], [1e3 * row["seconds"] for row in one], color=BLUE, height=0.6)
    axes.set_xlabel("ms, one sample on one device")
    axes.xaxis.set_major_locator(_few_ticks())
    axes.tick_params(axis="y", labelsize=8 if len(one) < 9 else 6)
    axes.grid(False, axis="y")

  return drawing("Sampling: latency at batch 1", "latency", draw)


def _few_ticks() -> Any:
  from matplotlib import ticker

  return ticker.MaxNLocator(5)


def _scaling(scaling: Sequence[Row]) -> Drawing | None:
  """Efficiency over the number of devices."""
  if not scaling:
    return None
  label = lambda row: (
    f"{row['what']}, {_series(row)}, {row['kind']}"
    + (f", batch {row['batch']}" if row["kind"] == "strong" else f", batch {row['batch'] // row['devices']} a device")
  )
  lines = dict(list(_grouped(scaling, label).items())[:LINES])
  counts = sorted({row["devices"] for row in scaling} | {row["against"] for row in scaling})

  def draw(axes: Any) -> None:
    for (name, group), color in zip(lines.items(), _colors(), strict=False):
      x = [group[0]["against"], *(row["devices"] for row in group)]
      style = "-" if group[0]["kind"] == "weak" else "--"
      y = [1.0, *(row["efficiency"] for row in group)]
      axes.plot(x, y, style, color=color, marker="o", markersize=4, linewidth=1.8, label=name)
    _log_batch(axes, counts)
    axes.set_xlabel("devices")
    _finish(axes, percent=True, labels=list(lines))

  return drawing("Scaling: efficiency", "scaling", draw, _height(list(lines)))


def _quality(quality: Sequence[Row]) -> Drawing | None:
  """Quality against seconds, with a point for each solver and number of steps."""
  if not quality:
    return None
  names = [_series(row) for row in quality]

  def draw(axes: Any) -> None:
    for row, color in zip(quality, _colors(), strict=False):
      axes.plot(row["seconds_per_1000"], row["quality"], "o", color=color, label=_series(row))
    axes.axhline(1, color="#8a8f98", linestyle=":", linewidth=1)
    axes.set_xlabel("seconds for 1,000 examples")
    axes.set_xlim(0, 1.08 * max(row["seconds_per_1000"] for row in quality))
    axes.xaxis.set_major_locator(_few_ticks())
    _finish(axes, labels=names)

  return drawing("Quality: Fréchet distance, training examples over samples", "quality", draw, _height(names))
