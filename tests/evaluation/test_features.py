"""Judges of features against scikit-learn, closed forms and data whose answer is known; what they say of bad input."""

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsClassifier

from jaxgen.core.errors import UserError
from jaxgen.evaluation import features
from jaxgen.evaluation.features import Split

DIGITS = load_digits()
X, Y = (DIGITS.data / 16).astype(np.float32), DIGITS.target.astype(np.int32)
TRAIN, TEST = Split(X[:1400], Y[:1400]), Split(X[1400:], Y[1400:])


def test_the_weighted_vote_is_scikit_learns():
  weights = lambda distance: np.exp((1 - distance) / 0.1)
  theirs = KNeighborsClassifier(15, weights=weights, metric="cosine", algorithm="brute").fit(*TRAIN)
  assert features.nearest_neighbours(TRAIN, TEST, 15, 0.1) == pytest.approx(
    theirs.score(*TEST), abs=1 / len(TEST.label)
  )
  one = KNeighborsClassifier(1, metric="cosine", algorithm="brute").fit(*TRAIN)
  assert features.nearest_neighbours(TRAIN, TEST, 1) == one.score(*TEST)


def test_ridge_is_the_closed_form():
  rng = np.random.default_rng(0)
  x, y, q = rng.normal(size=(20, 30)), rng.normal(size=(20, 3)), rng.normal(size=(7, 30))
  constant = lambda a: np.concatenate([a, np.ones((len(a), 1))], 1)
  theirs = Ridge(0.3, fit_intercept=False).fit(constant(x), y).predict(constant(q))
  np.testing.assert_allclose(features.ridge(x, y, q, 0.3), theirs, atol=1e-9)


def test_few_shots_are_of_train_and_improve_with_their_number():
  found = [features.few_shot(TRAIN, TEST, n)[0] for n in (1, 5, 20)]
  assert 0.3 < found[0] < found[1] < found[2] < 1


def test_the_linear_probe_is_as_good_as_scikit_learns_and_does_not_see_the_test_labels():
  theirs = LogisticRegression(max_iter=2000).fit(*TRAIN).score(*TEST)
  found = features.linear_probe(TRAIN, TEST)
  assert found.accuracy == pytest.approx(theirs, abs=0.03)
  shuffled = TEST._replace(label=np.random.default_rng(0).permutation(TEST.label))
  other = features.linear_probe(TRAIN, shuffled)
  assert (other.rate, other.held_out) == (found.rate, found.held_out)
  assert other.accuracy < 0.2


def test_a_feature_that_is_constant_changes_nothing():
  wider = lambda split: split._replace(
    features=np.concatenate([split.features, np.full((len(split.label), 3), 7.0)], 1)
  )
  train, other = features.standardized(TRAIN.features, TEST.features), features.standardized(wider(TRAIN).features)
  assert np.isfinite(other[0]).all()
  np.testing.assert_array_equal(other[0][:, -3:], 0)
  np.testing.assert_allclose(other[0][:, :-3], train[0])


@pytest.mark.parametrize(
  ("do", "names"),
  [
    (lambda: features.nearest_neighbours(TRAIN, TEST, 2000), "k = 2000 neighbours of 1400"),
    (lambda: features.nearest_neighbours(TRAIN, TEST, 0), "k is 1 or more"),
    (lambda: features.few_shot(TRAIN, TEST, 500), "training examples and not 500"),
  ],
)
def test_bad_numbers_are_one_sentence(do, names):
  with pytest.raises(UserError, match=names):
    do()
