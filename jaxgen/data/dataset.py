"""A data set: what its examples are, and what happens to a batch of them on the device.

Building one computes nothing and opens nothing, so that a config can be listed where its data is not.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Array

from jaxgen.core.errors import UserError
from jaxgen.core.method import Batch
from jaxgen.data.sources import Features, Fit, Source, open_source
from jaxgen.data.transforms import Transform, binarize, scale

Specs = dict[str, jax.ShapeDtypeStruct]


@dataclass(frozen=True)
class Dataset:
  """What a config says of its data.

  name: see `jaxgen.data.sources`.
  features: name -> shape and dtype of one example of the source: {"image": uint8 [H, W, C], "label": int32 []}.
  levels: the number of integer pixel values (256; digits 17, binarized images 2) or of different tokens, None where
    values are not integers.
  classes: the number of labels.
  transforms: (key, batch) -> batch on the device, always; in this order.
  augment: likewise, after them, in training only.
  last: likewise, always, after these.
  data_dir: where tensorflow-datasets prepared its data sets, None for its own default.
  train, test: the names of these splits in the data set.
  fit: how images of other sizes are brought to the size of `features` (folders; see `open_source`).
  source_levels: of the source, where the transforms change them (`binarized`); None: the same as `levels`.
  variant: what the transforms made of the data, in words, where likelihoods of it do not compare with the data's own.
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
  _sources: dict[str, Source] = field(default_factory=dict, init=False, repr=False, compare=False)

  def source(self, split: str) -> Source:
    """Opens "train", "test", or a split by its name in the data set; the same source at every call.

    Raises:
      UserError: the data is missing, or its shape, dtype, pixel values, tokens or labels are not what this data says.
        Values are checked over the whole split where it is in memory, else on its first example.
    """
    split = {"train": self.train, "test": self.test}.get(split, split)
    if split not in self._sources:
      source = open_source(self.name, split, self.features, self.data_dir, self.fit)
      some = getattr(source, "arrays", None) or source.gather(np.zeros(1, np.int64))
      counted = (
        ("image", self.source_levels or self.levels, "levels"),
        ("tokens", self.levels, "levels"),
        ("label", self.classes, "classes"),
      )
      for key, count, what in counted:
        if count is not None and key in some and not 0 <= some[key].min() <= some[key].max() < count:
          raise UserError(
            f"{self.name}, split {split!r}: {key!r} has values {some[key].min()} to {some[key].max()}, but the config "
            f"expects {count} {what}, 0 to {count - 1}: change the config's {what} or the data set"
          )
      vocabulary = getattr(source, "vocabulary", self.levels)  # a text's, which samples are read with
      if vocabulary != self.levels:
        raise UserError(
          f"{self.name} has {vocabulary} different tokens and the config says {self.levels}: --vocabulary {vocabulary}"
        )
      self._sources[split] = source
    return self._sources[split]

  @property
  def title(self) -> str:
    """What it is called where likelihoods are compared: its name, what was made of it, and its images' size where they
    are of another than the data set's."""
    parts = [self.name] + [self.variant] * bool(self.variant)
    if "image" in self.features:
      seen = self.batch_spec(1, train=False)["image"].shape[1:]
      parts += ["x".join(map(str, seen))] * (seen != self.features["image"].shape)
    return ", ".join(parts)

  def raw_spec(self, batch_size: int) -> Specs:
    """Shapes and dtypes of a batch as the pipeline gives it, "index" included."""
    specs = {k: jax.ShapeDtypeStruct((batch_size, *s.shape), s.dtype) for k, s in self.features.items()}
    return specs | {"index": jax.ShapeDtypeStruct((batch_size,), np.int32)}

  def batch_spec(self, batch_size: int, train: bool = True) -> Specs:
    """Shapes and dtypes of a batch after the transforms; computes nothing."""
    key = jax.eval_shape(jax.random.key, 0)
    return jax.eval_shape(lambda k, b: self.transform(k, b, train), key, self.raw_spec(batch_size))

  def transform(self, key: Array, batch: Mapping[str, Array | np.ndarray], train: bool) -> Batch:
    """A raw batch -> what a method sees. Pure; transform i draws from fold_in(key, i)."""
    batch = jax.tree.map(jax.numpy.asarray, dict(batch))
    for i, transform in enumerate(self.transforms + (self.augment if train else ()) + self.last):
      batch = transform(jax.random.fold_in(key, i), batch)
    return batch


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
) -> Dataset:
  """A data set of uint8 images [H, W, C], with labels where `classes` is given; by default they are only scaled."""
  features = {"image": jax.ShapeDtypeStruct(tuple(shape), np.uint8)}
  if classes is not None:
    features["label"] = jax.ShapeDtypeStruct((), np.int32)
  transforms = (scale(levels),) if transforms is None else transforms
  return Dataset(name, features, levels, classes, transforms, augment, data_dir, train, test, fit, last)


def binarized(data: Dataset, how: Transform | None = None, called: str = "binarized at 1/2") -> Dataset:
  """The data set with images of two levels, -1 and 1, by `transforms.binarize()` or another transform of that kind.

  called: what `title` says of it; likelihoods of images binarized in other ways do not compare.
  """
  levels, transforms = data.source_levels or data.levels, (*data.transforms, how or binarize())
  return dataclasses.replace(data, levels=2, source_levels=levels, transforms=transforms, variant=called)


def digits(*, transforms: tuple[Transform, ...] | None = None, augment: tuple[Transform, ...] = ()) -> Dataset:
  """scikit-learn's handwritten digits: 1,437 train and 360 test, 8x8x1, pixel values 0..16, ten classes."""
  return images("digits", (8, 8, 1), levels=17, classes=10, transforms=transforms, augment=augment)
