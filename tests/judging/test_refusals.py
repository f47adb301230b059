"""What judging refuses, and when: before a classifier is trained, and with one sentence for files that are damaged."""

import json
import os

import numpy as np
import pytest
from PIL import Image

from jaxgen.cli import evaluate
from jaxgen.core.errors import UserError
from jaxgen.data.own import own
from jaxgen.evaluation import moments
from jaxgen.judging import of_data, of_subject
from jaxgen.judging.spaces import JUDGE

RANDOM = np.random.default_rng(0)
PIXELS = RANDOM.integers(0, 256, (40, 8, 8, 3), np.uint8)


def test_pictures_that_change_at_equal_count_are_other_pictures(tmp_path):
  """In a folder with more files than a fingerprint reads, and in an npz."""
  folder = tmp_path / "own"
  folder.mkdir()
  for i in range(150):
    Image.fromarray(PIXELS[i % 40]).save(folder / f"{i:03d}.png")
  about = of_subject(f"folder:{folder}").about
  assert of_subject(f"folder:{folder}").about == about
  name = folder / "101.png"  # none of the 64 that the fingerprint has
  Image.fromarray(PIXELS[5]).save(name)
  assert of_subject(f"folder:{folder}").about != about
  file = tmp_path / "own.npz"
  np.savez(file, image=PIXELS)
  first = of_data(own(f"npz:{file}")).about
  np.savez(file, image=255 - PIXELS)
  os.utime(file, (0, 0))
  second = of_data(own(f"npz:{file}")).about
  assert first["n"] == second["n"]
  assert first["content"] != second["content"]


def test_an_uncompressed_file_of_pictures_is_not_read_whole(tmp_path, monkeypatch):
  values = {"arr_0": PIXELS, "samples": PIXELS.astype(np.float32) / 127.5 - 1}
  for name, array in values.items():
    np.savez(tmp_path / f"{name}.npz", **{name: array})
    np.savez_compressed(tmp_path / f"{name}_small.npz", **{name: array})
  for name in values:
    np.testing.assert_array_equal(np.stack(list(of_subject(str(tmp_path / f"{name}_small.npz")).read(3))), PIXELS[3:])
  monkeypatch.setattr(np.lib.npyio.NpzFile, "__getitem__", lambda *_: pytest.fail("a whole array was read"))
  monkeypatch.setattr("jaxgen.judging.pictures.CHUNK", 7)
  for name in values:
    np.testing.assert_array_equal(np.stack(list(of_subject(str(tmp_path / f"{name}.npz")).read(3))), PIXELS[3:])
  values["samples"][39, 0, 0, 0] = np.nan
  np.savez(tmp_path / "nan.npz", samples=values["samples"])
  with pytest.raises(UserError, match=r"pictures of float32 are in \[-1, 1\]"):
    of_subject(str(tmp_path / "nan.npz"))


@pytest.mark.parametrize("text", ["[]", "3", "null", '{"n": 3}', "{", '"n format"'])
def test_a_damaged_list_of_samples_is_one_sentence(tmp_path, text):
  (tmp_path / "samples.json").write_text(text)
  with pytest.raises(UserError, match="samples.json cannot be read: draw the samples anew"):
    of_subject(str(tmp_path))


@pytest.mark.parametrize(
  ("change", "sentence"),
  [
    ({"n": np.arange(3)}, "n one number"),
    ({"n": "many"}, "n one number"),
    ({"mu": np.array(["a", "b"])}, "must be real numbers"),
    ({"mu": np.array([1j, 2])}, "must be real numbers"),
    ({"sigma": np.array([[1.0, 0.5], [0.0, 1.0]])}, "sigma is not a covariance"),
    ({"sigma": -np.eye(2)}, "sigma is not a covariance"),
    ({"sigma": np.full((2, 2), np.inf)}, "not finite"),
  ],
)
def test_odd_files_of_statistics_are_one_sentence(tmp_path, change, sentence):
  np.savez(tmp_path / "s.npz", **({"mu": np.zeros(2), "sigma": np.eye(2)} | change))
  with pytest.raises(UserError, match=sentence):
    moments.read(tmp_path / "s.npz")


def test_what_cannot_be_computed_is_refused_before_a_classifier_is_trained(tmp_path, monkeypatch):
  monkeypatch.setattr(evaluate, "trained_space", lambda data: pytest.fail("a classifier was trained"))
  np.savez(tmp_path / "a.npz", PIXELS)
  moments.write(tmp_path / "s.npz", moments.of(RANDOM.normal(size=(9, 4))), features="inception_tf1")

  def refused(sentence, metrics, against, **given):
    words = ["--space", JUDGE, "--metrics", metrics, "--against", str(against)]
    words += [word for name, value in given.items() for word in (f"--{name}", str(value))]
    with pytest.raises(UserError, match=sentence):
      evaluate.evaluate(str(tmp_path / "a.npz"), words)

  refused("sfid needs a network's spatial", "sfid", "digits")
  refused("is needs a network's logits", "fid,is", "digits")
  refused("needs 6 pictures or more", "prdc", "digits", samples=5)
  refused("none is not a run, a folder", "fid", tmp_path / "none")
  refused("is of the features inception_tf1", "fid", tmp_path / "s.npz")
  (tmp_path / "samples").mkdir()
  (tmp_path / "samples" / "samples.json").write_text(json.dumps([]))
  refused("draw the samples anew", "fid", tmp_path / "samples")
