"""Data sets that papers report on, and their augmentations, a function each.

`data_dir` is the folder where tensorflow-datasets prepared them.
"""

import os
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
    classes: whether labels are read.
    train: the training split or a part of it, such as "train[:50000]".
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
  """MNIST binarized to -1 and 1, without labels. Likelihoods of the two binarizations do not compare.

  Args:
    drawn: "once" takes the fixed draw of Salakhutdinov & Murray 2008, with 50,000 train, 10,000 validation and 10,000
      test images; "anew" draws each pixel at every use, as Burda et al. 2016 do, from MNIST's 60,000 and 10,000 images.
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
  """ImageNet of 2012, 1,000 classes: 1,281,167 training images, and the 50,000 validation images as "test".

  Args:
    view: the part of an image that training sees, `RandomResizedCrop()` for most published numbers; None: the same as
      evaluation.
    test_view: the part that evaluation sees, `CenterCrop()` for most published numbers; None: the central square,
      resized by Lanczos.
    augment: transforms of images in [-1, 1], such as `deit_augment()` or `(flip(),)`.
    repeats: the number of consecutive training examples made from one image, each with its own view; see `Dataset`.
    standardized: whether images are standardized last, with the mean and standard deviation of each channel; else they
      stay in [-1, 1].
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
  """The augmentations on the device of DeiT and the networks after it: Touvron et al. 2021, table 9.

  https://arxiv.org/abs/2012.12877. Random flips, two operations of RandAugment at magnitude 9 +- 0.5, random erasing
  with probability 0.25, and mixup (0.8) or CutMix (1.0), each with probability 1/2. It differs from the authors' code,
  timm, in two points: each example draws its own mixing share, where timm draws one for a batch; and RandAugment takes
  the paper's 14 operations, each always applied, where timm takes 15 (without the identity), each with probability 1/2.

  Args:
    classes: the number of classes.
    standardized: whether images are standardized afterwards by ImageNet's means and standard deviations; the noise of
      erasing then has these too, else mean 0 and standard deviation 1.
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


def molecules(file: str | os.PathLike, atoms: int, *, gyration: bool = False) -> Dataset:
  """Molecules in space, "molecule" float32 [atoms, 4]: x, y, z in angstrom and the atomic number, 0 for no atom.

  Args:
    file: a NumPy file, see `jaxgen.data.sources.molecules`; `jaxgen.data.small_molecules` makes one.
    atoms: the most atoms of a molecule.
    gyration: whether "gyration", float32 [1], the standardised radius of gyration, is read, too.
  """
  features = {"molecule": jax.ShapeDtypeStruct((atoms, 4), np.float32)}
  features |= {"gyration": jax.ShapeDtypeStruct((1,), np.float32)} if gyration else {}
  return Dataset(f"molecules:{file}", features, feature="molecule")


def graphs(kind: str, nodes: int) -> Dataset:
  """Graphs, "graph" int32 [nodes, nodes]: on the diagonal 1 + a node's type, elsewhere an edge's, and 0 for none.

  Args:
    kind: such as "planar" or "ego:FILE", see `jaxgen.data.sources.graphs`.
    nodes: the most nodes of a graph.
  """
  return Dataset(f"graphs:{kind}", {"graph": jax.ShapeDtypeStruct((nodes, nodes), np.int32)})


def markov_chain(vocabulary: int, length: int) -> Dataset:
  """Sequences of a Markov chain of the second order, "tokens" int32 [length]: 50,000 train and 10,000 test.

  Args:
    vocabulary: the number of different tokens.
    length: the number of tokens of a sequence.
  """
  tokens = jax.ShapeDtypeStruct((length,), np.int32)
  return Dataset(f"chain:{vocabulary}", {"tokens": tokens}, vocabulary)


def reversed_strings(letters: int, width: int, *, train: str, test: str) -> Dataset:
  """Random strings, "source", and the same strings reversed, "target", as tokens int32 [width]: 8,192 in each split.

  Args:
    letters: the number of letters in the alphabet; the end token, 2, and padding, 0, come in addition.
    width: the number of tokens of a sequence, its end included.
    train, test: the lengths of strings, LEAST-MOST-STEP, such as 1-17-2.
  """
  tokens = jax.ShapeDtypeStruct((width,), np.int32)
  features = {"source": tokens, "target": tokens}
  return Dataset(f"reversed:{letters}", features, letters + 3, train=train, test=test, feature="target")
