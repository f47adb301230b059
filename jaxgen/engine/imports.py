"""Modules beside a config: `import helpers` in configs/mine.py finds configs/helpers.py."""

import contextlib
import importlib
import pathlib
import sys
from collections.abc import Iterator
from types import ModuleType


class Imports:
  """The modules that a config's code imports from its own folder.

  They are seen by this config alone: another's helpers.py is another module. A run keeps a copy of them.

  Attributes:
    sources: their text by path within the folder.
  """

  def __init__(self, folder: pathlib.Path):
    self.folder = folder.resolve()
    self.modules: dict[str, ModuleType] = {}
    self.sources: dict[str, str] = {}

  @contextlib.contextmanager
  def active(self) -> Iterator[None]:
    """While the config's code runs: imports look into its folder first, and find its modules of before."""
    hidden = {name: sys.modules[name] for name in self.modules if name in sys.modules}
    sys.modules.update(self.modules)
    before = set(sys.modules) - set(self.modules)
    folder = str(self.folder)
    sys.path.insert(0, folder)
    importlib.invalidate_caches()  # the folder's files may be new
    bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
      yield
    finally:
      sys.dont_write_bytecode = bytecode
      sys.path.remove(folder)
      for name in set(sys.modules) - before:
        path = self._path_of(name)
        if path is not None and path.is_file() and name not in self.modules:
          self.sources[path.relative_to(self.folder).as_posix()] = path.read_text()
        if path is not None or name in self.modules:
          self.modules[name] = sys.modules.pop(name)
      sys.modules.update(hidden)

  def _path_of(self, name: str) -> pathlib.Path | None:
    """The module's file, or its folder if it has none, where it is one of this folder's own.

    What is installed in an environment that lies in the folder is not.
    """
    module, path = sys.modules[name], self.folder.joinpath(*name.split("."))
    places = {getattr(module, "__file__", None), *getattr(module, "__path__", ())}
    candidates = (path.with_name(f"{path.name}.py"), path / "__init__.py", path)
    return next((p for p in candidates if str(p) in places and name.split(".")[0] != "jaxgen"), None)
