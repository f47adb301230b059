"""README and pages say what is true: the example trains, files exist, commands and links are the real ones."""

import importlib.util
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
