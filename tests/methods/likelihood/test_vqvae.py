from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from jaxgen.core.errors import UserError
from jaxgen.core.spec import Spec
from jaxgen.methods.likelihood.vqvae import codebook, moved, nearest, perplexity, reconstruct, vqvae
from jaxgen.nn.sequence.transformer import LanguageModel, gpt
from jaxgen.probability.distributions import bernoulli, gaussian

SHAPE, CODES, DIM = (4, 4, 1), 5, 3


class Patches(nn.Module):
  """Each 2x2 patch by a linear map."""

  @nn.compact
  def __call__(self, x):
    kernel = self.param("kernel", nn.initializers.normal(1.0), (4, DIM))
    patches = x.reshape(-1, 2, 2, 2, 2).transpose(0, 1, 3, 2, 4).reshape(-1, 2, 2, 4)
    return patches @ kernel


class Unpatch(nn.Module):
  """The way back, and a scale."""

  @nn.compact
  def __call__(self, z):
    kernel = self.param("kernel", nn.initializers.normal(1.0), (DIM, 4))
    x = (z @ kernel).reshape(-1, 2, 2, 2, 2).transpose(0, 1, 3, 2, 4).reshape(-1, *SHAPE)
    return jnp.concatenate([x, jnp.zeros_like(x)], axis=-1)


def small(**options):
  prior = LanguageModel(CODES + 1, gpt(8, 2, 1, context=4))
  defaults = dict(codes=CODES, optimizer=optax.sgd(1.0), prior_optimizer=optax.sgd(0.0))
  return vqvae(Patches(), Unpatch(), prior, gaussian(), spec=Spec(SHAPE), **(defaults | options))


def batch(n=16, seed=0):
  x = np.random.default_rng(seed).normal(size=(n, *SHAPE))
  return {"image": jnp.asarray(x, jnp.float32), "index": jnp.arange(n)}


def started(method, seed=1):
  """A state with a random codebook."""
  state = jax.jit(method.init)(jax.random.key(0), batch(1))
  rng = np.random.default_rng(seed)
  count = jnp.asarray(rng.uniform(5, 20, CODES), jnp.float32)
  buffers = {"count": count, "sum": count[:, None] * jnp.asarray(rng.normal(size=(CODES, DIM)), jnp.float32)}
  return state.replace(buffers=buffers)


def by_hand(state, x):
  """(z_e, k, z_q, output) [n, 2, 2, ..] of the method's networks, by loops."""
  params = jax.tree.map(np.asarray, state.params["network"])
  e = np.asarray(state.buffers["sum"]) / np.asarray(state.buffers["count"])[:, None]
  z = np.zeros((len(x), 2, 2, DIM))
  k = np.zeros((len(x), 2, 2), int)
  mean = np.zeros((len(x), *SHAPE))
  for n, i, j in np.ndindex(len(x), 2, 2):
    z[n, i, j] = x[n, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2, 0].reshape(4) @ params["encoder"]["kernel"]
    k[n, i, j] = min(range(CODES), key=lambda c: float(np.linalg.norm(z[n, i, j] - e[c])))
    patch = (e[k[n, i, j]] @ params["decoder"]["kernel"]).reshape(2, 2)
    mean[n, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2, 0] = patch
  return z, k, e[k], mean


def test_the_nearest_code_is_taken_and_the_loss_is_the_papers():
  method = small(commitment=0.7)
  state, data = started(method), batch()
  x = np.asarray(data["image"])
  z, k, z_q, mean = by_hand(state, x)
  e = codebook(state.buffers)
  np.testing.assert_array_equal(nearest(e, jnp.asarray(z, jnp.float32)), k)
  assert len(np.unique(k)) > 2
  _, metrics = jax.jit(method.step)(state, data)
  nats = 0.5 * ((x - mean) ** 2).sum(axis=(1, 2, 3)).mean() + 8 * np.log(2 * np.pi)
  distance = ((z - z_q) ** 2).sum(axis=(1, 2, 3)).mean()
  np.testing.assert_allclose(metrics["network/reconstruction_nats"], nats, rtol=1e-5)
  np.testing.assert_allclose(metrics["network/loss"], (nats + 0.7 * distance) / 16, rtol=1e-5)
  images = reconstruct(Patches(), Unpatch(), gaussian())(state, data["image"])
  np.testing.assert_allclose(images, mean, rtol=1e-4, atol=1e-5)


def test_the_gradient_goes_straight_through():
  """The encoder's gradient: the decoder's with respect to z_q, and that of the commitment."""
  method = small(commitment=0.7)
  state, data = started(method), batch()
  x = np.asarray(data["image"], np.float64)
  z, _, z_q, mean = by_hand(state, x)
  kernel = np.asarray(state.params["network"]["decoder"]["kernel"])
  patches = lambda v: v.reshape(-1, 2, 2, 2, 2).transpose(0, 1, 3, 2, 4).reshape(-1, 4)
  to_z = patches(mean - x) @ kernel.T + 2 * 0.7 * (z - z_q).reshape(-1, DIM)  # d loss / d z_e, times the batch's values
  expected = patches(x).T @ to_z / x.size
  after, _ = jax.jit(method.step)(state, data)
  found = state.params["network"]["encoder"]["kernel"] - after.params["network"]["encoder"]["kernel"]
  np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_the_codebook_is_its_recursion():
  method = small(decay=0.8, restart=0.0, optimizer=optax.sgd(0.0))
  state, step = started(method), jax.jit(method.step)
  count, total = (np.asarray(state.buffers[name], np.float64) for name in ("count", "sum"))
  for seed in range(3):
    data = batch(seed=seed)
    z, k, _, _ = by_hand(state, np.asarray(data["image"]))
    for i in range(CODES):
      mine = z[k == i]
      count[i] = 0.8 * count[i] + 0.2 * len(mine)
      total[i] = 0.8 * total[i] + 0.2 * mine.sum(axis=0)
    state, metrics = step(state, data)
    np.testing.assert_allclose(state.buffers["count"], count, rtol=1e-5)
    np.testing.assert_allclose(codebook(state.buffers), total / count[:, None], rtol=1e-4, atol=1e-5)
    assert metrics["network/restarted"] == 0
    share = np.bincount(k.ravel(), minlength=CODES) / k.size
    np.testing.assert_allclose(metrics["network/perplexity"], np.prod(share**-share, where=share > 0), rtol=1e-4)


def test_perplexity_counts_codes_in_use():
  np.testing.assert_allclose(perplexity(jnp.array([[0, 1], [2, 3]]), 9), 4, rtol=1e-5)
  np.testing.assert_allclose(perplexity(jnp.array([6, 6, 6]), 9), 1, rtol=1e-5)


def test_dead_codes_start_anew_from_the_batch():
  rng = np.random.default_rng(0)
  z = jnp.asarray(rng.normal(size=(30, DIM)), jnp.float32)
  k = jnp.asarray(rng.integers(0, 2, 30))
  buffers = {"count": jnp.array([6.0, 6.0, 0.3, 6.0, 0.1]), "sum": jnp.asarray(rng.normal(size=(5, DIM)), jnp.float32)}
  new, restarted = moved(buffers, z, k, 0.9, 0.1, jax.random.key(0))  # the mean use is 6
  assert restarted == 2
  np.testing.assert_allclose(new["count"][jnp.array([2, 4])], 6)
  for code in (2, 4):
    assert np.abs(np.asarray(z) - np.asarray(codebook(new)[code])).max(axis=1).min() < 1e-6
  np.testing.assert_allclose(new["count"][3], 5.4, rtol=1e-6)
  np.testing.assert_allclose(codebook(new)[3], buffers["sum"][3] / 6, rtol=1e-5)


def test_after_the_first_step_codes_are_of_its_batch():
  method = small(optimizer=optax.sgd(0.0))
  state, step = jax.jit(method.init)(jax.random.key(0), batch(1)), jax.jit(method.step)
  before = codebook(state.buffers)
  state, metrics = step(state, batch())
  encoded = Patches().apply({"params": state.params["network"]["encoder"]}, batch()["image"]).reshape(-1, DIM)
  z, k = np.asarray(encoded), np.asarray(nearest(before, encoded))
  started_anew = 0
  for code, e in enumerate(np.asarray(codebook(state.buffers))):
    if np.abs(z - e).max(axis=1).min() < 1e-5:
      started_anew += 1
    else:
      np.testing.assert_allclose(e, z[k == code].mean(axis=0), atol=1e-2)
  assert started_anew == metrics["network/restarted"] > 0
  _, metrics = step(state, batch(seed=1))
  assert metrics["network/perplexity"] > 2


def test_evaluation_adds_the_codes_and_samples_follow_the_prior():
  method = small(prior_optimizer=optax.adam(0.02), optimizer=optax.sgd(0.0), decay=0.99)
  state, data = started(method), batch(64)
  run = jax.jit(lambda state: jax.lax.fori_loop(0, 150, lambda _, s: method.step(s, data)[0], state))
  state = run(state)
  _, k, _, mean = by_hand(state, np.asarray(data["image"]))
  nats = jax.jit(method.evaluate)(state, data, jax.random.key(0))["nll_nats_density_elbo"]
  of_x = 0.5 * ((np.asarray(data["image"]) - mean) ** 2).sum(axis=(1, 2, 3)) + 8 * np.log(2 * np.pi)
  of_codes = np.asarray(nats) - of_x
  # All codes there are, by a loop over the prior's conditionals.
  prior = LanguageModel(CODES + 1, gpt(8, 2, 1, context=4))
  every = np.stack(np.unravel_index(np.arange(CODES**4), (CODES,) * 4), axis=1)
  read = np.concatenate([np.full((len(every), 1), CODES), every[:, :3]], axis=1)
  logits = np.asarray(jax.jit(prior.apply)({"params": state.params["prior"]}, read))[..., :CODES]
  log_p = np.take_along_axis(jax.nn.log_softmax(logits), every[..., None], axis=-1)[..., 0].sum(axis=1)
  np.testing.assert_allclose(np.exp(log_p).sum(), 1, atol=1e-5)
  of_data = np.ravel_multi_index(k.reshape(-1, 4).T, (CODES,) * 4)
  np.testing.assert_allclose(of_codes, -log_p[of_data], atol=1e-3)
  # Samples without noise are the decoded codes: where the first of them is which code has its frequency.
  n = 3000
  images = jax.jit(small(drawn=False).sample)(state, jax.random.split(jax.random.key(1), n))
  kernel = state.params["network"]["decoder"]["kernel"]
  decoded = (codebook(state.buffers) @ kernel).reshape(-1, 4)
  first = np.asarray(images)[:, :2, :2, 0].reshape(n, 1, 4)
  found = np.abs(first - np.asarray(decoded)).max(axis=-1)
  assert found.min(axis=1).max() < 1e-4
  share = np.bincount(found.argmin(axis=1), minlength=CODES) / n
  p = np.bincount(every[:, 0], weights=np.exp(log_p), minlength=CODES)
  assert p.max() > 0.3
  np.testing.assert_array_less(np.abs(share - p), 4.5 * np.sqrt(p * (1 - p) / n) + 1e-3)


def test_bad_input():
  with pytest.raises(UserError, match="has codes=1: it takes 2 or more"):
    small(codes=1)
  with pytest.raises(UserError, match="commitment is 0 or more"):
    small(commitment=-1.0)
  with pytest.raises(UserError, match="decay lies in"):
    small(decay=1.0)
  with pytest.raises(UserError, match="its tokens are the codes and a start"):
    jax.eval_shape(small(codes=7).init, jax.random.key(0), batch(1))
  options = dict(codes=CODES, optimizer=optax.sgd(0.0), prior_optimizer=optax.sgd(0.0))
  with pytest.raises(UserError, match="is of binary data"):
    vqvae(Patches(), Unpatch(), None, bernoulli(), spec=Spec(SHAPE, 17), **options)
  with pytest.raises(UserError, match="set its shape and outputs"):
    vqvae(
      Patches(),
      Unpatch(),
      LanguageModel(CODES + 1, gpt(8, 2, 1, context=4)),
      bernoulli(),
      spec=Spec(SHAPE, 2),
      **options,
    ).init(jax.random.key(0), batch(1))


CLIP = (2, 2, 4, 1)


class OfClips(nn.Module):
  """The encoder of an image as one of clips: two frames are its upper and its lower half, and so are their codes."""

  @nn.compact
  def __call__(self, x):
    return Patches(name="inner")(x.reshape(-1, *SHAPE)).reshape(-1, 2, 1, 2, DIM)


class ToClips(nn.Module):
  """The way back."""

  @nn.compact
  def __call__(self, z):
    return Unpatch(name="inner")(z.reshape(-1, 2, 2, DIM)).reshape(-1, *CLIP[:-1], 2)


def test_clips_are_learned_as_images_are():
  """Losses, likelihoods and samples of clips are those of images with the same values."""
  images = small(optimizer=optax.sgd(0.1))
  prior = LanguageModel(CODES + 1, gpt(8, 2, 1, context=4))
  clips = vqvae(
    OfClips(), ToClips(), prior, gaussian(), spec=Spec(CLIP, feature="clip"), codes=CODES, optimizer=optax.sgd(0.1),
    prior_optimizer=optax.sgd(0.0),
  )  # fmt: skip
  state, data = started(images), batch()
  as_clips = {"clip": data["image"].reshape(-1, *CLIP), "index": data["index"]}
  inner = {part: {"inner": params} for part, params in state.params["network"].items()}
  other = jax.jit(clips.init)(jax.random.key(0), as_clips)
  other = other.replace(params=state.params | {"network": inner}, buffers=state.buffers)
  keys = jax.random.split(jax.random.key(3), 4)

  def all_of(method, state, data):
    _, metrics = method.step(state, data)
    return metrics, method.evaluate(state, data, jax.random.key(1)), method.sample(state, keys).reshape(4, -1)

  of_images, of_clips = jax.jit(partial(all_of, images))(state, data), jax.jit(partial(all_of, clips))(other, as_clips)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6), of_images, of_clips)
