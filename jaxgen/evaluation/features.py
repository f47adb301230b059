"""Evaluates a network's features by neighbours, linear probes and few examples, against the same network untrained.

A run's features are the output of a network's `features`, or of one of its layers, where the method evaluates the
examples of a split, without augmentation. Labels are used only here, and those of the test split only to count correct
answers.
"""

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen
from jaxtyping import Array, Float, Int

from jaxgen.core.errors import UserError
from jaxgen.core.method import Batch, Method, State
from jaxgen.data import pipeline
from jaxgen.engine.experiment import AnyRun, Evaluator
from jaxgen.probability.embeddings import effective_rank, uniformity

FEATURES = "features"  # the default layer
RATES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
SHOTS = (1, 5, 10)
MOST_PIXELS = 4096
MOST = 2048  # examples that the geometry is computed of

Rows = Float[np.ndarray, "_ features"]
Labels = Int[np.ndarray, " _"]


class Split(NamedTuple):
  """The features [N, F] and labels [N] of a split."""

  features: Rows
  label: Labels


def reading(method: Method, layer: str = FEATURES) -> Method:
  """A method whose `evaluate` gives {"features": [B, F], "label": [B]} of a layer, while the method evaluates.

  Maps [B, H, W, C] and tokens [B, T, C] are averaged over their positions. A layer is "features" or a module's path
  within the network, "backbone/block_1_1"; blocks within a loop are none.

  Its `evaluate` raises:
    UserError: no layer of this name is computed, or the data has no labels, or several of an example.
  """

  def evaluate(state: State, batch: Batch, key: Array) -> dict[str, Array]:
    found: dict[str, Array] = {}

    def note(call, arguments, options, context):
      value, module = call(*arguments, **options), context.module
      name = FEATURES if context.method_name == "features" else "/".join(module.path)
      looped = "blocks" in module.path or type(module).__name__.startswith("Checkpoint")
      read = context.method_name in ("__call__", "features") and not looped and isinstance(value, jax.Array)
      if read and value.ndim > 1 and len(value) == len(batch["index"]):
        found[name] = value
      return value

    with linen.intercept_methods(note):
      method.evaluate(state, batch, key)
    found.pop("", None)
    if layer not in found:
      has = f"it has {', '.join(found)}" if found else "its method evaluates no network"
      raise UserError(f"the run computes no {layer!r} of an example: {has}; name one with --layer, or take another run")
    if "label" not in batch:
      raise UserError("features are judged by labels and this data has none: use data with labels")
    if batch["label"].ndim != 1:
      raise UserError("features are judged by one label of each example, and this data has several: use other data")
    value = found[layer]
    return {"features": value.mean(range(1, value.ndim - 1)) if value.ndim > 2 else value, "label": batch["label"]}

  return method._replace(evaluate=evaluate)


def reader(run: AnyRun, layer: str = FEATURES) -> AnyRun:
  """The run, with `reading` in place of its method's evaluation: `evaluate_split` then gives features and labels."""
  other = copy.copy(run)
  other.experiment = dataclasses.replace(run.experiment, method=reading(run.experiment.method, layer))
  other._program = None
  return other


def untrained(run: AnyRun, seed: int = 0) -> AnyRun:
  """The run with the state of its initialisation from another seed; statistics of batches are those of the start."""
  other = copy.copy(run)
  rows = run.program.rows(run.experiment.batch_size)
  raw = pipeline.batch_at(run.data.training(), seed, 0, run.experiment.batch_size, rows)
  other.state = run.program.init(seed + 1_000_003, raw)
  return other


def of_split(run: AnyRun, split: str) -> Split:
  """A reader's features and labels of a split, in float32."""
  found = run.evaluate_split(split)
  return Split(np.asarray(found["features"], np.float32), np.asarray(found["label"]))


def neighbours(train: Rows, queries: Rows, k: int) -> tuple[Float[np.ndarray, "m k"], Int[np.ndarray, "m k"]]:
  """The cosines and positions of each query's k nearest training features, the nearest first."""
  unit = lambda x: x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
  train, queries = unit(np.asarray(train, np.float64)), unit(np.asarray(queries, np.float64))
  cosines, places = [], []
  for start in range(0, len(queries), 1024):
    similar = queries[start : start + 1024] @ train.T
    near = np.argsort(-similar, axis=1, kind="stable")[:, :k]
    places.append(near)
    cosines.append(np.take_along_axis(similar, near, 1))
  return np.concatenate(cosines), np.concatenate(places)


def _check_votes(k: int, n: int, tau: float) -> None:
  if not 1 <= k <= n or not tau > 0:
    raise UserError(f"k = {k} neighbours of {n} at tau = {tau:g}: k is 1 or more, and tau above 0")


def _check_shots(label: Labels, shots: int) -> None:
  if shots < 1:
    raise UserError(f"{shots} examples of each class teach nothing: ask for 1 or more")
  for c, n in zip(*np.unique(label, return_counts=True), strict=True):
    if n < shots:
      raise UserError(f"class {c} has {n} training examples and not {shots}: ask for fewer shots")


def nearest_neighbours(train: Split, test: Split, k: int = 20, tau: float = 0.07) -> float:
  """Accuracy of the weighted vote of k neighbours: Wu et al. 2018, https://arxiv.org/abs/1805.01978, section 3.4.

  A neighbour of cosine s has the weight exp(s / tau). The paper has k = 200 and tau = 0.07; DINO k = 20.

  Raises:
    UserError: k is less than 1 or more than there are training examples, or tau is not positive.
  """
  _check_votes(k, len(train.label), tau)
  cosines, places = neighbours(train.features, test.features, k)
  votes = np.zeros((len(test.label), int(train.label.max()) + 1))
  weights = np.exp((cosines - cosines[:, :1]) / tau)
  for j in range(k):
    votes[np.arange(len(votes)), train.label[places[:, j]]] += weights[:, j]
  return float((votes.argmax(1) == test.label).mean())


def standardized(train: Rows, *others: Rows) -> list[Float[np.ndarray, "_ features"]]:
  """Features with the training features' mean and deviation removed: batch normalisation without gain and bias."""
  mean, deviation = train.mean(0, dtype=np.float64), train.std(0, dtype=np.float64)
  deviation = np.where(deviation > 1e-6 * max(float(deviation.max()), 1e-30), deviation, np.inf)
  return [(np.asarray(x, np.float64) - mean) / deviation for x in (train, *others)]


def ridge(x: Rows, y: Float[np.ndarray, "_ classes"], queries: Rows, penalty: float) -> Float[np.ndarray, "_ classes"]:
  """Scores of queries by ridge regression in closed form, X' (X X' + penalty I)^-1 Y, with a constant feature."""
  constant = lambda a: np.concatenate([a, np.ones((len(a), 1))], axis=1)
  x, queries = constant(x), constant(queries)
  return queries @ (x.T @ np.linalg.solve(x @ x.T + penalty * np.eye(len(x)), y))


def few_shot(train: Split, test: Split, shots: int, draws: int = 10, penalty: float = 1.0, seed: int = 0):
  """(mean accuracy, its deviation) over draws of so many training examples per class, by `ridge` on `standardized`.

  Features are divided by the square root of their number, so that the penalty means the same for all networks.

  Raises:
    UserError: a class has fewer training examples, or fewer than one is asked for.
  """
  _check_shots(train.label, shots)
  classes = np.unique(train.label)
  x, queries = (a / np.sqrt(a.shape[1]) for a in standardized(train.features, test.features))
  rng = np.random.default_rng(seed)
  accuracies = []
  for _ in range(draws):
    chosen = np.concatenate([rng.choice(np.flatnonzero(train.label == c), shots, replace=False) for c in classes])
    y = 2.0 * (train.label[chosen][:, None] == classes) - 1
    accuracies.append((classes[ridge(x[chosen], y, queries, penalty).argmax(1)] == test.label).mean())
  return float(np.mean(accuracies)), float(np.std(accuracies))


def fit_linear(
  x: Rows, label: Labels, rates: Sequence[float], classes: int, steps: int, batch: int, seed: int = 0
) -> tuple[Float[np.ndarray, "rates features classes"], Float[np.ndarray, "rates classes"]]:
  """Weights and biases of softmax regressions by SGD with momentum 0.9 and a cosine decay, one for each rate."""
  x, label, rate = jnp.asarray(x, jnp.float32), jnp.asarray(label), jnp.asarray(rates, jnp.float32)
  shape = (len(rates), x.shape[1], classes)
  params = jnp.zeros(shape), jnp.zeros((len(rates), classes))

  def loss(params, rows):
    logits = jnp.einsum("bf,rfc->rbc", x[rows], params[0]) + params[1][:, None]
    return optax.softmax_cross_entropy_with_integer_labels(logits, label[rows][None]).mean(1).sum()

  def step(carry, i):
    params, momentum = carry
    rows = jax.random.randint(jax.random.fold_in(jax.random.key(seed), i), (min(batch, len(label)),), 0, len(label))
    momentum = jax.tree.map(lambda m, g: 0.9 * m + g, momentum, jax.grad(loss)(params, rows))
    now = rate * (1 + jnp.cos(jnp.pi * i / steps)) / 2
    spread = lambda m: now.reshape(-1, *(1,) * (m.ndim - 1)) * m
    return (jax.tree.map(lambda p, m: p - spread(m), params, momentum), momentum), None

  start = params, jax.tree.map(jnp.zeros_like, params)
  (params, _), _ = jax.jit(lambda start: jax.lax.scan(step, start, jnp.arange(steps)))(start)
  return np.asarray(params[0]), np.asarray(params[1])


class Probe(NamedTuple):
  """A linear probe's accuracy on the test split, and the rate that did best on the held-out part of train."""

  accuracy: float
  rate: float
  held_out: float


def linear_probe(
  train: Split, test: Split, rates: Sequence[float] = RATES, *, epochs: int = 100, batch: int = 256, seed: int = 0
) -> Probe:
  """Softmax regression on `standardized` features. The rate is chosen on a tenth of train that is held out.

  After that it is fitted to all of train. Nothing is chosen on the test split.
  """
  classes = int(max(train.label.max(), test.label.max())) + 1
  order = np.random.default_rng(seed).permutation(len(train.label))
  held, rest = np.split(order, [max(1, len(order) // 10)])

  def scores(some: Labels, rates: Sequence[float], queries: Rows, label: Labels):
    x, q = standardized(train.features[some], queries)
    steps = max(epochs * len(some) // batch, 300)
    w, b = fit_linear(x, train.label[some], rates, classes, steps, batch, seed)
    logits = np.einsum("nf,rfc->rnc", q, w) + b[:, None]
    return (logits.argmax(-1) == label).mean(1)

  on_held = scores(rest, rates, train.features[held], train.label[held])
  best = int(np.argmax(on_held))
  accuracy = scores(order, [rates[best]], test.features, test.label)[0]
  return Probe(float(accuracy), float(rates[best]), float(on_held[best]))


def check(label: Labels, k: int = 20, tau: float = 0.07, shots: Sequence[int] = SHOTS) -> None:
  """Raises a UserError where training examples of these labels cannot be judged so: see `judged`."""
  _check_votes(k, len(label), tau)
  for n in shots:
    _check_shots(label, n)


def judged(
  train: Split, test: Split, *, k: int = 20, tau: float = 0.07, shots: Sequence[int] = SHOTS
) -> dict[str, float]:
  """All numbers of features: accuracies on test in [0, 1], and how training features lie (`probability.embeddings`).

  Raises:
    UserError: features that are not finite, or as `nearest_neighbours` and `few_shot`.
  """
  if not all(np.isfinite(split.features).all() for split in (train, test)):
    raise UserError("there are features that are not finite, and nothing to judge: take an earlier --checkpoint")
  check(train.label, k, tau, shots)
  probe = linear_probe(train, test)
  found = {
    f"knn_{k}_accuracy": nearest_neighbours(train, test, k, tau),
    "linear_accuracy": probe.accuracy,
    "linear_rate": probe.rate,
  }
  for n in shots:
    found[f"ridge_{n}_per_class_accuracy"], found[f"ridge_{n}_per_class_deviation"] = few_shot(train, test, n)
  some = jnp.asarray(train.features[np.random.default_rng(0).permutation(len(train.features))[:MOST]])
  return found | {"effective_rank": float(effective_rank(some)), "uniformity": float(uniformity(some))}


def pixels(run: AnyRun) -> AnyRun:
  """A reader of the examples' values, in a row: what any network should improve on."""
  other, feature = reader(run), run.data.spec.feature

  def evaluate(state: State, batch: Batch, key: Array) -> dict[str, Array]:
    x = batch[feature]
    return {"features": x.reshape(len(x), -1), "label": batch["label"]}

  other.experiment = dataclasses.replace(other.experiment, method=run.experiment.method._replace(evaluate=evaluate))
  return other


def probe(run: AnyRun, layer: str = FEATURES, **options: Any) -> dict[str, Mapping[str, float]]:
  """{"trained": numbers, "random weights": numbers, "pixels": numbers} of a run's features; see `judged`.

  Pixels are judged where an example has at most `MOST_PIXELS` values.
  """
  labels = run.data.source("train").arrays.get("label")
  if labels is not None:
    check(labels, **options)  # before the features are computed
  read, test = reader(run, layer), run.data.test
  made = {"trained": read, "random weights": untrained(read)}
  made |= {"pixels": pixels(run)} if run.data.spec.size <= MOST_PIXELS else {}
  return {name: judged(of_split(one, "train"), of_split(one, test), **options) for name, one in made.items()}


def knn(k: int = 20, tau: float = 0.07, layer: str = FEATURES) -> Evaluator:
  """An evaluator of `nearest_neighbours` during training.

  Numbers: `test_knn_accuracy` and its standard error, `test_examples`.
  """

  known = {}  # the run that was read last and its reader, whose programs serve every evaluation

  def read_of(run: AnyRun) -> AnyRun:
    if known.get("run") is not run:
      known.update(run=run, read=reader(run, layer))
    return known["read"]

  def evaluate(run: AnyRun) -> dict[str, float]:
    read = read_of(run)
    read.state = run.state
    test = of_split(read, run.data.test)
    accuracy = nearest_neighbours(of_split(read, "train"), test, k, tau)
    error = (accuracy * (1 - accuracy) / len(test.label)) ** 0.5
    return {
      "test_knn_accuracy": accuracy,
      "test_knn_accuracy_se": error,
      "test_examples": float(len(test.label)),
    }

  def rehearse(run: AnyRun) -> list[str]:
    """Traces the features, which raises an error if there are none."""
    e = run.experiment
    read_of(run).program.evaluate_shapes(e.data.raw_spec(e.evaluate_batch or e.batch_size))
    return ["test_knn_accuracy", "test_knn_accuracy_se", "test_examples"]

  evaluate.rehearse = rehearse
  return evaluate
