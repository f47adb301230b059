"""The data set `digits`: scikit-learn's handwritten digits, {"image": uint8 [8, 8, 1] of 0..16, "label": int32 []}."""

import gzip
import importlib.util
from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt8

from jaxgen.core.errors import NoSplit, UserError
from jaxgen.data.sources.base import Arrays, Request, select

TEST = 360  # of 1,797


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


def open_digits(request: Request) -> Arrays:
  """The split is that of `sklearn.model_selection.train_test_split(..., test_size=360, random_state=0)`: in the order
  of NumPy's frozen RandomState(0).permutation(1797), the first 360 are for testing and the other 1,437 for training.
  """
  if request.split not in ("train", "test"):
    raise NoSplit(f"digits has no split {request.split!r}: it has train (1,437) and test (360)")
  images, labels = read_digits()
  order = np.random.RandomState(0).permutation(len(images))
  chosen = order[:TEST] if request.split == "test" else order[TEST:]
  return Arrays(select({"image": images[chosen], "label": labels[chosen]}, request.features, "digits"))
