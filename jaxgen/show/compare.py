"""Runs side by side: how they differ, their last numbers, their curves in one figure, samples from the same noise.

    groups = compare.groups([Folder("runs/a"), Folder("runs/b")])
    print(compare.text(groups))
    files.write("compare.html", compare.page(groups))

A group is the runs on one data set, and has its own table. A variant is the runs that differ only in their seed; its
numbers are means and standard deviations over them. Only run.json, metrics.jsonl and the pictures that training drew
are read; these pictures are from the same noise in every run.
"""

import re
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jinja2

from jaxgen.core.errors import UserError
from jaxgen.engine.folder import Folder
from jaxgen.show import words
from jaxgen.show.curves import COLORS, Drawing, Rows, overlaid
from jaxgen.show.report import Shown, pictures_of, template

WIDE = 12  # columns of the page's table; one with more has a row for each number instead
LONG = 60  # letters of a variant's arguments; if there are more, its runs' names stand for them
HIDDEN = ("_se", "_examples", "_floor")  # ends of numbers' names that no table compares


class Member(NamedTuple):
  """One run."""

  name: str
  seed: int
  step: int
  seconds: float
  numbers: dict[str, float]
  rows: Rows
  pictures: list[Shown]


class Variant(NamedTuple):
  """Runs that differ only in their seed.

  Attributes:
    changed: those of its arguments that differ within the group, as text.
    name: its changed arguments or, if these are long, its runs' names.
  """

  name: str
  changed: dict[str, str]
  members: list[Member]

  def spread(self, number: str) -> tuple[float, float | None, int] | None:
    """(mean, standard deviation over seeds or None for one, seeds) of a number; None where no run has it."""
    values = [m.numbers[number] for m in self.members if words.is_number(m.numbers.get(number))]
    if not values:
      return None
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values)


class Group(NamedTuple):
  """Runs on the same data.

  Attributes:
    numbers: the names of the numbers of the last evaluations.
  """

  data: str
  changed: list[str]
  numbers: list[str]
  variants: list[Variant]


def groups(folders: Sequence[Folder]) -> list[Group]:
  """Groups runs by their training data.

  Raises:
    UserError: a folder is not a run, or one is named twice.
  """
  paths = [str(folder.path.absolute()) for folder in folders]
  if twice := [path for path in paths if paths.count(path) > 1]:
    raise UserError(f"{twice[0]} is named twice")
  found: dict[str, list[tuple[Folder, dict[str, Any]]]] = {}
  for folder in folders:
    info = folder.info()
    found.setdefault(_data(info), []).append((folder, info))
  return [_group(data, runs) for data, runs in found.items()]


def _data(info: Mapping[str, Any]) -> str:
  """A run's training data: the number of examples and their SHA-256, as in run.json."""
  content = next((s["data"] for s in reversed(info["sessions"]) if isinstance(s.get("data"), dict)), None)
  if content is None:
    return f"data of {info['config']}"
  return f"{content.get('examples', 0):,} training examples, SHA-256 {str(content.get('sha256', ''))[:12]}"


def _group(data: str, runs: Sequence[tuple[Folder, dict[str, Any]]]) -> Group:
  arguments = [{"config": info["config"], **info["arguments"]} for _, info in runs]
  names = list(dict.fromkeys(name for each in arguments for name in each))
  missing = object()
  differ = [
    name for name in names if any(each.get(name, missing) != arguments[0].get(name, missing) for each in arguments)
  ]
  variants: dict[str, list[tuple[Folder, dict[str, Any]]]] = {}
  for (folder, info), each in zip(runs, arguments, strict=True):
    key = ", ".join(f"{name}={_value(each[name])}" for name in differ if name in each)
    variants.setdefault(key, []).append((folder, info))
  found = []
  for key, members in variants.items():
    members = sorted(members, key=lambda member: member[1]["seed"])
    each = {"config": members[0][1]["config"], **members[0][1]["arguments"]}
    changed = {name: _value(each[name]) if name in each else "" for name in differ}
    name = key if 0 < len(key) <= LONG else ", ".join(f.path.name for f, _ in members)
    found.append(Variant(name, changed, [_member(*m) for m in members]))
  numbers = dict.fromkeys(n for v in found for m in v.members for n in m.numbers if not n.endswith(HIDDEN))
  configs = ", ".join(dict.fromkeys(info["config"] for _, info in runs))
  return Group(f"{configs}: {data}", differ, list(numbers), found)


def _value(x: Any) -> str:
  if isinstance(x, float):
    return f"{x:g}" if float(f"{x:g}") == x else repr(x)  # two values are two variants
  return ",".join(map(str, x)) if isinstance(x, list) else str(x)


def _member(folder: Folder, info: Mapping[str, Any]) -> Member:
  rows = folder.metrics()
  evaluations = [row for row in rows if row["kind"] == "evaluate"]
  last = evaluations[-1] if evaluations else {}
  numbers = {name: x for name, x in last.items() if name not in ("step", "kind")}
  seconds = sum(session.get("seconds", 0.0) for session in info["sessions"])
  step = max((row["step"] for row in rows), default=0)
  return Member(folder.path.name, info["seed"], step, seconds, numbers, rows, pictures_of(folder))


def cell(found: tuple[float, float | None, int] | None) -> str:
  """A number in a table: "1.36 ± 0.05", with the standard deviation if there are several seeds."""
  if found is None:
    return ""
  mean, deviation, _ = found
  return words.number(mean) if not deviation else words.with_error(mean, deviation)


def lines(group: Group) -> list[list[str]]:
  """A group's table: a header row, and a row for each variant."""
  head = [*group.changed, "seeds", "steps", "seconds", *group.numbers]
  if not group.changed:
    head.insert(0, "runs")
  rows = [head]
  for variant in group.variants:
    own = list(variant.changed.values()) or [variant.name]
    steps = sorted({m.step for m in variant.members})
    seconds = statistics.fmean(m.seconds for m in variant.members)
    about = [
      ", ".join(str(m.seed) for m in variant.members),
      ", ".join(f"{step:,}" for step in steps),
      f"{seconds:.0f}",
    ]
    rows.append([*own, *about, *(cell(variant.spread(name)) for name in group.numbers)])
  return rows


def turned(table: Sequence[Sequence[str]]) -> list[list[str]]:
  """A table with rows and columns exchanged."""
  return [list(column) for column in zip(*table, strict=True)]


def text(found: Sequence[Group]) -> str:
  """The tables as text: a line for each variant, or a line for each number if the table would be too wide."""
  parts = []
  for group in found:
    table = lines(group)
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    if sum(widths) + 2 * len(widths) > 120:
      table = turned(table)
      widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    rows = ["  ".join(x.ljust(width) for x, width in zip(row, widths, strict=True)).rstrip() for row in table]
    parts.append("\n".join([f"{group.data}", *(f"  {row}" for row in rows)]))
  if len(found) > 1:
    parts.append(f"{len(found)} data sets: compare numbers only within one of them")
  return "\n\n".join(parts)


def page(found: Sequence[Group], title: str = "Runs compared") -> str:
  """The comparison as a page of HTML that needs nothing else and runs no script."""
  loaded: jinja2.Template = template("compare.html.j2")
  parts = [
    {
      "data": group.data,
      "table": turned(lines(group)) if len(lines(group)[0]) > WIDE else lines(group),
      "turned": len(lines(group)[0]) > WIDE,
      "count": len(group.changed) or 1,
      "curves": curves(group, f"group{i}"),
      "legend": [(variant.name, COLORS[k % len(COLORS)]) for k, variant in enumerate(group.variants)],
      "samples": [(variant.name, variant.members[0]) for variant in group.variants if variant.members[0].pictures],
    }
    for i, group in enumerate(found)
  ]
  return loaded.render(title=title, groups=parts)


def curves(group: Group, tag: str) -> list[Drawing]:
  """A figure for each number of training and evaluation, and a line for each run. Seeds of a variant share a colour."""
  found = []
  for kind in ("train", "evaluate"):
    names: dict[str, None] = {}
    for variant in group.variants:
      for member in variant.members:
        for row in member.rows:
          if row["kind"] == kind:
            names |= dict.fromkeys(name for name, x in row.items() if words.is_number(x))
    wanted = (lambda n: re.search(r"loss$", n)) if kind == "train" else (lambda n: not n.endswith((*HIDDEN, "_ratio")))
    for name in names:
      if name in ("step", "kind") or not wanted(name):
        continue
      lines = []
      for color, variant in enumerate(group.variants):
        for i, member in enumerate(variant.members):
          points = [
            (row["step"], row[name]) for row in member.rows if row["kind"] == kind and words.is_number(row.get(name))
          ]
          if len(points) > 1:
            lines.append((variant.name if i == 0 else None, color, points))
      if lines:
        found.append(overlaid(name, f"{tag}/{kind}/{name}", lines))
  return found
