"""Sequence to sequence: the loss against plain sums, what greedy decoding writes, and a string that is learnt."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgen import data
from jaxgen.core.errors import UserError
from jaxgen.core.wrappers import averaged
from jaxgen.methods.sequence.seq2seq import Marks, seq2seq
from jaxgen.nn.sequence.seq2seq import Multiplicative, Seq2Seq

jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": "0"})
DATA = data.reversed_strings(5, 6, train="1-4-1", test="2-4-2")


def batch(count=6, split="train"):
  return DATA.source(split).gather(np.arange(count)) | {"index": np.arange(count, dtype=np.int32)}


def method(learning_rate=1e-2, **options):
  network = Seq2Seq(8, 8, 12, 6, decoder=Multiplicative)
  return seq2seq(network, spec=DATA.spec, optimizer=optax.adam(learning_rate), **options), network


def test_reversed_strings_are_what_they_say():
  raw = batch(500, "test")
  for source, target in zip(raw["source"], raw["target"], strict=True):
    size = int((source > 2).sum())
    assert size in (2, 4)
    assert ((source[:size] >= 3) & (source[:size] < 8)).all()
    end = [2] + [0] * (5 - size)
    assert list(source) == [*source[:size], *end]
    assert list(target) == [*source[:size][::-1], *end]
  assert {tuple(s) for s in raw["source"][:, :2]} == {(a, b) for a in range(3, 8) for b in range(3, 8)}
  for wrong in ("all", "3-2-1", "0-2-1", "1-6-1", "1-2-0"):
    with pytest.raises(UserError, match="letters|form"):
      DATA.source(wrong)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_loss_and_evaluation_are_plain_sums(smoothing):
  made, network = method(label_smoothing=smoothing)
  raw = batch()
  state = jit(made.init)(jax.random.key(0), raw)
  _, metrics = jit(made.step)(state, raw)
  read = np.concatenate([np.ones((6, 1), int), raw["target"][:, :-1]], axis=1)
  source = jnp.asarray(raw["source"])
  logits = network.apply({"params": state.params["network"]}, source, jnp.asarray(read), source > 0)
  log_p = np.asarray(jax.nn.log_softmax(logits))
  total, nats = 0.0, np.zeros(6)
  for b, target in enumerate(raw["target"]):
    for t, wanted in enumerate(target[target != 0]):
      nats[b] -= log_p[b, t, wanted]
      goal = np.full(8, smoothing / 8) + (1 - smoothing) * (np.arange(8) == wanted)
      total -= goal @ log_p[b, t]
  np.testing.assert_allclose(metrics["loss"], total / 36, rtol=1e-5)
  values = jit(made.evaluate)(state, raw, jax.random.key(1))
  np.testing.assert_allclose(values["nll_nats"], nats, rtol=1e-5)
  np.testing.assert_array_equal(values["tokens"], (raw["target"] > 0).sum(1))


def test_what_is_correct_is_what_greedy_decoding_writes():
  """On strings that it half knows, so that there are some of each."""
  made = averaged(method()[0], 0.5)
  raw = batch(64)
  state, step = jit(made.init)(jax.random.key(0), raw), jit(made.step)
  for _ in range(50):
    state, metrics = step(state, raw)
  correct = np.asarray(jit(made.evaluate)(state, raw, jax.random.key(1))["correct"], bool)
  written = jit(made.sample)(state, jax.random.split(jax.random.key(2), 64), raw["source"])
  np.testing.assert_array_equal((written == raw["target"]).all(1), correct)
  assert 0 < correct.sum() < 64


def test_says_what_does_not_fit():
  for wrong in (dict(marks=Marks(start=8)), dict(marks=Marks(end=-1)), dict(label_smoothing=1.0)):
    with pytest.raises(UserError, match="change"):
      method(**wrong)
  made, _ = method()
  with pytest.raises(UserError, match="'target'"):
    made.init(jax.random.key(0), {"source": batch()["source"]})
  other = seq2seq(Seq2Seq(8, 7, 4, 4), spec=DATA.spec, optimizer=optax.sgd(1.0))
  with pytest.raises(UserError, match="set its vocabulary"):
    jax.eval_shape(other.init, jax.random.key(0), batch())
