"""Examples of other shapes than images: clips, waves, sets of points with padding, and what a first stage makes."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgen.core.arrays import per_example
from jaxgen.core.condition import labels
from jaxgen.core.errors import UserError
from jaxgen.core.spec import Spec
from jaxgen.core.wrappers import first_stage
from jaxgen.diffusion import PREDICTIONS, ddim, linear
from jaxgen.methods.diffusion.gaussian import gaussian_diffusion
from jaxgen.methods.diffusion.objective import Objective
from jaxgen.methods.diffusion.sampler import Sampler

T, S = 8, 0.6  # steps; the data's standard deviation
SCHEDULE = linear(T, 0.02, 0.5)


class Scaled(nn.Module):
  """eps is x times a number of t alone, of whatever shape x is: the best there is for independent Gaussians."""

  @nn.compact
  def __call__(self, x, t, told=None, index=None, mask=None):
    w = self.param("w", nn.initializers.constant(0.1), (T,), x.dtype)
    return per_example(w[t.astype(int)], x) * x


def data(shape, count, rest=None):
  x = S * np.random.default_rng(0).normal(size=(count, *shape))
  return {"x": jnp.asarray(x), "index": jnp.arange(count), **(rest or {})}


@pytest.mark.parametrize("shape", [(3, 2, 2, 1), (12, 1)], ids=["clips", "waves"])
def test_shape_is_of_no_account(shape, x64):
  """Noise is a function of key and entry, so that the same entries in another shape train and sample to the bit."""

  def run(shape):
    made = gaussian_diffusion(
      Scaled(), SCHEDULE, Spec(shape, feature="x"), optax.sgd(0.1), sampler=Sampler(lambda s: ddim(s, 1.0), steps=T)
    )
    batch = data((3, 2, 2, 1), 5)
    batch["x"] = batch["x"].reshape(5, *shape)
    state, metrics = jax.jit(made.step)(jax.jit(made.init)(jax.random.key(0), batch), batch)
    samples = jax.jit(made.sample)(state, jax.random.split(jax.random.key(1), 4))
    assert samples.shape == (4, *shape)
    return metrics["loss"], state.params["network"]["w"], samples.reshape(4, -1)

  for ours, of_images in zip(run(shape), run((2, 6, 1)), strict=True):
    np.testing.assert_allclose(ours, of_images, rtol=1e-12)


class Together(nn.Module):
  """Of a set of points: each point and the mean of all that are there, and of a class."""

  classes: int = 3

  @nn.compact
  def __call__(self, x, t, label, index=None, mask=None):
    weights = self.param("weights", nn.initializers.normal(0.5), (2,), x.dtype)
    shift = self.param("shift", nn.initializers.normal(0.5), (self.classes,), x.dtype)
    mean = jnp.sum(x * mask[..., None], axis=1, keepdims=True) / jnp.sum(mask, axis=1)[:, None, None]
    return weights[0] * x + weights[1] * mean + shift[label][:, None, None]


def sets(padding, sizes=(1, 2, 4)):
  """Three sets of 1, 2 and 4 points in the plane among 4 + padding; what is no point is not finite."""
  points = np.random.default_rng(0).normal(size=(len(sizes), 4, 2))
  x = np.full((len(sizes), 4 + padding, 2), np.nan)
  x[:, :4] = points
  mask = np.arange(4 + padding) < np.array(sizes)[:, None]
  return {
    "x": jnp.where(mask[..., None], x, np.nan),
    "there": jnp.asarray(mask),
    "label": jnp.arange(len(sizes)) % 2,
    "index": jnp.arange(len(sizes)),
  }


def of_sets(batch, network, **options):
  spec = Spec(batch["x"].shape[1:], classes=2, feature="x", mask="there")
  options = {"sampler": Sampler(lambda s: ddim(s, 1.0), steps=4), **options}
  return gaussian_diffusion(network, SCHEDULE, spec, optax.sgd(0.1), condition=labels(spec, dropout=0.5), **options)


def test_padding_changes_nothing(x64):
  def run(padding):
    batch = sets(padding)
    made = of_sets(batch, Together())
    state, metrics = jax.jit(made.step)(jax.jit(made.init)(jax.random.key(0), batch), batch)
    asked = dict(there=batch["there"], label=batch["label"], weight=jnp.full(3, 2.0))
    samples = np.array(jax.jit(made.sample)(state, jax.random.split(jax.random.key(1), 3), **asked))
    assert np.all(samples[~np.asarray(batch["there"])] == 0)
    assert np.all(samples[np.asarray(batch["there"])] != 0)
    return metrics["loss"], metrics["gradient_norm"], state.params["network"], samples[:, :4]

  without, with_more = run(0), run(3)
  assert np.isfinite(without[0])
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14), without, with_more)


def test_the_loss_of_sets_is_a_mean_over_their_points(x64):
  """Of Gaussian points the best network's loss is what regression leaves of eps given x_t, however many are there."""
  n = 4096
  batch = data((6, 2), n, {"there": jnp.arange(6) < jnp.arange(1, n + 1)[:, None] % 6 + 1, "label": jnp.zeros(n, int)})
  alpha_bar = np.cumprod(1 - np.linspace(0.02, 0.5, T))
  variance = alpha_bar * S**2 + 1 - alpha_bar
  made = of_sets(batch, Scaled())
  state = made.init(jax.random.key(0), batch)
  state = state.replace(params={"network": {"w": jnp.asarray(np.sqrt(1 - alpha_bar) / variance)}})
  floor = np.mean(alpha_bar * S**2 / variance)
  loss = float(jax.jit(made.step)(state, batch)[1]["loss"])
  assert abs(loss - floor) < 0.05 * floor  # 28,672 numbers, each squared with a deviation of about 2


def test_padding_is_refused_where_it_is_not_known():
  batch = sets(0)
  with pytest.raises(UserError, match="'there', and this is missing"):
    of_sets(batch, Together()).init(jax.random.key(0), {k: v for k, v in batch.items() if k != "there"})
  with pytest.raises(UserError, match=r"of shape \(3,\)"):
    of_sets(batch, Together()).init(jax.random.key(0), batch | {"there": batch["there"][:, :3]})
  with pytest.raises(UserError, match="set vlb to 0"):
    of_sets(batch, Together(), objective=Objective(vlb=1.0))
  with pytest.raises(UserError, match="give none"):
    of_sets(batch, Together(), likelihoods={"nll_nats": lambda *_: None})


class Constant(nn.Module):
  """x_0 is one number for each entry."""

  @nn.compact
  def __call__(self, x, t, told=None, index=None):
    return jnp.broadcast_to(self.param("value", nn.initializers.zeros, x.shape[1:], x.dtype), x.shape)


def test_a_first_stage_around_a_diffusion(x64):
  """Latents are three times the means of 2x2 pixels: one step of descent finds them, and samples are images again."""
  made = gaussian_diffusion(
    Constant(),
    SCHEDULE,
    Spec((2, 2, 1)),
    optax.sgd(0.5 * 4),
    objective=Objective(PREDICTIONS["x_0"]),
    sampler=Sampler(steps=2, clip=False),
  )
  latent = first_stage(
    made,
    lambda key, x: {"scale": jnp.full((), 3.0)},
    lambda params, x, keys: params["scale"] * x.reshape(-1, 2, 2, 2, 2, 1).mean((2, 4)),
    lambda params, z: (z / params["scale"]).repeat(2, 1).repeat(2, 2),
  )
  image = np.kron(np.random.default_rng(0).normal(size=(2, 2)), np.ones((2, 2)))[None, :, :, None]
  batch = {"image": jnp.asarray(image.repeat(6, 0)), "index": jnp.arange(6)}
  state = jax.jit(latent.init)(jax.random.key(0), batch)
  state, _ = jax.jit(latent.step)(state, batch)
  samples = jax.jit(latent.sample)(state, jax.random.split(jax.random.key(1), 3))
  np.testing.assert_allclose(samples, image.repeat(3, 0), rtol=1e-12)
  assert float(state.params["first_stage"]["scale"]) == 3.0
