"""Where compiled programs and trained judges are kept."""

import os
import pathlib


def cache_folder() -> pathlib.Path:
  """The folder for compiled programs and trained judges: $JAXGEN_CACHE, or ~/.cache/jaxgen if that is not set."""
  return pathlib.Path(os.environ.get("JAXGEN_CACHE") or pathlib.Path.home() / ".cache" / "jaxgen")
