"""Real data: mnist, fashion_mnist, binarized_mnist and cifar10 as prepared in the folder that JAXGEN_TFDS_DIR names."""

import os
import sys

import jax
import numpy as np
import pytest

from jaxgen.data import images, sources
from jaxgen.data.pipeline import Stream

FOLDER = os.environ.get("JAXGEN_TFDS_DIR")
pytestmark = [
  pytest.mark.skipif(not FOLDER, reason="JAXGEN_TFDS_DIR names no folder of prepared data sets"),
]

KNOWN = {  # name: shape, levels, classes, size of train and test, mean of the training images in 0..levels-1
  "mnist": ((28, 28, 1), 256, 10, 60_000, 10_000, 0.1307 * 255),
  "fashion_mnist": ((28, 28, 1), 256, 10, 60_000, 10_000, 0.2860 * 255),
  "binarized_mnist": ((28, 28, 1), 2, None, 50_000, 10_000, 0.1306),
  "cifar10": ((32, 32, 3), 256, 10, 50_000, None, 0.4734 * 255),
}


@pytest.mark.parametrize("name", KNOWN)
def test_real_tfds(name):
  """Sizes and means as they are published everywhere these sets are normalised."""
  shape, levels, classes, train, test, mean = KNOWN[name]
  data = images(f"tfds:{name}", shape, levels=levels, classes=classes, data_dir=FOLDER)
  source = data.source("train")
  assert source.in_memory
  assert len(source) == train
  assert test is None or len(data.source("test")) == test
  assert source.arrays["image"].mean() == pytest.approx(mean, rel=1e-3)
  if name in ("fashion_mnist", "cifar10"):
    assert set(np.bincount(source.arrays["label"])) == {train // 10}
  if name == "mnist":
    assert list(np.bincount(source.arrays["label"])) == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
  if name == "binarized_mnist":
    assert set(np.unique(source.arrays["image"])) == {0, 1}
  assert "tensorflow" not in sys.modules


def test_real_cifar10_streams_as_it_lies_in_memory():
  """One, two and four processes through Grain read the global batches that one process reads from memory."""
  specs = {"image": jax.ShapeDtypeStruct((32, 32, 3), np.uint8), "label": jax.ShapeDtypeStruct((), np.int32)}
  arguments = "tfds:cifar10", "train[:2000]", specs, FOLDER
  memory, streamed = sources.open_source(*arguments), sources.open_source(*arguments, memory_bytes=0)
  assert not streamed.in_memory
  whole = Stream(memory, 1, 128).take(13, 5)  # the first epoch ends in batch 15
  for processes in (1, 2, 4):
    streams = [Stream(streamed, 1, 128, rows) for rows in np.split(np.arange(128, dtype=np.int32), processes)]
    parts = [stream.take(13, 5) for stream in streams]
    for stream in streams:
      stream.close()
    for name, array in whole.items():
      np.testing.assert_array_equal(np.concatenate([part[name] for part in parts], 1), array, strict=True)
