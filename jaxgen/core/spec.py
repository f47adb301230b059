"""The shape and kind of one example: part of a data set, from which methods and networks are built."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxgen.core.errors import UserError


class Spec(NamedTuple):
  """The shape and kind of one example.

  Attributes:
    shape: the shape of one example.
    levels: the number of values that each entry may take; None: real numbers.
    classes: the number of classes; None: there are no labels.
    feature: the example's name in a batch.
    dtype: the example's dtype in a method's batch.
    mask: the name of an array of booleans [B, ...] in the batch, over the example's leading axes: True for entries,
      False for padding. None: there is no padding.
  """

  shape: tuple[int, ...]
  levels: int | None = None
  classes: int | None = None
  feature: str = "image"
  dtype: Any = np.float32
  mask: str | None = None

  @property
  def size(self) -> int:
    """The number of entries of an example."""
    return math.prod(self.shape)


def check_batch(spec: Spec, batch: Mapping[str, Any], labels: bool = False) -> None:
  """Checks that a batch, of arrays or of their shapes, fits a method's spec.

  Args:
    spec: what the method was made for.
    batch: the batch.
    labels: whether the method also needs "label".

  Raises:
    UserError: the feature, its mask or the labels are missing, or the feature or mask has another shape.
  """
  if spec.feature not in batch:
    raise UserError(
      f"the method models {spec.feature!r} and this data has {', '.join(sorted(set(batch) - {'index'}))}: "
      "give it the data's own spec"
    )
  found = tuple(batch[spec.feature].shape[1:])
  if found != tuple(spec.shape):
    raise UserError(
      f"the method models examples of shape {tuple(spec.shape)} and the data has {found}: give it the data's own spec"
    )
  if spec.mask is not None:
    mask = tuple(batch[spec.mask].shape[1:]) if spec.mask in batch else None
    if mask is None or mask != found[: len(mask)]:
      raise UserError(
        f"the method models examples with padding, for which the batch needs the mask {spec.mask!r}, and this is "
        f"{'missing' if mask is None else f'of shape {mask}'}: its shape is that of the example's leading axes, {found}"
      )
  if labels and "label" not in batch:
    raise UserError("the method learns from labels and this data has none: use data with a 'label', or no classes")


def check_output(what: str, found: tuple[int, ...], expected: tuple[int, ...], way_out: str) -> None:
  """Raises a UserError if a network's output for one example has another shape than the method needs."""
  if tuple(found) != tuple(expected):
    raise UserError(f"{what} for one example is {tuple(found)}, not {tuple(expected)}: {way_out}")
