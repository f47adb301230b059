"""What one example is: said once, by the data set, to whatever is made for it."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxgen.core.errors import UserError


class Spec(NamedTuple):
  """What one example is.

  Attributes:
    shape: of one example.
    levels: values that each entry may take, None for real numbers.
    classes: number of labels, None without labels.
    feature: the example's name in a batch.
    dtype: as a method sees it.
    mask: the name of a batch's booleans [B, ...], of the example's leading axes, that say which entries are there; what
      is not there is padding. None: all are.
  """

  shape: tuple[int, ...]
  levels: int | None = None
  classes: int | None = None
  feature: str = "image"
  dtype: Any = np.float32
  mask: str | None = None

  @property
  def size(self) -> int:
    """Entries of an example."""
    return math.prod(self.shape)


def check_batch(spec: Spec, batch: Mapping[str, Any], labels: bool = False) -> None:
  """Whether a batch has what a method was made for; it may hold arrays or shapes.

  Args:
    labels: the method needs "label", too.

  Raises:
    UserError: the batch lacks the feature, its mask or the labels, or has the feature or mask in another shape.
  """
  if spec.feature not in batch:
    raise UserError(
      f"the method is of {spec.feature!r} and this data has {', '.join(sorted(set(batch) - {'index'}))}: "
      "give it the data's own spec"
    )
  found = tuple(batch[spec.feature].shape[1:])
  if found != tuple(spec.shape):
    raise UserError(
      f"the method is of examples of shape {tuple(spec.shape)} and the data has {found}: give it the data's own spec"
    )
  if spec.mask is not None:
    mask = tuple(batch[spec.mask].shape[1:]) if spec.mask in batch else None
    if mask is None or mask != found[: len(mask)]:
      raise UserError(
        f"the method is of examples with padding, which the batch's {spec.mask!r} says, and this is "
        f"{'missing' if mask is None else f'of shape {mask}'}: its shape is that of the example's leading axes, {found}"
      )
  if labels and "label" not in batch:
    raise UserError("the method learns from labels and this data has none: use data with a 'label', or no classes")


def check_output(what: str, found: tuple[int, ...], expected: tuple[int, ...], way_out: str) -> None:
  """Raises a UserError where a network's output for one example has another shape than the method needs."""
  if tuple(found) != tuple(expected):
    raise UserError(f"{what} for one example is {tuple(found)}, not {tuple(expected)}: {way_out}")


Check = Callable[[Mapping[str, Any]], None]
