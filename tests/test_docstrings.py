"""Docstrings are what the site's reference is made of: their arguments stand under a heading and are the real ones."""

import ast
import re

import conftest
import pytest

FILES = [
  path for folder in ("jaxgen", "configs", "benchmarks") for path in conftest.REPOSITORY.rglob(f"{folder}/**/*.py")
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
    if isinstance(x, ast.Assign | ast.AnnAssign):
      for target in x.targets if isinstance(x, ast.Assign) else [x.target]:
        for part in ast.walk(target):
          if isinstance(part, ast.Attribute):
            names.add(part.attr)
          elif isinstance(part, ast.Name):
            names.add(part.id)
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
