"""Sources: random access to the examples of one split of a data set, by the data set's name.

  digits                        scikit-learn's 1,797 handwritten digits, 8x8, 17 levels; needs no network
  npz:FILE                      arrays <split>_image and <split>_label of a NumPy file; image and label alone are train
  folder:DIR                    image files DIR/<split>/<class>/*.png (jpg, webp, ...), labels by sorted folder name
  text:chars:FILE               windows of a text, in characters; text:SIZE:FILE in tokens; see `jaxgen.data.text`
  pairs:LANGUAGES:SIZE:DIR      sentences and their translations; likewise
  speech:FILE                   spoken digits; see `jaxgen.data.audio`
  points:MODES:STD              normal clouds in the plane, ring8 or grid25, of this standard deviation
  reversed:LETTERS              random strings, and the same from their end, as tokens
  tfds:NAME[/CONFIG][:VERSION]  what tensorflow-datasets prepared in ArrayRecord format; read without TensorFlow

A source has `len(s)`, `s[i] -> {"image": uint8 [H, W, C], "label": int32 ()}`,
`s.gather(indices) -> {name: [n, ...]}` and `s.in_memory`. It reads what `features` names, and nothing else of the data
set. A split whose decoded bytes are at most IN_MEMORY_BYTES is read once and kept in memory; a larger one is decoded
when its examples are asked for.
"""

import gzip
import importlib.util
import io
import re
import zipfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import Float, Int, UInt8

from jaxgen.core.errors import UserError

Features = Mapping[str, jax.ShapeDtypeStruct]
Example = dict[str, np.ndarray | np.generic]
Examples = dict[str, np.ndarray]
Fit = Literal["crop", "pad"]

IN_MEMORY_BYTES = 2**29  # CIFAR-10 takes 154 MB, ImageNet at 32x32 takes 3.9 GB
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})
IMAGE_MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # Pillow's name of 8-bit images by number of channels


@runtime_checkable
class Source(Protocol):
  """Random access to the examples of one split."""

  in_memory: bool

  def __len__(self) -> int: ...
  def __getitem__(self, index: int) -> Example: ...
  def gather(self, indices: np.ndarray) -> Examples: ...


class Arrays:
  """A source in memory. arrays: {name: [N, ...]}, all of one length."""

  in_memory = True

  def __init__(self, arrays: Examples):
    self.arrays = arrays

  def __len__(self) -> int:
    return len(next(iter(self.arrays.values())))

  def __getitem__(self, index: int) -> Example:
    return {name: array[index] for name, array in self.arrays.items()}

  def gather(self, indices: Int[np.ndarray, "n"]) -> Examples:
    return {name: array.take(indices, axis=0) for name, array in self.arrays.items()}


class Decoded:
  """A source that decodes examples when they are asked for: `read([i, ...])` may run in several threads at once."""

  in_memory = False

  def __init__(self, length: int, read: Callable[[list[int]], list[Example]]):
    self.length, self.read = length, read

  def __len__(self) -> int:
    return self.length

  def __getitem__(self, index: int) -> Example:
    return self.read([int(index)])[0]

  def gather(self, indices: Int[np.ndarray, "n"]) -> Examples:
    examples = self.read(indices.tolist())
    return {name: np.stack([example[name] for example in examples]) for name in examples[0]}


def open_source(
  name: str,
  split: str,
  features: Features,
  data_dir: str | Path | None = None,
  fit: Fit = "crop",
  memory_bytes: int = IN_MEMORY_BYTES,
) -> Source:
  """Opens a split of a data set.

  Args:
    name: as listed above.
    split: the split's name in the data set; for tfds also its slices, such as "train[:90%]".
    features: name -> shape and dtype of one example. What else the data set has is not read; labels become int32.
    data_dir: where tensorflow-datasets prepared its data sets; None: its own default, $TFDS_DATA_DIR or
      ~/tensorflow_datasets. Relative paths of npz and folder are looked up as they stand.
    fit: how images of other sizes (folders, and tfds data sets without one size) are brought to the size in
      `features`: "crop" scales the shorter side to fit and cuts the middle out, "pad" puts them in the middle of black.
    memory_bytes: a split of at most so many decoded bytes is kept in memory.

  Raises:
    UserError: there is no such data set, split or feature, it is empty, damaged, or of another shape or dtype.
  """
  kind, _, rest = name.partition(":")
  if kind not in SOURCES or (kind == "digits") == bool(rest):
    raise UserError(
      f"unknown data set {name!r}: use digits, npz:FILE, folder:DIR, text:chars:FILE, pairs:LANGUAGES:SIZE:DIR, "
      "points:MODES:STD, reversed:LETTERS, speech:FILE or tfds:NAME"
    )
  source = SOURCES[kind](rest, split, features, data_dir, fit)
  if len(source) == 0:
    raise UserError(f"{name} has no examples in its split {split!r}")
  check_example(f"{name}, split {split!r}", source[0], features)
  size = len(source) * sum(np.dtype(s.dtype).itemsize * int(np.prod(s.shape)) for s in features.values())
  return into_memory(source, features) if not source.in_memory and size <= memory_bytes else source


def check_example(name: str, example: Example, features: Features) -> None:
  """Raises a UserError where an example's shapes or dtypes are not those of `features`."""
  for key, expected in features.items():
    if key not in example:
      raise UserError(
        f"{name} has no {key!r}, only {', '.join(sorted(example))}: leave it out of the data set's features"
      )
    found = np.asarray(example[key])
    if found.shape != expected.shape or found.dtype != expected.dtype:
      raise UserError(
        f"{name}: {key!r} is {found.dtype} of shape {found.shape}, but the config expects "
        f"{np.dtype(expected.dtype)} of shape {tuple(expected.shape)}: change the config's shape or the data set"
      )


def into_memory(source: Source, features: Features, chunk: int = 1024) -> Arrays:
  """Decodes every example of a source, once."""
  arrays = {name: np.empty((len(source), *s.shape), s.dtype) for name, s in features.items()}
  for first in range(0, len(source), chunk):
    indices = np.arange(first, min(first + chunk, len(source)))
    for name, values in source.gather(indices).items():
      arrays[name][indices] = values
  return Arrays(arrays)


# digits ---------------------------------------------------------------------------------------------------------------

DIGITS_TEST = 360  # of 1,797


def read_digits() -> tuple[UInt8[np.ndarray, "1797 8 8 1"], Int[np.ndarray, "1797"]]:
  """scikit-learn's digits in its order: pixel values 0..16, and labels.

  They are read from the file inside the package, since importing `sklearn.datasets` takes a second; should a release
  move the file, from `sklearn.datasets.load_digits`.
  """
  spec = importlib.util.find_spec("sklearn")
  if spec is None:
    raise UserError("the data set digits is part of scikit-learn, which is not installed: pip install scikit-learn")
  path = Path(spec.submodule_search_locations[0], "datasets", "data", "digits.csv.gz")
  try:
    with gzip.open(path, "rt") as file:
      table = np.loadtxt(file, delimiter=",", dtype=np.uint8)
    images, labels = table[:, :-1], table[:, -1]
  except FileNotFoundError:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
  return images.reshape(-1, 8, 8, 1).astype(np.uint8), labels.astype(np.int32)


def open_digits(rest: str, split: str, features: Features, data_dir: str | Path | None, fit: Fit) -> Arrays:
  """The split is that of `sklearn.model_selection.train_test_split(..., test_size=360, random_state=0)`: in the order
  of NumPy's frozen RandomState(0).permutation(1797), the first 360 are for testing and the other 1,437 for training.
  """
  if split not in ("train", "test"):
    raise UserError(f"digits has no split {split!r}: it has train (1,437) and test (360)")
  images, labels = read_digits()
  order = np.random.RandomState(0).permutation(len(images))
  chosen = order[:DIGITS_TEST] if split == "test" else order[DIGITS_TEST:]
  return _select({"image": images[chosen], "label": labels[chosen]}, features, "digits")


# npz ------------------------------------------------------------------------------------------------------------------


def open_npz(rest: str, split: str, features: Features, data_dir: str | Path | None, fit: Fit) -> Arrays:
  """Arrays of a NumPy file, never unpickled: `<split>_<feature>`, or `<feature>` alone, which is the training split."""
  path = Path(rest).expanduser()
  if not path.is_file():
    raise UserError(f"there is no file {path.absolute()}, which the data set npz:{rest} names")
  try:
    file = np.load(path, allow_pickle=False)
    if not isinstance(file, np.lib.npyio.NpzFile):
      raise UserError(f"{path} holds one array, not named ones: write it with numpy.savez(file, image=..., label=...)")
    with file:
      prefix = "" if split == "train" and "train_image" not in file else f"{split}_"
      names = {key: prefix + key for key in features if prefix + key in file}
      if not names:
        raise UserError(
          f"{path} has no split {split!r}: expected arrays named {', '.join(f'{split}_{key}' for key in features)}, "
          f"found {', '.join(file.files) or 'none'}"
        )
      arrays = {key: file[full] for key, full in names.items()}
  except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
    if "pickle" in str(error):
      raise UserError(f"{path} has pickled objects, which are never loaded: write plain number arrays") from error
    raise UserError(f"{path} cannot be read as a NumPy file ({error}): write it anew with numpy.savez") from error
  for key, array in arrays.items():
    if array.ndim == 0 or len(array) != len(next(iter(arrays.values()))):
      shapes = ", ".join(f"{k} {a.shape}" for k, a in arrays.items())
      raise UserError(f"{path}: the first axis of {key!r} must count the same examples as the others: {shapes}")
  return _select(arrays, features, f"npz:{rest}")


def _select(arrays: Examples, features: Features, name: str) -> Arrays:
  """What `features` names of the arrays, labels as int32."""
  missing = [key for key in features if key not in arrays]
  if missing:
    raise UserError(f"{name} has no {missing[0]!r}, only {', '.join(sorted(arrays))}")
  return Arrays({key: _integer_label(key, arrays[key]) for key in features})


def _integer_label(key: str, value: np.ndarray | np.generic) -> np.ndarray | np.generic:
  return value.astype(np.int32) if key == "label" and np.issubdtype(value.dtype, np.integer) else value


# folders of images ----------------------------------------------------------------------------------------------------


def open_folder(rest: str, split: str, features: Features, data_dir: str | Path | None, fit: Fit) -> Decoded:
  """Image files below DIR/<split>. With "label" in the features its sub-folders are classes, numbered in the order of
  the sorted names of the classes of all splits, so that a class that one split lacks shifts no label."""
  root = Path(rest).expanduser()
  if not root.is_dir():
    raise UserError(f"there is no folder {root.absolute()}, which the data set folder:{rest} names")
  folder = root / split
  if not folder.is_dir():
    found = ", ".join(sorted(p.name for p in root.iterdir() if p.is_dir())) or "none"
    raise UserError(f"{root} has no split {split!r}: expected the folder {folder}, found {found}")
  unknown = set(features) - {"image", "label"}
  if unknown:
    raise UserError(f"folder:{rest} has an image and a label, no {min(unknown)!r}")
  if "label" in features:
    classes = sorted({p.name for p in root.glob("*/*") if p.is_dir()})
    groups = [(folder / name, label) for label, name in enumerate(classes) if (folder / name).is_dir()]
  else:
    groups = [(folder, None)]
  files = [
    (path, label)
    for group, label in groups
    for path in sorted(group.rglob("*"))
    if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()
  ]
  if not files:
    inside = f"{folder}/<class>" if "label" in features else folder
    raise UserError(f"there are no image files (png, jpg, webp, ...) in {inside}")
  return Decoded(len(files), partial(_read_files, files, features["image"].shape, fit))


def _read_files(files: list, shape: tuple[int, ...], fit: Fit, indices: list[int]) -> list[Example]:
  examples = []
  for path, label in (files[i] for i in indices):
    example = {"image": _decode(path, str(path), shape, fit)}
    examples.append(example if label is None else example | {"label": np.int32(label)})
  return examples


def _decode(file, name: str, shape: tuple[int, ...], fit: Fit | None) -> UInt8[np.ndarray, "height width channels"]:
  """An encoded image (a path or an open file) as an array of shape [H, W, C]; without `fit`, of its own H and W."""
  from PIL import Image, ImageOps

  channels = shape[-1]
  if channels not in IMAGE_MODES:
    raise UserError(f"images have 1, 3 or 4 channels, not {channels}: change the config's shape")
  try:
    with Image.open(file) as image:
      if image.mode.startswith(("I", "F")):
        raise UserError(f"{name} has more than 8 bits a channel (mode {image.mode}): convert it to 8 bits")
      if fit is not None:
        image = _fit(ImageOps.exif_transpose(image).convert(IMAGE_MODES[channels]), shape, fit, name)
      array = np.array(image.convert(IMAGE_MODES[channels]))
  except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
    raise UserError(f"{name} cannot be read as an image ({error}): repair or remove it") from error
  return array if channels > 1 else array[..., None]


def _fit(image, shape: tuple[int, ...], fit: Fit, name: str):
  """A Pillow image brought to the height and width of the shape [H, W, C]."""
  from PIL import Image, ImageOps

  height, width, _ = shape
  if image.size == (width, height):
    return image
  if fit == "crop":
    return ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)
  if image.width > width or image.height > height:
    raise UserError(f"{name} is {image.width}x{image.height}, larger than {width}x{height}: use fit='crop'")
  canvas = Image.new(image.mode, (width, height))
  canvas.paste(image, ((width - image.width) // 2, (height - image.height) // 2))
  return canvas


# tensorflow-datasets --------------------------------------------------------------------------------------------------


def open_tfds(rest: str, split: str, features: Features, data_dir: str | Path | None, fit: Fit) -> Decoded:
  """A prepared data set, read from its folder alone: neither TensorFlow nor the data set's own code is needed."""
  import tensorflow_datasets as tfds
  from tensorflow_datasets.core import read_only_builder

  folder = Path(data_dir or tfds.core.constants.DATA_DIR).expanduser()
  try:
    builder = read_only_builder.builder_from_files(rest, data_dir=folder)
  except (tfds.core.DatasetNotFoundError, ValueError) as error:
    here = sorted(p.name for p in folder.iterdir() if any(p.rglob("dataset_info.json"))) if folder.is_dir() else []
    raise UserError(
      f"tfds:{rest} is not prepared in {folder} (found there: {', '.join(here) or 'nothing'}): "
      f"jaxgen prepare {rest} --data-dir {folder}"
    ) from error
  missing = [key for key in features if key not in builder.info.features]
  if missing:
    raise UserError(f"tfds:{rest} has no {missing[0]!r}, only {', '.join(builder.info.features)}")
  # Images come encoded and are decoded here: three times as fast, and those of no fixed size are fitted on the way.
  encoded = {
    key: tfds.decode.SkipDecoding()
    for key, feature in builder.info.features.items()
    if isinstance(feature, tfds.features.Image) and feature.np_dtype == np.uint8
  }
  try:
    data = builder.as_data_source(split, decoders=encoded or None)
  except NotImplementedError as error:
    raise UserError(
      f"tfds:{rest} in {folder} is not in ArrayRecord format, the one that is read without TensorFlow: remove "
      f"{builder.data_dir} and run jaxgen prepare {rest} --data-dir {folder}"
    ) from error
  except (ValueError, KeyError) as error:
    raise UserError(f"tfds:{rest} has no split {split!r}: it has {', '.join(builder.info.splits)}") from error
  images, others = {}, {}  # shape of each encoded image and how it is fitted, those of a fixed size not; other dtypes
  for key in features:
    own = builder.info.features[key]
    if key in encoded:
      images[key] = (features[key].shape, fit) if None in own.shape else (own.shape, None)
    else:
      others[key] = own.np_dtype
  return Decoded(len(data), partial(_read_tfds, data, images, others, f"tfds:{rest} in {builder.data_dir}"))


def _read_tfds(data, images: dict, others: dict, name: str, indices: list[int]) -> list[Example]:
  try:
    records = data.__getitems__(indices)
  except RuntimeError as error:  # what ArrayRecord raises at a missing or damaged file
    reason = str(error).split(";")[0]
    raise UserError(f"{name} cannot be read ({reason}): remove that folder and prepare the data set again") from error
  examples = []
  for index, record in zip(indices, records, strict=True):
    example = {key: _integer_label(key, np.asarray(record[key], dtype)) for key, dtype in others.items()}
    for key, (shape, fit) in images.items():
      example[key] = _decode(io.BytesIO(record[key]), f"{key} {index} of {name}", shape, fit)
    examples.append(example)
  return examples


# text and audio -------------------------------------------------------------------------------------------------------


def open_text(rest: str, split: str, features: Features, data_dir: str | Path | None, fit: Fit) -> Source:
  from jaxgen.data import text

  return text.open_document(f"text:{rest}", split, features)


def open_speech(rest: str, split: str, features: Features, data_dir: str | Path | None, fit: Fit) -> Arrays:
  from jaxgen.data import audio

  return Arrays(audio.read(rest, split, features))


def open_pairs(rest: str, split: str, features: Features, data_dir: str | Path | None, fit: Fit) -> Arrays:
  from jaxgen.data import text

  return Arrays(text.read(f"pairs:{rest}", split, features))


REVERSED = 8_192  # strings in each split


def open_reversed(rest: str, split: str, features: Features, data_dir: str | Path | None, fit: Fit) -> Arrays:
  """The split LEAST-MOST-STEP, 1-17-2 for one, has strings of LEAST, LEAST + STEP, ... letters.

  An example is {"source": int32 [T], "target": int32 [T]}: letters are tokens 3 .. LETTERS + 2; behind a string stands
  its end, 2, and then padding, 0.
  """
  lengths = re.fullmatch(r"(\d+)-(\d+)-(\d+)", split)
  if not rest.isdecimal() or lengths is None:
    raise UserError(
      f"reversed:{rest}, split {split!r}: the form is reversed:26, with splits such as 1-17-2, of lengths"
    )
  (least, most, step), (width,) = (int(n) for n in lengths.groups()), features["source"].shape
  if not 1 <= least <= most < width or step < 1:
    raise UserError(f"strings of {split} letters and their end, and the config has room for {width} tokens: change it")
  rng, place = np.random.default_rng([least, most, step]), np.arange(width)
  size = rng.choice(np.arange(least, most + 1, step), REVERSED)[:, None]
  letters = rng.integers(3, int(rest) + 3, (REVERSED, width))
  turned = np.take_along_axis(letters, np.maximum(size - 1 - place, 0), axis=1)
  ended = lambda tokens: np.where(place < size, tokens, np.where(place == size, 2, 0)).astype(np.int32)
  return Arrays({"source": ended(letters), "target": ended(turned)})


# points ---------------------------------------------------------------------------------------------------------------

POINTS = {"train": 50_000, "test": 10_000}


def modes(name: str) -> Float[np.ndarray, "modes 2"]:
  """Centres of the clouds: of ring8 on the unit circle, of grid25 at -4, -2, 0, 2 and 4 in both directions.

  As in Lin et al. 2018, https://arxiv.org/abs/1712.04086, section 4.1, with standard deviations 0.01 and 0.05.
  """
  if name == "ring8":
    angle = np.arange(8) * (np.pi / 4)
    return np.stack([np.cos(angle), np.sin(angle)], axis=-1)
  if name == "grid25":
    return np.stack(np.meshgrid(*[np.arange(-4.0, 5.0, 2.0)] * 2, indexing="ij"), axis=-1).reshape(-1, 2)
  raise UserError(f"there are no points {name!r}, only ring8 and grid25")


def open_points(rest: str, split: str, features: Features, data_dir: str | Path | None, fit: Fit) -> Arrays:
  """An example is {"x": float32 [2]}."""
  name, _, std = rest.partition(":")
  centres = modes(name)
  try:
    spread = float(std)
  except ValueError:
    raise UserError(f"points:{rest} lacks the clouds' standard deviation: the form is points:{name}:0.05") from None
  if split not in POINTS:
    raise UserError(f"points:{rest} has no split {split!r}: it has train (50,000) and test (10,000)")
  rng = np.random.default_rng(list(POINTS).index(split))
  chosen = centres[rng.integers(len(centres), size=POINTS[split])]
  x = chosen + spread * rng.normal(size=chosen.shape)
  return _select({"x": x.astype(np.float32)}, features, f"points:{rest}")


SOURCES = {
  "digits": open_digits,
  "npz": open_npz,
  "folder": open_folder,
  "pairs": open_pairs,
  "points": open_points,
  "reversed": open_reversed,
  "speech": open_speech,
  "text": open_text,
  "tfds": open_tfds,
}
