"""Editing: the arguments "start", "strength" and "keep" of `sample`, by which it changes pictures.

    start [N, *shape]       the pictures to edit
    strength [N]            how far along the path to noise they are noised, in (0, 1]; one value for all
    keep [N, ...]           over leading axes, True where `start` stays as it is; the rest is filled

`start` comes with one of the other two: `strength` for image-to-image, `keep` for inpainting.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from jaxgen.core.errors import UserError

NAMES = ("start", "strength", "keep")


class Edit(NamedTuple):
  """See the module."""

  start: Array
  strength: Array | None
  keep: Array | None


def taken(given: Mapping[str, Any]) -> tuple[Edit | None, dict[str, Any]]:
  """(the edit, or None if `given` has none; the other arguments of `sample`).

  Raises:
    UserError: its parts do not belong together, or the mask has another size than the picture.
  """
  parts = {name: given[name] for name in NAMES if given.get(name) is not None}
  rest = {name: value for name, value in given.items() if name not in NAMES}
  if not parts:
    return None, rest
  if "start" not in parts or len(parts) != 2:
    raise UserError(
      f"give start with strength to change a picture, or with keep to fill a part of it, not {' and '.join(parts)}"
    )
  edit = Edit(*(None if name not in parts else jnp.asarray(parts[name]) for name in NAMES))
  if edit.keep is not None and edit.keep.shape != edit.start.shape[: edit.keep.ndim]:
    sizes = [" x ".join(map(str, shape)) for shape in (edit.keep.shape[1:], edit.start.shape[1 : edit.keep.ndim])]
    raise UserError(f"the mask is {sizes[0]} and the picture {sizes[1]}: give it the picture's size")
  return edit, rest


def through(given: Mapping[str, Any], encode: Callable[[Array], Array]) -> tuple[dict[str, Any], Callable[[Any], Any]]:
  """An edit in a latent space: (the arguments of the latent model's `sample`; a function of the decoded samples).

  A latent is kept if all of its pixels are. The function sets kept pixels to their given values, bit for bit.

  Args:
    given: the arguments of `sample`, with pictures.
    encode: pictures -> latents.
  """
  edit, rest = taken(given)
  if edit is None:
    return rest, lambda x: x
  z = encode(edit.start)
  if edit.keep is None:
    return {**rest, "start": z, "strength": edit.strength}, lambda x: x
  (n, *sides), (_, *small) = edit.keep.shape, z.shape[: edit.keep.ndim]
  split = [part for side, part in zip(sides, small, strict=True) for part in (part, side // part)]
  known = edit.keep.reshape(n, *split).all(range(2, 1 + len(split), 2))
  wide = edit.keep.reshape(*edit.keep.shape, *[1] * (edit.start.ndim - edit.keep.ndim))
  return {**rest, "start": z, "keep": known}, lambda x: jnp.where(wide, edit.start.astype(x.dtype), x)
