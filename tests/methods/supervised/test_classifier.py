import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from rounding import assert_close
from scipy.special import log_softmax
from sklearn.datasets import load_digits

from jaxgen.core.errors import UserError
from jaxgen.core.method import Frozen
from jaxgen.core.spec import Spec
from jaxgen.core.wrappers import averaged
from jaxgen.methods.supervised.classifier import Teacher, classifier
from jaxgen.nn.blocks.layers import BatchNorm

SPEC = Spec((2, 2, 1), classes=3)


class Dense(nn.Module):
  classes: int = 10

  @nn.compact
  def __call__(self, x, index=None):
    if index is not None:
      x = x * jax.random.bernoulli(self.make_rng("dropout"), 0.5, x.shape)
    return nn.Dense(self.classes, param_dtype=x.dtype)(x.reshape(x.shape[0], -1))


class Bias(nn.Module):
  """Logits that do not depend on the image."""

  @nn.compact
  def __call__(self, x, index=None):
    return jnp.broadcast_to(self.param("b", nn.initializers.zeros, (3,), x.dtype), (x.shape[0], 3))


def batch_of(labels, shape=(2, 2, 1)):
  labels = jnp.asarray(labels)
  image = jax.random.normal(jax.random.key(5), (len(labels), *shape))
  return {"image": image, "label": labels, "index": jnp.arange(len(labels))}


def test_evaluate_is_cross_entropy(x64):
  made = averaged(classifier(Dense(3), spec=SPEC, optimizer=optax.sgd(0.1), label_smoothing=0.3), 0.5)
  batch = batch_of([0, 1, 2, 2, 1])
  state = made.init(jax.random.key(0), batch)
  state = state.replace(ema=jax.tree.map(lambda x: 3 * x + 0.1, state.ema))  # what is evaluated
  got = made.evaluate(state, batch, jax.random.key(1))
  dense = state.ema["network"]["Dense_0"]
  logits = np.asarray(batch["image"]).reshape(5, -1) @ np.asarray(dense["kernel"]) + np.asarray(dense["bias"])
  # A difference of logits and their log-sum, which may be much smaller than these are.
  expected = -log_softmax(logits, 1)[np.arange(5), batch["label"]]
  assert_close(got["nll_nats"], expected, terms=10, scale=np.abs(logits).max())
  np.testing.assert_array_equal(got["correct"], logits.argmax(1) == batch["label"])
  assert made.sample is None


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_training_reaches_the_smoothed_entropy(smoothing, x64):
  # Logits that ignore the image can only learn the classes' frequencies, smoothed; the loss's floor is their entropy.
  batch = batch_of([0] * 5 + [1] * 3 + [2] * 2)
  made = classifier(Bias(), optimizer=optax.sgd(2.0), spec=SPEC, label_smoothing=smoothing)
  state = made.init(jax.random.key(0), batch)
  step = jax.jit(made.step)
  state, metrics = step(state, batch)
  np.testing.assert_allclose(metrics["loss"], np.log(3))  # the first step's logits are equal
  assert metrics["accuracy"] == 0.5
  for _ in range(200):
    state, metrics = step(state, batch)
  frequencies = (1 - smoothing) * np.array([0.5, 0.3, 0.2]) + smoothing / 3
  np.testing.assert_allclose(jax.nn.softmax(state.params["network"]["b"]), frequencies, rtol=1e-9)
  np.testing.assert_allclose(metrics["loss"], -np.sum(frequencies * np.log(frequencies)), rtol=1e-9)


def test_digits():
  digits = load_digits()
  image, label = jnp.asarray(digits.images / 8 - 1, jnp.float32)[..., None], jnp.asarray(digits.target, jnp.int32)
  train = {"image": image[:1400], "label": label[:1400], "index": jnp.arange(1400)}
  made = averaged(classifier(Dense(), spec=Spec((8, 8, 1), classes=10), optimizer=optax.adam(1e-2)), 0.9)
  state = jax.jit(made.init)(jax.random.key(0), train)
  state, metrics = jax.jit(lambda s: jax.lax.scan(lambda s, _: made.step(s, train, microbatches=2), s, None, 150))(
    state
  )
  assert metrics["loss"][-1] < 0.3 * metrics["loss"][0]
  got = made.evaluate(
    state, {"image": image[1400:], "label": label[1400:], "index": jnp.arange(397)}, jax.random.key(0)
  )
  assert got["correct"].mean() > 0.85
  # Dropout is on in training alone.
  again = made.evaluate(state, train, jax.random.key(1))["correct"].mean()
  assert again > metrics["accuracy"][-1] + 0.01


class Normed(nn.Module):
  """Batch statistics, and in training two further heads."""

  @nn.compact
  def __call__(self, x, index=None):
    x = x.reshape(x.shape[0], -1)
    x = BatchNorm(0.8, param_dtype=x.dtype)(x, index is not None)
    heads = [nn.Dense(3, param_dtype=x.dtype, name=name)(x) for name in ("main", "second", "third")]
    return heads[0] if index is None else tuple(heads)


def test_statistics_are_buffers_and_heads_are_weighed(x64):
  batch = batch_of([0, 1, 2, 2, 1, 0, 0])
  made = classifier(Normed(), optimizer=optax.sgd(0.0), spec=SPEC, auxiliary=0.25, label_smoothing=0.1)
  state = made.init(jax.random.key(0), batch)
  new, metrics = made.step(state, batch)
  x = np.asarray(batch["image"]).reshape(7, -1)
  statistics = new.buffers["batch_stats"]["BatchNorm_0"]
  np.testing.assert_allclose(statistics["mean"], 0.2 * x.mean(0), rtol=1e-12)
  np.testing.assert_allclose(statistics["var"], 0.8 + 0.2 * x.var(0, ddof=1), rtol=1e-12)
  target = 0.9 * np.eye(3)[np.asarray(batch["label"])] + 0.1 / 3
  normed = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5)
  heads = [
    log_softmax(normed @ np.asarray(state.params["network"][name]["kernel"]), 1) for name in ("main", "second", "third")
  ]
  losses = [-np.mean(np.sum(target * head, 1)) for head in heads]
  np.testing.assert_allclose(metrics["loss"], losses[0] + 0.25 * (losses[1] + losses[2]), rtol=1e-6)
  # Evaluation takes the running statistics, which a step without gradients has moved.
  got = made.evaluate(new, batch, jax.random.key(1))["nll_nats"]
  normed = (x - np.asarray(statistics["mean"])) / np.sqrt(np.asarray(statistics["var"]) + 1e-5)
  logits = normed @ np.asarray(new.params["network"]["main"]["kernel"])
  np.testing.assert_allclose(got, -log_softmax(logits, 1)[np.arange(7), batch["label"]], rtol=1e-6)


class Half(nn.Module):
  """A network that computes in bfloat16."""

  @nn.compact
  def __call__(self, x, index=None):
    return nn.Dense(3, dtype=jnp.bfloat16)(x.reshape(x.shape[0], -1))


def test_losses_of_half_precise_logits_are_float32():
  batch = batch_of([0, 1, 2, 2, 1, 0, 0])
  made = classifier(Half(), optimizer=optax.sgd(0.0), spec=SPEC)
  state = made.init(jax.random.key(0), batch)
  logits = np.asarray(Half().apply({"params": state.params["network"]}, batch["image"]), np.float64)
  expected = -log_softmax(logits, 1)[np.arange(7), batch["label"]]
  got = made.evaluate(state, batch, jax.random.key(1))
  assert {x.dtype for x in got.values()} == {jnp.dtype("float32")}
  scale = np.abs(logits).max()  # see test_evaluate_is_cross_entropy
  assert_close(got["nll_nats"], expected, terms=10, scale=scale)
  _, metrics = made.step(state, batch)
  assert metrics["loss"].dtype == metrics["accuracy"].dtype == jnp.float32
  assert_close(metrics["loss"], expected.mean(), terms=10, scale=scale)
  np.testing.assert_allclose(metrics["accuracy"], (logits.argmax(1) == batch["label"]).mean(), rtol=1e-6)


def test_labels_may_be_distributions(x64):
  batch = batch_of([0, 1, 2, 2, 1, 0])
  made = classifier(Bias(), optimizer=optax.sgd(1.0), spec=SPEC, label_smoothing=0.1)
  state = made.init(jax.random.key(0), batch)
  soft = batch | {"label": jax.nn.one_hot(batch["label"], 3)}
  np.testing.assert_allclose(made.step(state, batch)[1]["loss"], made.step(state, soft)[1]["loss"], rtol=1e-12)


@pytest.mark.parametrize("kind", ["hard", "soft"])
@pytest.mark.parametrize("heads", [1, 3])
def test_distillation(kind, heads, x64):
  batch = batch_of([0, 1, 2, 2, 1, 0, 1])
  taught = jax.random.normal(jax.random.key(8), (4, 3))
  variables = {"params": {"Dense_0": {"kernel": taught, "bias": jnp.ones(3)}}}
  teacher = Teacher(Dense(3), Frozen("a file", lambda: variables), kind, 0.4, 2.0)
  student = Normed() if heads == 3 else Dense(3)
  options = dict(optimizer=optax.sgd(0.1), spec=SPEC, auxiliary=0.25)
  made = classifier(student, teacher=teacher, **options)
  state = made.init(jax.random.key(0), batch)
  assert "teacher" not in state.opt
  assert made.frozen["teacher"].source == "a file"
  shapes = lambda tree: jax.tree.map(jnp.shape, tree)
  assert shapes(state.params["teacher"]) == shapes(variables)  # what a run's state is made of, before the file is read
  state = state.replace(params={**state.params, "teacher": made.frozen["teacher"].load()})
  new, metrics = made.step(state, batch)
  np.testing.assert_array_equal(new.params["teacher"]["params"]["Dense_0"]["kernel"], taught)

  x, label = np.asarray(batch["image"]).reshape(7, -1), np.asarray(batch["label"])
  theirs = x @ np.asarray(taught) + 1
  if heads == 1:  # dropout decides what the student says; take it from the method without a teacher
    rngs = {"dropout": jax.random.fold_in(jax.random.fold_in(state.key, 0), 0)}
    outputs = [student.apply({"params": state.params["network"]}, batch["image"], batch["index"], rngs=rngs)]
  else:
    variables = {"params": state.params["network"], **state.buffers}
    outputs = student.apply(variables, batch["image"], batch["index"], mutable=["batch_stats"])[0]
  ours = [log_softmax(np.asarray(o), 1) for o in outputs]
  entropy = lambda logs, label: -np.mean(logs[np.arange(7), label])
  labels = entropy(ours[0], label) + (0.25 * entropy(ours[1], label) if heads == 3 else 0)
  if kind == "hard":
    distilled = entropy(ours[-1], theirs.argmax(1))
  else:
    a, b = log_softmax(theirs / 2, 1), log_softmax(ours[-1] / 2, 1)
    distilled = 4 * np.mean(np.sum(np.exp(a) * (a - b), 1))
  np.testing.assert_allclose(metrics["loss"], 0.6 * labels + 0.4 * distilled, rtol=1e-6)


def started(spec, batch):
  return classifier(Bias(), spec=spec, optimizer=optax.sgd(1.0)).init(jax.random.key(0), batch)


@pytest.mark.parametrize(
  ("do", "names"),
  [
    (lambda: classifier(Bias(), spec=SPEC._replace(classes=1), optimizer=optax.sgd(1.0)), "at least 2 classes"),
    (lambda: classifier(Bias(), spec=SPEC._replace(classes=None), optimizer=optax.sgd(1.0)), "at least 2 classes"),
    (lambda: classifier(Bias(), spec=SPEC, optimizer=optax.sgd(1.0), label_smoothing=1.0), "label_smoothing"),
    (lambda: started(SPEC._replace(classes=4), batch_of([0, 1])), r"\(3,\), not \(4,\)"),
    (lambda: started(SPEC._replace(shape=(4, 4, 1)), batch_of([0, 1])), r"\(4, 4, 1\).*\(2, 2, 1\)"),
    (lambda: started(SPEC, {"image": jnp.zeros((2, 2, 2, 1)), "index": jnp.arange(2)}), "labels"),
  ],
)
def test_bad_input(do, names):
  with pytest.raises(UserError, match=names):
    do()
