"""The data sets `reversed:LETTERS`: random strings and the same from their end, {"source", "target": int32 [T]}.

Letters are tokens 3 .. LETTERS + 2; behind a string stands its end, 2, and then padding, 0.
"""

import re

import numpy as np

from jaxgen.core.errors import UserError
from jaxgen.data.sources.base import Arrays, Request, select

SIZE = 8_192  # strings in each split


def open_reversed(request: Request) -> Arrays:
  """The split LEAST-MOST-STEP, 1-17-2 for one, has strings of LEAST, LEAST + STEP, ... letters."""
  lengths = re.fullmatch(r"(\d+)-(\d+)-(\d+)", request.split)
  if not request.rest.isdecimal() or lengths is None:
    raise UserError(
      f"{request.name}, split {request.split!r}: the form is reversed:26, with splits such as 1-17-2, of lengths"
    )
  (least, most, step), (width,) = (int(n) for n in lengths.groups()), request.features["source"].shape
  if not 1 <= least <= most < width or step < 1:
    raise UserError(
      f"strings of {request.split} letters and their end, and the config has room for {width} tokens: change it"
    )
  rng, place = np.random.default_rng([least, most, step]), np.arange(width)
  size = rng.choice(np.arange(least, most + 1, step), SIZE)[:, None]
  letters = rng.integers(3, int(request.rest) + 3, (SIZE, width))
  from_the_end = np.take_along_axis(letters, np.maximum(size - 1 - place, 0), axis=1)
  ended = lambda tokens: np.where(place < size, tokens, np.where(place == size, 2, 0)).astype(np.int32)
  strings = {"source": ended(letters), "target": ended(from_the_end)}
  return Arrays(select(strings, request.features, request.name))
