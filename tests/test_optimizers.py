import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgen import optimizers
from jaxgen.core.errors import UserError
from jaxgen.core.rates import learning_rate
from jaxgen.nn.vision.cait import CaiT
from jaxgen.nn.vision.vit import ViT
from jaxgen.optimizers import kernels, layer_decay

STACKED = {
  "patches": {"kernel": jnp.ones((2, 3))},
  "cls": jnp.ones((1, 1, 3)),
  "blocks": {"mlp": {"in": {"kernel": jnp.ones((4, 3, 5)), "bias": jnp.ones((4, 5))}}},
  "norm": {"scale": jnp.ones(3)},
  "head": {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)},
}
SINGLE = {"stem": {"kernel": jnp.ones(2)}, "blocks_0": {"kernel": jnp.ones(2)}, "blocks_1": {"kernel": jnp.ones(2)},
          "head": {"bias": jnp.ones(1)}}  # fmt: skip


def test_every_layer_learns_at_its_rate():
  optimizer = optax.chain(optax.sgd(1.0), layer_decay(0.5, 4))
  state = optimizer.init(STACKED)
  updates, _ = jax.jit(optimizer.update)(STACKED, state, STACKED)
  by_block = np.array([1 / 16, 1 / 8, 1 / 4, 1 / 2])
  inside = updates["blocks"]["mlp"]["in"]
  np.testing.assert_array_equal(inside["kernel"], -np.broadcast_to(by_block[:, None, None], (4, 3, 5)))
  np.testing.assert_array_equal(inside["bias"], -np.broadcast_to(by_block[:, None], (4, 5)))
  np.testing.assert_array_equal(updates["patches"]["kernel"], -np.ones((2, 3)) / 32)
  np.testing.assert_array_equal(updates["cls"], -np.ones((1, 1, 3)) / 32)
  for head in jax.tree.leaves([updates["head"], updates["norm"]]):
    np.testing.assert_array_equal(head, -1)
  updates, _ = layer_decay(0.5, 2).update(SINGLE, layer_decay(0.5, 2).init(SINGLE))
  assert [float(x[0]) for x in jax.tree.leaves(updates)] == [0.25, 0.5, 1.0, 0.125]  # blocks, head, stem


@pytest.mark.parametrize("network", [ViT(2, 4, 2, 2, classes=3, distilled=True), CaiT(2, 4, 2, 2, classes=3)])
def test_what_comes_after_the_blocks_learns_at_the_full_rate(network):
  shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 4, 4, 1)))["params"]
  params = jax.tree.map(lambda s: jnp.ones(s.shape), shapes)
  updates, _ = layer_decay(0.5, 2).update(params, layer_decay(0.5, 2).init(params))
  rates = {name: {float(r) for leaf in jax.tree.leaves(tree) for r in leaf.ravel()} for name, tree in updates.items()}
  first = {"patches", "positions", "class_token", "distillation_token"}
  assert {name for name, rate in rates.items() if rate == {0.125}} == first & rates.keys()
  assert rates.pop("encoder") == {0.25, 0.5}
  assert all(rates[name] == {1.0} for name in rates.keys() - first)
  assert any("head" in name for name in rates.keys() - first)


def test_only_kernels_decay():
  optimizer = optax.adamw(1.0, weight_decay=0.1, mask=kernels)
  zeros = jax.tree.map(jnp.zeros_like, STACKED)
  updates, _ = optimizer.update(zeros, optimizer.init(STACKED), STACKED)
  decayed = {jax.tree_util.keystr(path) for path, u in jax.tree_util.tree_leaves_with_path(updates) if jnp.any(u)}
  assert decayed == {"['patches']['kernel']", "['blocks']['mlp']['in']['kernel']", "['head']['kernel']"}


@pytest.mark.parametrize(
  ("do", "names"),
  [
    (lambda: layer_decay(1.5, 4), r"in \(0, 1\]"),
    (lambda: layer_decay(0.5, 4, blocks="layers").init(STACKED), "'layers'"),
    (lambda: layer_decay(0.5, 3).update(STACKED, optax.EmptyState()), "4 blocks"),
  ],
)
def test_bad_input(do, names):
  with pytest.raises(UserError, match=names):
    do()


def test_schedules_rise_and_fall():
  count = np.arange(101)
  cosine = np.array([optimizers.schedule(0.5, 100, warmup=20, end=0.1)(n) for n in count])
  np.testing.assert_allclose(cosine[:21], 0.5 * count[:21] / 20, rtol=1e-6)
  np.testing.assert_allclose(cosine[20:], 0.1 + 0.4 * (1 + np.cos(np.pi * (count[20:] - 20) / 80)) / 2, rtol=1e-5)
  linear = np.array([optimizers.schedule(0.5, 100, decay="linear")(n) for n in count])
  np.testing.assert_allclose(linear, 0.5 * (1 - count / 100), atol=1e-7)
  assert optimizers.schedule(0.5, warmup=4)(100) == 0.5
  assert optimizers.schedule(0.5, 10, warmup=100)(5) == 0.5  # half of the steps at most


def test_clipping_and_decay():
  """One step of each from a gradient of norm 10, by hand."""
  params, grads = (
    {"kernel": jnp.array([2.0]), "bias": jnp.array([2.0])},
    {"kernel": jnp.array([6.0]), "bias": jnp.array([8.0])},
  )

  def step(optimizer):
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    return {name: float(x[0]) for name, x in updates.items()}

  assert step(optimizers.sgd(0.1, weight_decay=0.5)) == pytest.approx({"kernel": -0.7, "bias": -0.8})
  # Adam's first step is the sign of the gradient, whatever its norm; the decay is of kernels alone.
  assert step(optimizers.adam(0.1, weight_decay=0.5, clip=1.0)) == pytest.approx(
    {"kernel": -0.2, "bias": -0.1}, rel=1e-5
  )
  assert step(optimizers.adam(0.1, clip=1.0, eps=1.0)) == pytest.approx(
    {"kernel": -0.0375, "bias": -0.08 / 1.8}, rel=1e-5
  )


@pytest.mark.parametrize(
  "make",
  [
    lambda: optimizers.adam(-1e-3),
    lambda: optimizers.adam(float("nan"), 100, warmup=10),
    lambda: optimizers.sgd(float("inf"), 100),
    lambda: optimizers.adam(1e-3, weight_decay=-1.0),
    lambda: optimizers.adam(1e-3, clip=float("nan")),
    lambda: optimizers.sgd(1e-3, weight_decay=float("nan")),
    lambda: optimizers.lars(1.0, trust=-1.0),
    lambda: optimizers.inverse_root(-1.0, 10),
  ],
)
def test_numbers_with_which_nothing_is_learned_are_refused(make):
  with pytest.raises(UserError, match="must be a finite number of 0 or more, not"):
    make()


def test_a_rate_of_0_changes_nothing():
  update, _ = (optimizer := optimizers.sgd(0.0, 10)).update({"w": jnp.ones(2)}, optimizer.init({"w": jnp.ones(2)}))
  np.testing.assert_array_equal(update["w"], 0)


@pytest.mark.parametrize(
  "make",
  [
    lambda rate: optimizers.adam(rate, clip=1.0, weight_decay=0.1),
    lambda rate: optimizers.sgd(rate, weight_decay=0.1),
    optimizers.lars,
    lambda rate: optimizers.without(optimizers.sgd(rate), "fixed"),
    lambda rate: optimizers.projected(optimizers.adam(rate), lambda params: params),
    lambda rate: optax.inject_hyperparams(optax.sgd)(learning_rate=rate),
  ],
)
def test_an_optimizer_says_the_rate_of_its_next_update(make):
  params = {"kernel": jnp.ones((2, 2))}
  optimizer = make(lambda count: 0.5 / (1 + count))
  state = optimizer.init(params)
  said = []
  for _ in range(3):
    said.append(float(learning_rate(optimizer, state)["learning_rate"]))
    _, state = optimizer.update(params, state, params)
  injected = isinstance(state, optax.InjectStatefulHyperparamsState)  # these say the rate of the update before
  assert said == pytest.approx([0.5, 0.5, 0.25] if injected else [0.5, 0.25, 0.5 / 3])


def test_an_optimizer_that_says_no_rate():
  optimizer = optax.sgd(0.1)
  assert learning_rate(optimizer, optimizer.init({"kernel": jnp.ones(2)})) == {}
