"""The data set `molecules:FILE`: molecules in space, {"molecule": float32 [atoms, 4]}.

An atom is x, y, z in angstrom and its atomic number; rows of zeros follow the last one. The file is one of NumPy:
`positions` float [M, A, 3], `numbers` [M, A], atomic numbers, 0 where there is no atom, and `split` [M], "train" or
"test".
"""

from pathlib import Path

import numpy as np

from jaxgen.core.errors import NoSplit, UserError
from jaxgen.core.files import NPZ_ERRORS
from jaxgen.data.sources.base import Arrays, Request, select


def open_molecules(request: Request) -> Arrays:
  """Raises a UserError where there is no such file, split or feature, the file is damaged or a molecule too large."""
  name, path = request.name, Path(request.rest).expanduser()
  if not path.is_file():
    raise UserError(f"there is no file {path.absolute()}, which the data set {name} names")
  if set(request.features) != {"molecule"}:
    other = min(set(request.features) - {"molecule"}, default="other")
    raise UserError(f"{name} has molecules, and no {other!r}")
  try:
    with np.load(path, allow_pickle=False) as arrays:
      positions, numbers, split = (arrays[key] for key in ("positions", "numbers", "split"))
  except KeyError as error:
    raise UserError(f"{path} lacks one of the arrays positions, numbers, split: {error.args[0]}") from error
  except NPZ_ERRORS as error:
    raise UserError(f"{path} cannot be read as a NumPy file of molecules ({error}): make it anew") from error
  numeric = numbers.ndim == 2 and all(np.issubdtype(a.dtype, np.number) for a in (positions, numbers))
  if (
    not numeric
    or positions.shape != (*numbers.shape, 3)
    or split.shape != numbers.shape[:1]
    or not np.isfinite(positions).all()
  ):
    raise UserError(f"{path} is damaged: it has {positions.shape} positions and {numbers.shape} atoms: make it anew")
  chosen = split == request.split
  if not chosen.any():
    raise NoSplit(f"{name} has no split {request.split!r}: it has {' and '.join(sorted(set(split.tolist())))}")
  most, room = int((numbers > 0).sum(1).max()), request.features["molecule"].shape[0]
  if most > room:
    raise UserError(f"{name} has molecules of {most} atoms, and the config has room for {room}: give it more")
  found = np.zeros((int(chosen.sum()), room, 4), np.float32)
  for row, where, number in zip(found, positions[chosen], numbers[chosen], strict=True):
    there = number > 0
    row[: there.sum(), :3], row[: there.sum(), 3] = where[there], number[there]
  return Arrays(select({"molecule": found}, request.features, name))
