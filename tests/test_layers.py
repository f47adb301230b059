"""The arrows of the architecture, as pyproject.toml has them: nothing imports upwards and nothing in a circle."""

import conftest
from importlinter import cli


def test_imports_point_one_way(monkeypatch, capsys):
  monkeypatch.chdir(conftest.REPOSITORY)
  assert cli.lint_imports(no_cache=True, is_debug_mode=False) == cli.EXIT_STATUS_SUCCESS, capsys.readouterr().out
