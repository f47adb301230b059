"""The data sets `points:MODES:STD`: normal clouds in the plane, {"x": float32 [2]}."""

import numpy as np
from jaxtyping import Float

from jaxgen.core.errors import NoSplit, UserError
from jaxgen.data.sources.base import Arrays, Request, select

SIZES = {"train": 50_000, "test": 10_000}


def modes(name: str) -> Float[np.ndarray, "modes 2"]:
  """Centres of the clouds: of ring8 on the unit circle, of grid25 at -4, -2, 0, 2 and 4 in both directions.

  As in Lin et al. 2018, https://arxiv.org/abs/1712.04086, section 4.1, with standard deviations 0.01 and 0.05.
  """
  if name == "ring8":
    angle = np.arange(8) * (np.pi / 4)
    return np.stack([np.cos(angle), np.sin(angle)], axis=-1)
  if name == "grid25":
    return np.stack(np.meshgrid(*[np.arange(-4.0, 5.0, 2.0)] * 2, indexing="ij"), axis=-1).reshape(-1, 2)
  raise UserError(f"there are no points {name!r}, only ring8 and grid25")


def open_points(request: Request) -> Arrays:
  """Each split has its own random generator."""
  name, _, std = request.rest.partition(":")
  centres = modes(name)
  try:
    spread = float(std)
  except ValueError:
    raise UserError(f"{request.name} lacks the clouds' standard deviation: the form is points:{name}:0.05") from None
  if request.split not in SIZES:
    raise NoSplit(f"{request.name} has no split {request.split!r}: it has train (50,000) and test (10,000)")
  rng = np.random.default_rng(list(SIZES).index(request.split))
  chosen = centres[rng.integers(len(centres), size=SIZES[request.split])]
  x = chosen + spread * rng.normal(size=chosen.shape)
  return Arrays(select({"x": x.astype(np.float32)}, request.features, request.name))
