"""ProphetNet against transformers' own (tests/fixtures/make_language.py), its streams, its cache and its loss."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from packed import expected_of, load
from rounding import assert_close

from jaxgen.core.errors import UserError
from jaxgen.core.spec import Spec
from jaxgen.interop import layout
from jaxgen.interop import prophetnet as weights
from jaxgen.methods.sequence.seq2seq import seq2seq
from jaxgen.nn.blocks.positions import Learned
from jaxgen.nn.sequence.options import Options
from jaxgen.nn.sequence.prophetnet import LARGE, ProphetNet

SMALL = dict(features=6, heads=3, hidden=5, depth=2, dtype=jnp.float64, param_dtype=jnp.float64)
PLACES = partial(Learned, 11, 1, param_dtype=jnp.float64)


def network(ngram=3, buckets=6, most=8, **changes) -> ProphetNet:
  return ProphetNet(13, LARGE._replace(absolute=PLACES, **SMALL)._replace(**changes), ngram, buckets, most)


def read(**changes):
  arrays, ours = load("prophetnet.npz", "ProphetNet"), network(**changes)
  given = {k: jnp.asarray(a) for k, a in arrays["argument"].items()}
  labels, _ = given.pop("labels"), given.pop("steps")
  shapes = jax.eval_shape(partial(ours.init, jax.random.key(0)), **given)
  entries = weights.transformers(ours)
  variables = jax.tree.map(jnp.asarray, layout.read(entries, arrays["weight"], shapes))
  return arrays, given, labels, ours, entries, variables


def test_equals_transformers_and_weights_go_back(x64):
  """Logits of all streams, the loss, and gradients, to 1e-9; the library's order of biases put right, see there."""
  arrays, given, labels, ours, entries, variables = read()

  def loss(variables):
    logits = ours.apply(variables, **given)
    each = jnp.broadcast_to(labels[:, None], logits.shape[:3])
    nats = optax.softmax_cross_entropy_with_integer_labels(logits, each)
    outputs = dict(logits=logits, loss=jnp.mean(nats))
    return sum(jnp.sum(outputs[k] * c) for k, c in arrays["cotangent"].items()), outputs

  gradient, outputs = jax.jit(jax.grad(loss, has_aux=True))(variables)
  groups = {"output": outputs, "gradient": layout.write(entries, gradient)}
  found = {f"{group}/{k}": np.asarray(a) for group, arrays in groups.items() for k, a in arrays.items()}
  expected = expected_of(arrays)
  assert expected.keys() == found.keys()
  for k, array in expected.items():
    np.testing.assert_allclose(found[k], array, rtol=1e-9, atol=1e-9, err_msg=k)
  back = layout.write(entries, variables)
  assert back.keys() == arrays["weight"].keys()
  for k, array in arrays["weight"].items():
    np.testing.assert_array_equal(back[k], array)


def test_fixtures_tell_mistakes(x64):
  mistakes = dict(
    most=9, eps=1e-6, heads=2, absolute=partial(Learned, 10, 2, param_dtype=jnp.float64),
    activation=partial(jax.nn.gelu, approximate=True),
  )  # fmt: skip
  for name, value in mistakes.items():
    try:
      arrays, given, _, ours, _, variables = read(**{name: value})
    except UserError:  # other parameters
      assert name == "heads"
      continue
    logits = jax.jit(ours.apply)(variables, **given)
    assert np.abs(logits - arrays["output"]["logits"]).max() > 1e-7, name


def test_parameters_at_the_published_size():
  ids = jnp.zeros((1, 3), jnp.int32)
  shapes = jax.eval_shape(ProphetNet(30_522).init, jax.random.key(0), ids, ids)
  assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 391_321_600


def test_streams_by_jacobian(x64):
  """Stream j at place t reads the target up to t - j, and its first token."""
  _, given, _, ours, _, variables = read()

  def run(x):
    add = lambda following, arguments, options, context: (
      following(*arguments, **options) + x
      if (context.module.name, context.method_name) == ("embedding", "__call__")
      and arguments[0].shape[1] == x.shape[0] else following(*arguments, **options)
    )  # fmt: skip
    with nn.intercept_methods(add):
      return ours.apply(variables, given["source"][:1], given["target"][:1], given["mask"][:1])[0]

  jacobian = jax.jit(jax.jacobian(run))(jnp.zeros((9, 6)))
  found, place = np.asarray(jnp.any(jacobian != 0, axis=(2, 4))), np.arange(9)
  for j in range(3):
    # What the main stream has read of itself reaches a stream through it.
    np.testing.assert_array_equal(found[j], (place <= place[:, None] - j) | (place == 0), err_msg=str(j))


def test_one_stream_is_the_plain_model_and_decoding_uses_it(x64):
  """Stream 0 of three has the logits of a network of one stream with its vector; the cache gives the same, and so does
  the untouched library's."""
  arrays, given, _, ours, _, variables = read()
  whole = jax.jit(ours.apply)(variables, **given)
  last = variables["params"]["decoder"]["ngram"][-1:]
  single = {"params": variables["params"] | {"decoder": variables["params"]["decoder"] | {"ngram": last}}}
  alone = jax.jit(network(ngram=1).apply)(single, **given)
  assert alone.shape == whole[:, 0].shape
  assert_close(alone, whole[:, 0])
  np.testing.assert_allclose(whole[:, 0], arrays["argument"]["steps"], rtol=1e-9, atol=1e-9)
  step, carry = ours.stepper(variables["params"], given["source"], given["mask"], 9)
  step = jax.jit(step)
  for t in range(9):
    logits, carry = step(carry, given["target"][:, t])
    assert_close(logits, whole[:, 0, t])


def test_the_loss_is_the_weighted_sum_of_the_streams_and_each_examples_own(x64):
  """Weights 1 and 0 are the plain model's loss; permuting a batch changes no example's number."""
  arrays, given, labels, ours, _, variables = read()
  spec = Spec((9,), levels=13, feature="target", dtype=np.int32)
  batch = {"source": given["source"], "target": labels, "index": jnp.arange(3)}
  found, state = {}, None
  quiet = ours.options._replace(dropout=0.0, attention_dropout=0.0, hidden_dropout=0.0)
  for future in ((1.0, 0.0, 0.0), (0.5, 0.3, 0.2)):
    method = seq2seq(ours.clone(options=quiet), spec=spec, optimizer=optax.sgd(0.0), future=future)
    if state is None:
      state = jax.jit(method.init)(jax.random.key(0), batch).replace(params={"network": variables["params"]})
    _, metrics = jax.jit(method.step)(state, batch)
    found[future] = float(metrics["loss"])
  assert abs(found[0.5, 0.3, 0.2] - found[1.0, 0.0, 0.0]) > 1e-6
  read_of = jnp.pad(labels[:, :-1], ((0, 0), (1, 0)), constant_values=1)
  logits = ours.apply(variables, given["source"], read_of, given["source"] != 0)
  nats = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.broadcast_to(labels[:, None], (3, 3, 9)))
  each = np.asarray(nats.mean(axis=(0, 2)))
  np.testing.assert_allclose(list(found.values()), [each[0], each @ [0.5, 0.3, 0.2]], rtol=1e-12)
  values = jax.jit(method.evaluate)(state, batch, jax.random.key(0))["nll_nats"]
  np.testing.assert_allclose(values, np.asarray(nats[:, 0].sum(axis=1)), rtol=1e-12)
  order = jnp.array([2, 0, 1])
  turned = jax.jit(method.evaluate)(state, {k: x[order] for k, x in batch.items()}, jax.random.key(0))["nll_nats"]
  np.testing.assert_allclose(turned, values[order], rtol=1e-12)


def test_says_what_does_not_fit():
  spec = Spec((9,), levels=13, feature="target", dtype=np.int32)
  ids = jnp.zeros((2, 9), jnp.int32)
  batch = {"source": ids, "target": ids, "index": jnp.arange(2)}
  small = ProphetNet(13, Options(6, 3, 5, 1, absolute=PLACES), 2)
  with pytest.raises(UserError, match="weights are numbers from 0 on, not all 0"):
    seq2seq(small, spec=spec, optimizer=optax.sgd(0.1), future=(0.0, 0.0))
  with pytest.raises(UserError, match="number of streams"):
    jax.eval_shape(seq2seq(small, spec=spec, optimizer=optax.sgd(0.1)).init, jax.random.key(0), batch)
  with pytest.raises(UserError, match="ProphetNet has ngram=0"):
    jax.eval_shape(ProphetNet(13, ngram=0).init, jax.random.key(0), ids, ids)
