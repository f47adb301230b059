"""What `test_every_method.py` needs to know of a method.

A family's cases stand in tests/methods/FAMILY/FAMILY_cases.py.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from jaxgen.core.method import Method
from jaxgen.data import Dataset

BATCH = 16


class Case(NamedTuple):
  """A method to be tested.

  Attributes:
    build: dtype of parameters and computation -> the method at a size for tests.
    data: what it learns from.
    conditions: number of samples -> what each is asked for.
    whole: a word of the reason for which it takes its batch whole, no microbatches and no pmap; None where it takes
      them.
    falls: the end of the name of a metric that falls when it learns; None where none does.
    pmap: whether the test of pmap runs it; a few methods stand for all.
  """

  build: Callable[[Any], Method]
  data: Dataset
  whole: str | None = None
  conditions: Callable[[int], dict[str, np.ndarray]] = lambda n: {}
  falls: str | None = "loss"
  pmap: bool = False
