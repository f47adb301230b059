import gzip
import io
import pickle
import shutil
import sys
import types

import cloudpickle
import jax
import numpy as np
import pytest
from PIL import Image

from jaxgen.core.errors import UserError
from jaxgen.data import RandomResizedCrop, sources
from jaxgen.data.pipeline import draws
from jaxgen.data.sources import digits


def features(shape, label=True):
  specs = {"image": jax.ShapeDtypeStruct(shape, np.uint8)}
  return specs | {"label": jax.ShapeDtypeStruct((), np.int32)} if label else specs


def pictures(count, shape, seed):
  return np.random.default_rng(seed).integers(0, 256, (count, *shape), np.uint8)


# digits


def test_digits_are_those_of_scikit_learn_in_its_own_train_test_split():
  from sklearn.datasets import load_digits
  from sklearn.model_selection import train_test_split

  images_, labels = load_digits(return_X_y=True)
  parts = train_test_split(images_, labels, test_size=360, random_state=0)
  for split, image, label in (("train", parts[0], parts[2]), ("test", parts[1], parts[3])):
    source = sources.open_source("digits", split, features((8, 8, 1)))
    np.testing.assert_array_equal(source.arrays["image"].reshape(-1, 64), image)
    np.testing.assert_array_equal(source.arrays["label"], label)
    assert source.arrays["label"].dtype == np.int32
    assert len(source) == {"train": 1437, "test": 360}[split]


def test_digits_are_the_same_when_the_file_has_moved(monkeypatch):
  expected = digits.read_digits()

  def missing(*args):
    raise FileNotFoundError

  monkeypatch.setattr(digits, "gzip", types.SimpleNamespace(open=missing))
  for found, array in zip(digits.read_digits(), expected, strict=True):
    np.testing.assert_array_equal(found, array)
    assert found.dtype == array.dtype


# npz


def test_npz_by_split_and_alone(tmp_path):
  train, test = pictures(5, (4, 3, 1), 0), pictures(3, (4, 3, 1), 1)
  both, alone = tmp_path / "both.npz", tmp_path / "alone.npz"
  np.savez(both, train_image=train, train_label=np.arange(5), test_image=test, test_label=np.array([4, 0, 2]))
  np.savez_compressed(alone, image=train, label=np.arange(5), weight=np.ones(5))
  for name, split, image, label in (
    (both, "train", train, [0, 1, 2, 3, 4]),
    (both, "test", test, [4, 0, 2]),
    (alone, "train", train, [0, 1, 2, 3, 4]),
  ):
    source = sources.open_source(f"npz:{name}", split, features((4, 3, 1)))
    np.testing.assert_array_equal(source.arrays["image"], image)
    np.testing.assert_array_equal(source.arrays["label"], label)
    assert source[1]["label"].dtype == np.int32
    assert set(source[0]) == {"image", "label"}
  assert set(sources.open_source(f"npz:{alone}", "train", features((4, 3, 1), label=False))[0]) == {"image"}


# folders


@pytest.fixture
def folder(tmp_path):
  """Classes a, b, c; the test split lacks b."""
  for split, name, count in (
    ("train", "b", 3),
    ("train", "a", 2),
    ("train", "c", 1),
    ("test", "c", 2),
    ("test", "a", 1),
  ):
    (tmp_path / split / name).mkdir(parents=True)
    for i, image in enumerate(pictures(count, (6, 5, 3), count)):
      Image.fromarray(image).save(tmp_path / split / name / f"{i}.png")
  (tmp_path / "train" / "a" / "notes.txt").write_text("not an image")
  return tmp_path


def test_folder_in_the_order_of_its_names_with_one_numbering_of_classes(folder):
  train = sources.open_source(f"folder:{folder}", "train", features((6, 5, 3)))
  test = sources.open_source(f"folder:{folder}", "test", features((6, 5, 3)))
  np.testing.assert_array_equal(train.arrays["label"], [0, 0, 1, 1, 1, 2])
  np.testing.assert_array_equal(test.arrays["label"], [0, 2, 2])  # c is 2 here as well
  expected = np.concatenate([pictures(n, (6, 5, 3), n) for n in (2, 3, 1)])
  np.testing.assert_array_equal(train.arrays["image"], expected)
  without = sources.open_source(f"folder:{folder}", "train", features((6, 5, 3), label=False))
  np.testing.assert_array_equal(without.arrays["image"], expected)
  assert set(without[0]) == {"image"}


def test_folder_brings_images_to_one_size(tmp_path):
  (tmp_path / "train" / "x").mkdir(parents=True)
  wide = pictures(1, (4, 10, 3), 0)[0]
  Image.fromarray(wide).save(tmp_path / "train" / "x" / "0.png")
  name = f"folder:{tmp_path}"
  crop = sources.open_source(name, "train", features((4, 4, 3)))
  np.testing.assert_array_equal(crop[0]["image"], wide[:, 3:7])
  pad = sources.open_source(name, "train", features((6, 12, 3)), fit="pad")
  np.testing.assert_array_equal(pad[0]["image"], np.pad(wide, ((1, 1), (1, 1), (0, 0))))
  with pytest.raises(UserError, match="10x4, larger than 8x8: use fit='crop'"):
    sources.open_source(name, "train", features((8, 8, 3)), fit="pad")

  # Scaled down, an image of constant halves keeps its halves' colours away from the edge between them.
  halves = np.repeat(np.array([[10, 200]], np.uint8), 32, 1).repeat(40, 0)  # [40, 64]
  Image.fromarray(halves).save(tmp_path / "train" / "x" / "0.png")
  gray = sources.open_source(name, "train", features((20, 20, 1)))[0]["image"]
  assert gray.shape == (20, 20, 1)
  np.testing.assert_array_equal(gray[:, [0, 6, 13, 19], 0], np.broadcast_to([10, 10, 200, 200], (20, 4)))


def test_folder_converts_channels_and_palettes(tmp_path):
  (tmp_path / "train" / "x").mkdir(parents=True)
  gray = pictures(1, (4, 4), 0)[0]
  Image.fromarray(gray).save(tmp_path / "train" / "x" / "0.png")
  Image.fromarray(gray).convert("P").save(tmp_path / "train" / "x" / "1.gif")
  source = sources.open_source(f"folder:{tmp_path}", "train", features((4, 4, 3)))
  for i in range(2):
    np.testing.assert_array_equal(source[i]["image"], np.repeat(gray[..., None], 3, -1))


def test_decoded_source_equals_the_one_in_memory(folder):
  arguments = f"folder:{folder}", "train", features((6, 5, 3))
  memory, decoded = sources.open_source(*arguments), sources.open_source(*arguments, memory_bytes=0)
  assert memory.in_memory
  assert not decoded.in_memory
  assert len(memory) == len(decoded) == 6
  indices = np.array([5, 0, 0, 3])
  for name, array in memory.gather(indices).items():
    np.testing.assert_array_equal(array, decoded.gather(indices)[name])
    np.testing.assert_array_equal(memory[2][name], decoded[2][name])
    assert array.dtype == decoded.gather(indices)[name].dtype


def test_memory_bound_counts_decoded_bytes(folder):
  bytes_ = 6 * (6 * 5 * 3 + 4)  # six examples of an image and an int32 label
  arguments = f"folder:{folder}", "train", features((6, 5, 3))
  assert sources.open_source(*arguments, memory_bytes=bytes_).in_memory
  assert not sources.open_source(*arguments, memory_bytes=bytes_ - 1).in_memory


# tensorflow-datasets


def png(array: np.ndarray) -> bytes:
  buffer = io.BytesIO()
  Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array).save(buffer, "PNG")
  return buffer.getvalue()


@pytest.fixture(scope="session")
def tfds_dir(tmp_path_factory):
  """A folder that tensorflow-datasets itself prepared in ArrayRecord format: `small_pictures`, with two splits.

  Handed encoded PNGs instead of arrays, it needs no TensorFlow to write them.
  """
  import tensorflow_datasets as tfds

  class SmallPictures(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
      features = {
        "image": tfds.features.Image(shape=(6, 5, 3)),
        "label": tfds.features.ClassLabel(num_classes=4),
        "any_size": tfds.features.Image(shape=(None, None, 1)),
        "weight": np.float32,
      }
      return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
      return {"train": self._generate_examples(23, 0), "test": self._generate_examples(7, 1)}

    def _generate_examples(self, count, seed):
      for i, image in enumerate(pictures(count, (6, 5, 3), seed)):
        any_size = pictures(1, (8, 8 + i, 1), i)[0]
        yield (
          i,
          {
            "image": io.BytesIO(png(image)),
            "label": i % 4,
            "any_size": io.BytesIO(png(any_size)),
            "weight": i / 2,
          },
        )

  folder = tmp_path_factory.mktemp("tfds")
  with_download = tfds.download.DownloadConfig(try_download_gcs=False)
  tfds.builder("small_pictures", data_dir=folder, file_format="array_record").download_and_prepare(
    download_config=with_download
  )
  assert "tensorflow" not in sys.modules
  return folder


def by_label_and_bytes(arrays):
  return sorted((int(label), image.tobytes()) for image, label in zip(arrays["image"], arrays["label"], strict=True))


def test_tfds_reads_what_tfds_wrote(tfds_dir):
  for name in ("tfds:small_pictures", "tfds:small_pictures:1.0.0"):
    for split, count, seed in (("train", 23, 0), ("test", 7, 1)):
      source = sources.open_source(name, split, features((6, 5, 3)), tfds_dir)
      written = {"image": pictures(count, (6, 5, 3), seed), "label": np.arange(count) % 4}
      assert by_label_and_bytes(source.arrays) == by_label_and_bytes(written)  # tfds shuffles what it writes
      assert source.arrays["label"].dtype == np.int32
  assert len(sources.open_source("tfds:small_pictures", "train[:5]", features((6, 5, 3)), tfds_dir)) == 5
  assert "tensorflow" not in sys.modules


def test_tfds_can_be_sent_to_a_worker_process(tfds_dir):
  source = sources.open_source("tfds:small_pictures", "train", features((6, 5, 3)), tfds_dir, memory_bytes=0)
  seen = source.through(RandomResizedCrop())
  indices, uniform = np.array([3, 22, 0, 3]), draws(seen.draws, 0, np.arange(4))
  expected = seen.gather(indices, uniform)
  sent = cloudpickle.dumps(seen)  # with its files open
  for name, array in cloudpickle.loads(sent).gather(indices, uniform).items():
    np.testing.assert_array_equal(array, expected[name], strict=True)
  assert not np.array_equal(expected["image"][0], expected["image"][3])  # two draws of one picture
  assert "tensorflow" not in sys.modules


def test_tfds_fits_images_of_no_fixed_size_and_reads_other_features(tfds_dir):
  specs = {"any_size": jax.ShapeDtypeStruct((8, 8, 1), np.uint8), "weight": jax.ShapeDtypeStruct((), np.float32)}
  source = sources.open_source("tfds:small_pictures", "train", specs, tfds_dir)
  assert len(source) == 23
  for i in range(23):
    j = int(2 * source[i]["weight"])  # example j is j columns wider than 8
    wide = pictures(1, (8, 8 + j, 1), j)[0]
    if j % 2 == 0:  # of an odd surplus half a column goes on either side, and the rest is interpolated
      np.testing.assert_array_equal(source[i]["any_size"], wide[:, j // 2 : j // 2 + 8])


# bad input


@pytest.fixture
def bad(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  np.savez("good.npz", train_image=pictures(4, (8, 8, 1), 0), train_label=np.arange(4))
  np.savez("objects.npz", image=np.array([{}], dtype=object), label=np.zeros(1, int))
  np.savez("uneven.npz", image=pictures(4, (8, 8, 1), 0), label=np.arange(3))
  np.savez("none.npz", image=pictures(0, (8, 8, 1), 0), label=np.arange(0))
  np.savez("unlabelled.npz", image=pictures(4, (8, 8, 1), 0))
  np.save("array.npy", np.zeros(3))
  with open("pickle.npz", "wb") as file:
    pickle.dump({"image": 1}, file)
  good = (tmp_path / "good.npz").read_bytes()
  (tmp_path / "cut.npz").write_bytes(good[: len(good) // 2])
  (tmp_path / "flipped.npz").write_bytes(good[:200] + bytes([good[200] ^ 1]) + good[201:])
  (tmp_path / "empty" / "train" / "a").mkdir(parents=True)
  (tmp_path / "broken" / "train" / "a").mkdir(parents=True)
  (tmp_path / "broken" / "train" / "a" / "x.png").write_bytes(b"no image")
  (tmp_path / "deep" / "train" / "a").mkdir(parents=True)
  Image.fromarray(np.zeros((8, 8), np.uint16)).save(tmp_path / "deep" / "train" / "a" / "x.png")
  return tmp_path


@pytest.mark.parametrize(
  ("name", "split", "sentence"),
  [
    ("cifar10", "train", "unknown data set 'cifar10': use digits, npz:FILE, folder:DIR, text:.* or tfds:NAME"),
    ("digits:8", "train", "unknown data set"),
    ("npz:", "train", "unknown data set"),
    ("digits", "validation", r"digits has no split 'validation': it has train \(1,437\) and test \(360\)"),
    ("npz:missing.npz", "train", "there is no file .*missing.npz"),
    ("npz:objects.npz", "train", "objects.npz has pickled objects, which are never loaded"),
    ("npz:pickle.npz", "train", "pickle.npz has pickled objects, which are never loaded"),
    ("npz:array.npy", "train", "holds one array, not named ones"),
    ("npz:cut.npz", "train", "cut.npz cannot be read as a NumPy file"),
    ("npz:flipped.npz", "train", "flipped.npz cannot be read as a NumPy file"),
    ("npz:uneven.npz", "train", r"first axis of 'label' must count the same examples .*\(4, 8, 8, 1\), label \(3,\)"),
    ("npz:none.npz", "train", "npz:none.npz has no examples in its split 'train'"),
    ("npz:unlabelled.npz", "train", "npz:unlabelled.npz has no 'label', only image"),
    ("npz:good.npz", "test", "no split 'test': expected arrays named test_image, test_label, found train_image"),
    ("folder:missing", "train", "there is no folder .*missing"),
    ("folder:empty", "train", "no image files"),
    ("folder:empty", "test", "no split 'test': expected the folder empty/test, found train"),
    ("folder:broken", "train", "broken/train/a/x.png cannot be read as an image"),
    ("folder:deep", "train", "x.png has more than 8 bits a channel"),
  ],
)
def test_bad_input_is_one_sentence(bad, name, split, sentence):
  with pytest.raises(UserError, match=sentence) as error:
    sources.open_source(name, split, features((8, 8, 1)))
  assert "\n" not in str(error.value)


@pytest.mark.parametrize(
  ("name", "split", "shape", "sentence"),
  [
    (
      "nothing",
      "train",
      (6, 5, 3),
      "not prepared in .* .found there: small_pictures.*jaxgen prepare nothing --data-dir",
    ),
    ("small_pictures/no_config", "train", (6, 5, 3), "small_pictures/no_config is not prepared"),
    ("small_pictures:2.0.0", "train", (6, 5, 3), "small_pictures:2.0.0 is not prepared"),
    ("small_pictures", "validation", (6, 5, 3), "no split 'validation': it has train, test"),
    ("small_pictures", "train[5", (6, 5, 3), "no split 'train.5'"),
    (
      "small_pictures",
      "train",
      (6, 6, 3),
      r"is uint8 of shape \(6, 5, 3\), but the config expects uint8 of shape \(6, 6",
    ),
  ],
)
def test_bad_tfds_is_one_sentence(tfds_dir, name, split, shape, sentence):
  with pytest.raises(UserError, match=sentence):
    sources.open_source(f"tfds:{name}", split, features(shape), tfds_dir)


def test_tfds_without_the_wanted_feature(tfds_dir):
  specs = {"picture": jax.ShapeDtypeStruct((6, 5, 3), np.uint8)}
  with pytest.raises(UserError, match="has no 'picture', only"):
    sources.open_source("tfds:small_pictures", "train", specs, tfds_dir)


@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_damaged_tfds(tfds_dir, tmp_path, damage):
  copy = shutil.copytree(tfds_dir, tmp_path / "copy")
  (file,) = copy.rglob("small_pictures-train.array_record*")
  if damage == "missing":
    file.unlink()
  else:
    file.write_bytes(file.read_bytes()[:500])
  with pytest.raises(UserError, match="cannot be read .* remove that folder and prepare the data set again"):
    sources.open_source("tfds:small_pictures", "train", features((6, 5, 3)), copy)


@pytest.mark.parametrize(("name", "count", "distance"), [("ring8", 8, 2 * np.sin(np.pi / 8)), ("grid25", 25, 2.0)])
def test_points_lie_around_their_modes(name, count, distance):
  specs = {"x": jax.ShapeDtypeStruct((2,), np.float32)}
  centres = sources.modes(name)
  away = np.linalg.norm(centres[:, None] - centres, axis=-1) + 100 * np.eye(count)
  np.testing.assert_allclose(away.min(1), distance, rtol=1e-12)
  for split, size in (("train", 50_000), ("test", 10_000)):
    x = sources.open_source(f"points:{name}:0.05", split, specs).arrays["x"]
    nearest = np.linalg.norm(x[:, None] - centres, axis=-1).argmin(1)
    shares = np.bincount(nearest, minlength=count) / size
    assert np.abs(shares - 1 / count).max() < 4 * (1 / count / size) ** 0.5
    assert abs((x - centres[nearest]).std() - 0.05) < 0.001


@pytest.mark.parametrize(
  ("name", "split", "sentence"),
  [
    ("points:ring8", "train", "lacks the clouds' standard deviation: the form is points:ring8:0.05"),
    ("points:ring9:0.1", "train", "no points 'ring9', only ring8 and grid25"),
    ("points:ring8:0.1", "valid", "no split 'valid'"),
  ],
)
def test_bad_points_are_one_sentence(name, split, sentence):
  with pytest.raises(UserError, match=sentence):
    sources.open_source(name, split, {"x": jax.ShapeDtypeStruct((2,), np.float32)})


def test_gzip_is_the_format_of_the_digits():
  """The fast way of reading them is taken: the file is where it is expected."""
  import sklearn

  with gzip.open(f"{sklearn.__path__[0]}/datasets/data/digits.csv.gz") as file:
    assert len(file.readlines()) == 1797
