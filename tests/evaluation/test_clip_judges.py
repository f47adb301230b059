"""Judges of clips: the dynamics of Moving MNIST against what is known of it, and the data that the classifiers see."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxgen.core.errors import UserError
from jaxgen.data import clips as data_clips
from jaxgen.evaluation import clips


@pytest.fixture(scope="module")
def moving():
  data = data_clips.moving(frames=5)
  return dataclasses.replace(data, train="test")


@pytest.fixture(scope="module")
def batch(moving):
  return clips._told(moving, 2, 24)[0]


class Run:
  """A run whose samples are given."""

  def __init__(self, data, samples):
    self.data, self.samples = data, samples

  def sample(self, n, *, seed, start, keep):
    np.testing.assert_array_equal(start[:, :2], self.samples[:, :2])
    assert not start[:, 2:].any()
    assert keep.tolist() == [[True, True, False, False, False]] * n
    return self.samples


def test_true_frames_are_where_they_are_and_keep_their_digits(moving, batch):
  """The error of true frames is what rounding to pixels leaves; the judge knows them, since it has these digits."""
  numbers = clips.dynamics(2, 24)(Run(moving, batch["clip"]))
  rounding = np.linalg.norm(batch["position"] - np.rint(batch["position"]), axis=-1)
  assert numbers["position_error_px"] == pytest.approx(rounding[:, 2:].mean(), abs=1e-6)
  assert numbers["position_error_px_true"] == numbers["position_error_px"]
  assert numbers["digit_kept"] == 1
  # The last known frame, copied: its place against later ones.
  place = np.rint(batch["position"][:, 1:2])
  away = np.linalg.norm(place - batch["position"], axis=-1)
  assert numbers["position_error_px_copy"] == pytest.approx(away[:, 2:].mean(), abs=1e-6)
  assert numbers["position_error_px_last_copy"] == pytest.approx(away[:, -1].mean(), abs=1e-6)


def test_samples_that_are_not_finite_have_no_error(moving, batch):
  broken = batch["clip"].copy()
  broken[0, -1] = np.nan
  numbers = clips.dynamics(2, 24)(Run(moving, broken))
  assert np.isnan([numbers[name] for name in ("position_error_px", "position_error_px_last", "digit_kept")]).all()
  assert np.isfinite(numbers["position_error_px_true"])


def test_digits_that_are_moved_and_changed_are_found_out(moving, batch):
  moved = np.full_like(batch["clip"], -1)
  moved[:, :, :-2, :-1] = batch["clip"][:, :, 2:, 1:]  # by two rows and a column, where nothing is cut off
  whole = (batch["position"][..., 0] > 2) & (batch["position"][..., 1] > 1)
  errors = clips.position_errors(moved, batch)
  np.testing.assert_allclose(
    errors[whole], np.linalg.norm(batch["position"] - np.rint(batch["position"]) + [2, 1], axis=-1)[whole], atol=1e-5
  )
  other = batch | {"digit": (batch["digit"] + 1) % 10}
  assert clips.judged(batch["clip"], other, clips._training_digits(moving))[1].mean() == 0


def test_two_digits_are_each_located():
  """Away from each other; a window's squared error is 0 at its glyph alone."""
  data = data_clips.moving(digits=2, frames=3, side=40)
  batch, _ = clips._told(data, 1, 20)
  apart = (np.abs(batch["position"][:, :, 0] - batch["position"][:, :, 1]) > 9).any(-1)
  errors = clips.position_errors(batch["clip"], batch)
  assert apart.sum() > 20
  assert errors[apart].max() <= np.sqrt(0.5) + 1e-5


def test_the_classifier_of_clips_sees_what_was_done_to_time(moving):
  data = clips.for_clips(moving)
  raw = moving.source("test").gather(np.arange(64)) | {"index": np.arange(64, dtype=np.int32)}
  seen = data.transform(jax.random.key(0), raw, True)
  frames = np.moveaxis(np.asarray(seen["image"]), -1, 1)
  true = np.asarray(moving.transform(jax.random.key(0), raw, False)["clip"])[..., 0]
  order, label = np.asarray(seen["label"]) % 4, np.asarray(seen["label"]) // 4
  np.testing.assert_array_equal(label, raw["label"])
  assert set(order) == {0, 1, 2, 3}
  np.testing.assert_array_equal(frames[order == 0], true[order == 0])
  np.testing.assert_array_equal(frames[order == 1], true[order == 1][:, [0, 2, 4, 1, 3]])
  assert (frames[order == 3] == frames[order == 3][:, :1]).all()
  np.testing.assert_array_equal(np.sort(frames[order == 2], axis=1), np.sort(true[order == 2], axis=1))
  evaluated = data.transform(jax.random.key(0), raw, False)
  assert (np.asarray(evaluated["label"]) % 4 == 0).all()
  np.testing.assert_array_equal(np.moveaxis(np.asarray(evaluated["image"]), -1, 1), true)
  assert data.classes == 40


def test_what_cannot_be_judged_is_one_sentence(moving, tmp_path):
  with pytest.raises(UserError, match="leave the dynamics out"):
    clips._told(data_clips.emoji_clips(tmp_path), 2, 4)
  with pytest.raises(UserError, match="predicted from its first 1 to 4, not 5"):
    clips._told(moving, 5, 4)


def test_frechet_distances_of_clips_and_of_their_frames(moving, monkeypatch):
  """With means of pixels as features: what is compared with what, and under which name."""
  from jaxgen.evaluation import judge
  from jaxgen.evaluation.frechet import frechet_distance

  means = lambda images: np.stack([images.mean((1, 2, 3)), images.std((1, 2, 3))], axis=-1).astype(np.float64)
  monkeypatch.setattr(
    judge, "trained_on", lambda data: judge.Judge(means, data.batch_spec(1, False)["image"].shape[1:])
  )
  real = clips.clips_of(moving, "test", 8)
  samples = real[:, :, ::-1] * 0.5
  run = type("Run", (), {"data": moving, "sample": lambda self, n, seed: samples[:n]})()
  numbers = clips.frechet(8)(run)
  rounded = np.round((samples + 1) * 127.5) / 127.5 - 1
  of = lambda x, frames: means(x.reshape(-1, *x.shape[2:]) if frames else x[..., 0].transpose(0, 2, 3, 1))
  for name, frames in (("frechet_clips_small_5x16x16_8", False), ("frechet_frames_small_16x16_8", True)):
    assert numbers[name] == pytest.approx(frechet_distance(of(rounded, frames), of(real, frames)), rel=1e-3)
    assert numbers[f"{name}_floor"] < 1e-12  # its training split is the test split here
  assert len(numbers) == 4
  with pytest.raises(UserError, match="takes 2 or more, and at most 1000"):
    clips.frechet(1_001)(run)
