"""Your own images, given only by a name: their channels, size and labels are found by looking at the files.

jaxgen train ddpm_images --data folder:photos --size 64
"""

import io
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxgen.core.errors import UserError
from jaxgen.core.files import NPZ_ERRORS
from jaxgen.data.dataset import Dataset, images
from jaxgen.data.sources.base import Fit, Request
from jaxgen.data.sources.folder import has_splits, hidden_part
from jaxgen.data.sources.hf import dataset_of
from jaxgen.data.sources.images import FORMATS, SUFFIXES, is_turned
from jaxgen.data.sources.npz import place_of
from jaxgen.data.sources.tar import split_of
from jaxgen.data.sources.tfds import builder_of
from jaxgen.data.sources.views import View
from jaxgen.data.transforms import Transform, resize, scale

LOOKED_AT = 64  # the images that are opened to see whether they have colour


class Found(NamedTuple):
  """Channels, size, levels and classes of a split's images.

  Attributes:
    channels: 1, or 3 for colour images.
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

  It reads the headers of at most 64 images, evenly spaced, of a folder, of tar shards or of an hf data set. If all of
  these are stored as grey, all images get 1 channel; otherwise all get 3.

  Args:
    name: as in `jaxgen.data.sources`.
    size: the side of the square to which images are resized; None: their own size, if all have the same.
    labelled: whether to read labels as well, if there are any.
    augment: transforms of images in [-1, 1], for training only.
    data_dir: the folder where tensorflow-datasets prepared its data sets.
    fit: how images of other sizes are resized to `size`.
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
    if kind != "folder":
      raise UserError(f"{name} does not give the pictures' size: give the size to which they are resized with --size")
    found = found._replace(size=_shared_size(name, _files(Path(rest).expanduser())))
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


def _channels(files: Iterable[tuple[Any, Any]]) -> int:
  """The channels of these images, (name, path or open file), by their headers: 1 if all are stored as grey, else 3.

  A grey picture that is stored as RGB has 3.
  """
  from PIL import Image

  for name, file in files:
    try:
      with Image.open(file, formats=FORMATS) as image:
        if image.mode not in ("1", "L", "LA"):
          return 3
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
      raise UserError(f"{name} cannot be read as an image ({error}): repair or remove it") from error
  return 1


def _shared_size(name: str, paths: Iterable[Path]) -> tuple[int, int]:
  """The height and width of all these pictures, upright, from their headers. Raises a UserError if they differ."""
  from PIL import Image

  first = None
  for path in paths:
    try:
      with Image.open(path, formats=FORMATS) as image:
        height, width = image.size if is_turned(image) else image.size[::-1]
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
      raise UserError(f"{path} cannot be read as an image ({error}): repair or remove it") from error
    first = first or (path, height, width)
    if (height, width) != first[1:]:
      raise UserError(
        f"{name}: {path.name} is {height} x {width} and {first[0].name} {first[1]} x {first[2]} (height x width): say "
        "to which size they are resized with --size, or, to evaluate them at their own sizes, leave folder: out "
        "of the name"
      )
  return first[1:]


def _files(root: Path) -> list[Path]:
  """The image files of a folder's training split, sorted. Raises a UserError if there are none."""
  split = root / "train" if has_splits(root) else root
  files = [p for p in sorted(split.rglob("*")) if p.suffix.lower() in SUFFIXES and not hidden_part(p, root)]
  if not files:
    raise UserError(f"there are no image files (png, jpg, webp, ...) in {split}")
  return files


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
  files = _files(root)
  some = files[:: -(-len(files) // LOOKED_AT)]
  return Found(_channels(zip(some, some, strict=True)), classes=len(classes) if classes and not loose else None)


def _tar(request: Request) -> Found:
  index, labels, *_ = split_of(request)
  some = range(0, len(labels), -(-len(labels) // LOOKED_AT))
  files = [(index.name(i), io.BytesIO(index.bytes(i))) for i in some]
  return Found(_channels(files), classes=None if (labels < 0).any() else int(labels.max()) + 1)


def _npz(request: Request) -> Found:
  path = Path(request.rest).expanduser()
  if not path.is_file():
    raise UserError(f"there is no file {path.absolute()}, which the data set {request.name} names")
  try:
    with np.load(path, allow_pickle=False) as file:
      prefix = "train_" if "train_image" in file else ""
      if prefix + "image" not in file:
        raise UserError(f"{path} has no train_image and no image, only {', '.join(file.files)}")
      place = place_of(file.zip, f"{prefix}image.npy")
      label = file.get(prefix + "label")
  except (*NPZ_ERRORS, AttributeError) as error:
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
  step = -(-len(split) // LOOKED_AT)
  files = [
    (f"row {i * step} of {request.name}", row["path"] if row["bytes"] is None else io.BytesIO(row["bytes"]))
    for i, row in enumerate(split[::step]["image"])
  ]
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
