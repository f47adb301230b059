"""What identifies a run: the program of its updates, and the content of its data.

Arguments are compared by their effect. Arguments that change no update (a prompt, a solver, the number of samples, a
judge, the data's folder) do not change the program, and may differ when a run is resumed.
"""

import hashlib
import re
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from jaxgen.data.dataset import Dataset
from jaxgen.data.sources import Source
from jaxgen.engine.run import Run

ADDRESS = re.compile(
  r"0x[0-9a-f]+"
)  # of a function, which Python's text of a traced program has and which means nothing
WHOLE = 2**26  # bytes; an array of up to so many is hashed whole, of a larger one so many blocks
BLOCKS, BLOCK = 256, 2**16


def of_updates(run: Run) -> str:
  """SHA-256 of the traced programs of a run's initialisation and of one of its steps, with all constants.

  Nothing is compiled or computed. The sources of data and frozen networks do not enter.
  """
  digest = hashlib.sha256()
  data = run.data
  if data.view is not None or data.repeats != 1:  # which examples a batch has, which the programs do not show
    digest.update(f"{data.view} {data.repeats}".encode())
  for program in (run.program.init_traced.jaxpr, run.program.step_traced.jaxpr):
    digest.update(ADDRESS.sub("", str(program)).encode())
    for constant in _constants(program):
      digest.update(np.ascontiguousarray(constant).tobytes())
  return digest.hexdigest()


def _constants(part: Any) -> Iterator[np.ndarray]:
  """The arrays that a traced program holds, in order. The program's text does not show their values."""
  if isinstance(part, (ClosedJaxpr, Jaxpr)):
    program = getattr(part, "jaxpr", part)  # in jax 0.12 both are one class, whose `jaxpr` is itself
    for constant in getattr(part, "consts", ()):
      yield from _constants(constant)
    for equation in program.eqns:
      for variable in equation.invars:
        if isinstance(variable, Literal):
          yield from _constants(variable.val)
      for parameter in equation.params.values():
        yield from _constants(parameter)
  elif isinstance(part, (list, tuple)):
    for each in part:
      yield from _constants(each)
  elif isinstance(part, (np.ndarray, jax.Array)):
    is_key = jax.dtypes.issubdtype(part.dtype, jax.dtypes.prng_key)
    yield np.asarray(jax.random.key_data(part) if is_key else part)


def of_data(data: Dataset, split: str = "train") -> dict[str, Any]:
  """A fingerprint of a split, as run.json keeps it: {"examples": their number, "sha256": of their content}.

  The hash is of examples as they are read, without names and paths. Of data in memory it takes all bytes, or evenly
  spaced blocks if there are many; of other data the labels and 64 examples.
  """
  source = data.source(split)
  return {"examples": len(source), "sha256": _content(source)}


def _content(source: Source) -> str:
  digest, found = hashlib.sha256(f"{len(source)}".encode()), dict(source.arrays)
  if not source.in_memory:
    found |= source.gather(np.unique(np.linspace(0, len(source) - 1, 64).round().astype(np.int64)))
    found |= source.arrays
  for name, array in sorted(found.items()):
    digest.update(f"{name} {array.dtype.name} {array.shape}".encode())
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    if flat.nbytes <= WHOLE:
      digest.update(flat)
    else:
      for start in np.linspace(0, flat.nbytes - BLOCK, BLOCKS).astype(np.int64):
        digest.update(flat[start : start + BLOCK])
  return digest.hexdigest()
