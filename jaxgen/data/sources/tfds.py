"""The data sets `tfds:NAME[/CONFIG][:VERSION]`: what tensorflow-datasets prepared, read without TensorFlow."""

import io
from functools import partial
from pathlib import Path

import numpy as np

from jaxgen.core.errors import NoSplit, UserError
from jaxgen.data.sources.base import About, Decoded, Example, Fit, Request, integer_label
from jaxgen.data.sources.images import decode
from jaxgen.data.sources.views import View


def builder_of(request: Request):
  """What tensorflow-datasets recorded about a data set that it prepared, read only from its folder."""
  import tensorflow_datasets as tfds
  from tensorflow_datasets.core import read_only_builder

  folder = Path(request.data_dir or tfds.core.constants.DATA_DIR).expanduser()
  try:
    return read_only_builder.builder_from_files(request.rest, data_dir=folder)
  except (tfds.core.DatasetNotFoundError, ValueError) as error:
    here = sorted(p.name for p in folder.iterdir() if any(p.rglob("dataset_info.json"))) if folder.is_dir() else []
    raise UserError(
      f"{request.name} is not prepared in {folder} (found there: {', '.join(here) or 'nothing'}): "
      f"jaxgen prepare {request.rest} --data-dir {folder}"
    ) from error


def open_tfds(request: Request) -> Decoded:
  """A prepared data set, read from its folder alone: neither TensorFlow nor the data set's own code is needed."""
  import tensorflow_datasets as tfds

  name, features = request.name, request.features
  builder = builder_of(request)
  missing = [key for key in features if key not in builder.info.features]
  if missing:
    raise UserError(f"{name} has no {missing[0]!r}, only {', '.join(builder.info.features)}")
  # Images come encoded and are decoded here: three times as fast, and those of no fixed size are fitted on the way.
  encoded = {
    key: tfds.decode.SkipDecoding()
    for key, feature in builder.info.features.items()
    if isinstance(feature, tfds.features.Image) and feature.np_dtype == np.uint8
  }
  try:
    data = builder.as_data_source(request.split, decoders=encoded or None)
  except NotImplementedError as error:
    folder = request.data_dir or tfds.core.constants.DATA_DIR
    raise UserError(
      f"{name} in {folder} is not in ArrayRecord format, the one that is read without TensorFlow: remove "
      f"{builder.data_dir} and run jaxgen prepare {request.rest} --data-dir {folder}"
    ) from error
  except (ValueError, KeyError) as error:
    raise NoSplit(f"{name} has no split {request.split!r}: it has {', '.join(builder.info.splits)}") from error
  images, others = {}, {}  # shape of each encoded image, and whether it is of that size already; other dtypes
  for key in features:
    own = builder.info.features[key]
    if key in encoded:
      images[key] = (features[key].shape, False) if None in own.shape else (own.shape, True)
    else:
      others[key] = own.np_dtype
  label = builder.info.features["label"] if "label" in features else None
  about = About(tuple(label.names) if isinstance(label, tfds.features.ClassLabel) else ())
  look = partial(_read, data, images, others, f"{name} in {builder.data_dir}")
  return Decoded(len(data), partial(look, request.fit), about=about, look=look)


def _read(
  data, images: dict, others: dict, name: str, fit: Fit, indices: list[int], uniform: np.ndarray | None = None
) -> list[Example]:
  try:
    records = data.__getitems__(indices)
  except RuntimeError as error:  # what ArrayRecord raises at a missing or damaged file
    reason = str(error).split(";")[0]
    raise UserError(f"{name} cannot be read ({reason}): remove that folder and prepare the data set again") from error
  examples = []
  for n, (index, record) in enumerate(zip(indices, records, strict=True)):
    example = {key: integer_label(key, np.asarray(record[key], dtype)) for key, dtype in others.items()}
    for key, (shape, is_fixed) in images.items():
      how = None if is_fixed and not isinstance(fit, View) else fit
      drawn = None if uniform is None else uniform[n]
      example[key] = decode(io.BytesIO(record[key]), f"{key} {index} of {name}", shape, how, drawn)
    examples.append(example)
  return examples
