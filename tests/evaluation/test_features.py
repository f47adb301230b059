"""Judges of features against scikit-learn, closed forms and data whose answer is known; what they say of bad input."""

import json
import re

import jax
import numpy as np
import pytest
import tiny
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsClassifier

from jaxgen import cli
from jaxgen.core.errors import UserError
from jaxgen.data import real
from jaxgen.engine.hashing import state_hash
from jaxgen.engine.run import load
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
  found = features.linear_probe(TRAIN, TEST, (0.03, 0.3), epochs=30)
  assert found.accuracy == pytest.approx(theirs, abs=0.03)
  shuffled = TEST._replace(label=np.random.default_rng(0).permutation(TEST.label))
  other = features.linear_probe(TRAIN, shuffled, (0.03, 0.3), epochs=30)
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
    (lambda: features.few_shot(TRAIN, TEST, 0), "0 examples of each class"),
    (lambda: features.judged(TRAIN, TEST, shots=(1, 500)), "training examples and not 500"),
    (lambda: features.judged(TRAIN, TEST._replace(features=np.full_like(TEST.features, np.nan))), "not finite"),
  ],
)
def test_bad_numbers_are_one_sentence(do, names):
  with pytest.raises(UserError, match=names):
    do()


SOURCE = '''"""Two views of digits, tiny.

Paper: none.

Expect: nothing
Cost: seconds
"""

import flax.linen as nn
import optax

from jaxgen import Experiment, data
from jaxgen.data.transforms import flip
from jaxgen.data.views import two_views as views
from jaxgen.methods.selfsupervised import objectives
from jaxgen.methods.selfsupervised.two_views import two_views
from jaxgen.methods.supervised.classifier import classifier
from jaxgen.nn.blocks.layers import BatchNorm
from jaxgen.nn.selfsupervised.heads import Embedder, Head


class Net(nn.Module):
  def setup(self):
    self.dense, self.norm, self.head = nn.Dense(16), BatchNorm(), nn.Dense(10)

  def features(self, x, index=None):
    return nn.relu(self.norm(self.dense(x.reshape(len(x), -1)), index is not None))

  def __call__(self, x, index=None):
    return self.head(self.features(x, index))


def experiment(labelled: bool = False, steps: int = 5) -> Experiment:
  digits = data.digits(augment=() if labelled else (views((flip(),)),))
  options = dict(spec=digits.spec, optimizer=optax.sgd(0.1))
  embedder = Embedder(Net(), Head((8,)))
  method = classifier(Net(), **options) if labelled else two_views(embedder, objectives.simclr(), **options)
  return Experiment(method=method, data=digits, steps=steps, batch_size=64)
'''


def run(*words):
  with pytest.raises(SystemExit) as end:
    cli.main([str(word) for word in words])
  return end.value.code


def test_a_run_is_probed_and_another_starts_from_it(tmp_path, capsys):
  (tmp_path / "tiny_views.py").write_text(SOURCE)
  config, first, second = tmp_path / "tiny_views.py", tmp_path / "tiny_views", tmp_path / "second"
  assert run("train", config, "--runs", tmp_path) == 0
  assert run("probe", first, "--k", 10, "--shots", 1) == 0
  table = json.loads((first / "probe.json").read_text())
  assert table["trained"].keys() == table["random weights"].keys()
  assert 0.3 < table["trained"]["knn_10_accuracy"] < 1
  assert table["trained"] != table["random weights"]
  # Each pixel of a digit is one of 17 values: neighbours among pixels know nearly all, as is known of this data.
  assert 0.95 < table["pixels"]["knn_10_accuracy"] < 1
  assert (first / "probe.png").read_bytes()[1:4] == b"PNG"
  # The features that are judged are the network's.
  trained = load(first)
  read = features.of_split(features.reader(trained), "test")
  params, norm = trained.state.params["network"]["backbone"], trained.state.buffers["batch_stats"]["backbone"]["norm"]
  image = np.concatenate(list(real.images(trained.data, "test"))).reshape(360, -1)
  h = image @ np.asarray(params["dense"]["kernel"]) + np.asarray(params["dense"]["bias"])
  h = (h - np.asarray(norm["mean"])) / np.sqrt(np.asarray(norm["var"]) + 1e-5)
  h = np.maximum(h * np.asarray(params["norm"]["scale"]) + np.asarray(params["norm"]["bias"]), 0)
  np.testing.assert_allclose(read.features, h, atol=1e-4)
  np.testing.assert_array_equal(read.label, trained.data.source("test").arrays["label"])
  assert features.of_split(features.reader(trained, "projector/layer_1"), "test").features.shape == (360, 8)

  capsys.readouterr()
  words = ("train", config, "--labelled", True, "--steps", 1, "--runs", tmp_path, "--name", "second")
  words = (*words, "--from", first)
  assert run(*words) == 0
  said = capsys.readouterr().out
  assert "6 arrays" in said
  assert "fresh: head/bias, head/kernel" in said
  info = json.loads((second / "run.json").read_text())
  assert info["from"]["source"] == str(first)
  assert info["from"]["sha256"] == state_hash(trained.state)
  started = load(second, checkpoint=0).state
  jax.tree.map(np.testing.assert_array_equal, {**started.params["network"], "head": 0}, {**params, "head": 0})
  np.testing.assert_array_equal(started.buffers["batch_stats"]["norm"]["var"], norm["var"])
  assert run(*words) == 0  # it goes on

  for other, names in (
    (("train", config, "--runs", tmp_path, "--name", "second", "--from", f"{first}:other"), "already a run"),
    (("train", config, "--runs", tmp_path, "--name", "third", "--from", f"{first}:other"), "no network called 'other'"),
    (("train", config, "--runs", tmp_path, "--name", "third", "--from", f"{first}:network/no"), "nothing called"),
    (("probe", first, "--layer", "nowhere"), "computes no 'nowhere' of an example: it has .*features"),
    (("probe", first, "--k", 0), "k is 1 or more"),
    (("probe", first, "--out", tmp_path / "x.png"), "must end in .json"),
  ):
    assert run(*other) == 1
    assert re.search(names, capsys.readouterr().err)
  assert not (tmp_path / "third").exists()


def test_a_run_without_features_is_one_sentence(tmp_path, capsys):
  assert run("train", tiny.write(tmp_path), "--steps", 1, "--runs", tmp_path) == 0
  assert run("probe", tmp_path / "tiny") == 1
  assert "computes no 'features' of an example" in capsys.readouterr().err
