"""A data set: the shapes of its examples, and the transforms of a batch on the device.

Building one computes nothing and opens nothing, so that a config can be listed where its data is missing. `own.own`
alone looks at files before it builds one: for such data only the name is given.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from jaxgen.core.errors import NoSplit, UserError
from jaxgen.core.method import Batch
from jaxgen.core.spec import Spec
from jaxgen.data.sources import Example, Examples, Features, Fit, Source, open_source
from jaxgen.data.sources.views import View
from jaxgen.data.transforms import Transform, binarize, scale

Specs = dict[str, jax.ShapeDtypeStruct]
SAMPLE = 64  # examples that are read for a check when a split that is not in memory is opened
NAMED = 20  # the most classes that a description names


@dataclass(frozen=True)
class Dataset:
  """A config's data set.

  Attributes:
    name: see `jaxgen.data.sources`.
    features: name -> shape and dtype of one example of the source: {"image": uint8 [H, W, C], "label": int32 []}.
    levels: the number of integer pixel values (256; digits 17, binarized images 2) or of different tokens; None where
      values are not integers.
    classes: the number of classes; None without labels.
    transforms: functions (key, batch) -> batch on the device, applied in this order in training and evaluation.
    augment: further transforms, applied after `transforms` and in training only.
    last: further transforms, applied last, in training and evaluation.
    data_dir: the folder where tensorflow-datasets prepared its data sets; None: its own default.
    train, test: the names of these splits in the data set.
    fit: how images of other sizes are brought to the size of `features` (folders and tfds; see
      `open_source`).
    view: what training sees of such images instead, such as `RandomResizedCrop()`; None: the same as evaluation.
    vocabulary: the number of different tokens beside pictures; None: `levels`.
    repeats: in training, this many consecutive examples are the same one, each augmented by its own random draws; an
      epoch keeps its number of examples. This is repeated augmentation, Hoffer et al. 2020,
      https://arxiv.org/abs/1901.09335, as DeiT uses it.
    source_levels: the number of pixel values of the source, where the transforms change it (`binarized`); None: the
      same as `levels`.
    variant: a description of the transforms, if likelihoods of the transformed and of the original data cannot be
      compared.
    feature: the name, in a transformed batch, of the array that a method models; None: the only array that is neither
      "label" nor "index" nor a single number.
  """

  name: str
  features: Features
  levels: int | None = None
  classes: int | None = None
  transforms: tuple[Transform, ...] = ()
  augment: tuple[Transform, ...] = ()
  data_dir: str | Path | None = None
  train: str = "train"
  test: str = "test"
  fit: Fit = "crop"
  last: tuple[Transform, ...] = ()
  source_levels: int | None = None
  variant: str = ""
  feature: str | None = None
  view: View | None = None
  repeats: int = 1
  vocabulary: int | None = None
  _sources: dict[str, Source] = field(default_factory=dict, init=False, repr=False, compare=False)

  def source(self, split: str) -> Source:
    """Opens "train", "test", or a split by its name in the data set; every call returns the same source.

    Raises:
      UserError: the data is missing, or its shape, dtype, pixel values, tokens or labels differ from this description,
        or it has numbers that are not finite. Data in memory is checked at once (a folder's labels always are in
        memory). Of other data, some examples are checked now and each one when it is read.
    """
    split = {"train": self.train, "test": self.test}.get(split, split)
    if split not in self._sources:
      source = open_source(self.name, split, self.features, self.data_dir, self.fit)
      levels = self.source_levels or self.levels
      tokens = self.vocabulary or self.levels
      check = partial(_check, f"{self.name}, split {split!r}", tokens, levels, self.classes)
      check(source.arrays, None)
      if not source.in_memory:
        source = Checked(source, check)
        source.gather(_spread(source))
      names = source.about.classes if "label" in self.features else ()
      if self.classes is not None and len(names) > self.classes:  # a class may have no example in this split
        raise UserError(
          f"{self.name} has {len(names):,} classes ({_some(names)}), but the config expects {self.classes}: change the "
          "config's classes or the data set"
        )
      vocabulary = getattr(source, "vocabulary", tokens)  # of a text, which also decodes samples
      if vocabulary != tokens:
        raise UserError(
          f"{self.name} has {vocabulary} different tokens and the config says {tokens}: --vocabulary {vocabulary}"
        )
      self._sources[split] = source
    return self._sources[split]

  def has(self, split: str) -> bool:
    """Whether there is this split, which is opened.

    Raises:
      UserError: there is, and it cannot be read.
    """
    try:
      self.source(split)
    except NoSplit:
      return False
    return True

  def training(self) -> Source:
    """The split "train" as training reads it: through `view`, where there is one.

    Raises:
      UserError: as in `source`, or there is a view, which needs image files, and the data set holds arrays.
    """
    split = f"{self.train} through {self.view}"
    if self.view is None:
      return self.source(self.train)
    if split not in self._sources:
      self.view.check()
      seen = self.source(self.train)
      if not isinstance(seen, Checked):  # it is small, and in memory with the view of evaluations: open it again
        seen = Checked(
          open_source(self.name, self.train, self.features, self.data_dir, self.fit, 0), lambda values, indices: None
        )
      self._sources[split] = seen.through(self.view, self.name)
    return self._sources[split]

  def describe(self, split: str) -> str:
    """Describes a split in lines of text: the number of examples, their shapes and values, the classes with their
    numbers and counts, and what was left out."""
    source = self.source(split)
    split = {"train": self.train, "test": self.test}.get(split, split)
    access = "in memory" if source.in_memory else "read as they are asked for"
    lines = [f"{self.name}, split {split!r}: {len(source):,} examples, {access}"]
    sample = {} if source.in_memory else source.gather(_spread(source))
    for key, spec in self.features.items():
      array = source.arrays.get(key, sample.get(key))
      some = "" if key in source.arrays else f" in {len(array)} of them"
      lines.append(
        f"  {key}: {np.dtype(spec.dtype)} {list(spec.shape)}, values {array.min():g} to {array.max():g}{some}"
      )
    if "label" in self.features and self.classes is not None:
      names = source.about.classes or tuple(map(str, range(self.classes)))
      counts = np.bincount(source.arrays["label"], minlength=len(names)) if "label" in source.arrays else None
      number = lambda i: f"{i} {names[i]}" if source.about.classes else names[i]
      shown = [number(i) + (f" ({counts[i]:,})" if counts is not None else "") for i in range(min(len(names), NAMED))]
      more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
      lines.append(f"  classes: {', '.join(shown)}{more}")
    lines += [f"  left out: {reason}" for reason in source.about.left_out]
    return "\n".join(lines)

  @property
  def spec(self) -> Spec:
    """The shape and values of one example, as a method sees it; computed without reading data.

    Raises:
      UserError: a batch has several arrays that a method may model, and `feature` does not say which.
    """
    batch = self.batch_spec(1, train=False)
    names = [name for name, s in batch.items() if name not in ("label", "index") and s.ndim > 1]
    if self.feature is None and len(names) != 1:
      raise UserError(f"{self.name} has {', '.join(names) or 'nothing to model'}: say which with Dataset(feature=...)")
    feature = self.feature or names[0]
    if feature not in batch:
      raise UserError(f"{self.name} has no {feature!r}, only {', '.join(batch)}: change the Dataset's feature")
    return Spec(batch[feature].shape[1:], self.levels, self.classes, feature, batch[feature].dtype)

  @property
  def title(self) -> str:
    """The name under which likelihoods are compared: the data set's name, its `variant`, and the size of its images
    where transforms change it."""
    parts = [self.name] + [self.variant] * bool(self.variant)
    if "image" in self.features:
      seen = self.batch_spec(1, train=False)["image"].shape[1:]
      parts += ["x".join(map(str, seen))] * (seen != self.features["image"].shape)
    return ", ".join(parts)

  def raw_spec(self, batch_size: int) -> Specs:
    """Shapes and dtypes of a batch before the transforms, "index" included."""
    specs = {k: jax.ShapeDtypeStruct((batch_size, *s.shape), s.dtype) for k, s in self.features.items()}
    return specs | {"index": jax.ShapeDtypeStruct((batch_size,), np.int32)}

  def batch_spec(self, batch_size: int, train: bool = True) -> Specs:
    """Shapes and dtypes of a batch after the transforms; computes nothing."""
    key = jax.eval_shape(jax.random.key, 0)
    return jax.eval_shape(lambda k, b: self.transform(k, b, train), key, self.raw_spec(batch_size))

  def transform(self, key: Array, batch: Mapping[str, Array | np.ndarray], train: bool) -> Batch:
    """Transforms a raw batch into the batch that a method sees. Pure; transform i draws from fold_in(key, i)."""
    batch = jax.tree.map(jax.numpy.asarray, dict(batch))
    for i, transform in enumerate(self.transforms + (self.augment if train else ()) + self.last):
      batch = transform(jax.random.fold_in(key, i), batch)
    return batch


class Checked:
  """A source that is not in memory and checks its examples when it reads them.

  Attributes:
    check: a function (values [n, ...] by name, the examples' indices [n]) -> None that raises a UserError for wrong
      values.
  """

  in_memory = False

  def __init__(self, source: Source, check: Callable[[Examples, np.ndarray], None]):
    self.source, self.check, self.arrays, self.about = source, check, source.arrays, source.about
    self.draws = source.draws

  def through(self, view: View, name: str) -> "Checked":
    """The same images seen through another view; `name` is the data set's, for errors."""
    if getattr(self.source, "look", None) is None:
      raise UserError(f"{name} has arrays of one size, and {type(view).__name__} is of pictures in files: leave it out")
    return Checked(self.source.through(view), self.check)

  def __len__(self) -> int:
    return len(self.source)

  def __getitem__(self, index: int) -> Example:
    return self.source[index]

  def gather(self, indices: Int[np.ndarray, "n"], uniform: Float[np.ndarray, "n draws"] | None = None) -> Examples:
    examples = self.source.gather(indices, uniform) if self.draws else self.source.gather(indices)
    self.check(examples, indices)
    return examples


def _check(
  where: str,
  tokens: int | None,
  levels: int | None,
  classes: int | None,
  values: Examples,
  indices: np.ndarray | None,
) -> None:
  """Raises a UserError where values of examples are outside the range that the data set states.

  Args:
    where: the data set and the split, in words.
    tokens, levels, classes: the number of different tokens, pixel values and classes; None: any number.
    values: arrays of examples by name.
    indices: the examples' indices in the split; None: all examples.
  """
  counted = {key: (tokens, "levels") for key in ("tokens", "source", "target")}
  counted |= {"image": (levels, "levels"), "label": (classes, "classes")}
  for key, array in values.items():
    if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
      rows = np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(axis=1))
      first = rows[0] if indices is None else indices[rows[0]]
      raise UserError(
        f"{where}: {key!r} has numbers that are not finite in {len(rows):,} of {len(array):,} examples, the first of "
        f"which is number {first:,}, counted from 0: repair them or leave them out"
      )
    count, what = counted.get(key, (None, ""))
    if count is None or (np.issubdtype(array.dtype, np.unsignedinteger) and np.iinfo(array.dtype).max < count):
      continue
    if not 0 <= array.min() <= array.max() < count:
      raise UserError(
        f"{where}: {key!r} has values {array.min()} to {array.max()}, but the config "
        f"expects {count} {what}, 0 to {count - 1}: change the config's {what} or the data set"
      )


def _some(names: Sequence[str], most: int = 5) -> str:
  return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")


def _spread(source: Source) -> Int[np.ndarray, "n"]:
  """Indices of at most SAMPLE examples, evenly spaced over a split, since some splits are sorted by class."""
  return np.unique(np.linspace(0, len(source) - 1, min(len(source), SAMPLE)).round().astype(np.int64))


def images(
  name: str,
  shape: tuple[int, int, int],
  *,
  levels: int = 256,
  classes: int | None = None,
  transforms: tuple[Transform, ...] | None = None,
  augment: tuple[Transform, ...] = (),
  data_dir: str | Path | None = None,
  train: str = "train",
  test: str = "test",
  fit: Fit = "crop",
  last: tuple[Transform, ...] = (),
  view: View | None = None,
  repeats: int = 1,
) -> Dataset:
  """A data set of uint8 images [H, W, C], with labels where `classes` is given; the default transform is `scale`."""
  features = {"image": jax.ShapeDtypeStruct(tuple(shape), np.uint8)}
  if classes is not None:
    features["label"] = jax.ShapeDtypeStruct((), np.int32)
  transforms = (scale(levels),) if transforms is None else transforms
  return Dataset(
    name,
    features,
    levels,
    classes,
    transforms,
    augment,
    data_dir,
    train,
    test,
    fit,
    last,
    view=view,
    repeats=repeats,
  )


def binarized(data: Dataset, transform: Transform | None = None, called: str = "binarized at 1/2") -> Dataset:
  """The data set with its images made -1 or 1 by `transforms.binarize()`, or by another transform of that kind.

  Args:
    data: the data set.
    transform: the last transform, which makes -1 and 1; None: `transforms.binarize()`.
    called: how `title` names the binarization; likelihoods of images binarized in different ways do not compare.
  """
  levels, transforms = data.source_levels or data.levels, (*data.transforms, transform or binarize())
  return dataclasses.replace(data, levels=2, source_levels=levels, transforms=transforms, variant=called)
