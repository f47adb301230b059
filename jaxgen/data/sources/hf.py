"""The data sets `hf:DIR`: what Hugging Face's `Dataset.save_to_disk` wrote.

They are {"image": uint8 [H, W, C], "label": int32 []}. DIR is a dataset, the training split, or a dictionary of splits.
The columns are called `image`, of pictures, and `label`, of classes or numbers. Arrow files are mapped, so a process
reads its own rows; nothing is downloaded or executed. Needs the library `datasets`: pip install 'jaxgen[hf]'.
"""

import importlib.util
import io
from functools import partial
from pathlib import Path

import numpy as np

from jaxgen.core.errors import NoSplit, UserError
from jaxgen.data.sources.base import About, Decoded, Example, Fit, Request
from jaxgen.data.sources.images import decode


def dataset_of(request: Request):
  """A split as the library `datasets` has it, images encoded, with the columns `image` and maybe `label`."""
  path = Path(request.rest).expanduser()
  if importlib.util.find_spec("datasets") is None:
    raise UserError(f"{request.name} is read by the library datasets, which is not installed: pip install 'jaxgen[hf]'")
  import datasets

  if not path.is_dir():
    raise UserError(f"there is no folder {path.absolute()}, which the data set {request.name} names")
  try:
    found = datasets.load_from_disk(str(path))
  except Exception as error:  # of files of any kind, among them errors of pyarrow and JSON
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    raise UserError(f"{path} cannot be read as what Dataset.save_to_disk writes ({reason})") from error
  splits = found if isinstance(found, dict) else {"train": found}
  if request.split not in splits:
    raise NoSplit(f"{path} has no split {request.split!r}: it has {', '.join(splits)}")
  split = splits[request.split]
  if not isinstance(split.features.get("image"), datasets.Image):
    columns = ", ".join(f"{name} ({type(kind).__name__})" for name, kind in split.features.items())
    raise UserError(f"{path} has no column 'image' of pictures, only {columns}: rename or cast it")
  names = [name for name in ("image", "label") if name in split.features]
  return split.select_columns(names).cast_column("image", datasets.Image(decode=False)).with_format(None)


def open_hf(request: Request) -> Decoded:
  """Raises a UserError where the folder is none, or lacks a split or a column."""
  split, features = dataset_of(request), request.features
  if unknown := set(features) - {"image", "label"}:
    raise UserError(f"{request.name} has an image and a label, no {min(unknown)!r}")
  numbers, classes = {}, ()
  if "label" in features:
    if "label" not in split.features:
      raise UserError(f"{request.name} has no column 'label': train without labels")
    label = np.asarray(split["label"][:])
    if not np.issubdtype(label.dtype, np.integer):
      raise UserError(f"{request.name}: the column 'label' has no numbers: cast it to a ClassLabel")
    numbers, classes = {"label": label.astype(np.int32)}, tuple(getattr(split.features["label"], "names", ()))
  pictures = split.select_columns(["image"])
  look = partial(_read, pictures, numbers.get("label"), features["image"].shape, request.name)
  return Decoded(len(split), partial(look, request.fit), numbers, About(classes), look)


def _read(
  split,
  labels: np.ndarray | None,
  shape: tuple[int, ...],
  name: str,
  fit: Fit,
  indices: list[int],
  uniform: np.ndarray | None = None,
) -> list[Example]:
  examples = []
  for n, (i, row) in enumerate(zip(indices, split[indices]["image"], strict=True)):
    file = row["path"] if row["bytes"] is None else io.BytesIO(row["bytes"])
    drawn = None if uniform is None else uniform[n]
    example = {"image": decode(file, f"image {i} of {name}", shape, fit, drawn)}
    examples.append(example if labels is None else example | {"label": labels[i]})
  return examples
