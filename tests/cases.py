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
    unit: (a number's name in `evaluate`, or its value if it is known at a run's first state; the number of values,
      tokens, codes or labels of an example that each loss is a mean over). Losses times these sum to about that number.
      None: no number is known for them, as of energies, whose level is free.
  """

  build: Callable[[Any], Method]
  data: Dataset
  whole: str | None = None
  conditions: Callable[[int], dict[str, np.ndarray]] = lambda n: {}
  falls: str | None = "loss"
  pmap: bool = False
  unit: tuple[str | float, dict[str, int]] | None = None
