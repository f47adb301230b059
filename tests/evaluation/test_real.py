"""A split's own images: what the method sees, in the order asked for."""

import numpy as np
from sklearn.datasets import load_digits

from jaxgen.data import digits, real
from jaxgen.data.transforms import dequantize


def test_every_example_once_and_in_order():
  data = digits()
  for split, total in (("train", 1437), ("test", 360)):
    chunks = list(real.batches(data, split))
    assert max(len(chunk["image"]) for chunk in chunks) <= real.CHUNK
    index = np.concatenate([chunk["index"] for chunk in chunks])
    np.testing.assert_array_equal(index, np.arange(total))
  both = np.concatenate([x for split in ("train", "test") for x in real.images(data, split)])
  ours = np.sort(np.round((both[..., 0] + 1) * 8).astype(int).reshape(1797, 64), axis=0)
  theirs = np.sort(load_digits().data.astype(int), axis=0)
  np.testing.assert_array_equal(ours, theirs)


def test_chosen_examples_and_the_same_noise_each_time():
  data = digits(transforms=(dequantize(17),))
  chosen = np.array([5, 3, 300])
  first = np.concatenate(list(real.images(data, "train", chosen)))
  second = np.concatenate(list(real.images(data, "train", chosen)))
  np.testing.assert_array_equal(first, second)
  expected = data.source("train").gather(chosen)["image"]
  np.testing.assert_array_equal(np.floor((first + 1) * 8.5 + 1e-4).clip(0, 16), expected)
