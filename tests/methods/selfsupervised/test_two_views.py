"""What is asked of two views in training: queues, targets, groups, collapse, and what is said of bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from jaxgen.core.errors import UserError
from jaxgen.core.spec import Spec
from jaxgen.core.wrappers import averaged
from jaxgen.methods.selfsupervised import objectives
from jaxgen.methods.selfsupervised.rotnet import rotnet
from jaxgen.methods.selfsupervised.two_views import CARRIED, TARGET, toward_one, two_views
from jaxgen.nn.blocks.layers import BatchNorm, Dropout
from jaxgen.nn.blocks.residual import DropPath
from jaxgen.nn.selfsupervised.heads import Embedder, Head

SPEC = Spec((4, 4, 1))


class Backbone(nn.Module):
  """Features of one dense layer, normalised or not, of which units and whole examples are dropped or not."""

  normed: bool = False
  dropped: float = 0.0

  def setup(self):
    self.dense, self.norm, self.drop, self.depth = nn.Dense(6), BatchNorm(0.5), Dropout(self.dropped), DropPath()

  def features(self, x, index=None):
    h = self.dense(x.reshape(len(x), -1))
    h = nn.relu(self.norm(h, index is not None) if self.normed else h)
    return self.depth(self.drop(h, index), self.dropped, index)


class Headless(nn.Module):
  @nn.compact
  def __call__(self, x, index=None):
    return x


def batch_of(n, shape=(2, 4, 4, 1), seed=0):
  views = jax.random.normal(jax.random.key(seed), (n, *shape))
  return {"image": views[:, 0], "views": views, "index": jnp.arange(n)}


def method(objective, normed=False, rate=0.1, dropped=0.0, **heads):
  network = Embedder(Backbone(normed, dropped), **{"projector": Head((5,)), **heads})
  return two_views(network, objective, spec=SPEC, optimizer=optax.sgd(rate))


def test_the_queue_has_the_keys_of_the_last_batches_after_their_logits(x64):
  """A new batch is not among its own negatives, and the queue moves even where no gradient is left."""
  made = method(objectives.moco(0.2, 0.5, queue=8, groups=1), rate=0.0)
  state = made.init(jax.random.key(0), batch_of(4))
  first, step = state.buffers[CARRIED], jax.jit(made.step)
  assert first["queue"].shape == (8, 5)
  np.testing.assert_allclose(np.linalg.norm(first["queue"], axis=1), 1)
  keys = []
  for k in range(3):
    batch = batch_of(4, seed=k)
    network = Embedder(Backbone(), Head((5,)))
    z = [np.asarray(network.apply({"params": state.params["network"]}, batch["views"][:, v]).z) for v in range(2)]
    q, keys_now = (a / np.linalg.norm(a, axis=1, keepdims=True) for a in z)
    queue = np.asarray(state.buffers[CARRIED]["queue"])
    logits = np.concatenate([(q * keys_now).sum(1, keepdims=True), q @ queue.T], 1) / 0.2
    expected = np.mean(np.log(np.exp(logits).sum(1)) - logits[:, 0])
    state, metrics = step(state, batch)
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-6)
    keys.append(keys_now)
  after = np.asarray(state.buffers[CARRIED]["queue"])
  np.testing.assert_allclose(
    after, np.concatenate([keys[2], keys[1]]), rtol=0, atol=1e-6
  )  # the third wrote over the first
  assert int(state.buffers[CARRIED]["at"]) == 4


def test_keys_have_no_gradient_and_the_target_follows(x64):
  made = method(objectives.byol(0.75), predictor=Head((5,)))
  state = made.init(jax.random.key(0), batch_of(6))
  new, _ = jax.jit(made.step)(state, batch_of(6))
  moved = jax.tree.map(lambda p, q: np.abs(p - q).max(), state.params["network"], new.params["network"])
  assert max(jax.tree.leaves(moved)) > 1e-4
  expected = jax.tree.map(lambda a, p: a + 0.25 * (p - a), state.ema[TARGET], new.params["network"])
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), new.ema[TARGET], expected)
  share = toward_one(0.9, 100).of
  assert [float(share(jnp.asarray(n))) for n in (0, 50, 100, 200)] == pytest.approx([0.1, 0.05, 0, 0])


def test_a_target_drops_nothing(x64):
  """Its keys are those of the network in evaluation, while the trained network's queries are not."""
  made = method(objectives.moco(0.2, 0.5, queue=8, groups=1), dropped=0.5, rate=0.0)
  batch = batch_of(8)
  state = made.init(jax.random.key(0), batch)
  new, metrics = jax.jit(made.step)(state, batch)
  network = Embedder(Backbone(), Head((5,)))
  q, k = (np.asarray(network.apply({"params": state.params["network"]}, batch["views"][:, v]).z) for v in range(2))
  q, k = (a / np.linalg.norm(a, axis=1, keepdims=True) for a in (q, k))
  np.testing.assert_allclose(new.buffers[CARRIED]["queue"], k, rtol=0, atol=1e-6)
  logits = np.concatenate([(q * k).sum(1, keepdims=True), q @ np.asarray(state.buffers[CARRIED]["queue"]).T], 1) / 0.2
  undropped = np.mean(np.log(np.exp(logits).sum(1)) - logits[:, 0])
  assert abs(float(metrics["loss"]) - undropped) > 1e-3


def test_a_further_average_leaves_the_target_as_it_is(x64):
  """The averaged method's own averages are kept, each at its rate: without them the target would be the network."""
  made = method(objectives.byol(0.75), predictor=Head((5,)))
  both = averaged(made, 0.5)
  state, batch = both.init(jax.random.key(0), batch_of(6)), batch_of(6)
  assert set(state.ema) == {"network", TARGET}
  new, expected = jax.jit(both.step)(state, batch)[0], jax.jit(made.step)(state, batch)[0]
  jax.tree.map(np.testing.assert_array_equal, new.ema[TARGET], expected.ema[TARGET])
  halved = jax.tree.map(lambda a, p: (a + p) / 2, state.ema["network"], new.params["network"])
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), new.ema["network"], halved)


def test_groups_normalise_by_themselves(x64):
  """A group's query statistics do not depend on another group's examples; the keys' groups are drawn anew."""
  made = method(objectives.moco(0.2, 0.5, queue=8, groups=2), normed=True, rate=0.0)
  state = made.init(jax.random.key(0), batch_of(8))
  batch = batch_of(8)
  new, _ = jax.jit(made.step)(state, batch)
  x = np.asarray(batch["views"])[:, 1].reshape(8, -1)
  dense = state.params["network"]["backbone"]["dense"]
  h = x @ np.asarray(dense["kernel"]) + np.asarray(dense["bias"])
  groups = h.reshape(2, 4, -1)
  # The trained network's averages: the first view's statistics, then the second's, each the groups' mean.
  first = (np.asarray(batch["views"])[:, 0].reshape(8, -1) @ np.asarray(dense["kernel"])).reshape(2, 4, -1)
  mean = 0.5 * (0.5 * first.mean((0, 1))) + 0.5 * groups.mean((0, 1))
  var = 0.5 * (0.5 + 0.5 * first.var(1, ddof=1).mean(0)) + 0.5 * groups.var(1, ddof=1).mean(0)
  found = new.buffers["batch_stats"]["backbone"]["norm"]
  np.testing.assert_allclose(found["mean"], mean, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(found["var"], var, rtol=1e-5)


def test_collapse_is_seen(x64):
  """SimSiam without a stopped gradient: all embeddings become one."""
  dimensions = {}
  for stop in (True, False):
    heads = dict(projector=Head((16, 5), norm=True), predictor=Head((8, 5)))
    made = method(objectives.simsiam(stop), rate=0.3, **heads)
    state, step = made.init(jax.random.key(0), batch_of(32)), jax.jit(made.step)
    for k in range(150):
      state, metrics = step(state, batch_of(32, seed=k))
    dimensions[stop] = float(metrics["effective_dimension"])
    if not stop:
      assert metrics["loss"] == pytest.approx(-1, abs=2e-2)
      assert metrics["uniformity"] > -0.1
  assert dimensions[False] < 1.1 < dimensions[True]


@pytest.mark.parametrize(
  ("do", "names"),
  [
    (lambda: method(objectives.simclr()).init(jax.random.key(0), batch_of(1)), "this has one"),
    (lambda: method(objectives.simclr()).init(jax.random.key(0), batch_of(4, (3, 4, 4, 1))), "3 views of 4 x 4 x 1"),
    (lambda: method(objectives.simclr()).init(jax.random.key(0), batch_of(4, (2, 3, 3, 1))), "views of 3 x 3 x 1"),
    (
      lambda: method(objectives.simclr()).init(jax.random.key(0), {"image": jnp.zeros((4, 4, 4, 1)), "index": 0}),
      "the batch has none",
    ),
    (lambda: method(objectives.moco(queue=6)).init(jax.random.key(0), batch_of(4)), "8 groups do not divide"),
    (lambda: method(objectives.moco(queue=6, groups=2)).init(jax.random.key(0), batch_of(4)), "queue of 6 keys"),
    (lambda: method(objectives.moco(queue=8, groups=4)).init(jax.random.key(0), batch_of(4)), "groups of one example"),
    (lambda: objectives.simclr(0.0), "temperature"),
    (lambda: objectives.simclr(float("inf")), "temperature must be a finite number"),
    (lambda: objectives.barlow_twins(float("nan")), "weight must be a finite number"),
    (lambda: objectives.vicreg((25.0, -1.0, 1.0)), "weight must be a finite number of 0 or more, not -1"),
    (lambda: objectives.byol(1.0), "decay"),
    (lambda: rotnet(Backbone(), spec=Spec((4, 5, 1)), optimizer=optax.sgd(0.1)), "crop them square"),
    (
      lambda: two_views(
        Embedder(Headless(), Head((5,))), objectives.simclr(), spec=SPEC, optimizer=optax.sgd(0.1)
      ).init(jax.random.key(0), batch_of(4)),
      "Headless has no features",
    ),
  ],
)
def test_bad_input_is_one_sentence(do, names):
  with pytest.raises(UserError, match=names):
    do()
