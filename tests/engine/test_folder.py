"""A run's folder."""

import pathlib

import pytest

from jaxgen.core.errors import UserError
from jaxgen.engine.folder import Folder


@pytest.mark.parametrize("path", ["gs://bucket/runs/x", "s3://bucket/x", pathlib.Path("gs://bucket") / "x"])
def test_addresses_on_object_stores_are_refused_and_not_made_folders_here(path):
  with pytest.raises(UserError, match="on an object store, where runs cannot be written: give a folder"):
    Folder(path)
