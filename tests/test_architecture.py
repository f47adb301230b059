"""The arrows of the architecture, as pyproject.toml has them: nothing imports upwards and nothing in a circle."""

import subprocess
import sys

import conftest

LINT = "import sys; from importlinter import cli; sys.exit(cli.lint_imports(no_cache=True))"


def test_imports_point_one_way():
  found = subprocess.run([sys.executable, "-c", LINT], cwd=conftest.REPOSITORY, capture_output=True, text=True)
  assert found.returncode == 0, found.stdout + found.stderr
