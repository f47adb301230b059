import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.core.errors import UserError
from jaxgen.core.spec import Spec
from jaxgen.data import Dataset, audio, binarized, digits, images, points, reversed_strings, text
from jaxgen.data.pipeline import batch_at
from jaxgen.data.transforms import binarize_dynamic, flip, pad, resize, scale


def specs_of(batch):
  return {name: (x.shape, x.dtype) for name, x in batch.items()}


def test_specs_are_those_of_the_batches():
  scaled = digits().transforms
  for data, side in ((digits(), 8), (digits(transforms=(*scaled, pad(12), resize(16))), 16)):
    raw = batch_at(data.source("train"), 0, 0, 6)
    assert specs_of(raw) == specs_of(data.raw_spec(6))
    for train in (True, False):
      batch = data.transform(jax.random.key(0), raw, train)
      spec = data.batch_spec(6, train)
      assert specs_of(batch) == specs_of(spec)
      assert spec["image"].shape == (6, side, side, 1)
      assert spec["image"].dtype == jnp.float32
      np.testing.assert_array_equal(batch["label"], raw["label"])


def test_specs_in_float64(x64):
  assert digits().batch_spec(2)["image"].dtype == jnp.float64


def test_building_opens_nothing():
  data = images("npz:/no/such/file.npz", (4, 4, 3), classes=3)
  assert data.batch_spec(2)["image"].shape == (2, 4, 4, 3)
  with pytest.raises(UserError, match="there is no file /no/such/file.npz"):
    data.source("train")


def test_digits_fill_their_range():
  data = digits()
  image = data.transform(jax.random.key(0), batch_at(data.source("train"), 0, 0, 256), False)["image"]
  assert (image.min(), image.max()) == (-1, 1)
  np.testing.assert_allclose(np.unique(image), np.linspace(-1, 1, 17), atol=1e-6)


def test_augmentation_is_for_training_alone():
  data = digits(augment=(flip(),))
  raw = batch_at(data.source("train"), 0, 0, 64)
  key = jax.random.key(0)
  plain = digits().transform(key, raw, True)["image"]
  np.testing.assert_array_equal(data.transform(key, raw, False)["image"], plain)
  flipped = data.transform(key, raw, True)["image"]
  changed = jnp.any(flipped != plain, (1, 2, 3))
  assert 10 < changed.sum() < 54
  np.testing.assert_array_equal(jnp.sort(flipped, 2), jnp.sort(plain, 2))  # mirrored rows keep their values


def test_every_transform_has_its_own_key_and_evaluation_the_same_as_training():
  seen = []

  def record(key, batch):
    seen.append(tuple(jax.random.key_data(key).tolist()))
    return batch

  data = images("digits", (8, 8, 1), transforms=(record, record), augment=(record,))
  raw = batch_at(data.source("train"), 0, 0, 2)
  data.transform(jax.random.key(0), raw, True)
  assert len(set(seen)) == 3
  data.transform(jax.random.key(0), raw, False)
  assert seen[3:] == seen[:2]


def test_a_source_is_opened_once_and_splits_have_names(tmp_path):
  small = np.zeros((3, 2, 2, 1), np.uint8)
  np.savez(tmp_path / "a.npz", fit_image=small, held_out_image=small[:2], more_image=small[:1])
  data = images(f"npz:{tmp_path / 'a.npz'}", (2, 2, 1), train="fit", test="held_out")
  assert data.source("train") is data.source("train")
  assert [len(data.source(split)) for split in ("train", "test", "more")] == [3, 2, 1]
  assert data.source("train") is data.source("fit")
  again = dataclasses.replace(data, train="more")
  assert len(again.source("train")) == 1


@pytest.mark.parametrize(
  ("change", "sentence"),
  [
    ({"levels": 16}, "'image' has values 0 to 16, but the config expects 16 levels, 0 to 15"),
    ({"classes": 9}, "'label' has values 0 to 9, but the config expects 9 classes, 0 to 8"),
    (
      {"features": {"image": jax.ShapeDtypeStruct((28, 28, 1), np.uint8)}},
      r"'image' is uint8 of shape \(8, 8, 1\), but the config expects uint8 of shape \(28, 28, 1\)",
    ),
    ({"features": {"image": jax.ShapeDtypeStruct((8, 8, 1), np.float32)}}, "'image' is uint8 .* expects float32"),
    ({"features": {"image": jax.ShapeDtypeStruct((8, 8, 1), np.uint8), "wave": None}}, "digits has no 'wave'"),
  ],
)
def test_data_that_is_not_what_the_config_says(change, sentence):
  data = dataclasses.replace(digits(), **change)
  assert isinstance(data, Dataset)
  with pytest.raises(UserError, match=sentence):
    data.source("test")


def test_negative_labels_are_refused(tmp_path):
  """tensorflow-datasets marks the labels of an unlabelled test split with -1."""
  np.savez(tmp_path / "a.npz", image=np.zeros((2, 2, 2, 1), np.uint8), label=np.array([0, -1]))
  with pytest.raises(UserError, match="'label' has values -1 to 0"):
    images(f"npz:{tmp_path / 'a.npz'}", (2, 2, 1), classes=2).source("train")


def test_what_does_not_compare_has_another_title():
  thresholded = binarized(digits())
  anew = binarized(digits(), binarize_dynamic(), "binarized anew")
  assert digits().title == "digits"
  assert thresholded.title == "digits, binarized at 1/2"
  assert anew.title == "digits, binarized anew"
  assert digits(transforms=(scale(17), pad(16))).title == "digits, 16x16x1"


def test_the_spec_is_of_an_example_as_a_method_sees_it():
  float32, int32 = np.dtype(np.float32), np.dtype(np.int32)
  assert digits().spec == Spec((8, 8, 1), 17, 10, "image", float32)
  assert binarized(digits(transforms=(scale(17), pad(12)))).spec == Spec((12, 12, 1), 2, 10, "image", float32)
  assert images("folder:/nowhere", (4, 6, 3)).spec == Spec((4, 6, 3), 256, None, "image", float32)
  assert points("ring8", 0.1).spec == Spec((2,), None, None, "x", float32)
  assert text.document("no.txt", length=8, vocabulary=29).spec == Spec((9,), 29, None, "tokens", int32)
  # Waves become tokens on the way; the digit and the speaker are no examples.
  assert audio.speech("no.npz", length=6, levels=32).spec == Spec((6,), 32, 10, "tokens", int32)
  assert text.pairs("no", ("en", "de"), vocabulary=300, length=7).spec == Spec((7,), 300, None, "target", int32)
  assert reversed_strings(5, 4, train="1-3-1", test="2-2-1").spec == Spec((4,), 8, None, "target", int32)
  tokens = jax.ShapeDtypeStruct((4,), np.int32)
  with pytest.raises(UserError, match=r"has source, target: say which with Dataset\(feature=...\)"):
    _ = Dataset("reversed:5", {"source": tokens, "target": tokens}).spec
  with pytest.raises(UserError, match="has no 'wave', only image"):
    _ = dataclasses.replace(digits(), feature="wave").spec


def test_numbers_that_are_not_finite_are_refused(tmp_path):
  x = np.zeros((200, 3), np.float32)
  x[17, 1], x[30, 0] = np.nan, np.inf
  np.savez(tmp_path / "a.npz", train_x=x, test_x=x[:17])
  data = Dataset(f"npz:{tmp_path / 'a.npz'}", {"x": jax.ShapeDtypeStruct((3,), np.float32)})
  with pytest.raises(UserError, match="'x' has numbers that are not finite in 2 of 200 .*is number 17"):
    data.source("train")
  assert len(data.source("test")) == 17


def test_digits_are_described():
  assert digits().describe("test").splitlines() == [
    "digits, split 'test': 360 examples, in memory",
    "  image: uint8 [8, 8, 1], values 0 to 16",
    "  label: int32 [], values 0 to 9",
    # As scikit-learn splits them: numpy.bincount(train_test_split(..., test_size=360, random_state=0)[3]).
    "  classes: 0 (27), 1 (35), 2 (36), 3 (29), 4 (30), 5 (40), 6 (44), 7 (39), 8 (39), 9 (41)",
  ]
