"""Every method says the unit of its loss, in its own docstring or its module's."""

import ast
import re

import conftest
import pytest

FILES = sorted((conftest.REPOSITORY / "jaxgen" / "methods").rglob("*.py"))
UNIT = re.compile(
  r"nats per (example|entry|token)|per example, nats|JSD.* nats|a mean per entry|They are no nats", re.DOTALL
)


def methods():
  for path in FILES:
    tree = ast.parse(path.read_text())
    for node in tree.body:
      if isinstance(node, ast.FunctionDef) and node.returns is not None and ast.unparse(node.returns) == "Method":
        text = f"{ast.get_docstring(tree)} {ast.get_docstring(node)}"
        yield pytest.param(" ".join(text.split()), id=node.name)


@pytest.mark.parametrize("text", list(methods()))
def test_the_unit_of_the_loss_is_said(text):
  assert UNIT.search(text)


def test_there_are_methods():
  assert len(list(methods())) > 15
