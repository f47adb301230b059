"""The arrows of the architecture, as pyproject.toml has them: nothing imports upwards and nothing in a circle."""

import conftest
from importlinter import configuration
from importlinter.application import use_cases


def test_imports_point_one_way(monkeypatch, capsys):
  """Not by its `cli`, which would leave a handler of this process's log that writes to the test's captured output."""
  monkeypatch.chdir(conftest.REPOSITORY)
  configuration.configure()
  assert use_cases.lint_imports(cache_dir=None), capsys.readouterr().out
