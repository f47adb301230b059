"""What a run may go on with."""

import json

import conftest
import pytest

from jaxgen.core.errors import UserError
from jaxgen.engine.config import load_config
from jaxgen.engine.folder import Folder
from jaxgen.engine.provenance import check_same


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
