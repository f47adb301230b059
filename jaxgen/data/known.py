"""Data sets that papers report on, and how they are augmented, one line each.

`data_dir` is where tensorflow-datasets prepared them.
"""

from pathlib import Path
from typing import Literal

import jax
import numpy as np

from jaxgen.data.augment import cutmix, either, erase, mixup, rand_augment
from jaxgen.data.dataset import Dataset, binarized, images
from jaxgen.data.sources.views import CenterCrop, View
from jaxgen.data.transforms import Transform, binarize_dynamic, flip, standardize

Transforms = tuple[Transform, ...]


def digits(*, transforms: Transforms | None = None, augment: Transforms = ()) -> Dataset:
  """scikit-learn's handwritten digits: 1,437 train and 360 test, 8x8x1, pixel values 0..16, ten classes."""
  return images("digits", (8, 8, 1), levels=17, classes=10, transforms=transforms, augment=augment)


def mnist(
  data_dir: str | Path | None = None,
  *,
  transforms: Transforms | None = None,
  augment: Transforms = (),
  classes: bool = True,
  train: str = "train",
) -> Dataset:
  """MNIST: 60,000 train and 10,000 test, 28x28x1, ten classes.

  Args:
    classes: labels are read.
    train: a part of the training split, "train[:50000]" for one.
  """
  return images(
    "tfds:mnist",
    (28, 28, 1),
    classes=10 if classes else None,
    transforms=transforms,
    augment=augment,
    data_dir=data_dir,
    train=train,
  )


def binarized_mnist(data_dir: str | Path | None = None, *, drawn: Literal["once", "anew"] = "once") -> Dataset:
  """MNIST in black and white, -1 and 1, without labels. Likelihoods of the two kinds do not compare.

  Args:
    drawn: "once" is the fixed draw of Salakhutdinov & Murray 2008, of 50,000 train, 10,000 validation and 10,000 test;
      "anew" draws each pixel at every use, as Burda et al. 2016 do, of MNIST's 60,000 and 10,000.
  """
  if drawn == "once":
    return images("tfds:binarized_mnist", (28, 28, 1), levels=2, data_dir=data_dir)
  return binarized(mnist(data_dir, classes=False), binarize_dynamic(), "binarized anew at every use")


def cifar10(
  data_dir: str | Path | None = None,
  *,
  transforms: Transforms | None = None,
  augment: Transforms = (),
  classes: bool = True,
) -> Dataset:
  """CIFAR-10: 50,000 training and 10,000 test images, 32x32x3, ten classes.

  Args:
    classes: whether labels are read.
  """
  return images(
    "tfds:cifar10",
    (32, 32, 3),
    classes=10 if classes else None,
    transforms=transforms,
    augment=augment,
    data_dir=data_dir,
  )


def imagenet(
  data_dir: str | Path | None = None,
  *,
  size: int = 224,
  view: View | None = None,
  test_view: CenterCrop | None = None,
  augment: Transforms = (),
  repeats: int = 1,
  standardized: bool = True,
) -> Dataset:
  """ImageNet of 2012: 1,281,167 train and 50,000 validation, which is "test" here, of 1,000 classes.

  Args:
    view: what training sees of a picture, `RandomResizedCrop()` for most published numbers; None: as evaluation.
    test_view: what evaluation sees of it, `CenterCrop()` for most; None: all of the shorter side, resized by Lanczos.
    augment: takes images in [-1, 1]; `deit_augment()` and `(flip(),)` are two.
    repeats: of a picture in a row, in training, each with a view of its own; see `Dataset`.
    standardized: last, by the mean and standard deviation of each channel; else images stay in [-1, 1].
  """
  return images(
    "tfds:imagenet2012",
    (size, size, 3),
    classes=1000,
    augment=augment,
    data_dir=data_dir,
    test="validation",
    fit=test_view or "crop",
    last=(standardize(),) if standardized else (),
    view=view,
    repeats=repeats,
  )


def deit_augment(classes: int = 1000, *, standardized: bool = True) -> Transforms:
  """What DeiT and the networks after it are trained with on the device: Touvron et al. 2021, table 9.

  https://arxiv.org/abs/2012.12877. Mirror images, two operations of RandAugment at magnitude 9 +- 0.5, erasing with
  probability 0.25, and mixup (0.8) or CutMix (1.0), either with probability 1/2. Of their code, timm, it differs in
  that it mixes each example by a share of its own and not a batch by one, and in RandAugment's operations: the paper's
  14, each always done, where timm has 15 (without the identity), each done with probability 1/2.

  Args:
    classes: of the labels.
    standardized: by ImageNet's means and deviations afterwards, which the noise of erasing has then; else 0 and 1.
  """
  noise = {} if standardized else {"mean": (0.5,) * 3, "std": (0.5,) * 3}
  mix = either(mixup(0.8, classes), cutmix(1.0, classes))
  return rand_augment(2, 9.0, 0.5), flip(), erase(0.25, **noise), mix


def points(modes: str, std: float) -> Dataset:
  """Normal clouds in the plane, "x" float32 [2]: 50,000 train and 10,000 test.

  Args:
    modes: "ring8" or "grid25", the clouds' centres (see `jaxgen.data.sources.modes`).
    std: the clouds' standard deviation.
  """
  return Dataset(f"points:{modes}:{std}", {"x": jax.ShapeDtypeStruct((2,), np.float32)})


def reversed_strings(letters: int, width: int, *, train: str, test: str) -> Dataset:
  """Random strings, "source", and the same from their end, "target", in tokens int32 [width]: 8,192 in each split.

  Args:
    letters: in the alphabet, to which come an end, 2, and padding, 0.
    width: tokens of a sequence, its end included.
    train, test: lengths of strings, LEAST-MOST-STEP, such as 1-17-2.
  """
  tokens = jax.ShapeDtypeStruct((width,), np.int32)
  features = {"source": tokens, "target": tokens}
  return Dataset(f"reversed:{letters}", features, letters + 3, train=train, test=test, feature="target")
