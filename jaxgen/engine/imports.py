"""Modules beside a config: `import helpers` in configs/mine.py finds configs/helpers.py."""

import ast
import builtins
import contextlib
import importlib
import importlib.machinery
import pathlib
import sys
import threading
from collections.abc import Iterator
from types import ModuleType
from typing import Any

PROJECT = "jaxgen"  # never counts as one of a folder's own modules, though it lies beside the configs in a checkout


class Imports:
  """The modules that a config's code imports from its own folder.

  Only this config sees them: another config's helpers.py is another module. A run keeps a copy of them, including those
  that a function imports only when it is called, such as an evaluator.

  Attributes:
    modules: the modules imported so far, by name, including the config itself.
    sources: their text by path within the folder.
  """

  _lock = threading.RLock()  # what is imported is shared by all threads
  _stack: list["Imports"] = []  # noqa: RUF012 - whose code runs, the innermost last

  def __init__(self, folder: pathlib.Path):
    self.folder = folder.resolve()
    self.modules: dict[str, ModuleType] = {}
    self.sources: dict[str, str] = {}
    self._finder = _Finder(self)
    self._builtins = {**vars(builtins), "__import__": self._import}

  def adopt(self, module: ModuleType) -> None:
    """Prepares a module that has not run yet, so that its imports find this folder's modules."""
    module.__dict__["__builtins__"] = self._builtins

  def _import(self, *arguments: Any, **options: Any) -> ModuleType:
    """`__import__` of this folder's modules."""
    with self.active():
      return builtins.__import__(*arguments, **options)

  def keep(self, source: str, package: str = "") -> None:
    """Reads the modules of this folder that a source imports, at any place, and those that they import.

    Args:
      source: the source.
      package: the package of the source's module.
    """
    try:
      tree = ast.parse(source)
    except (SyntaxError, ValueError):
      return  # the importer gets the error
    for node in ast.walk(tree):
      if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
      elif isinstance(node, ast.ImportFrom):
        above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
        module = ".".join([*filter(None, above), *filter(None, [node.module])])
        names = [module, *(f"{module}.{alias.name}" for alias in node.names)]
      else:
        continue
      for name in names:
        parts = name.split(".")
        for i in range(1, len(parts) + 1):
          self._keep(parts[:i])

  def _keep(self, parts: list[str]) -> None:
    if parts[0] == PROJECT:
      return
    path = self.folder.joinpath(*parts)
    for file, package in ((path / "__init__.py", parts), (path.with_name(f"{path.name}.py"), parts[:-1])):
      name = file.relative_to(self.folder).as_posix()
      if name not in self.sources and file.is_file():
        with contextlib.suppress(OSError, UnicodeDecodeError):
          self.sources[name] = file.read_text()
          self.keep(self.sources[name], ".".join(package))

  @contextlib.contextmanager
  def active(self) -> Iterator[None]:
    """A context for running the config's code: imports look into its folder first, and find the modules it has."""
    with Imports._lock:
      outer = Imports._stack[-1] if Imports._stack else None
      if outer is self:
        yield
        return
      if outer is not None:
        outer._leave()
      self._enter()
      Imports._stack.append(self)
      try:
        yield
      finally:
        Imports._stack.pop()
        self._leave()
        if outer is not None:
          outer._enter()

  def _enter(self) -> None:
    self._hidden = {name: sys.modules[name] for name in self.modules if name in sys.modules}
    sys.modules.update(self.modules)
    self._before = set(sys.modules) - set(self.modules)
    sys.path.insert(0, str(self.folder))
    sys.meta_path.insert(0, self._finder)
    importlib.invalidate_caches()  # the folder's files may be new
    self._bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True

  def _leave(self) -> None:
    sys.dont_write_bytecode = self._bytecode
    sys.meta_path.remove(self._finder)
    sys.path.remove(str(self.folder))
    for name in set(sys.modules) - self._before:
      path = self._path_of(name)
      if path is not None and path.is_file() and name not in self.modules:  # by another way than a statement
        self.sources.setdefault(path.relative_to(self.folder).as_posix(), path.read_text())
      if path is not None or name in self.modules:
        self.modules[name] = sys.modules.pop(name)
    sys.modules.update(self._hidden)

  def _path_of(self, name: str) -> pathlib.Path | None:
    """The file of one of this folder's modules, or its folder if it has no file; None: it is not one of them."""
    module = sys.modules[name]
    return self.own(name, {getattr(module, "__file__", None), *getattr(module, "__path__", ())})

  def own(self, name: str, places: set[str | None]) -> pathlib.Path | None:
    """The one of `places` at which this folder has a module of that name; None if there is none.

    Packages of an environment that lies inside the folder do not count.
    """
    path = self.folder.joinpath(*name.split("."))
    candidates = (path.with_name(f"{path.name}.py"), path / "__init__.py", path)
    return next((p for p in candidates if str(p) in places and name.split(".")[0] != PROJECT), None)


class _Finder:
  """Finds modules like Python's finder, and prepares the folder's own modules before they run."""

  def __init__(self, imports: Imports):
    self.imports = imports

  def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
    spec = importlib.machinery.PathFinder.find_spec(name, path, target)
    if spec is None or self.imports.own(name, {spec.origin}) is None:
      return None
    spec.loader = _Loader(name, spec.origin, self.imports)
    return spec


class _Loader(importlib.machinery.SourceFileLoader):
  def __init__(self, name: str, path: str, imports: Imports):
    super().__init__(name, path)
    self.imports = imports

  def exec_module(self, module: ModuleType) -> None:
    self.imports.adopt(module)
    super().exec_module(module)
