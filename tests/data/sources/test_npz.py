"""The source `npz:FILE`: arrays by split, mapped where they are large, never unpickled."""

import ctypes
import mmap
import os
import pathlib
import pickle
import re
import sys

import jax
import numpy as np
import pytest

from jaxgen.core.errors import UserError
from jaxgen.data import images, sources
from jaxgen.data.pipeline import Stream, elements

X = {"x": jax.ShapeDtypeStruct((3,), np.float32)}


def test_arrays_of_any_name_by_split(tmp_path):
  path = tmp_path / "a.npz"
  x = np.arange(15, dtype=np.float32).reshape(5, 3)
  np.savez(path, train_x=x, test_x=x[:2])
  for split, count in (("train", 5), ("test", 2)):
    np.testing.assert_array_equal(sources.open_source(f"npz:{path}", split, X).arrays["x"], x[:count])


@pytest.mark.parametrize(
  ("split", "sentence"),
  [
    (
      "train",
      r"has no 'image' and no 'label' in its split 'train': expected arrays named train_image, train_label "
      r"\(or image, label alone\), found train_x, test_x: write the file with the expected names",
    ),
    ("test", "has no 'image' and no 'label' in its split 'test': expected .* test_image, test_label, found train_x"),
    ("valid", "has no split 'valid': expected arrays named valid_image, valid_label, found train_x, test_x"),
  ],
)
def test_the_error_names_what_is_expected_and_what_is_there(tmp_path, split, sentence):
  np.savez(tmp_path / "a.npz", train_x=np.zeros((5, 3)), test_x=np.zeros((2, 3)))
  with pytest.raises(UserError, match=sentence):
    sources.open_source(f"npz:{tmp_path / 'a.npz'}", split, images("", (4, 4, 1), classes=2).features)


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_file_larger_than_the_memory_is_read_by_rows(tmp_path, order):
  path, features = tmp_path / "a.npz", images("", (4, 3, 2), classes=5).features
  image = np.random.default_rng(0).integers(0, 256, (40, 4, 3, 2), np.uint8)
  label = np.arange(40) % 5
  np.savez(path, note=np.zeros(7), train_image=np.asarray(image, order=order), train_label=label)
  source = sources.open_source(f"npz:{path}", "train", features, memory_bytes=100)
  assert not source.in_memory
  assert isinstance(source.mapped["image"], np.memmap)
  assert set(source.arrays) == {"label"}
  assert (len(source), source[3]["label"].dtype) == (40, np.int32)
  indices = np.array([39, 0, 7, 7])
  gathered = source.gather(indices)
  np.testing.assert_array_equal(gathered["image"], image[indices])
  np.testing.assert_array_equal(gathered["label"], label[indices])
  np.testing.assert_array_equal(source[3]["image"], image[3])
  memory = sources.open_source(f"npz:{path}", "train", features)
  assert memory.in_memory
  streams = [Stream(s, 0, 4) for s in (source, memory)]
  lazy, whole = (stream.take(2, 3) for stream in streams)
  np.testing.assert_array_equal(lazy["image"], whole["image"])
  streams[0].close()
  # What is compressed has no rows to be read. Another file, for threads that read ahead may still read the first.
  other = tmp_path / "b.npz"
  np.savez_compressed(other, train_image=image, train_label=label)
  with pytest.warns(UserWarning, match="is compressed, so that every process reads all its 0.0 GiB into memory"):
    assert sources.open_source(f"npz:{other}", "train", features, memory_bytes=100).in_memory


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_mapped_file_is_read_where_it_is_asked_for(tmp_path):
  """Of 256 MiB, 100 rows of 4 KiB from one end: the memory of the process grows by a few MiB."""
  np.savez(tmp_path / "a.npz", train_image=np.ones((2**16, 64, 64, 1), np.uint8))
  data = images(f"npz:{tmp_path / 'a.npz'}", (64, 64, 1), levels=256)
  resident = lambda: int(re.search(r"VmRSS:\s+(\d+)", pathlib.Path("/proc/self/status").read_text())[1]) / 1024
  before = resident()
  source = sources.open_source(data.name, "train", data.features, memory_bytes=2**20)
  assert source.gather(np.arange(100))["image"].shape == (100, 64, 64, 1)
  assert resident() - before < 64


@pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel which pages are there")
def test_a_process_reads_the_pages_of_its_own_rows(tmp_path):
  """Of 64 MiB that are not in the page cache, process 1 of 2 reads 2 batches of 8 rows of 16 KiB: those pages alone."""
  path = tmp_path / "a.npz"
  np.savez(path, train_image=np.random.default_rng(0).integers(0, 256, (2**12, 128, 128, 1), np.uint8))
  with open(path, "rb+") as file:
    os.fsync(file.fileno())
    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
  source = sources.open_source(f"npz:{path}", "train", images("", (128, 128, 1)).features, memory_bytes=2**20)
  array = source.mapped["image"]
  pages = lambda: _resident(array._mmap)
  before = pages()
  if before.mean() > 0.5:
    pytest.skip("the file's system keeps all of it in memory")
  stream = Stream(source, 3, 16, np.arange(8, 16, dtype=np.int32))
  for k in range(2):
    positions = np.arange(16 * k + 8, 16 * k + 16)
    rows = elements(len(source), 3, positions)
    np.testing.assert_array_equal(stream.piece(k)["image"], array[rows])
  read = pages() & ~before
  start = array.offset % mmap.ALLOCATIONGRANULARITY
  own = np.zeros(len(read), bool)
  for row in elements(len(source), 3, np.r_[8:16, 24:32]):
    first = start + row * 2**14
    own[first // mmap.PAGESIZE : -(-(first + 2**14) // mmap.PAGESIZE)] = True
  assert read.any()
  assert not (read & ~own).any()


def _resident(mapping):
  """Which pages of a mapping the kernel has in memory: mincore(2)."""
  flags = (ctypes.c_ubyte * -(-len(mapping) // mmap.PAGESIZE))()
  address = np.frombuffer(mapping, np.uint8).ctypes.data
  libc = ctypes.CDLL(None, use_errno=True)
  assert libc.mincore(ctypes.c_void_p(address), ctypes.c_size_t(len(mapping)), flags) == 0
  return np.frombuffer(flags, np.uint8) & 1 > 0


def test_sent_to_another_process_it_is_mapped_there(tmp_path):
  """Not copied: what is sent is a path and places."""
  features = images("", (64, 64, 1), classes=3).features
  label = np.arange(100) % 3
  np.savez(
    tmp_path / "a.npz", train_image=np.arange(100 * 4096).reshape(100, 64, 64, 1).astype(np.uint8), train_label=label
  )
  source = sources.open_source(f"npz:{tmp_path / 'a.npz'}", "train", features, memory_bytes=100)
  sent = pickle.dumps(source)
  assert len(sent) < 2_000
  again = pickle.loads(sent)
  assert isinstance(again.mapped["image"], np.memmap)
  indices = np.array([5, 6, 7, 99])
  for name, array in source.gather(indices).items():
    np.testing.assert_array_equal(again.gather(indices)[name], array, strict=True)


def test_a_large_file_of_objects_is_not_unpickled(tmp_path):
  np.savez(tmp_path / "a.npz", x=np.array([{}] * 9, dtype=object))
  with pytest.raises(UserError, match="has pickled objects, which are never loaded"):
    sources.open_source(f"npz:{tmp_path / 'a.npz'}", "train", X, memory_bytes=1)
