"""Where compiled programs and trained judges are kept."""

import os
import pathlib


def cache_folder() -> pathlib.Path:
  """Where compiled programs and trained judges are kept: $JAXGEN_CACHE, else ~/.cache/jaxgen."""
  return pathlib.Path(os.environ.get("JAXGEN_CACHE") or pathlib.Path.home() / ".cache" / "jaxgen")
