"""Evaluators on stand-ins for a run whose answers are known."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from jaxgen.core.errors import UserError
from jaxgen.data import digits, images, real
from jaxgen.data.transforms import dequantize
from jaxgen.evaluation import evaluators, judge

SMALL = judge.Recipe(channels=(4,), features=8, steps=20, batch_size=64, dropout=0.0)


def run_of(data=None, sample=None, **per_example):
  return SimpleNamespace(
    data=data or digits(),
    config=SimpleNamespace(name="stand_in"),
    sample=sample,
    evaluate_split=lambda split: {name: np.asarray(x) for name, x in per_example.items()},
  )


@pytest.fixture(scope="module")
def train_images():
  return np.concatenate(list(real.images(digits(), "train")))


@pytest.fixture
def small_judge(monkeypatch):
  """The default judge, small enough to train at once; gives the list of calls for it."""
  calls, trained_on = [], judge.trained_on
  monkeypatch.setattr(judge, "trained_on", lambda data: calls.append(data) or trained_on(data, SMALL))
  return calls


def test_accuracy():
  numbers = evaluators.accuracy()(run_of(correct=np.array([1, 1, 1, 0], np.float32)))
  assert numbers["test_accuracy"] == 0.75
  assert numbers["test_accuracy_se"] == pytest.approx(0.25)  # sqrt(0.25 / 4)


def test_a_single_example_has_no_error():
  assert math.isnan(evaluators.accuracy()(run_of(correct=[1.0]))["test_accuracy_se"])


def test_round_trip_is_the_worst():
  assert evaluators.round_trip()(run_of(round_trip=[1e-7, 3e-5, 2e-6])) == {"test_round_trip_max": 3e-5}


def test_what_the_method_does_not_compute():
  with pytest.raises(UserError, match="stand_in does not compute 'correct'.*only nll_nats"):
    evaluators.accuracy()(run_of(nll_nats=[1.0]))


def test_training_examples_as_samples_reach_the_floor(small_judge, train_images):
  asked = []

  def sample(n, *, seed=0):
    asked.append((n, seed))
    return np.random.default_rng(0).permutation(train_images)[:n]

  numbers = evaluators.frechet(seed=7)(run_of(sample=sample))
  assert asked == [(1437, 7)]
  assert set(numbers) == {"frechet_1437", "frechet_1437_floor", "frechet_1437_ratio"}
  assert numbers["frechet_1437_floor"] > 0
  assert numbers["frechet_1437_ratio"] == pytest.approx(1, rel=1e-6)
  assert numbers["frechet_1437"] == pytest.approx(numbers["frechet_1437_floor"], rel=1e-6)


def test_samples_are_rounded_to_the_pixel_values_there_are(small_judge, train_images):
  off = np.random.default_rng(0).uniform(-0.06, 0.06, train_images.shape).astype(np.float32)  # half a level is 0.0625
  ratio = evaluators.frechet()(run_of(sample=lambda n, seed: train_images + off))["frechet_1437_ratio"]
  assert ratio == pytest.approx(1, rel=1e-6)
  ratio = evaluators.frechet()(run_of(sample=lambda n, seed: train_images + 5 * off))["frechet_1437_ratio"]
  assert ratio > 1.05


def test_dequantized_data_are_compared_as_they_were(small_judge, train_images):
  run = run_of(digits(transforms=(dequantize(17),)), sample=lambda n, seed: train_images)
  assert evaluators.frechet(data=digits())(run)["frechet_1437_ratio"] == pytest.approx(1, rel=1e-6)
  assert small_judge[0].transforms != run.data.transforms
  assert evaluators.frechet()(run)["frechet_1437_ratio"] > 1.01


def test_fewer_samples_are_further_away_and_so_is_their_floor(small_judge, train_images):
  numbers = {}
  for n in (50, 400):
    sample = lambda n, seed: np.random.default_rng(1).permutation(train_images)[:n]
    numbers |= evaluators.frechet(n)(run_of(sample=sample))
  assert numbers["frechet_50"] > numbers["frechet_400"]
  assert numbers["frechet_50_floor"] > numbers["frechet_400_floor"]
  assert 0.4 < numbers["frechet_50_ratio"] < 2.5


def test_judge_and_floor_are_found_once_per_data_set(small_judge, train_images):
  evaluate = evaluators.frechet(100)
  run = run_of(sample=lambda n, seed: train_images[:n])
  assert evaluate(run) == evaluate(run)
  assert len(small_judge) == 1
  evaluate(run_of(digits(), sample=run.sample))
  assert len(small_judge) == 2


def test_samples_that_are_not_finite_are_no_crash(small_judge, train_images):
  broken = train_images[:50].copy()
  broken[3] = np.nan
  numbers = evaluators.frechet(50)(run_of(sample=lambda n, seed: broken))
  assert math.isnan(numbers["frechet_50"])
  assert math.isnan(numbers["frechet_50_ratio"])
  assert numbers["frechet_50_floor"] > 0


def test_bad_input(tmp_path, monkeypatch):
  with pytest.raises(ValueError, match="at least 2"):
    evaluators.frechet(1)
  with pytest.raises(UserError, match="1437 training examples"):
    evaluators.frechet(1438)(run_of())
  np.savez(
    tmp_path / "x.npz", train_image=np.zeros((4, 8, 8, 1), np.uint8), test_image=np.zeros((4, 8, 8, 1), np.uint8)
  )
  with pytest.raises(UserError, match=r"no labels.*judge='runs/"):
    evaluators.frechet()(run_of(images(f"npz:{tmp_path / 'x.npz'}", (8, 8, 1))))
  monkeypatch.setattr(judge, "of_run", lambda folder: judge.Judge(lambda x: x, (28, 28, 1)))
  with pytest.raises(UserError, match=r"runs/other takes images \[28, 28, 1\], and digits has \[8, 8, 1\]"):
    evaluators.frechet(judge="runs/other")(run_of())
