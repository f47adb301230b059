import importlib.util
import io
import pathlib
import types

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from jaxgen.core.errors import UserError
from jaxgen.data import images
from jaxgen.data.prepare import prepare


class TinyPictures(tfds.core.GeneratorBasedBuilder):
  """Encoded PNGs, which tensorflow-datasets can write without TensorFlow."""

  VERSION = tfds.core.Version("1.0.0")
  MANUAL_DOWNLOAD_INSTRUCTIONS = "Put pictures.npy there."

  def _info(self):
    features = {"image": tfds.features.Image(shape=(3, 4, 3)), "label": tfds.features.ClassLabel(num_classes=5)}
    return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

  def _split_generators(self, dl_manager):
    return {"train": self._generate_examples(dl_manager.manual_dir / "pictures.npy")}

  def _generate_examples(self, path):
    for i, image in enumerate(np.load(path)):
      buffer = io.BytesIO()
      Image.fromarray(image).save(buffer, "PNG")
      buffer.seek(0)
      yield i, {"image": buffer, "label": i}


@pytest.fixture
def tensorflow(monkeypatch):
  """As if TensorFlow were installed."""
  find = importlib.util.find_spec
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: "there" if name == "tensorflow" else find(name))


def test_without_tensorflow_it_says_what_to_install(monkeypatch, tmp_path):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  with pytest.raises(UserError, match=r"preparing mnist needs TensorFlow .*pip install 'jaxgen\[tfds\]'"):
    prepare("tfds:mnist", tmp_path)


def test_what_is_prepared_can_be_read(tensorflow, tmp_path):
  pictures = np.random.default_rng(0).integers(0, 256, (5, 3, 4, 3), np.uint8)
  (tmp_path / "manual").mkdir()
  np.save(tmp_path / "manual" / "pictures.npy", pictures)
  assert prepare("tiny_pictures", tmp_path / "data", tmp_path / "manual") == {"train": 5}
  assert prepare("tfds:tiny_pictures", tmp_path / "data") == {"train": 5}  # it is there already
  data = images("tfds:tiny_pictures", (3, 4, 3), classes=5, data_dir=tmp_path / "data")
  arrays = data.source("train").arrays
  np.testing.assert_array_equal(arrays["image"], pictures[arrays["label"]])
  assert sorted(arrays["label"]) == [0, 1, 2, 3, 4]


def test_every_data_set_extracts_into_a_folder_of_its_own(tensorflow, tmp_path, monkeypatch):
  """tensorflow-datasets takes an archive's extraction for that of any other of its file name in the same folder."""
  seen = []

  def download_and_prepare(download_config):
    assert not any(pathlib.Path(download_config.extract_dir).iterdir())
    pathlib.Path(download_config.extract_dir, "GZIP.train-images").write_text("extracted")
    seen.append(download_config.extract_dir)

  info = types.SimpleNamespace(splits={})
  builder = types.SimpleNamespace(info=info, download_and_prepare=download_and_prepare)
  monkeypatch.setattr(tfds, "builder", lambda name, data_dir, file_format: builder)
  prepare("mnist", tmp_path)
  prepare("fashion_mnist", tmp_path)
  assert len(set(seen)) == 2
  assert not any(tmp_path.iterdir())  # nothing of it is left


def test_what_goes_wrong_is_one_sentence(tensorflow, tmp_path):
  with pytest.raises(UserError, match="tensorflow-datasets has no data set 'no_such_data_set'"):
    prepare("no_such_data_set", tmp_path)
  with pytest.raises(UserError, match="there is no folder .*nowhere, which --manual-dir names"):
    prepare("tiny_pictures", tmp_path, tmp_path / "nowhere")
  with pytest.raises(UserError, match="tiny_pictures could not be prepared in .*Put pictures.npy there.*--manual-dir"):
    prepare("tiny_pictures", tmp_path)
  (tmp_path / "file").write_text("")
  with pytest.raises(UserError, match="tiny_pictures could not be prepared in .*file"):
    prepare("tiny_pictures", tmp_path / "file")
