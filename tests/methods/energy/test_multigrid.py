import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from jaxgen.core.errors import UserError
from jaxgen.core.spec import Spec
from jaxgen.core.wrappers import averaged
from jaxgen.mcmc.langevin import langevin, mala
from jaxgen.methods.energy.multigrid import expand, multigrid, shrink, upwards
from jaxgen.nn.energy.ebm import EnergyConvNet, EnergyMLP


class Bowl(nn.Module):
  """U(x) = w sum (x - m)^2 / 2."""

  @nn.compact
  def __call__(self, x):
    w, m = (
      self.param(name, start, (), x.dtype)
      for name, start in (("w", nn.initializers.ones), ("m", nn.initializers.zeros))
    )
    return 0.5 * w * ((x - m) ** 2).sum((1, 2, 3))


def images(n=6, side=4, channels=2, seed=0):
  x = jax.random.uniform(jax.random.key(seed), (n, side, side, channels), minval=-1.0)
  return {"image": x, "index": jnp.arange(n)}


def of_images(networks=None, sampler=None, steps=3, shape=(4, 4, 2), **options):
  networks = networks or {2: Bowl(), 4: Bowl()}
  options = {"optimizer": optax.sgd(0.1), "means": 8, **options}
  return multigrid(networks, sampler or partial(langevin, step=0.1), steps, spec=Spec(shape), **options)


def test_grids_are_averages_of_blocks_and_repeated_pixels(x64):
  x = np.random.default_rng(0).normal(size=(2, 6, 6, 3))
  small = shrink(jnp.asarray(x), 3)
  for i in range(3):
    for j in range(3):
      block = x[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
      np.testing.assert_allclose(small[:, i, j], block.mean((1, 2)), rtol=1e-12)
      large = expand(small, 6)[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
      np.testing.assert_allclose(large, np.broadcast_to(block.mean((1, 2))[:, None, None], large.shape), rtol=1e-12)
  np.testing.assert_allclose(shrink(jnp.asarray(x), 1)[:, 0, 0], x.mean((1, 2)), rtol=1e-12)
  np.testing.assert_allclose(shrink(expand(small, 6), 3), small, rtol=1e-12)


def test_chains_go_up_the_grids_as_a_loop_by_hand_does(x64):
  """Without noise, on energies that differ by grid; and the loss is (M3) of what the loop finds."""
  h, steps = 0.2, 3
  w, m = {2: 1.0, 4: 0.5}, {2: 0.3, 4: -0.2}
  method = of_images(sampler=partial(langevin, step=h, noise=0.0), steps=steps)
  batch = jax.tree.map(lambda v: v.astype(jnp.float64) if v.ndim == 4 else v, images())
  state = jax.jit(method.init)(jax.random.key(0), batch)
  params = {f"grid{s}": {"w": jnp.float64(w[s]), "m": jnp.float64(m[s])} for s in w}
  state = state.replace(params={"network": params})
  after, metrics = jax.jit(method.step)(state, batch)
  x = np.asarray(batch["image"])
  y, total, slopes = x.mean((1, 2), keepdims=True), 0.0, {}
  for side in (2, 4):
    y = np.kron(y, np.ones((1, side // y.shape[1], side // y.shape[2], 1)))
    for _ in range(steps):
      y = y - h / 2 * w[side] * (y - m[side])
    data = x.reshape(len(x), side, 4 // side, side, 4 // side, 2).mean((2, 4))
    U = lambda v, side=side: 0.5 * w[side] * ((v - m[side]) ** 2).sum((1, 2, 3)).mean()
    slopes[f"grid{side}"] = (U(data) - U(y)) / w[side]
    np.testing.assert_allclose(metrics[f"energy_data_{side}"], U(data), rtol=1e-9)
    np.testing.assert_allclose(metrics[f"energy_samples_{side}"], U(y), rtol=1e-9)
    total += U(data) - U(y)
  np.testing.assert_allclose(metrics["loss"], total, rtol=1e-9)
  for name, slope in slopes.items():  # no gradient goes through chains, and each grid has its own
    np.testing.assert_allclose(params[name]["w"] - after.params["network"][name]["w"], 0.1 * slope, rtol=1e-9)


def test_grids_end_in_the_distributions_of_their_chains():
  """Quadratic energies: what k steps at each grid make of a constant start is Gaussian with known moments."""
  n, h, k, start = 4_000, 0.4, 5, 0.8
  kernels = {2: langevin(lambda x: 0.5 * (x**2).sum((1, 2, 3)), h)}
  kernels[4] = langevin(lambda x: 0.5 * ((x - 1) ** 2).sum((1, 2, 3)), h)
  keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(0), jnp.arange(n))
  reached, accepted = jax.jit(lambda x: upwards(kernels, x, keys, k))(jnp.full((n, 1, 1, 1), start))
  shrunk, new = (1 - h / 2) ** k, h * (1 - (1 - h / 2) ** (2 * k)) / (1 - (1 - h / 2) ** 2)
  mean, variance = {2: start * shrunk}, {2: new}
  mean[4], variance[4] = 1 + (mean[2] - 1) * shrunk, variance[2] * shrunk**2 + new
  for side, x in reached.items():
    assert x.shape == (n, side, side, 1)
    np.testing.assert_allclose(x.mean(), mean[side], atol=4 * math.sqrt(variance[side] / n))
    np.testing.assert_allclose(x.var(0).mean(), variance[side], rtol=0.06)
    assert (np.asarray(accepted[side]) == 1).all()
  # Pixels of one block share their block's start and nothing else; the grids' noise differs.
  both = np.asarray(reached[4])[:, :2, :2, 0].reshape(n, 4)
  covariance = np.cov(both.T)
  np.testing.assert_allclose(covariance[0, 1:], variance[2] * shrunk**2, atol=0.06)


def test_means_of_the_images_seen_last_begin_samples():
  still = partial(langevin, step=1e-12)
  method = of_images(sampler=still, means=8)
  state = jax.jit(method.init)(jax.random.key(0), images(6))
  mean_of = lambda batch: np.asarray(batch["image"]).mean((1, 2))
  first = mean_of(images(6))
  np.testing.assert_allclose(state.buffers["means"][:, 0, 0], np.concatenate([first, first[:2]]), rtol=1e-5)
  step = jax.jit(method.step)
  for seed in (1, 2):
    state, _ = step(state, images(6, seed=seed))
  kept = np.concatenate([mean_of(images(6, seed=1)), mean_of(images(6, seed=2))])[-8:]
  np.testing.assert_allclose(state.buffers["means"][:, 0, 0], kept, rtol=1e-5)
  x = np.asarray(jax.jit(method.sample)(state, jax.random.split(jax.random.key(0), 4_000)))
  assert np.ptp(x, axis=(1, 2)).max() < 1e-4
  nearest = np.abs(x[:, 0, 0, :1] - kept[None, :, 0]).argmin(1)
  counts = np.bincount(nearest, minlength=8)
  assert np.abs(counts - 500).max() < 4.5 * math.sqrt(500)


def test_networks_learn_the_grids_of_their_data():
  """Images of one grey each: after training, energies of such are below those of others, at both grids."""
  networks = {2: EnergyMLP((16,), reference=1.0), 4: EnergyConvNet(((8, 3, 1),), reference=1.0)}
  sampler = {2: partial(mala, step=0.1), 4: partial(langevin, step=0.05)}
  method = of_images(networks, sampler, 10, (4, 4, 1), optimizer=optax.adam(5e-3))
  method = averaged(method, 0.9)
  grey = lambda key: jnp.broadcast_to(0.9 * jnp.sign(jax.random.normal(key, (32, 1, 1, 1))), (32, 4, 4, 1))
  batch = lambda k: {"image": grey(jax.random.key(k)), "index": jnp.arange(32)}
  state = jax.jit(method.init)(jax.random.key(0), batch(0))

  @jax.jit
  def train(state):
    return jax.lax.fori_loop(0, 200, lambda k, state: method.step(state, batch(k))[0], state)

  before, state = state, train(state)
  checked = jnp.where((jnp.arange(4)[:, None] + jnp.arange(4)) // 2 % 2 == 0, 0.9, -0.9)[None, :, :, None]
  of = lambda state, x: jax.jit(method.evaluate)(state, {"image": x, "index": jnp.arange(len(x))}, jax.random.key(0))
  x = jnp.concatenate([batch(1)["image"][:1], checked])
  for name in ("energy_2", "unnormalised_nll_nats"):
    gap = lambda state, name=name: float(np.diff(of(state, x)[name])[0])
    assert gap(state) > gap(before) + 1
  samples = jax.jit(method.sample)(state, jax.random.split(jax.random.key(3), 64))
  assert np.abs(np.abs(shrink(samples, 1)) - 0.9).mean() < 0.25


def test_bad_input():
  with pytest.raises(UserError, match="1 or more steps"):
    of_images(steps=0)
  with pytest.raises(UserError, match="1 or more means"):
    of_images(means=0)
  for sides in ((), (1, 4), (4, 2), (2, 3), (4, 4, 8)[:1] + (6,)):
    with pytest.raises(UserError, match="each divides the next"):
      multigrid({s: Bowl() for s in sides}, langevin, 1, spec=Spec((6, 6, 1)), optimizer=optax.sgd(0.1))
  with pytest.raises(UserError, match="8x8, and this is 4"):
    of_images(shape=(8, 8, 1))
  with pytest.raises(UserError, match=r"samplers for the grids \[4\]"):
    of_images(sampler={4: partial(langevin, step=0.1)})
  with pytest.raises(UserError, match="give it the data's own spec"):
    of_images().init(jax.random.key(0), images(side=8))
  with pytest.raises(UserError, match="one number per example"):
    of_images({2: Bowl(), 4: nn.Dense(1)}).init(jax.random.key(0), images())
