"""Rows of several documents in `language`, and BERT's encoder in `classifier`."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgen.core.errors import UserError
from jaxgen.core.spec import Spec
from jaxgen.methods.sequence.language import language
from jaxgen.methods.supervised.classifier import classifier
from jaxgen.nn.sequence.bert import Reader
from jaxgen.nn.sequence.options import SIZES
from jaxgen.nn.sequence.transformer import LanguageModel, gpt

V, T = 11, 9
SPEC = Spec((T,), levels=V, feature="tokens", dtype=np.int32)
DOCUMENTS = np.array([[1, 1, 1, 2, 2, 2, 2, 3, 0], [1, 2, 2, 2, 2, 2, 2, 2, 2], [1, 1, 1, 1, 1, 0, 0, 0, 0]], np.int32)


def test_the_loss_of_a_row_is_that_of_its_documents(x64):
  """Each document's nats as it has them alone; first tokens and padding count nothing."""
  tokens = np.random.default_rng(0).integers(0, V, DOCUMENTS.shape).astype(np.int32)
  batch = {"tokens": jnp.asarray(tokens), "documents": jnp.asarray(DOCUMENTS), "index": jnp.arange(3)}
  network = LanguageModel(V, gpt(8, 2, 1, T, dtype=jnp.float64))
  method = language(network, spec=SPEC, start=None, optimizer=optax.sgd(0.0), documents="documents")
  state = jax.jit(method.init)(jax.random.key(0), batch)
  found = jax.jit(method.evaluate)(state, batch, jax.random.key(1))
  expected, counts, run = np.zeros(3), np.zeros(3), jax.jit(network.apply)
  for row in range(3):
    for number in range(1, DOCUMENTS[row].max() + 1):
      alone = tokens[row][DOCUMENTS[row] == number]
      row_of_its_own = jnp.asarray(np.pad(alone, (0, T - len(alone))))[None]  # nothing sees what comes after it
      logits = run({"params": state.params["network"]}, row_of_its_own)[0]
      log_p = np.asarray(jax.nn.log_softmax(logits))
      expected[row] -= log_p[np.arange(len(alone) - 1), alone[1:]].sum()
      counts[row] += len(alone) - 1
  np.testing.assert_allclose(found["nll_nats"], expected, rtol=1e-12)
  np.testing.assert_array_equal(found["tokens"], counts)
  _, metrics = jax.jit(method.step)(state, batch)
  np.testing.assert_allclose(metrics["loss"], (expected / counts).mean(), rtol=1e-12)
  with pytest.raises(UserError, match="rows of documents begin with a document, and not with the token 3"):
    language(network, spec=SPEC, start=3, optimizer=optax.sgd(0.0), documents="documents")
  with pytest.raises(UserError, match="conditioned on 'documents' of each example"):
    jax.eval_shape(method.init, jax.random.key(0), {"tokens": batch["tokens"], "index": batch["index"]})


def test_a_classifier_of_texts_learns_and_does_not_see_padding(x64):
  """Which of two tokens a text has; what stands behind its end changes nothing."""
  options = SIZES["BERT base"]._replace(
    features=8, heads=2, hidden=16, depth=1, dropout=0.0, attention_dropout=0.0, dtype=jnp.float64
  )
  network = Reader(V, 2, options._replace(param_dtype=jnp.float64), dropout=0.0)
  rng = np.random.default_rng(0)
  tokens, label = rng.integers(3, V, (64, T)).astype(np.int32), rng.integers(0, 2, 64).astype(np.int32)
  tokens[:, 3], tokens[:, 6:] = 1 + label, 0
  batch = {"tokens": jnp.asarray(tokens), "label": jnp.asarray(label), "index": jnp.arange(64)}
  method = classifier(network, spec=SPEC._replace(classes=2), optimizer=optax.adam(1e-2))
  state = jax.jit(method.init)(jax.random.key(0), batch)
  step = lambda state, _: method.step(state, batch)
  state, metrics = jax.jit(lambda state: jax.lax.scan(step, state, length=150))(state)
  assert metrics["accuracy"][-1] == 1
  assert metrics["loss"][0] > 0.5
  variables = {"params": state.params["network"]}
  short, long = (network.apply(variables, jnp.asarray(x)) for x in (tokens[:, :6], tokens))
  np.testing.assert_allclose(short, long, rtol=1e-9, atol=1e-12)
