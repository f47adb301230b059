"""Configs: where they are found, what they may import and be given, and what a run keeps of them."""

import collections
import json
import pathlib
import shutil
import subprocess
import sys

import conftest
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

import jaxgen
from jaxgen.core.errors import UserError
from jaxgen.engine import catalogue, provenance
from jaxgen.engine.config import load_config
from jaxgen.engine.folder import Folder
from jaxgen.engine.loop import Progress, train
from jaxgen.engine.provenance import check_same, git_revision, keep_config
from jaxgen.engine.run import Run

SMALL = '''"""A config that trains nothing.

Cost: none
"""

from jaxgen import Experiment


def experiment(steps: int = 3) -> Experiment: ...
'''


def write(path, text=SMALL):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(text)
  return path


@pytest.fixture
def here(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  return tmp_path


def test_names_of_shipped_configs_are_unique():
  names = collections.Counter(entry.name for entry in catalogue.configs_in(catalogue.shipped_folder()))
  assert [name for name, count in names.items() if count > 1] == []
  assert catalogue.shipped_folder() == conftest.REPOSITORY / "configs"


def test_a_config_is_found_by_name_by_path_and_from_any_folder(here):
  shipped = catalogue.find_config("ddpm_digits").path
  assert shipped.is_relative_to(conftest.REPOSITORY / "configs")
  within = shipped.relative_to(conftest.REPOSITORY / "configs").as_posix()
  assert catalogue.find_config(f"configs/{within}").path == catalogue.find_config(within).path == shipped
  mine = write(here / "configs" / "mine" / "ddpm_digits.py")
  own = pathlib.Path("configs/mine/ddpm_digits.py")
  assert catalogue.find_config("ddpm_digits").path == catalogue.find_config("mine/ddpm_digits").path == own
  assert catalogue.find_config(str(mine)).path == mine
  assert [e.path for e in catalogue.all_configs() if e.name == "ddpm_digits"] == [own]
  with pytest.raises(UserError, match="'configs/old/ddpm_digits.py': perhaps you meant configs/mine/ddpm_digits.py"):
    catalogue.find_config("configs/old/ddpm_digits.py")
  with pytest.raises(UserError, match="perhaps you meant 'ddpm_digits'"):
    catalogue.find_config("dpm_digits")
  write(here / "configs" / "other" / "ddpm_digits.py")
  with pytest.raises(UserError, match=r"2 configs 'ddpm_digits': give the path of one, configs/mine/.* or configs/oth"):
    catalogue.find_config("ddpm_digits")


def test_a_further_name_stands_for_arguments(here, capsys):
  from jaxgen import cli

  names = 'NAMES = {"three": {"steps": 3}, "slow": {"steps": 40, "learning_rate": 1e-5}}\n'
  write(here / "configs" / "tiny.py", tiny.SOURCE + names)
  slow = load_config("slow")
  assert (slow.name, slow.defaults()["steps"], slow.build().steps) == ("slow", 40, 40)
  assert load_config("tiny").build().steps == 30
  with pytest.raises(UserError, match="there is no config 'Slow': perhaps you meant 'slow'"):
    load_config("Slow")
  train = ["train", "three", "--runs", "runs", "--batch-size", "8"]
  for words in (train, train, ["inspect", "runs/three"]):
    with pytest.raises(SystemExit) as end:
      cli.main(words)
    assert end.value.code == 0, capsys.readouterr().err
  info = json.loads((here / "runs" / "three" / "run.json").read_text())
  assert (info["config"], info["arguments"]["steps"], info["arguments"]["batch_size"]) == ("three", 3, 8)
  (here / "configs" / "tiny.py").unlink()
  run = jaxgen.load("runs/three", learning_rate=1.0)
  assert (run.config.name, run.arguments["steps"], run.step) == ("three", 3, 3)
  assert find_lines("slow  ", capsys) == []
  write(here / "configs" / "tiny.py", tiny.SOURCE + names)
  assert len(find_lines("slow  ", capsys)) == 1
  for wrong in ("NAMES = dict(a=1)\n", "NAMES = {'a': 1}\n"):
    write(here / "configs" / "tiny.py", tiny.SOURCE + wrong)
    with pytest.raises(UserError, match="NAMES cannot be read"):
      load_config("tiny")


def find_lines(text, capsys):
  """The lines of `jaxgen list` that have it."""
  from jaxgen import cli

  capsys.readouterr()
  with pytest.raises(SystemExit):
    cli.main(["list"])
  return [line for line in capsys.readouterr().out.splitlines() if text in line]


def test_a_broken_config_is_listed_and_breaks_nothing(here, capsys):
  from jaxgen import cli

  write(here / "configs" / "mine" / "broken.py", "def experiment(:\n")
  write(here / "configs" / "mine" / "whole.py")
  write(here / "configs" / "mine" / "helpers.py", "x = 1\n")
  write(here / "configs" / ".ipynb_checkpoints" / "whole-checkpoint.py")  # and what a notebook's server keeps
  with pytest.raises(SystemExit) as end:
    cli.main(["list"])
  assert end.value.code == 0
  lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
  start = lines.index("mine")
  assert any(line.startswith("broken cannot be read, line") for line in lines[start:])
  assert any(line.startswith("whole A config that") for line in lines)
  assert not any(line.startswith(("helpers", "whole-")) for line in lines)


HELPED = tiny.SOURCE.replace(
  "import optax\n", "import optax\nfrom helpers import SAMPLES\nfrom lib.rates import rate\n"
).replace("samples=4", "samples=SAMPLES + late()")
HELPED = HELPED.replace(
  "def experiment(", "def late():\n  import lazily\n\n  return lazily.MORE\n\n\ndef experiment("
).replace("optax.adam(learning_rate)", "optax.adam(rate(learning_rate))")
HELPERS = {
  "helpers.py": "SAMPLES = 3\n",
  "lib/rates.py": "def rate(x):\n  return 2 * x\n",
  "lazily.py": "MORE = 1\n",
}


def test_what_a_config_imports_from_its_folder_is_kept_with_the_run(tmp_path):
  for name, text in HELPERS.items():
    write(tmp_path / "a" / name, text)
  config = load_config(write(tmp_path / "a" / "tiny.py", HELPED))
  run = Run(Folder(tmp_path / "run"), config, {"steps": 2}, 0)
  train(run, Progress(quiet=True))
  kept = {name: (tmp_path / "run" / "config" / name).read_text() for name in HELPERS}
  assert kept == HELPERS
  # Another config's helpers are other modules, whatever has been imported before.
  write(tmp_path / "b" / "helpers.py", "SAMPLES = 5\n")
  other = load_config(write(tmp_path / "b" / "other.py", tiny.SOURCE + "\nfrom helpers import SAMPLES\n"))
  assert other.function.__globals__["SAMPLES"] == 5
  assert run.config.function.__globals__["SAMPLES"] == 3
  write(tmp_path / "a" / "helpers.py", "SAMPLES = 3  # as before\n")
  check_same(run.folder, load_config(tmp_path / "a" / "tiny.py"), run.arguments, 0)
  write(tmp_path / "a" / "helpers.py", "SAMPLES = 4\n")  # changes no update
  check_same(run.folder, load_config(tmp_path / "a" / "tiny.py"), run.arguments, 0)
  write(tmp_path / "a" / "lib" / "rates.py", "def rate(x):\n  return 3 * x\n")
  changed = load_config(tmp_path / "a" / "tiny.py")
  with pytest.raises(UserError, match=r"a/lib/rates.py.* has changed since .* keeps its own copies of its config"):
    check_same(run.folder, changed, run.arguments, 0)
  shutil.rmtree(tmp_path / "a")
  loaded = jaxgen.load(tmp_path / "run")
  assert loaded.experiment.samples == 4
  np.testing.assert_array_equal(loaded.sample(4), run.sample(4))


def test_modules_of_an_environment_in_the_configs_folder_are_not_kept(tmp_path, monkeypatch):
  write(tmp_path / ".venv" / "site-packages" / "installed_thing.py", "X = 1\n")
  monkeypatch.syspath_prepend(tmp_path / ".venv" / "site-packages")
  config = load_config(write(tmp_path / "c.py", "import installed_thing\n" + SMALL))
  assert config.files().keys() == {"config.py"}


def test_annotations_from_the_future(tmp_path):
  source = "from __future__ import annotations\nimport dataclasses\nfrom flax import linen as nn\n" + SMALL
  source += (
    "@dataclasses.dataclass\nclass Sizes:\n  width: int = 3\n\n\n"
    "class Net(nn.Module):\n  width: int = 4\n  sizes: Sizes | None = None\n"
  )
  config = load_config(write(tmp_path / "c.py", source))
  assert config.types["steps"] is int
  assert config.function.__globals__["Net"]().width == 4


ARGUMENTS = """import enum, pathlib
import jax.numpy as jnp
import numpy as np
from jaxgen import Experiment

class Colour(enum.Enum):
  RED = 1
  BLUE = 2

def experiment(path: pathlib.Path | None = pathlib.Path("a/b"), colour: Colour = Colour.RED, count: int = np.int64(3),
    x: np.float32 = np.float32(0.5), dtype=jnp.float32, other: np.dtype = np.dtype("float16"),
    sizes: tuple[pathlib.Path, ...] = (), thing: dict | None = None) -> Experiment: ...
"""


def test_arguments_go_through_json_and_back(tmp_path):
  config = load_config(write(tmp_path / "c.py", ARGUMENTS))
  colours = config.function.__globals__["Colour"]
  arguments = {**config.defaults(), "colour": colours.BLUE, "sizes": (pathlib.Path("x"),)}
  text = json.dumps(config.to_json(arguments))
  assert json.loads(text) == {
    "path": "a/b",
    "colour": "BLUE",
    "count": 3,
    "x": 0.5,
    "dtype": "float32",
    "other": "float16",
    "sizes": ["x"],
    "thing": None,
  }
  back = config.cast(json.loads(text))
  assert {name: value for name, value in back.items() if value != arguments[name]} == {}
  assert (type(back["path"]), back["colour"], type(back["x"])) == (pathlib.PosixPath, colours.BLUE, np.float32)
  with pytest.raises(UserError, match="colour='GREEN' is none of RED, BLUE"):
    config.cast({"colour": "GREEN"})
  with pytest.raises(UserError, match="argument 'thing' is a ndarray, which a run cannot keep"):
    config.to_json({"thing": np.zeros(3)})
  with pytest.raises(UserError, match="config c: argument 'f' is a function, which a run cannot keep"):
    load_config(write(tmp_path / "c.py", SMALL.replace("steps: int = 3", "f=lambda: 1")))


def test_a_cut_config_of_a_run_is_said(tmp_path):
  config = load_config(tiny.write(tmp_path))
  folder = Folder(tmp_path / "run")
  keep_config(Run(folder, config, {}, 0))
  folder.write_info({"config": "tiny", "arguments": {}, "seed": 0})
  (folder / "config.py").write_text(tiny.SOURCE[:300])
  with pytest.raises(UserError, match="run/config.py is damaged"):
    check_same(folder, config, {}, 0)
  (folder / "config.py").write_bytes(b"\xff\xfe")
  with pytest.raises(UserError, match="run/config.py is damaged"):
    check_same(folder, config, {}, 0)
  with pytest.raises(UserError, match="run/config.py is not a config: 'utf-8' codec"):
    jaxgen.load(folder.path)
  (folder / "config.py").unlink()
  for missing in (lambda: check_same(folder, config, {}, 0), lambda: jaxgen.load(folder.path)):
    with pytest.raises(UserError, match="is not a whole run: it has no config.py: put back a copy"):
      missing()


def test_the_revision_of_the_users_repository_is_recorded_as_theirs(tmp_path, monkeypatch):
  git = lambda *words: subprocess.run(
    ["git", "-c", "user.name=x", "-c", "user.email=x@y", *words],
    cwd=tmp_path,
    check=True,
    capture_output=True,
    text=True,
  ).stdout.strip()
  recorded = lambda: provenance._start(config)["config_git"]
  config = load_config(write(tmp_path / "c.py"))
  git("init")
  assert git_revision(tmp_path / "c.py") is None
  git("add", "c.py")
  git("commit", "-m", "first")
  assert recorded() == git("rev-parse", "HEAD")
  write(tmp_path / "c.py", SMALL + "\n")
  assert recorded() == git("rev-parse", "HEAD") + "+"
  head = git("rev-parse", "HEAD")
  (tmp_path / "other").mkdir()
  subprocess.run(["git", "init"], cwd=tmp_path / "other", check=True, capture_output=True)
  monkeypatch.setenv("GIT_DIR", str(tmp_path / "other" / ".git"))
  assert recorded() == head + "+"
  monkeypatch.undo()
  write(tmp_path / ".venv" / "jaxgen" / "provenance.py", "")
  assert git_revision(tmp_path / ".venv" / "jaxgen" / "provenance.py") is None


def test_what_a_config_imports_only_while_it_trains_is_kept_too(tmp_path, monkeypatch):
  """By an evaluator that runs at the end; a package beside the config and a module's own import in a function, too."""
  evaluator = (
    "\n\ndef late(run):\n  from package.deep import number\n  import missing_in_tests as _\n\n"
    "  return {'test_late': number()}\n"
  )
  files = {
    "package/__init__.py": "",
    "package/deep.py": "def number():\n  from .deeper import NUMBER\n  from second import TWO\n  return NUMBER + TWO\n",
    "package/deeper.py": "NUMBER = 40\n",
    "second.py": "TWO = 2.0\n",
    "missing_in_tests.py": "",
    "unused.py": "",
  }
  for name, text in files.items():
    write(tmp_path / "a" / name, text)
  source = tiny.SOURCE.replace("evaluators=(likelihood(),)", "evaluators=(late,)")
  assert source != tiny.SOURCE
  config = load_config(write(tmp_path / "a" / "tiny.py", source + evaluator))
  run = Run(Folder(tmp_path / "run"), config, {"steps": 2}, 0)
  assert train(run, Progress(quiet=True))["test_late"] == 42
  folder = tmp_path / "run" / "config"
  kept = {path.relative_to(folder).as_posix() for path in folder.rglob("*.py")}
  assert kept == files.keys() - {"unused.py"}
  shutil.rmtree(tmp_path / "a")
  assert jaxgen.load(tmp_path / "run").evaluate() == {"test_late": 42}
  assert not any(name.split(".")[0] in ("package", "second") for name in sys.modules)


def test_a_config_that_loads_another_keeps_its_modules_apart(tmp_path):
  """Each has its helpers.py, the inner one's imported while the outer one's code runs."""
  inner = "from helpers import N\n" + SMALL
  outer = (
    "import importlib\nfrom helpers import N\nfrom jaxgen.engine.config import load_config\n"
    f"INNER = load_config({str(tmp_path / 'b' / 'inner.py')!r})\nAGAIN = importlib.import_module('by_name').N\n" + SMALL
  )
  write(tmp_path / "b" / "helpers.py", "N = 2\n")
  write(tmp_path / "a" / "helpers.py", "N = 1\n")
  write(tmp_path / "a" / "by_name.py", "from helpers import N\n")
  write(tmp_path / "b" / "inner.py", inner)
  config = load_config(write(tmp_path / "a" / "outer.py", outer))
  known = config.function.__globals__
  assert (known["N"], known["INNER"].function.__globals__["N"], known["AGAIN"]) == (1, 2, 1)
  assert config.files().keys() == {"config.py", "config/by_name.py", "config/helpers.py"}
  assert known["INNER"].files()["config/helpers.py"] == "N = 2\n"
  write(tmp_path / "a" / "by_name.py", "raise ValueError('at first')\n")
  with pytest.raises(UserError, match="fails when it is loaded: ValueError: at first"):
    load_config(tmp_path / "a" / "outer.py")
  assert not {"helpers", "by_name"} & set(sys.modules)


def test_arguments_of_every_kind_are_flags(tmp_path, capsys):
  from jaxgen.cli.options import parse

  config = load_config(write(tmp_path / "c.py", "from __future__ import annotations\n" + ARGUMENTS))
  words = ["--path", "x", "--colour", "BLUE", "--count", "4", "--x", "0.25", "--dtype", "bfloat16"]
  words += ["--other", "float64", "--sizes", "a", "b"]
  _, changed = parse("train c", words, {}, "", config)
  given = config.cast(json.loads(json.dumps(config.to_json(changed))))
  colours = config.function.__globals__["Colour"]
  expected = {"path": pathlib.Path("x"), "colour": colours.BLUE, "count": 4, "x": np.float32(0.25)}
  expected |= {"dtype": jnp.bfloat16, "other": np.dtype("float64"), "sizes": (pathlib.Path("a"), pathlib.Path("b"))}
  assert given == expected
  assert type(given["x"]) is np.float32
  assert parse("train c", ["--dtype", "float32", "--x", "0.5"], {}, "", config)[1] == {}  # the defaults
  with pytest.raises(SystemExit):
    parse("train c", ["--help"], {}, "", config)
  assert "fixed" not in capsys.readouterr().out
  with pytest.raises(UserError, match="config c: dtype='float31' is no dtype: float32 and bfloat16 are two"):
    config.cast({"dtype": "float31"})


def test_annotations_that_name_nothing(tmp_path):
  typed = SMALL.replace(
    "from jaxgen import", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n  from jaxgen import"
  )
  load_config(write(tmp_path / "c.py", "from __future__ import annotations\n" + typed))  # what it returns is known
  with pytest.raises(UserError, match=r"annotations of experiment\(\) cannot be read \(name 'Int' is not defined\)"):
    load_config(write(tmp_path / "c.py", "from __future__ import annotations\n" + SMALL.replace(": int", ": Int")))
