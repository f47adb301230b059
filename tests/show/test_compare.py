"""Runs compared: what differs, means over seeds, other data apart, and the page."""

import json
import re
import statistics

import numpy as np
import pytest

from jaxgen.core import pictures
from jaxgen.core.errors import UserError
from jaxgen.engine.folder import Folder
from jaxgen.show import compare


def make(folder, seed=0, data="a" * 64, value=1.0, config="tiny", picture=True, **arguments):
  (folder / "samples").mkdir(parents=True)
  session = {"from": 0, "to": 20, "seconds": 3.0, "data": {"examples": 1437, "sha256": data}}
  info = {"config": config, "arguments": {"steps": 20, "ema": 0.9, **arguments}, "seed": seed, "sessions": [session]}
  (folder / "run.json").write_text(json.dumps(info))
  lines = [{"step": s, "kind": "train", "network/loss": value / s, "steps_per_second": 9.0} for s in (5, 10, 15, 20)]
  lines += [
    {"step": s, "kind": "evaluate", "test_x": value + s, "test_x_se": 0.1, "test_examples": 9} for s in (10, 20)
  ]
  (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
  if picture:
    (folder / "samples" / "step_20.png").write_bytes(pictures.png(np.zeros((8, 8, 1), np.uint8)))
  return Folder(folder)


def test_a_damaged_list_of_sessions_is_one_sentence(tmp_path):
  run = make(tmp_path / "a")
  info = json.loads((run.path / "run.json").read_text())
  for sessions in ([1], ["x"], [None], {}):
    (run.path / "run.json").write_text(json.dumps(info | {"sessions": sessions}))
    with pytest.raises(UserError, match="run.json is damaged: it does not say the run's sessions"):
      compare.groups([run])


def test_a_table_has_what_differs_and_means_over_seeds(tmp_path):
  runs = [make(tmp_path / f"{e}_{s}", s, value=e + s, ema=e) for e in (0.5, 0.7) for s in (0, 1, 2)]
  (group,) = compare.groups(runs)
  head, *rows = compare.lines(group)
  assert head == ["ema", "seeds", "steps", "seconds", "test_x"]
  assert [row[:4] for row in rows] == [["0.5", "0, 1, 2", "20", "3"], ["0.7", "0, 1, 2", "20", "3"]]
  values = [20.5, 21.5, 22.5]
  assert group.variants[0].spread("test_x") == (statistics.fmean(values), statistics.stdev(values), 3)
  assert rows[0][4] == "21.5 ± 1.0"
  text = compare.text([group])
  assert "21.5 ± 1.0" in text
  assert "tiny: 1,437 training examples" in text


def test_runs_of_other_data_and_of_other_configs(tmp_path):
  runs = [make(tmp_path / "a"), make(tmp_path / "b", data="b" * 64), make(tmp_path / "c", config="other", width=3)]
  groups = compare.groups(runs)
  assert [[v.members[0].name for v in group.variants] for group in groups] == [["a", "c"], ["b"]]
  assert groups[0].changed == ["config", "width"]
  assert "compare numbers only within" in compare.text(groups)
  assert "Compare numbers only within one data set" in compare.page(groups)


def test_the_page_needs_nothing_else_and_has_a_line_for_each_run(tmp_path):
  runs = [make(tmp_path / f"{e}_{s}", s, value=e + s, ema=e) for e in (0.5, 0.7) for s in (0, 1)]
  page = compare.page(compare.groups(runs))
  assert not re.search(r'(src|href)="(?!data:)[^#]', page)
  assert "<script" not in page
  assert page.count("<figure>") == 2 + 2  # loss and test_x, and the samples of two variants
  for color in ("#3b82c4", "#e07b39"):
    assert page.count(f"stroke: {color}") >= 4  # two seeds in each of two figures
  evil = make(tmp_path / "evil", solver="<script>alert(1)</script>")
  assert "<script>" not in compare.page(compare.groups([runs[0], evil]))


def test_many_arguments_are_rows_and_equal_curves_all_show(tmp_path):
  more = {f"argument_{i}": "a long value of it" for i in range(12)}
  runs = [make(tmp_path / "a"), make(tmp_path / "b", **more)]
  (group,) = compare.groups(runs)
  assert [variant.name for variant in group.variants] == ["a", "b"]  # and not all of its arguments
  page = compare.page([group])
  assert page.count("<tr>") == 1 + len(compare.lines(group)[0]) - 1  # a row for each number
  (whole,) = re.findall(r'<path d="[^"]*" clip-path="[^"]*" style="fill: none; stroke: #3b82c4; [^"]*"', page)[:1]
  (cut,) = re.findall(r'<path d="[^"]*" clip-path="[^"]*" style="fill: none; stroke-dasharray: [^"]* #e07b39; ', page)[
    :1
  ]
  assert "dasharray" not in whole  # the same curve twice: one is seen in the other's gaps
  assert re.search(r'd="([^"]*)"', whole)[1] == re.search(r'd="([^"]*)"', cut)[1]


def test_runs_without_numbers_or_pictures(tmp_path):
  run = make(tmp_path / "young", picture=False)
  (tmp_path / "young" / "metrics.jsonl").write_text("")
  (group,) = compare.groups([run])
  assert compare.lines(group)[1][0] == "young"
  assert "Samples from the same noise" not in compare.page([group])


def test_bad_runs(tmp_path):
  run = make(tmp_path / "a")
  with pytest.raises(UserError, match="a is named twice"):
    compare.groups([run, Folder(tmp_path / "a")])
  with pytest.raises(UserError, match="none is not a run"):
    compare.groups([run, Folder(tmp_path / "none")])


def test_values_that_differ_late_are_two_variants_and_two_runs(tmp_path):
  from jaxgen.cli.sweep import combinations

  near = (0.12345671, 0.12345672)
  (group,) = compare.groups([make(tmp_path / str(e), ema=e) for e in near])
  assert [variant.changed["ema"] for variant in group.variants] == ["0.12345671", "0.12345672"]
  names = [name for name, _, _ in combinations([("ema", [*near, 0.001, 1.0])], 1)]
  assert names == ["ema=0.12345671_seed=0", "ema=0.12345672_seed=0", "ema=0.001_seed=0", "ema=1_seed=0"]
