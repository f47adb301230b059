"""unCLIP's parts against what is known of a decoder whose data is normal around the embedding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.core.errors import UserError
from jaxgen.core.method import Method, State
from jaxgen.diffusion import trailing, vp
from jaxgen.evaluation.joint import clip_scores, cosines
from jaxgen.methods.joint.unclip import better_of, interpolations, slerp, text_diffs, variations

SCHEDULE, SPREAD = vp(), 0.5
TIMES = trailing(SCHEDULE, 400)
rng = np.random.default_rng(0)


def decoder(embedding):
  """The denoiser of pictures N(embedding, SPREAD^2)."""

  def denoise(x, t):
    alpha, sigma = SCHEDULE.alpha(t), SCHEDULE.sigma(t)
    eps = sigma * (x - alpha * embedding) / (alpha**2 * SPREAD**2 + sigma**2)
    return (x - sigma * eps) / alpha, eps

  return denoise


def rows(*values):
  return jnp.asarray(values, float)


def test_slerp_turns_at_an_even_pace_and_ends_at_its_ends(x64):
  a, b = (jnp.asarray(rng.normal(size=(3, 2, 4))) for _ in range(2))
  np.testing.assert_allclose(slerp(a, b, 0.0), a, rtol=1e-12)
  np.testing.assert_allclose(slerp(a, b, 1.0), b, rtol=1e-12)
  angle = np.arccos(0.3)
  a, b = rows([2.0, 0.0], [1.0, 0.0]), rows([2 * np.cos(angle), 2 * np.sin(angle)], [0.0, 1.0])
  share = jnp.array([0.25, 0.5])  # each example its own
  expected = [[2 * np.cos(angle / 4), 2 * np.sin(angle / 4)], [2**-0.5, 2**-0.5]]
  np.testing.assert_allclose(slerp(a, b, share), expected, rtol=1e-12)
  np.testing.assert_allclose(slerp(a, a, 0.3), a, rtol=1e-7)
  assert np.isfinite(slerp(a, -a, 0.3)).all()


def test_variations_keep_the_picture_or_its_embedding(x64):
  """eta = 0 gives the picture back, to the first order of the steps; eta = 1 draws anew from N(embedding, SPREAD^2)."""
  n = 4_000
  picture, z = jnp.tile(rows([0.9, -0.3]), (n, 1)), jnp.tile(rows([0.5, 0.2]), (n, 1))
  keys = jax.random.split(jax.random.key(0), n)
  same = variations(SCHEDULE, decoder, TIMES, picture[:2], z[:2], keys[:2], eta=0.0)
  np.testing.assert_allclose(same, picture[:2], atol=0.01)
  drawn = variations(SCHEDULE, decoder, TIMES, picture, z, keys)
  np.testing.assert_allclose(drawn.mean(0), z[0], atol=4 * SPREAD / n**0.5 + 0.005)
  np.testing.assert_allclose(drawn.std(0), SPREAD, rtol=0.05)


def test_interpolations_and_text_diffs_are_what_the_probability_flow_makes(x64):
  """Here a picture is the embedding and SPREAD times the noise, so that both are interpolated apart."""
  ends = rows([1.0, 0.2]), rows([-0.1, 0.8])
  embeddings = rows([1.0, 0.0]), rows([0.0, 1.0])
  keys, shares = jax.random.split(jax.random.key(0), 1), np.array([0.0, 0.5, 1.0])
  noise = [(x - z) / SPREAD for x, z in zip(ends, embeddings, strict=True)]
  expected = [slerp(*embeddings, s) + SPREAD * slerp(*noise, s) for s in shares]
  found = interpolations(SCHEDULE, decoder, TIMES, ends, embeddings, shares, keys)
  np.testing.assert_allclose(found, np.stack(expected), atol=0.04)
  text, before = rows([0.6, 0.8]), rows([1.0, 0.0])
  found = text_diffs(SCHEDULE, decoder, TIMES, ends[0], 2 * embeddings[0], 3 * text, before, shares[:2], keys)
  towards = rows([-0.4, 0.8]) / np.hypot(0.4, 0.8) * 2  # the embedding's length
  expected = [slerp(2 * embeddings[0], towards, s) - 2 * embeddings[0] + ends[0] for s in shares[:2]]
  np.testing.assert_allclose(found, np.stack(expected), atol=0.05)


def test_the_better_of_several_draws_is_kept():
  sample = lambda state, keys, text_embedding: jax.vmap(lambda key: jax.random.normal(key, (3,)))(keys)
  method = Method(lambda key, batch: None, lambda state, batch: None, lambda *a: {}, sample, network_calls=5)
  keys, text, state = jax.random.split(jax.random.key(0), 64), jnp.ones((64, 3)), State(0, 0, 0, {}, {}, {}, {})
  one, best = (better_of(method, draws).sample(state, keys, text_embedding=text) for draws in (1, 4))
  np.testing.assert_array_equal(one, sample(state, keys, text))
  assert (best.sum(1) >= one.sum(1)).all()
  assert 0.1 < np.mean(best == one) < 0.5  # the first of four is the best in a quarter of the cases
  np.testing.assert_array_equal(better_of(method, 4).sample(state, keys[5:7], text_embedding=text[5:7]), best[5:7])
  assert better_of(method, 4).network_calls == 20
  with pytest.raises(UserError, match="1 or more"):
    better_of(method, 0)


def test_clip_scores_are_those_of_its_authors():
  """As in the authors' code: w * numpy.clip(numpy.sum(images * candidates, axis=1), 0, None) of unit vectors."""
  image, text = rng.normal(size=(2, 50, 7))
  unit = lambda x: x / np.sqrt(np.sum(x**2, axis=1, keepdims=True))
  expected = 2.5 * np.clip(np.sum(unit(image) * unit(text), axis=1), 0, None)
  np.testing.assert_allclose(clip_scores(image, text, 2.5), expected, rtol=1e-12)
  np.testing.assert_allclose(clip_scores(image, text), 40 * expected, rtol=1e-12)
  assert (clip_scores(image, text) == 0).any()
  np.testing.assert_array_equal(cosines(np.zeros((1, 7)), text[:1]), 0)
