"""Units of throughput: images, tokens, seconds of sound."""

import math
from typing import NamedTuple

from jaxgen.data.audio import rate_of
from jaxgen.data.dataset import Dataset


class Unit(NamedTuple):
  """A unit of throughput.

  Attributes:
    name: the unit's name, in the plural.
    each: the number of units in one example.
  """

  name: str
  each: float


def unit(data: Dataset) -> Unit:
  """The unit of a data set's examples, and how many of it an example has; nothing is read.

  Waves are seconds of audio, whatever a method sees of them. Tokens count with their padding, of a pair of
  sentences those of the target, and beside pictures none. What is neither of these nor an image is an example.
  """
  features = data.features
  if "wave" in features:
    return Unit("seconds of audio", features["wave"].shape[0] / rate_of(data))
  for name in ("tokens", "target") if "image" not in features else ():
    if name in features:
      return Unit("tokens", float(math.prod(features[name].shape)))
  return Unit("images" if "image" in features else "examples", 1.0)
