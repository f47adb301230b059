"""Every code block of README and docs is run, or parsed by what would run it.

Python: all blocks of a page are executed, in order and in one namespace, in a folder that has the files which the pages
say to save; configs are traced, not trained. What a page says a block gives is asserted in RESULTS.

Commands: those of the page on an own method are executed as they stand; the others are parsed by `cli` itself, their
flags by the config that they name, and not executed: they would train for minutes. Commands of others (pip, pytest,
python, a cluster's) are parsed by the shell alone, and the scripts that they name exist.
"""

import contextlib
import importlib
import pathlib
import re
import runpy
import shlex
import subprocess
import sys

import conftest
import jax
import numpy as np
import pytest
import tiny
from sklearn.datasets import load_digits

from jaxgen import cli
from jaxgen.cli import options
from jaxgen.engine import folder, run
from jaxgen.engine.config import load_config

ROOT = conftest.REPOSITORY
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text() for path in [ROOT / "README.md", *ROOT.glob("docs/*.md")]}
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
SAVED = re.compile(
  r"[Ss]ave (?:it|this|the [\w ]+?) as\s+`([\w/.]+)`:\n\n```python\n(.*?)^```", re.DOTALL | re.MULTILINE
)
FILES = {name: text for page in PAGES.values() for name, text in SAVED.findall(page)}
EXECUTED = "docs/method.md"  # the page whose commands are executed
# What a command of a page stands for where it has a word of its own in capitals.
WORDS = {"CONFIG": "ddpm_digits", "RUN": "runs/ddpm_digits", "NAME": "nce", "N": "2"}
# What a page says that its blocks give: page -> what is asserted of the namespace after them.
RESULTS = {
  "README.md": lambda names: names["images"].shape == (16, 8, 8, 1) and abs(names["images"]).max() <= 1,
  "docs/first_steps.md": lambda names: names["images"].shape == (16, 8, 8, 1),
  "docs/solver.md": lambda names: abs(names["slope"](names["errors_by_calls"]) - 2.04) < 0.01,
  "docs/energy.md": lambda names: (
    names["kept"].shape == (1_000, 64, 2)
    and abs(float(names["kept"][100:].var()) - 1) < 0.05
    and 0.7 < float(names["accepted"].mean()) < 1
  ),
  "docs/reproducing.md": lambda names: (
    abs(names["nats"] - 2366.9) < 0.05 and abs(names["bits_per_value"](names["nats"], 784) - 4.3555) < 5e-5
  ),
}


def blocks(page, language):
  return [text for found, text in BLOCK.findall(PAGES[page]) if found == language]


def commands(page):
  """The commands of a page: lines of its console blocks, and indented ones that begin with a command."""
  outside = BLOCK.sub("", PAGES[page])
  indented = [
    line.strip() for line in re.findall(r"^ {4,}(?:jaxgen|pip|pytest|python|mkdocs) .*$", outside, re.MULTILINE)
  ]
  lines = [
    line
    for language in ("console", "bash", "sh")
    for text in blocks(page, language)
    for line in re.sub(r"\\\n\s*", " ", text).splitlines()
  ]
  return [line.removeprefix("$ ") for line in lines + indented if line.strip() and not line.startswith("#")]


def inline(page):
  """Commands within a sentence or a table, where they are written out."""
  outside = BLOCK.sub("", PAGES[page])
  found = [" ".join(words.split()) for words in re.findall(r"`(jaxgen [^`]+)`", outside)]
  of_names = [f"jaxgen {name}" for name, command in cli.COMMANDS.items() if command.subjects]  # named, not given
  return [words for words in found if words not in of_names and not re.search(r"\[|\.\.\.|NAME_", words)]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
  """A folder with the files that the pages say to save, and a small run in the place of that of `ddpm_digits`."""
  place = tmp_path_factory.mktemp("docs")
  for name, text in FILES.items():
    path = place / name
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text(text)
  (place / "configs" / "midpoint.py").write_text(FILES["midpoint.py"])  # docs/solver.md says so
  config = tiny.write(place, source=tiny.SOURCE.replace("constant(10, 0.5)", "constant(100, 0.05)"))
  with pytest.raises(SystemExit) as end:
    cli.main(["train", str(config), "--name", "ddpm_digits", "--runs", str(place / "runs"), "--steps", "2"])
  assert not end.value.code
  return place


@pytest.fixture
def inside(place, monkeypatch):
  monkeypatch.chdir(place)
  monkeypatch.syspath_prepend(place)
  before = set(sys.modules)
  yield place
  for name in set(sys.modules) - before:
    if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(place)):
      del sys.modules[name]


def test_every_block_has_a_language_and_every_saved_file_is_found():
  for page, text in PAGES.items():
    assert text.count("```") == 2 * len(BLOCK.findall(text)), page
    assert all(language for language, _ in BLOCK.findall(text)), page
  assert {"configs/pixels_digits.py", "make_squares.py", "test_pixels.py", "midpoint.py"} <= set(FILES)
  assert "configs/midpoint_digits.py" in FILES


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")])
def test_python_blocks_run(page, inside):
  names = {}
  with conftest.enable_x64() if "jax_enable_x64" in PAGES[page] else contextlib.nullcontext():
    for text in blocks(page, "python"):
      if text in FILES.values():
        name = next(name for name in FILES if FILES[name] == text)
        if name.startswith("configs/"):
          traced(load_config(name).build())
        elif not name.startswith("test_"):  # see test_the_page_on_an_own_method
          runpy.run_path(name)
      else:
        exec(compile(text, page, "exec"), names)
    assert RESULTS.get(page, lambda names: True)(names)


def traced(experiment):
  """Traces what an experiment of images would compute: its state's start, one step and two samples."""
  e, key = experiment, jax.eval_shape(jax.random.key, 0)
  batch = e.data.batch_spec(e.batch_size)
  state = jax.eval_shape(e.method.init, key, batch)
  jax.eval_shape(e.method.step, state, batch)
  samples = jax.eval_shape(e.method.sample, state, jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 2)))
  assert samples.shape == (2, *e.data.spec.shape)


class Parsed(Exception):
  """A command's words were parsed; nothing was done yet."""


@pytest.fixture
def only_parse(monkeypatch):
  """Commands end where their words are parsed. Runs that a page has not trained here are those of their configs."""
  parse = options.parse

  def parse_and_end(*arguments, **named):
    parse(*arguments, **named)
    raise Parsed

  for command in cli.COMMANDS.values():
    module = importlib.import_module(f"jaxgen.cli.{command.module}")
    if hasattr(module, "parse"):
      monkeypatch.setattr(module, "parse", parse_and_end)
  monkeypatch.setattr(options, "parse", parse_and_end)
  trained = re.findall(r"jaxgen (?:train|import \S+) (\S+) [^\n`]*--name (\w+)", "\n".join(PAGES.values()))
  config_of = {name: config for config, name in trained}

  class Trained:
    def __init__(self, path):
      name = pathlib.PurePath(path).name
      beside = pathlib.Path("configs", f"{name}.py")
      self.config = load_config(config_of.get(name, str(beside) if beside.exists() else name))
      self.arguments = self.config.defaults()

  monkeypatch.setattr(run, "load", Trained)
  monkeypatch.setattr(folder.Folder, "exists", lambda self: self.path.parts[0] == "runs")


def check(line, capsys):
  """Parses a command."""
  for part in re.split(r"\s&&\s", line):
    words = [WORDS.get(word, word) for word in shlex.split(part, comments=True)]
    if words[0] == "jaxgen":
      with pytest.raises((Parsed, SystemExit)) as end:
        cli.main(words[1:])
      code = getattr(end.value, "code", 0)
      assert not code, f"{part}: {capsys.readouterr()}"
    else:
      assert subprocess.run(["bash", "-n", "-c", part]).returncode == 0, part
      if words[0] == "python" and words[1].endswith(".py"):
        assert (ROOT / words[1]).exists() or words[1] in FILES, part


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page) or inline(page)])
def test_commands_parse(page, inside, only_parse, capsys):
  for line in commands(page) + inline(page):
    check(line, capsys)


def test_a_wrong_flag_and_a_wrong_config_do_not_parse(inside, only_parse, capsys):
  check("jaxgen train ddpm_digits --steps 3", capsys)
  for line in (
    "jaxgen train ddpm_digits --step-s 3",
    "jaxgen train ddpm_digit",
    "jaxgen sample runs/ddpm_digits --m 1",
  ):
    with pytest.raises(AssertionError):
      check(f"jaxgen {line}", capsys)


def test_the_page_on_an_own_method(inside, capsys):
  """Its commands as they stand, and its tests."""
  done = []
  for line in commands(EXECUTED):
    words = shlex.split(line)
    if words[0] == "jaxgen":
      with pytest.raises(SystemExit) as end:
        cli.main(words[1:])
      assert not end.value.code, f"{line}: {capsys.readouterr()}"
    elif words[:2] == ["python", "make_squares.py"]:
      runpy.run_path("make_squares.py")
    done.append(words[0])
  assert done.count("jaxgen") == 3
  nats = float(re.search(r"test_nll_nats_17_levels_dequantized\s+(\S+)", capsys.readouterr().out)[1])
  # Independent Gaussians of the pixels' own means and deviations, by numpy: the best that the example can do.
  digits = load_digits().images.reshape(-1, 64)
  std = np.sqrt(digits.var(0) * (2 / 17) ** 2 + (2 / 17) ** 2 / 12)
  best = np.sum(np.log(std) + 0.5 * np.log(2 * np.pi * np.e) - np.log(2 / 17))
  assert best - 10 < nats < best + 60
  assert (inside / "squares.png").read_bytes().startswith(b"\x89PNG")
  with np.load("squares.npz") as file:
    assert {name: file[name].shape for name in file} == {
      "train_image": (500, 12, 12, 1),
      "test_image": (100, 12, 12, 1),
    }
  with pytest.raises(SystemExit) as end:
    cli.main(["train", "configs/pixels_digits.py", "--name", "n", "--images", "npz:squares.npz", "--levels", "256"])
  assert end.value.code == 1
  error = capsys.readouterr().err
  assert "(12, 12, 1)" in error
  assert "(8, 8, 1)" in error

  options = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:timeout", "--rootdir", str(inside)]
  assert pytest.main(["test_pixels.py", *options, "-c", "/dev/null"]) == 0, capsys.readouterr().out
