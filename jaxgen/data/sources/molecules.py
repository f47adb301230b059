"""The data set `molecules:FILE`: molecules in space, {"molecule": float32 [atoms, 4], "gyration": float32 [1]}.

An atom is x, y, z in angstrom and its atomic number; rows of zeros follow the last one. The radius of gyration, a
property of each molecule, is standardised by the mean and the standard deviation of the split "train". The file is
one of NumPy: `positions` float [M, A, 3], `numbers` [M, A], atomic numbers, 0 where there is no atom, and `split`
[M], "train" or "test".
"""

from pathlib import Path

import numpy as np
from jaxtyping import Float

from jaxgen.core.errors import NoSplit, UserError
from jaxgen.core.files import NPZ_ERRORS
from jaxgen.data.sources.base import Arrays, Request, select


def gyration(x: Float[np.ndarray, "n atoms four"]) -> Float[np.ndarray, " n"]:
  """The radius of gyration, angstrom: the root of the mean squared distance of atoms from their mean, all alike."""
  there = x[..., 3:] > 0
  count = np.maximum(there.sum(1), 1)
  away = np.where(there, x[..., :3] - (x[..., :3] * there).sum(1, keepdims=True) / count[:, None], 0)
  return np.sqrt((away**2).sum((1, 2)) / count[:, 0])


def open_molecules(request: Request) -> Arrays:
  """Raises a UserError if the file, split or feature is missing, the file is damaged, or a molecule is too large."""
  name, path = request.name, Path(request.rest).expanduser()
  if not path.is_file():
    raise UserError(f"there is no file {path.absolute()}, which the data set {name} names")
  if other := set(request.features) - {"molecule", "gyration"}:
    raise UserError(f"{name} has molecules and their radius of gyration, and no {min(other)!r}")
  if "molecule" not in request.features:
    raise UserError(f"{name} has molecules, and the config asks for none: add them to its features")
  try:
    with np.load(path, allow_pickle=False) as arrays:
      positions, numbers, split = (arrays[key] for key in ("positions", "numbers", "split"))
  except KeyError as error:
    raise UserError(f"{path} lacks one of the arrays positions, numbers, split: {error.args[0]}") from error
  except NPZ_ERRORS as error:
    raise UserError(f"{path} cannot be read as a NumPy file of molecules ({error}): make it anew") from error
  real = all(a.dtype.kind in "fiu" for a in (positions, numbers)) and split.dtype.kind == "U"
  if numbers.ndim != 2 or positions.shape != (*numbers.shape, 3) or split.shape != numbers.shape[:1] or not real:
    kinds = ", ".join(f"{a.dtype} {list(a.shape)}" for a in (positions, numbers, split))
    raise UserError(
      f"{path} has positions, numbers and split of {kinds}: they must be numbers [M, atoms, 3] and [M, atoms], and "
      "texts [M]"
    )
  if (numbers < 0).any() or (numbers != np.round(numbers)).any():
    raise UserError(f"{path} has atomic numbers that are not 0, 1, 2, ...: repair them")
  for what, wrong in (
    ("positions that are not finite", ~np.isfinite(np.where(numbers[..., None] > 0, positions, 0)).all((1, 2))),
    ("no atoms", ~(numbers > 0).any(1)),
  ):
    if wrong.any():
      raise UserError(
        f"{path} has {what} in {wrong.sum():,} of {len(wrong):,} molecules, the first of which is number "
        f"{wrong.argmax():,}, counted from 0: repair them or leave them out"
      )
  chosen = split == request.split
  if not chosen.any():
    raise NoSplit(f"{name} has no split {request.split!r}: it has {' and '.join(sorted(set(split.tolist())))}")
  most, room = int((numbers > 0).sum(1).max()), request.features["molecule"].shape[0]
  if most > room:
    raise UserError(f"{name} has molecules of {most} atoms, and the config has room for {room}: give it more")
  every = np.zeros((len(numbers), room, 4), np.float32)
  for row, where, number in zip(every, positions, numbers, strict=True):
    there = number > 0
    row[: there.sum(), :3], row[: there.sum(), 3] = where[there], number[there]
  radius = gyration(every)
  of_train = radius[split == "train"] if (split == "train").any() else radius
  standard = (radius - of_train.mean()) / max(of_train.std(), 1e-6)
  found = {"molecule": every[chosen], "gyration": standard[chosen, None].astype(np.float32)}
  return Arrays(select(found, request.features, name))
