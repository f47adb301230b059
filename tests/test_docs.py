"""README and docs say what is true: files, commands, configs, tests and links are the real ones.

Their code blocks are run in test_docs_code.py.
"""

import importlib.util
import json
import re

import conftest
import numpy as np
import pytest
import yaml

from jaxgen import cli
from jaxgen.engine.catalogue import all_configs

ROOT = conftest.REPOSITORY
README = (ROOT / "README.md").read_text()
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text() for path in [ROOT / "README.md", *ROOT.glob("docs/*.md")]}


def test_the_table_of_commands_is_the_commands():
  assert re.findall(r"^\| `jaxgen (\w+)", README, re.MULTILINE) == list(cli.COMMANDS)


@pytest.mark.parametrize("page", PAGES)
def test_files_that_a_page_names_exist(page):
  """A link is from the page's own folder; a name in code from the repository's or the package's."""
  outside_code = re.sub(r"^```.*?^```", "", PAGES[page], flags=re.DOTALL | re.MULTILINE)
  for path in re.findall(r"\]\((?!http)([^)#\s]+)", outside_code):
    assert ((ROOT / page).parent / path).exists(), path
  without_links = re.sub(r"\[[^\]]*\]\([^)]*\)", "", PAGES[page])
  for path in re.findall(r"(?<![\w./])((?:\w+/)*\w+\.(?:py|md|json|toml|png|txt))(?!\w)", without_links):
    if not re.search(r"[A-Z]{3}", path) and path not in OUTPUTS:
      assert any((folder / path).exists() for folder in (ROOT, ROOT / "jaxgen", ROOT / "docs")), path


# What commands write and read, and the reader's own files.
OUTPUTS = {"run.json", "speed.json", "config.py", "ledger.md", "samples.png", "squares.png", "commit_success.txt"}
OUTPUTS |= {"tokenizer.json", "vocab.txt", "vocab.json", "merges.txt"}
OUTPUTS |= {"tiny_shakespeare.txt", "data/tiny_shakespeare.txt"}
OUTPUTS |= set(re.findall(r"[Ss]ave (?:it|this) as\s+`([\w/.]+)`", "\n".join(PAGES.values())))


# The reader's own runs, and what only looks like a config.
NAMES = {"vit", "v", "min_snr", "squares", "midpoint_digits", "pixels_digits", "binarized_mnist"} | {"sd15", "lora"}


@pytest.mark.parametrize("page", PAGES)
def test_configs_that_a_page_names_exist(page):
  names = {name for entry in all_configs() for name in (entry.name, *entry.names)}
  data_sets = "digits|mnist|cifar10|imagenet|rings|celeba|multi30k|shakespeare"
  text = PAGES[page]
  given = re.findall(r"(?<!from )jaxgen (?:train|reproduce|import \S+) ([a-z]\S*?)(?=[\s`]|$)", text)
  given += re.findall(r"jaxgen (?:inspect|sample|evaluate|report|export) (?:runs/)?([a-z]\w*)(?!\w*:)", text)
  given += re.findall(rf"`([a-z]\w*_(?:{data_sets}))\b", text)
  given += re.findall(rf"^\| ([a-z]\w*_(?:{data_sets}))\b", text, re.MULTILINE)
  for name in given:
    assert name.removeprefix("runs/") in names | OUTPUTS | NAMES, name


def anchors(text):
  """The anchors that a page's headings have on the site."""
  words = (re.sub(r"[`*]|\]\([^)]*\)", "", line) for line in re.findall(r"^#+ (.*)$", text, re.MULTILINE))
  return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", line).strip().lower()) for line in words}


@pytest.mark.parametrize("page", PAGES)
def test_links_to_headings_lead_to_headings(page):
  for path, anchor in re.findall(r"\]\(([\w/.]*\.md)?#([\w-]+)\)", PAGES[page]):
    target = (ROOT / page).parent / path if path else ROOT / page
    assert anchor in anchors(target.read_text()), f"{path}#{anchor}"


def test_tests_that_hold_the_contracts_exist():
  named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGES["docs/contracts.md"])
  assert len(named) > 20
  for path, name in named:
    assert re.search(rf"^def {name}\(", (ROOT / path).read_text(), re.MULTILINE), f"{path}::{name}"


def test_the_sites_navigation_names_pages_that_exist():
  site = yaml.load((ROOT / "mkdocs.yml").read_text(), yaml.BaseLoader)
  named = set(re.findall(r"[\w/]+\.md", str(site["nav"])))
  assert len(named) > 15
  assert named - {"index.md"} <= {path.name for path in ROOT.glob("docs/*.md")}  # the first page is the README


def test_what_the_page_says_of_the_solvers_figure():
  measured = json.loads((ROOT / "benchmarks/quality.json").read_text())
  rows = [row for row in measured["results"]["network"] if row["steps"] > 1]
  distance = lambda name, calls: next(np.mean(r["frechet"]) for r in rows if (r["solver"], r["steps"]) == (name, calls))
  of_calls = lambda low, high: [row for row in rows if low < row["network_calls"] <= high]
  best = lambda rows: [row["solver"] for row in sorted(rows, key=lambda row: np.mean(row["frechet"]))]
  text = " ".join(PAGES["docs/diffusion.md"].split())
  first, second, third = distance("probability_flow", 8), distance("plms", 7), distance("ddim", 8)
  assert f"a distance of {first:.2f}, before `plms` with {second:.2f} and `ddim` with {third:.2f}." in text
  assert best(of_calls(4, 8))[:3] == ["probability_flow", "plms", "ddim"]
  assert f"With 16 calls the best is `plms`, with {distance('plms', 15):.2f}." in text
  assert best(of_calls(8, 16))[0] == "plms"
  near = [row for row in of_calls(16, 32) if 1.335 < np.mean(row["frechet"]) < 1.385]
  assert len(near) == 9
  assert f"the floor of {measured['floor']:.2f}: what is left" in text
  assert f"`dpmpp_sde_2m` has {distance('dpmpp_sde_2m', 32):.2f} there" in text


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
