"""README and docs say what is true: examples run, files, commands, configs and links are the real ones."""

import importlib.util
import json
import re

import conftest
import numpy as np
import pytest

from jaxgen import cli
from jaxgen.engine.catalogue import all_configs

ROOT = conftest.REPOSITORY
README = (ROOT / "README.md").read_text()
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text() for path in [ROOT / "README.md", *ROOT.glob("docs/*.md")]}
EXAMPLE = "configs/pixels_digits.py"  # the reader's own


def python_in(page, word):
  return next(block for block in re.findall(r"```python\n(.*?)```", PAGES[page], re.DOTALL) if word in block)


def test_the_example_method_trains(tmp_path, capsys):
  (tmp_path / "pixels_digits.py").write_text(python_in("docs/method.md", "def pixels"))
  with pytest.raises(SystemExit) as end:
    cli.main(["train", str(tmp_path / "pixels_digits.py"), "--runs", str(tmp_path), "--steps", "300"])
  out = capsys.readouterr().out
  assert end.value.code == 0
  nats = float(re.search(r"test_nll_nats_17_levels_dequantized\s+(\S+)", out)[1])
  from sklearn.datasets import load_digits

  # Independent Gaussians of the pixels' own means and deviations, by numpy: the best that the example can do.
  digits = load_digits().images.reshape(-1, 64)
  std = np.sqrt(digits.var(0) * (2 / 17) ** 2 + (2 / 17) ** 2 / 12)
  best = np.sum(np.log(std) + 0.5 * np.log(2 * np.pi * np.e) - np.log(2 / 17))
  assert best - 10 < nats < best + 60


def test_the_table_of_commands_is_the_commands():
  assert re.findall(r"^\| `jaxgen (\w+)", README, re.MULTILINE) == list(cli.COMMANDS)


@pytest.mark.parametrize("page", PAGES)
def test_files_that_a_page_names_exist(page):
  """A link is from the page's own folder; a name in code from the repository's or the package's."""
  for path in re.findall(r"\]\((?!http)([^)#\s]+)", PAGES[page]):
    assert ((ROOT / page).parent / path).exists(), path
  without_links = re.sub(r"\[[^\]]*\]\([^)]*\)", "", PAGES[page])
  for path in re.findall(r"(?<![\w./])((?:\w+/)*\w+\.(?:py|md|json|toml|png|txt))(?!\w)", without_links):
    if not re.search(r"[A-Z]{3}", path) and path not in OUTPUTS:
      assert any((folder / path).exists() for folder in (ROOT, ROOT / "jaxgen", ROOT / "docs")), path


# What commands write and read, and the reader's own files.
OUTPUTS = {
  EXAMPLE,
  "run.json",
  "config.py",
  "ledger.md",
  "samples.png",
  "tiny_shakespeare.txt",
  "data/tiny_shakespeare.txt",
}


@pytest.mark.parametrize("page", PAGES)
def test_configs_that_a_page_names_exist(page):
  names = {name for entry in all_configs() for name in (entry.name, *entry.names)}
  data_sets = "digits|mnist|cifar10|imagenet|rings|celeba|multi30k|shakespeare"
  text = PAGES[page]
  given = re.findall(r"(?<!from )jaxgen (?:train|reproduce|import \S+) ([a-z]\S*?)(?=[\s`]|$)", text)
  given += re.findall(r"jaxgen (?:inspect|sample|evaluate|report|export) (?:runs/)?([a-z]\w*)", text)
  given += re.findall(rf"`([a-z]\w*_(?:{data_sets}))\b", text)
  given += re.findall(rf"^\| ([a-z]\w*_(?:{data_sets}))\b", text, re.MULTILINE)
  for name in given:
    assert name.removeprefix("runs/") in names | {EXAMPLE, "vit", "binarized_mnist"}, name


def test_the_pages_links_lead_to_what_they_name():
  spec = importlib.util.spec_from_file_location("link", ROOT / "docs/link.py")
  link = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(link)
  pages = {path.name: path.read_text() for path in link.PAGES}
  assert len(link.LINK.findall(pages["diffusion.md"])) > 60
  for page in pages.values():
    assert link.linked(page) == page, "code has moved: run `python docs/link.py`"
  moved = pages["energy.md"].replace("jaxgen/methods/energy/nce.py", "jaxgen/methods/nce.py")
  assert moved != pages["energy.md"]
  assert link.linked(moved) == pages["energy.md"]
  with pytest.raises(ValueError, match="defines no nonesuch"):
    link.linked("[`nonesuch`](../jaxgen/core/method.py#L1)")


def test_the_example_chain_runs():
  found = {}
  exec(python_in("docs/energy.md", "mala"), found)
  assert found["kept"].shape == (1_000, 64, 2)
  assert abs(float(found["kept"][100:].var()) - 1) < 0.05
  assert 0.7 < float(found["accepted"].mean()) < 1


def test_the_table_of_modes_is_the_benchmarks_and_r1_finds_them_all():
  rows = json.loads((ROOT / "benchmarks" / "gan_modes.json").read_text())["rows"]
  page, found = PAGES["docs/adversarial.md"], {}
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
