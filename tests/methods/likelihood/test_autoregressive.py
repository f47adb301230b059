"""Every autoregressive model of vectors and images, by enumeration of all that it may generate."""

import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import integrate, stats

from jaxgen import data
from jaxgen.core.errors import UserError
from jaxgen.core.spec import Spec
from jaxgen.methods.likelihood.autoregressive import autoregressive
from jaxgen.nn.autoregressive.made import FVSBN, MADE, NADE, RNADE
from jaxgen.nn.autoregressive.pixelcnn import GatedPixelCNN, PixelCNN
from jaxgen.nn.autoregressive.pixelcnnpp import PixelCNNpp
from jaxgen.probability.distributions import Distribution, bernoulli, categorical, gaussian_mixture, logistic_mixture

WIDE = dict(dtype=jnp.float64, param_dtype=jnp.float64)


class Case(NamedTuple):
  """A model of examples of this shape with so many levels; shapes are small enough for all examples to be listed."""

  network: Any
  distribution: Distribution
  shape: tuple[int, ...] = (10,)
  levels: int | None = 2
  classes: int | None = None

  @property
  def spec(self) -> Spec:
    return Spec(self.shape, self.levels, self.classes, "x")


CASES = {
  "FVSBN": Case(FVSBN(**WIDE), bernoulli()),
  "NADE": Case(NADE(6, **WIDE), bernoulli()),
  "tied NADE": Case(NADE(6, tied=True, **WIDE), bernoulli()),
  "MADE": Case(MADE(1, (20,), **WIDE), bernoulli()),
  "deep MADE, 4 masks and orders": Case(MADE(1, (20, 20), members=4, shuffle=True, **WIDE), bernoulli()),
  "MADE, softmax": Case(MADE(3, (20,), members=2, **WIDE), categorical(3), (2, 3, 1), 3),
  "PixelCNN": Case(PixelCNN(3, 4, 2, 4, first=3, **WIDE), categorical(3), (2, 3, 1), 3),
  "PixelCNN, binary": Case(PixelCNN(1, 8, 2, 16, first=3, **WIDE), bernoulli(), (2, 5, 1)),
  "gated PixelCNN, colours": Case(GatedPixelCNN(2, 4, 2, 4, first=3, **WIDE), categorical(2), (2, 2, 2)),
  "gated PixelCNN, labels": Case(
    GatedPixelCNN(3, 4, 2, 4, first=3, classes=2, **WIDE), categorical(3), (2, 3, 1), 3, classes=2
  ),
  "PixelCNN++": Case(PixelCNNpp(6, 4, 1, stages=2, **WIDE), logistic_mixture(2, 3), (2, 2, 1), 3),
  "PixelCNN++, colours": Case(PixelCNNpp(12, 4, 1, stages=1, **WIDE), logistic_mixture(2, 3, 2), (1, 2, 2), 3),
}
every_case = pytest.mark.parametrize("name", list(CASES))


def method(case):
  return autoregressive(case.network, case.distribution, spec=case.spec, optimizer=optax.adam(1e-2))


def batch(case, x):
  labels = {} if case.classes is None else {"label": jnp.ones(len(x), jnp.int32)}
  return {"x": jnp.asarray(x), "index": jnp.arange(len(x)), **labels}


def random_state(made, case):
  """Of random weights, biases included."""
  state = jax.jit(made.init)(jax.random.key(0), batch(case, np.zeros((1, *case.shape))))
  rng = np.random.default_rng(0)
  noise = lambda p: jnp.asarray(rng.normal(size=p.shape) * (p.shape[-1] if p.ndim < 4 else p[..., 0].size) ** -0.3)
  return state.replace(params=jax.tree.map(noise, state.params))


@every_case
def test_probabilities_of_all_examples_sum_to_one_and_samples_follow_them(name, x64):
  case = CASES[name]
  made = method(case)
  state = random_state(made, case)
  D = int(np.prod(case.shape))
  everything = np.array(list(itertools.product(np.linspace(-1, 1, case.levels), repeat=D)))
  nats = jax.jit(made.evaluate)(state, batch(case, everything.reshape(-1, *case.shape)), jax.random.key(0))
  p = np.exp(-np.asarray(nats["nll_nats" + "_given_label" * (case.classes is not None)]))
  assert len(p) == case.levels**D
  np.testing.assert_allclose(p.sum(), 1, atol=1e-6)
  assert p.max() > 3 * np.median(p)  # random weights make a distribution that is not uniform

  n = max(2_000, 20 * len(p))
  conditions = {} if case.classes is None else {"label": jnp.ones(n, jnp.int32)}
  samples = np.asarray(jax.jit(made.sample)(state, jax.random.split(jax.random.key(1), n), **conditions))
  assert samples.shape == (n, *case.shape)
  integers = np.rint((samples.reshape(n, D) + 1) * (case.levels - 1) / 2).astype(int)
  np.testing.assert_allclose(samples.reshape(n, D), integers * (2 / (case.levels - 1)) - 1, atol=1e-12)
  counts = np.bincount(np.ravel_multi_index(integers.T, (case.levels,) * D), minlength=len(p))
  rare = n * p < 8  # counted together
  pooled = lambda x: np.append(x[~rare], x[rare].sum())
  assert stats.chisquare(pooled(counts), pooled(n * p / p.sum())).pvalue > 1e-4


@every_case
def test_no_model_beats_the_entropy_of_uniform_values(name):
  """A leak of a value into its own parameters would be learned in no time."""
  case = CASES[name]
  case = case._replace(network=case.network.clone(dtype=jnp.float32, param_dtype=jnp.float32))
  made = method(case)
  rng = np.random.default_rng(0)
  uniform = lambda n: (rng.integers(0, case.levels, (n, *case.shape)) * (2 / (case.levels - 1)) - 1).astype(np.float32)
  state = jax.jit(made.init)(jax.random.key(0), batch(case, uniform(64)))
  step = jax.jit(made.step)
  for _ in range(100):
    state, metrics = step(state, batch(case, uniform(64)))
  (nats,) = jax.jit(made.evaluate)(state, batch(case, uniform(2000)), jax.random.key(0)).values()
  nats = np.asarray(nats)
  entropy = np.prod(case.shape) * np.log(case.levels)
  assert nats.mean() > entropy - 4 * nats.std() / len(nats) ** 0.5
  assert nats.mean() < 1.2 * entropy  # and it has learned that they are uniform
  assert np.isfinite(metrics["loss"])


def test_a_mixture_of_members_is_the_mean_of_their_probabilities(x64):
  case = CASES["deep MADE, 4 masks and orders"]
  made = method(case)
  state = random_state(made, case)
  x = jnp.asarray(np.random.default_rng(2).choice([-1.0, 1.0], (5, 10)))
  params = {"params": state.params["network"]}
  logits = np.stack([case.network.apply(params, x, member=m)[..., 0] for m in range(4)])
  p = np.prod(1 / (1 + np.exp(-np.asarray(x) * logits)), axis=2)
  nats = made.evaluate(state, batch(case, x), jax.random.key(0))["nll_nats"]
  np.testing.assert_allclose(nats, -np.log(p.mean(axis=0)), rtol=1e-10)
  # Training takes them in turn.
  for k in range(5):
    state = state.replace(step=jnp.asarray(k))
    loss = jax.jit(made.step)(state, batch(case, x))[1]["loss"]
    np.testing.assert_allclose(10 * loss, -np.log(p[k % 4]).mean(), rtol=1e-10)


def real_valued(levels=None):
  return method(Case(RNADE(6, 8, **WIDE), gaussian_mixture(2), (2,), levels))


def test_rnade_is_a_density_and_its_samples_follow_it(x64):
  case = Case(None, gaussian_mixture(2), (2,))
  made = real_valued()
  state = random_state(made, case)
  state = state.replace(params=jax.tree.map(lambda p: 0.5 * p, state.params))  # all of its mass on the grid
  grid = np.linspace(-25, 25, 1001)
  points = np.stack(np.meshgrid(grid, grid, indexing="ij"), axis=-1).reshape(-1, 2)
  nats = jax.jit(made.evaluate)(state, batch(case, points), jax.random.key(0))["nll_nats_density"]
  density = np.exp(-np.asarray(nats)).reshape(1001, 1001)
  np.testing.assert_allclose(integrate.trapezoid(integrate.trapezoid(density, grid), grid), 1, atol=1e-3)
  samples = np.asarray(jax.jit(made.sample)(state, jax.random.split(jax.random.key(1), 4000)))
  for axis in (0, 1):
    marginal = integrate.cumulative_trapezoid(integrate.trapezoid(density, grid, axis=1 - axis), grid, initial=0)
    assert stats.kstest(samples[:, axis], lambda v, m=marginal: np.interp(v, grid, m)).pvalue > 1e-4
  # Of dequantized data the same density bounds the integers' likelihood: a level is 2 / 4 wide.
  bound = real_valued(4).evaluate(state, batch(case, points[:3]), jax.random.key(0))["nll_nats_dequantized"]
  np.testing.assert_allclose(bound, nats[:3] - 2 * np.log(2 / 4), rtol=1e-9)


def test_bad_input(tmp_path):
  nade, key = CASES["NADE"], jax.random.key(0)
  with pytest.raises(UserError, match="binarize the data"):
    method(nade._replace(levels=17))
  with pytest.raises(UserError, match="real numbers"):
    method(nade._replace(levels=None))
  with pytest.raises(UserError, match="give it the data's own spec"):
    method(nade).init(key, {"x": jnp.zeros((1, 9)), "index": jnp.arange(1)})
  with pytest.raises(UserError, match="change the network's outputs"):
    method(Case(MADE(2, (3,)), bernoulli())).init(key, batch(nade, np.zeros((1, 10))))
  labelled = CASES["gated PixelCNN, labels"]
  with pytest.raises(UserError, match="the network has 2 classes and the data no labels"):
    method(labelled._replace(classes=None))
  with pytest.raises(UserError, match="this data has none"):
    method(labelled).init(key, {"x": jnp.zeros((1, 2, 3, 1)), "index": jnp.arange(1)})
  # Said to be binary, and is not.
  np.savez(tmp_path / "grey.npz", train_image=np.arange(4, dtype=np.uint8).reshape(1, 2, 2, 1))
  with pytest.raises(UserError, match="values 0 to 3, but the config expects 2 levels"):
    data.images(f"npz:{tmp_path}/grey.npz", (2, 2, 1), levels=2).source("train")


def test_binarized_data_are_of_two_levels():
  digits = data.binarized(data.digits())
  assert digits.levels == 2
  raw = {k: x[:50] for k, x in digits.source("train").arrays.items()} | {"index": np.arange(50)}
  images = np.asarray(digits.transform(jax.random.key(0), raw, False)["image"])
  np.testing.assert_array_equal(images, np.where(raw["image"] > 8, 1, -1))
