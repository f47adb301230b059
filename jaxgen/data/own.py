"""A user's own images, given by name alone: their channels, size and labels are found by looking at the files.

jaxgen train ddpm_images --data folder:photos --size 64
"""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from jaxgen.core.errors import UserError
from jaxgen.data.dataset import Dataset, images
from jaxgen.data.sources import open_source
from jaxgen.data.sources.base import Fit, Request
from jaxgen.data.sources.folder import has_splits, hidden_part
from jaxgen.data.sources.hf import dataset_of
from jaxgen.data.sources.images import FORMATS, SUFFIXES
from jaxgen.data.sources.npz import place_of
from jaxgen.data.sources.tfds import builder_of
from jaxgen.data.sources.views import View
from jaxgen.data.transforms import Transform, resize, scale

LOOKED_AT = 64  # the images that are opened to see whether they have colour


class Found(NamedTuple):
  """What the images of a split look like.

  Attributes:
    channels: 1, or 3 where there is colour.
    size: the height and width that all images share; None: they differ in size.
    levels: the number of values of a pixel.
    classes: the number of classes; None without labels.
  """

  channels: int
  size: tuple[int, int] | None = None
  levels: int = 256
  classes: int | None = None


def own(
  name: str,
  size: int | None = None,
  *,
  labelled: bool = False,
  augment: tuple[Transform, ...] = (),
  data_dir: str | Path | None = None,
  fit: Fit = "crop",
  view: View | None = None,
) -> Dataset:
  """The data set of this name as images in [-1, 1]: a folder, an npz, tar shards, a tfds or hf data set, or the digits.

  It looks at no more than 64 images of a folder or of tar shards.

  Args:
    name: as in `jaxgen.data.sources`.
    size: the side of the square to which images are brought; None: their own size, where all share one.
    labelled: whether labels are read too, where there are any.
    augment: transforms of images in [-1, 1], for training only.
    data_dir: the folder where tensorflow-datasets prepared its data sets.
    fit: how images of other sizes are brought to `size`.
    view: the part of such images that training sees instead.

  Raises:
    UserError: there is no such data, it has no images, or the images differ in size and `size` is None.
  """
  kind, _, rest = name.partition(":")
  if kind not in LOOKS:
    raise UserError(f"{name!r} is no data set of images: use {', '.join(f'{kind}:...' for kind in LOOKS)}")
  if size is not None and size < 1:
    raise UserError(f"--size {size}: it takes 1 or more")
  found = LOOKS[kind](Request(name, rest, "train", {}, data_dir, fit, 0))
  if found.size is None and size is None:
    raise UserError(f"{name}: each picture has a size of its own: say which they are brought to with --size")
  height, width = found.size or (size, size)
  transforms = (scale(found.levels),)
  if size is not None and (height, width) != (size, size):
    transforms += (resize(size),)
  return images(
    name,
    (height, width, found.channels),
    levels=found.levels,
    classes=found.classes if labelled else None,
    transforms=transforms,
    augment=augment,
    data_dir=data_dir,
    fit=fit,
    view=view,
  )


def _channels(files: list) -> int:
  """The channels of these images, paths or open files: 1 if none of them has colour, else 3."""
  from PIL import Image

  for file in files:
    try:
      with Image.open(file, formats=FORMATS) as image:
        if image.mode not in ("1", "L", "LA"):
          return 3
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
      raise UserError(f"{file} cannot be read as an image ({error}): repair or remove it") from error
  return 1


def _folder(request: Request) -> Found:
  root = Path(request.rest).expanduser()
  if not root.is_dir():
    raise UserError(f"there is no folder {root.absolute()}, which the data set {request.name} names")
  split = root / "train" if has_splits(root) else root
  inside = [path for path in sorted(split.glob("*")) if not hidden_part(path, root)]
  # The source numbers the classes of all splits together.
  folders = root.glob("*/*") if has_splits(root) else root.glob("*")
  classes = {path.name for path in folders if path.is_dir() and not hidden_part(path, root)}
  loose = any(path.suffix.lower() in SUFFIXES for path in inside)
  files = [p for p in sorted(split.rglob("*")) if p.suffix.lower() in SUFFIXES and not hidden_part(p, root)]
  if not files:
    raise UserError(f"there are no image files (png, jpg, webp, ...) in {split}")
  return Found(
    _channels(files[:: -(-len(files) // LOOKED_AT)]), classes=len(classes) if classes and not loose else None
  )


def _tar(request: Request) -> Found:
  image = {"image": jax.ShapeDtypeStruct((8, 8, 3), np.uint8)}
  opened = lambda features: open_source(request.name, "train", features, memory_bytes=0)
  try:
    source = opened({**image, "label": jax.ShapeDtypeStruct((), np.int32)})
  except UserError as error:
    if "has no label" not in str(error):
      raise
    source = opened(image)
  some = source.gather(np.arange(0, len(source), -(-len(source) // LOOKED_AT)))["image"]
  labels = source.arrays.get("label")
  return Found(1 if (some == some[..., :1]).all() else 3, classes=None if labels is None else int(labels.max()) + 1)


def _npz(request: Request) -> Found:
  path = Path(request.rest).expanduser()
  try:
    with np.load(path, allow_pickle=False) as file:
      prefix = "train_" if "train_image" in file else ""
      if prefix + "image" not in file:
        raise UserError(f"{path} has no train_image and no image, only {', '.join(file.files)}")
      place = place_of(file.zip, f"{prefix}image.npy")
      label = file.get(prefix + "label")
  except (ValueError, EOFError, OSError, AttributeError, zipfile.BadZipFile) as error:
    raise UserError(f"{path} cannot be read as a NumPy file ({error}): write it anew with numpy.savez") from error
  if len(place.shape) != 4 or place.shape[-1] not in (1, 3, 4) or place.dtype != np.uint8:
    raise UserError(
      f"{path}: images are uint8 [N, height, width, channels] with 1, 3 or 4 channels, and these are {place.dtype} "
      f"{list(place.shape)}: write them so"
    )
  return Found(place.shape[-1], place.shape[1:3], classes=None if label is None else int(label.max()) + 1)


def _hf(request: Request) -> Found:
  split = dataset_of(request)
  label = split.features.get("label")
  classes = getattr(label, "num_classes", None)
  if label is not None and classes is None:
    numbers = np.asarray(split["label"][:])
    classes = int(numbers.max()) + 1 if np.issubdtype(numbers.dtype, np.integer) else None
  rows = split[:: -(-len(split) // LOOKED_AT)]["image"]
  files = [row["path"] if row["bytes"] is None else io.BytesIO(row["bytes"]) for row in rows]
  return Found(_channels(files), classes=classes)


def _tfds(request: Request) -> Found:
  features = builder_of(request).info.features
  if "image" not in features:
    raise UserError(f"{request.name} has no 'image', only {', '.join(features)}")
  height, width, channels = features["image"].shape
  size = None if None in (height, width) else (height, width)
  return Found(channels or 3, size, classes=getattr(features.get("label"), "num_classes", None))


LOOKS: dict[str, Callable[[Request], Found]] = {
  "digits": lambda request: Found(1, (8, 8), 17, 10),
  "folder": _folder,
  "hf": _hf,
  "npz": _npz,
  "tar": _tar,
  "tfds": _tfds,
}
