"""README and pages say what is true: the example trains, files exist, commands and links are the real ones."""

import importlib.util
import json
import re

import conftest
import numpy as np
from test_cli import command

from jaxgen import cli

README = (conftest.REPOSITORY / "README.md").read_text()


def test_the_example_method_trains(tmp_path):
  example = next(block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "def pixels" in block)
  (tmp_path / "pixels_digits.py").write_text(example)
  out = command("train", tmp_path / "pixels_digits.py", "--runs", tmp_path, "--steps", "300").stdout
  nats = float(re.search(r"test_nll_nats_17_levels_dequantized\s+(\S+)", out)[1])
  from sklearn.datasets import load_digits

  # Independent Gaussians of the pixels' own means and deviations, by numpy: the best that the example can do.
  digits = load_digits().images.reshape(-1, 64)
  std = np.sqrt(digits.var(0) * (2 / 17) ** 2 + (2 / 17) ** 2 / 12)
  best = np.sum(np.log(std) + 0.5 * np.log(2 * np.pi * np.e) - np.log(2 / 17))
  assert best - 10 < nats < best + 60


def test_files_and_commands_exist():
  for path in re.findall(r"\]\(([^)#:]+)\)|`(configs/[a-z0-9_]+\.py)`", README):
    path = path[0] or path[1]
    assert (conftest.REPOSITORY / path).exists() or path == "configs/pixels_digits.py", path
  for name in re.findall(r"^\| `jaxgen (\w+)", README, re.MULTILINE):
    assert name in cli.COMMANDS
  assert set(re.findall(r"^\| `jaxgen (\w+)", README, re.MULTILINE)) == set(cli.COMMANDS)


def test_the_pages_links_lead_to_what_they_name():
  spec = importlib.util.spec_from_file_location("link", conftest.REPOSITORY / "docs/link.py")
  link = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(link)
  pages = {path.name: path.read_text() for path in link.PAGES}
  assert len(link.LINK.findall(pages["diffusion.md"])) > 60
  for page in pages.values():
    assert link.linked(page, link.FOLDER) == page, "code has moved: run `python docs/link.py`"
    for path in re.findall(r"\]\((?!http)([^)#]+)", page):
      assert (link.FOLDER / path).exists(), path


def test_the_example_chain_runs():
  example = next(block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "mala" in block)
  found = {}
  exec(example, found)
  assert found["kept"].shape == (1_000, 64, 2)
  assert abs(float(found["kept"][100:].var()) - 1) < 0.05
  assert 0.7 < float(found["accepted"].mean()) < 1


def test_the_table_of_modes_is_the_benchmarks_and_r1_finds_them_all():
  rows = json.loads((conftest.REPOSITORY / "benchmarks" / "gan_modes.json").read_text())["rows"]
  page, found = (conftest.REPOSITORY / "docs" / "adversarial.md").read_text(), {}
  for row in rows:
    found.setdefault((row["points"], row["method"]), []).append(row)
  words = {"ring8": "ring, 8", "grid25": "grid, 25"}
  for (points, method), seeds in found.items():
    hits = ", ".join(f"{row['modes_hit_2500']:.0f}" for row in seeds)
    shares = ", ".join(f"{100 * row['share_within_3_sigma_2500']:.1f}" for row in seeds)
    assert f"| {words[points]} | {method} | {hits} | {shares} |" in page
  for points in words:
    best = found[points, "non-saturating, R1"]
    assert len(best) == 3
    assert all(row["modes_hit_2500"] == row["modes"] and row["share_within_3_sigma_2500"] >= 0.9 for row in best)
