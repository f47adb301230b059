"""A config's arguments as JSON, in which run.json and the ledger keep them, and as flags."""

import enum
import inspect
import pathlib
import types
import typing
from collections.abc import Mapping
from typing import Any

import numpy as np


def to_json(value: Any) -> Any:
  """A value in JSON: a path becomes a string, an Enum's member and a dtype their names, a tuple a list.

  Raises:
    TypeError: JSON cannot hold the value. The message says what it can hold.
  """
  if isinstance(value, enum.Enum):
    return value.name
  if value is None or type(value) in (bool, int, float, str):
    return value
  if isinstance(value, (list, tuple)):
    return [to_json(x) for x in value]
  if isinstance(value, dict) and all(type(key) is str for key in value):
    return {key: to_json(x) for key, x in value.items()}
  if isinstance(value, pathlib.PurePath):
    return str(value)
  if isinstance(value, np.generic):
    return to_json(value.item())
  if is_dtype(value):
    return np.dtype(value).name
  raise TypeError(
    f"is a {type(value).__name__}, which a run cannot keep: take a number, a text, a path, an Enum, a dtype, or a "
    "tuple or dict of these"
  )


def as_flags(arguments: Mapping[str, Any]) -> str:
  """Arguments as flags of the command line."""
  return " ".join(f"--{name.replace('_', '-')} {value}" for name, value in arguments.items())


def as_flag(kind: Any, value: Any) -> tuple[Any, Any]:
  """(type, default) of an argument's flag. A dtype's flag takes its name, a NumPy number's a Python number."""
  if is_dtype(value):
    return str, np.dtype(value).name
  return _flag_type(kind), value.item() if isinstance(value, np.generic) else value


def kind_in_words(kind: Any) -> str:
  """A type in words, for error messages: "float", "int or None", "'ddim' or 'heun'", "tuple of int"."""
  origin, inner = typing.get_origin(kind), typing.get_args(kind)
  if origin is typing.Annotated:
    return kind_in_words(inner[0])
  if origin in (typing.Union, types.UnionType):
    return " or ".join(map(kind_in_words, inner))
  if origin is typing.Literal:
    return " or ".join(map(repr, inner))
  if origin in (tuple, list):
    return f"{origin.__name__} of {', '.join(kind_in_words(k) for k in inner if k is not Ellipsis)}"
  if inspect.isclass(kind) and issubclass(kind, enum.Enum):
    return " or ".join(kind.__members__)
  return "None" if kind is types.NoneType else getattr(kind, "__name__", str(kind))


def _flag_type(kind: Any) -> Any:
  origin, inner = typing.get_origin(kind), typing.get_args(kind)
  if origin in (typing.Union, types.UnionType):
    return typing.Union[tuple(_flag_type(k) for k in inner)]  # noqa: UP007 - of types that are known at run time alone
  if origin in (tuple, list):
    return origin[tuple(k if k is Ellipsis else _flag_type(k) for k in inner)]
  if inspect.isclass(kind) and issubclass(kind, np.dtype):
    return str
  return type(kind(0).item()) if inspect.isclass(kind) and issubclass(kind, np.generic) else kind


def is_dtype(value: Any) -> bool:
  """Whether a value is a dtype: np.dtype("float32"), np.float32 or jnp.float32."""
  if isinstance(value, type):
    return issubclass(value, np.generic) or isinstance(getattr(value, "dtype", None), np.dtype)
  return isinstance(value, np.dtype)


def from_json(value: Any, kind: Any) -> Any:
  """The inverse of `to_json` for a value of the annotated type `kind`. A value of that type is returned as it is.

  Raises:
    KeyError: no member of the Enum has this name.
    TypeError: no dtype has this name.
  """
  origin, inner = typing.get_origin(kind), typing.get_args(kind)
  if origin is typing.Annotated:
    return from_json(value, inner[0])
  if origin in (typing.Union, types.UnionType):
    fitting = [k for k in inner if inspect.isclass(k) and isinstance(value, k)]
    return value if fitting or value is None else from_json(value, next(k for k in inner if k is not type(None)))
  if isinstance(value, list) and (kind is tuple or origin is tuple):
    kinds = [k for k in inner if k is not Ellipsis] or [None]
    return tuple(from_json(x, kinds[min(i, len(kinds) - 1)]) for i, x in enumerate(value))
  if isinstance(value, list) and origin is list:
    return [from_json(x, inner[0]) for x in value]
  if not inspect.isclass(kind) or isinstance(value, kind):
    return value
  if isinstance(value, str):
    if issubclass(kind, enum.Enum):
      return kind[value]
    if issubclass(kind, pathlib.PurePath):
      return kind(value)
    if issubclass(kind, np.dtype):
      return np.dtype(value)
  if issubclass(kind, np.generic) and isinstance(value, (bool, int, float)):
    return kind(value)
  return value
