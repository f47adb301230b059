"""The flags of `jaxgen sample` that change a picture: --image with --strength, or with --mask."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxgen.cli.options import option
from jaxgen.core.errors import UserError
from jaxgen.data.sources import images
from jaxgen.diffusion.editing import beginning

OPTIONS = {
  "image": option(
    pathlib.Path | None, "the picture to edit, which all samples start from; it has the model's size", None
  ),
  "strength": option(
    float | None,
    "strength of image-to-image: near 0 the samples are close to --image, at 1 nothing of it is left",
    None,
  ),
  "mask": option(
    pathlib.Path | None,
    "a picture of the same size as --image, white where it is filled and black where it stays",
    None,
  ),
}


def given(run: Any, options: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """The arguments of the run's `sample` that these flags give, [n, ...] by name; none without --image.

  Args:
    run: the run.
    options: the command's.

  Raises:
    UserError: flags that do not fit together, files that are not pictures, or pictures of another size.
  """
  n, image, strength, mask = (options[name] for name in ("n", "image", "strength", "mask"))
  if image is None and strength is None and mask is None:
    return {}
  if image is None or (strength is None) == (mask is None):
    raise UserError("give --image with --strength to change a picture, or --image with --mask to fill a part of it")
  shape = run.data.spec.shape
  if len(shape) != 3:
    raise UserError(
      f"--image needs a model of pictures, but this run's examples have the shape {list(shape)}: sample without it"
    )
  picture = read(image, "--image", shape)
  many = lambda x: np.broadcast_to(x, (n, *x.shape))
  start = {"start": many((picture / 127.5 - 1).astype(np.float32))}
  if mask is None:
    beginning(1, strength)
    return {**start, "strength": many(np.float32(strength))}
  return {**start, "keep": many(read(mask, "--mask", (*shape[:2], 1))[..., 0] < 128)}


def read(path: pathlib.Path, flag: str, shape: tuple[int, ...]) -> np.ndarray:
  """A picture's values, 0 to 255, of that shape. Raises a UserError where it is another, or none."""
  if not path.is_file():
    raise UserError(f"{flag} {path}: there is no such file")
  found = images.decode(path, f"{flag} {path}", shape, None)
  if found.shape != tuple(shape):
    sizes = [f"{height} x {width}" for height, width, _ in (found.shape, shape)]
    raise UserError(f"{flag} {path} is {sizes[0]} (height x width), and the model's pictures are {sizes[1]}: resize it")
  return found
