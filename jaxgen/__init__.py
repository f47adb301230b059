"""Generative models in JAX: one training loop, one state, one checkpoint format and one command line.

run = jaxgen.load("runs/ddpm_digits")
images = run.sample(16, seed=0)          # [16, H, W, C] in [-1, 1]
"""

import importlib
from typing import Any

from jaxgen.core import environment

environment.set_xla_flags()  # before jax's backend reads them

# The modules of the public names. They are imported at first use, so that `jaxgen --help` need not wait for jax.
_HOMES = {
  "Experiment": "jaxgen.engine.experiment",
  "Run": "jaxgen.engine.run",
  "UserError": "jaxgen.core.errors",
  "load": "jaxgen.engine.run",
}
__all__ = ["Experiment", "Run", "UserError", "load"]


def __getattr__(name: str) -> Any:
  if name not in _HOMES:
    raise AttributeError(f"module 'jaxgen' has no attribute {name!r}")
  return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
  return sorted([*globals(), *_HOMES])
