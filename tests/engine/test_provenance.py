"""What a run may go on with."""

import json
import os
import subprocess

import conftest
import pytest

from jaxgen.core.errors import UserError
from jaxgen.engine.config import load_config
from jaxgen.engine.folder import Folder
from jaxgen.engine.provenance import check_same, git_revision


def test_steps_that_a_preset_says_may_be_raised_and_not_lowered(tmp_path):
  config = load_config(conftest.REPOSITORY / "configs" / "likelihood" / "density_digits.py")
  begun = config.defaults()
  assert begun["steps"] is None
  info = {"config": config.name, "arguments": begun, "seed": 0}
  (tmp_path / "run.json").write_text(json.dumps(info))
  (tmp_path / "config.py").write_text(config.source)
  for steps in (None, 1_000, 3_000):  # NADE's are 1,000
    check_same(Folder(tmp_path), config, begun | {"steps": steps}, 0)
  with pytest.raises(UserError, match="--steps None, not 999"):
    check_same(Folder(tmp_path), config, begun | {"steps": 999}, 0)
  with pytest.raises(UserError, match="--model nade, not made"):
    check_same(Folder(tmp_path), config, begun | {"model": "made", "steps": 3_000}, 0)


@pytest.mark.parametrize("setting", ["core.fsmonitor", "filter.mine.clean", "filter.mine.process"])
def test_programs_that_a_repository_names_are_not_run(tmp_path, setting):
  """git runs them when it is asked whether something has changed."""
  git = lambda *words: (
    subprocess.run(["git", "-C", tmp_path, *words], check=True, capture_output=True, text=True).stdout
  )
  file, program = tmp_path / "config.py", tmp_path / "program"
  file.write_text("x = 1\n")
  (tmp_path / ".gitattributes").write_text("*.py filter=mine\n")
  git("init")
  git("add", ".")
  git("-c", "user.name=x", "-c", "user.email=x@y", "commit", "-m", "first")
  program.write_text(f"#!/bin/sh\ntouch {tmp_path / 'was_run'}\ncat\n")
  program.chmod(0o755)
  git("config", setting, str(program))
  os.utime(file, (1, 1))  # so that git looks at what is in it
  assert git_revision(file) == git("rev-parse", "HEAD").strip()
  assert not (tmp_path / "was_run").exists()
  file.write_text("x = 2\n")
  assert git_revision(file) == git("rev-parse", "HEAD").strip() + "+"
