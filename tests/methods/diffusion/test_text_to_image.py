"""A model that is told texts by frozen encoders, with small networks whose outputs are known."""

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from jaxgen import diffusion
from jaxgen.core.errors import UserError
from jaxgen.core.spec import Spec
from jaxgen.core.wrappers import first_stage
from jaxgen.methods.diffusion.gaussian import gaussian_diffusion
from jaxgen.methods.diffusion.objective import Objective
from jaxgen.methods.diffusion.prompt_to_prompt import refinement
from jaxgen.methods.diffusion.sampler import Sampler
from jaxgen.methods.diffusion.text_to_image import Encoder, Reader, filled, rectangles, scaled, told_texts

SPEC = Spec((2, 4, 1))
END, PAD = 7, 0
EMPTY = np.array([6, END, END, END], np.int32)


class Tower(nn.Module):
  """A text's features are its tokens' rows of a table; the whole is their mean."""

  @nn.compact
  def __call__(self, tokens: Any, states: bool = False) -> Any:
    rows = self.param("table", nn.initializers.normal(1.0), (8, 3))[tokens]
    return SimpleNamespace(tokens=rows, states=rows[None], whole=rows.mean(1))


class Network(nn.Module):
  """x_0 is a gain times the text's mean, and the mask where there is one: it does not depend on x."""

  @nn.compact
  def __call__(self, x: Any, t: Any, told: Any, index: Any = None) -> Any:
    gain = self.param("gain", nn.initializers.ones, ())
    out = gain * told["text"].mean((1, 2))[:, None, None, None] + 0 * x
    return out + (told["picture"][..., :1] if "picture" in told else 0)


class Stage(nn.Module):
  """An autoencoder whose latents are means of 2 x 2 pixels, twice as large, and have no spread."""

  def setup(self):
    self.twice = self.param("twice", nn.initializers.constant(2.0), ())

  def __call__(self, x: Any) -> Any:
    return self.decode(self.encode(x)[0])

  def encode(self, x: Any) -> Any:
    z = self.twice * nn.avg_pool(x, (2, 2), (2, 2))
    return z, jnp.full_like(z, -30.0)

  def decode(self, z: Any) -> Any:
    return z.repeat(2, 1).repeat(2, 2) / self.twice


def made(dropout=0.0, zeros=False, picture=False):
  reader = Reader({"text_encoder": Encoder(Tower(), False, False, END, PAD)}, EMPTY, zeros)
  method = gaussian_diffusion(
    Network(),
    diffusion.cosine(100),
    SPEC,
    optax.sgd(0.1),
    objective=Objective(diffusion.PREDICTIONS["x_0"]),
    condition=reader.condition(picture),
    sampler=Sampler(steps=2, clip=False, guidance=reader.guidance()),
  )
  init, encode, decode = scaled(Stage(), 0.5, 0.25)
  method = first_stage(method, init, encode, decode)
  method = filled(method, encode, SPEC.shape, 2) if picture else method
  return told_texts(method, reader, dropout)


BATCH = {
  "image": jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (6, 4, 8, 1)), jnp.float32),
  "tokens": jnp.asarray([[6, i % 6, END, END] for i in range(6)], jnp.int32),
  "index": jnp.arange(6),
}
KEYS = jax.random.split(jax.random.key(1), 2)
TEXTS = jnp.asarray([[6, 1, 2, END], [6, 3, END, 5]], jnp.int32)


def mean_of(state, tokens, pad=PAD):
  """The mean feature of texts, with padding after the first end, in NumPy."""
  rows = np.array(tokens)
  for row in rows:
    first = list(row).index(END) if END in row else len(row)
    row[first + 1 :] = pad
  return np.asarray(state.params["text_encoder"]["table"])[rows].mean((1, 2))


def picture_of(x_0):
  """What the first stage makes of constant latents: x / (scale * twice) and its shift."""
  return (x_0 / 0.5 + 0.25) / 2


@pytest.mark.parametrize("zeros", [False, True])
def test_guidance_is_away_from_a_negative_text_or_from_nothing(zeros):
  method = made(zeros=zeros)
  state = method.init(jax.random.key(0), BATCH)
  assert set(state.params) == {"network", "first_stage", "text_encoder"}
  draw = jax.jit(method.sample)
  positive = mean_of(state, TEXTS)
  cases = {
    "plain": ({}, positive),
    "from nothing": ({"weight": jnp.full(2, 3.0)}, 0 if zeros else mean_of(state, EMPTY[None])),
    "negative": ({"weight": jnp.full(2, 3.0), "negative_tokens": TEXTS[::-1]}, positive[::-1]),
  }
  for name, (asked, other) in cases.items():
    expected = positive if name == "plain" else other + 3.0 * (positive - other)
    samples = draw(state, KEYS, tokens=TEXTS, **asked)
    np.testing.assert_allclose(samples[:, 0, 0, 0], picture_of(expected), rtol=1e-5, err_msg=name)
  # Attention maps of another text, which this network does not use: samples are of the second text alone.
  maps = refinement(TEXTS[::-1], TEXTS)
  mapped = draw(state, KEYS, tokens=TEXTS, source_tokens=TEXTS[::-1], **maps, **cases["negative"][0])
  np.testing.assert_allclose(mapped, samples, rtol=1e-5)
  nothing = draw(state, KEYS)  # the empty text
  np.testing.assert_allclose(nothing[:, 0, 0, 0], np.repeat(picture_of(mean_of(state, EMPTY[None])), 2), rtol=1e-5)


def test_training_drops_texts_and_leaves_encoders_and_first_stage():
  losses = []
  for dropout in (0.0, 0.999999):
    method = made(dropout)
    state = method.init(jax.random.key(0), BATCH)
    after, metrics = jax.jit(method.step)(state, BATCH)
    for name in ("first_stage", "text_encoder"):
      jax.tree.map(np.testing.assert_array_equal, after.params[name], state.params[name])
    assert set(after.opt) == {"network"}
    assert after.params["network"]["gain"] != state.params["network"]["gain"]
    losses.append(float(metrics["loss"]))
  z = 0.5 * (2 * np.asarray(BATCH["image"]).reshape(6, 2, 2, 4, 2, 1).mean((2, 4)) - 0.25)
  for loss, tokens in zip(losses, (BATCH["tokens"], np.repeat(EMPTY[None], 6, 0)), strict=True):
    np.testing.assert_allclose(loss, np.mean((z - mean_of(state, tokens)[:, None, None, None]) ** 2), rtol=1e-5)


def test_a_network_of_inpainting_is_told_the_mask_and_what_is_known():
  method = made(picture=True)
  state = method.init(jax.random.key(0), BATCH)
  x, keep = BATCH["image"][:2], np.ones((2, 4, 8), bool)
  keep[:, 1:, 2:6] = False  # of the places of latents those are free whose upper left pixel is
  samples = jax.jit(method.sample)(state, KEYS, tokens=TEXTS, start=x, keep=jnp.asarray(keep))
  np.testing.assert_array_equal(samples[keep], x[keep])
  free = np.repeat(np.repeat(~keep[:, ::2, ::2], 2, 1), 2, 2)
  expected = picture_of(mean_of(state, TEXTS)[:, None, None] + free)
  np.testing.assert_allclose(samples[..., 0][~keep], expected[~keep], rtol=1e-5)
  jax.jit(method.step)(state, BATCH)
  with pytest.raises(UserError, match="are 4 x 8, not 2 x 8: give them in that size"):
    method.sample(state, KEYS, tokens=TEXTS, start=x[:, :2], keep=jnp.asarray(keep[:, :2]))
  with pytest.raises(UserError, match="takes a picture with a mask, and no strength"):
    method.sample(state, KEYS, tokens=TEXTS, start=x, strength=jnp.ones(2))


def test_rectangles():
  keys = jax.random.split(jax.random.key(0), 4_000)
  known = np.asarray(jax.vmap(lambda key: rectangles(key, 9, 6))(keys))
  nothing = ~known.any((1, 2))
  # A quarter, and a rectangle from the first row and column to the last ones.
  assert 0.22 < nothing.mean() < 0.30
  for free in ~known[~nothing][:50]:
    rows, columns = free.any(1), free.any(0)
    np.testing.assert_array_equal(free, rows[:, None] & columns)
    assert np.diff(np.flatnonzero(rows)).max(initial=1) == 1


def test_says_what_does_not_fit():
  method = made()
  with pytest.raises(UserError, match=r"reads 4 tokens a text, and this data has \[3\]"):
    method.init(jax.random.key(0), BATCH | {"tokens": BATCH["tokens"][:, :3]})
  state = method.init(jax.random.key(0), BATCH)
  with pytest.raises(UserError, match="led away from a negative text by a weight, and none is given"):
    method.sample(state, KEYS, tokens=TEXTS, negative_tokens=TEXTS)
  with pytest.raises(UserError, match=r"tokens are 4 of each text here, not \[3\]"):
    method.sample(state, KEYS, tokens=TEXTS[:, :3])
