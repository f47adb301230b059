"""What a gradient computes again rather than keeps.

Outside of a loop the compiler sees both computations side by side and makes one of them, which it keeps, unless it is
told not to. In the body of a loop it cannot, for forward and backward pass are two loops, and telling it costs time. By
the TPU's compiler (v5e), four blocks of attention in a row need 51 MiB in place of 101 where it is told, and the same
blocks in a loop a seventh more cycles for nothing.
"""

import contextlib
import contextvars
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax

_in_loop = contextvars.ContextVar("_in_loop", default=False)


@contextlib.contextmanager
def in_a_loop() -> Iterator[None]:
  """What is traced within is the body of a loop."""
  token = _in_loop.set(True)
  try:
    yield
  finally:
    _in_loop.reset(token)


def again(function: Callable[..., Any], static_argnums: Sequence[int] = ()) -> Callable[..., Any]:
  """The same function, of which a gradient keeps the arguments alone and makes all else again."""
  return jax.checkpoint(function, prevent_cse=not _in_loop.get(), static_argnums=tuple(static_argnums))
