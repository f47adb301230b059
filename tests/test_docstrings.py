"""Docstrings are what the site's reference is made of: their arguments stand under a heading and are the real ones."""

import ast
import pkgutil
import re

import conftest
import pytest

FILES = [
  path for folder in ("jaxgen", "configs", "benchmarks") for path in (conftest.REPOSITORY / folder).rglob("*.py")
]
FILES = {path.relative_to(conftest.REPOSITORY).as_posix(): path for path in sorted(FILES)}
ITEM = re.compile(r"(\*{0,2}\w+(?:, \*{0,2}\w+)*): \S")
SECTION = re.compile(r"^(Args|Attributes):\n((?:(?:  .*)?\n)*)", re.MULTILINE)


def parameters(node):
  """The names that a function's or class's docstring may describe."""
  if isinstance(node, ast.FunctionDef):
    given = node.args
    several = [x for x in (given.vararg, given.kwarg) if x]
    return {x.arg for x in [*given.posonlyargs, *given.args, *given.kwonlyargs, *several]}
  methods = {x.name: x for x in node.body if isinstance(x, ast.FunctionDef)}
  names = set(methods) | (parameters(methods["__init__"]) if "__init__" in methods else set())
  for x in ast.walk(node):
    if isinstance(getattr(x, "ctx", None), ast.Store):
      names |= {x.attr} if isinstance(x, ast.Attribute) else {x.id} if isinstance(x, ast.Name) else set()
  return names


def without_heading(text, names):
  """The lines that describe an argument where no heading says so."""
  lines = [match[1].split(", ")[0] for line in text.splitlines() if (match := ITEM.match(line))]
  within = re.findall(r"[.;] (\w+): [a-z]", " ".join(text.partition("Args:\n")[0].split("\n\n")[0].split()))
  return [name for name in lines + within if name.lstrip("*") in names]


def unknown(text, names):
  """The names under a heading that are no arguments."""
  items = [
    match[1].split(", ")
    for _, body in SECTION.findall(text + "\n")
    for line in body.splitlines()
    if (match := ITEM.match(line.removeprefix("  "))) and line.startswith("  ")
  ]
  return [name for item in items for name in item if name.lstrip("*") not in names]


@pytest.mark.parametrize("file", FILES)
def test_arguments_stand_under_a_heading_and_exist(file):
  for node in ast.walk(ast.parse(FILES[file].read_text())):
    if isinstance(node, ast.FunctionDef | ast.ClassDef) and (text := ast.get_docstring(node)):
      where = f"{file}:{node.lineno} {node.name}"
      assert not without_heading(text, parameters(node)), f"{where}: put them under Args: or Attributes:"
      assert not unknown(text, parameters(node)), f"{where}: it has none of these names"


def test_what_the_test_finds():
  node = ast.parse('def f(x, *, y):\n  """Adds.\n\n  x: a number.\n  """\n').body[0]
  assert without_heading(ast.get_docstring(node), parameters(node)) == ["x"]
  assert without_heading("Adds. y: another number.", parameters(node)) == ["y"]
  assert not unknown("Adds.\n\nArgs:\n  x, y: numbers.\n\nReturns:\n  z: their sum.", parameters(node))
  assert unknown("Adds.\n\nArgs:\n  x, z: numbers.\n  w: another.", parameters(node)) == ["z", "w"]


PACKAGES = sorted(path.name for path in (conftest.REPOSITORY / "jaxgen").iterdir() if (path / "__init__.py").exists())
PACKAGES += ["parallel"]  # a former one
# Within code marks: jaxgen.nn.unets.vdm.LinearGamma, nn.unets.vdm, evaluation.likelihood(...).
PATH = re.compile(rf"(?<![\w./])((?:jaxgen\.)?(?:{'|'.join(PACKAGES)})(?:\.[A-Za-z]\w*)+)(?![\w/])")
PAGES = {path.relative_to(conftest.REPOSITORY).as_posix(): path for path in conftest.REPOSITORY.glob("docs/*.md")}


def dotted(file, text):
  """The dotted paths of jaxgen that a file's docstrings and comments, or a page, have between backticks."""
  if file.endswith(".py"):
    tree = ast.parse(text)
    kinds = ast.FunctionDef | ast.ClassDef | ast.Module
    docstrings = [ast.get_docstring(node) or "" for node in ast.walk(tree) if isinstance(node, kinds)]
    text = "\n\n".join([*docstrings, *re.findall(r"#.*", text)])
  paths = {path for code in re.findall(r"`([^`]+)`", text) for path in PATH.findall(code)}
  return {path for path in paths if not re.search(r"^nn\.[A-Z]|\.(py|md|json)$", path)}  # flax's nn; files


def is_there(path):
  try:
    pkgutil.resolve_name(f"jaxgen.{path.removeprefix('jaxgen.')}")
  except (ImportError, AttributeError):
    return False
  return True


@pytest.mark.parametrize("file", [*FILES, *PAGES])
def test_dotted_paths_exist(file):
  text = (FILES | PAGES)[file].read_text()
  missing = [path for path in sorted(dotted(file, text)) if not is_there(path)]
  assert not missing, f"{file} names what has moved: {', '.join(missing)}"


def test_dotted_paths_are_found():
  assert dotted("x.md", "see `jaxgen.nn.unets.vdm.LinearGamma` and `nn.layers`, not nn.conv or `nn/conv.py`") == {
    "jaxgen.nn.unets.vdm.LinearGamma",
    "nn.layers",
  }
  assert is_there("jaxgen.nn.unets.vdm.LinearGamma")
  assert not is_there("nn.layers")
