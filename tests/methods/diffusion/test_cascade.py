"""What a stage of a cascade is told: a low-resolution picture with noise of a level, beside a text that is dropped."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxgen.core.condition import entries, together
from jaxgen.core.errors import UserError
from jaxgen.data.transforms import levels
from jaxgen.data.transforms import low_resolution as shrink
from jaxgen.diffusion import cosine, vp
from jaxgen.methods.diffusion.cascade import augmented, low_resolution
from jaxgen.nn.unets.super_resolution import SuperResolution, beside

KEYS = jax.random.split(jax.random.key(3), 6)
IMAGE = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (6, 8, 4, 3)), jnp.float32)


class ToldTimes(nn.Module):
  """Gives back the times that it is told, at every pixel."""

  def __call__(self, x, t, index=None):
    return jnp.broadcast_to(t[:, None, None], (*x.shape[:3], 2))


def low_of(image, side=4):
  return shrink(side)(KEYS[0], {"image": image, "index": jnp.arange(len(image))})


def test_low_resolution_is_means_of_squares_and_levels_are_the_examples_own():
  batch = low_of(jnp.repeat(jnp.repeat(IMAGE[:, :4], 2, 1), 2, 2))  # each pixel four times
  np.testing.assert_allclose(batch["low"], IMAGE[:, :4], rtol=1e-6)
  np.testing.assert_array_equal(batch["level"], 0)
  many = {"level": jnp.zeros(2_000), "index": jnp.arange(2_000)}
  level = levels(0.5)(KEYS[1], many)["level"]
  assert stats.kstest(np.asarray(level) * 2, "uniform").pvalue > 0.01
  again = levels(0.5)(KEYS[1], {"level": jnp.zeros(2), "index": jnp.array([7, 3])})["level"]
  np.testing.assert_array_equal(again, level[jnp.array([7, 3])])


def test_level_0_is_the_identity_and_others_are_the_forward_process(x64):
  low = jnp.asarray(IMAGE, float)
  level = jnp.array([0.0, 0.2, 0.5, 1.0, 0.0, 0.2])
  noisy = augmented(vp(), low, level, KEYS)
  np.testing.assert_array_equal(noisy[jnp.array([0, 4])], low[jnp.array([0, 4])])
  for i in (1, 2, 3):  # N(alpha low, sigma^2) of each example's level: vp's alpha_bar is exp(-integral of beta)
    alpha = np.exp(-0.5 * (0.1 * level[i] + 0.5 * (20 - 0.1) * level[i] ** 2))
    z = (noisy[i] - alpha * low[i]) / np.sqrt(1 - alpha**2)
    assert stats.kstest(np.asarray(z).ravel(), "norm").pvalue > 0.01


def test_only_the_text_is_dropped_and_only_where_there_are_keys_the_picture_is_noised():
  text = entries({"text": np.full(2, -5.0, np.float32)}, dropout=0.5)
  condition = together({"text": text, "low": low_resolution()})
  batch = low_of(IMAGE, 2) | {"text": jnp.ones((6, 2))}
  batch["level"] = jnp.array([0.0, 0.9, 0.0, 0.9, 0.0, 0.9])
  told = condition.of(batch)
  np.testing.assert_array_equal(told["low"], batch["low"])  # an evaluation is of clean pictures
  seen = condition.dropped(told, KEYS)
  moved = jnp.abs(seen["low"] - batch["low"]).max((1, 2, 3)) > 0.1
  np.testing.assert_array_equal(moved, batch["level"] > 0)
  np.testing.assert_array_equal(seen["level"], batch["level"])
  assert 0 < int((seen["text"] == -5).all(1).sum()) < 6
  asked = condition.asked(batch, KEYS)
  np.testing.assert_array_equal(jnp.abs(asked["low"] - batch["low"]).max((1, 2, 3)) > 0.1, batch["level"] > 0)
  nothing = condition.absent(asked)  # guidance's worse prediction sees the same picture
  np.testing.assert_array_equal(nothing["low"], asked["low"])
  np.testing.assert_array_equal(nothing["text"], -5)


def test_network_sees_the_picture_enlarged():
  low = jnp.broadcast_to(jnp.arange(3.0), (2, 2, 2, 3))
  seen = beside(jnp.zeros((2, 4, 4, 3)), low)
  np.testing.assert_allclose(seen[..., 3:], jnp.broadcast_to(jnp.arange(3.0), (2, 4, 4, 3)), rtol=1e-6)
  told = {"low": low, "level": jnp.array([0.0, 0.25])}
  times = SuperResolution(ToldTimes()).apply({}, seen[..., :3], jnp.array([7.0, 8.0]), told)
  np.testing.assert_array_equal(times[:, 0, 0], [[7, 0], [8, 250]])


@pytest.mark.parametrize(
  ("make", "names"),
  [
    (lambda: low_of(IMAGE, 3), "8 x 4 does not shrink to 3 x 3"),
    (lambda: levels(1.5), "share from 0"),
    (lambda: low_resolution(cosine(10)), "continuous schedule"),
    (lambda: beside(jnp.zeros((2, 4, 4, 3)), jnp.zeros((2, 8, 8, 3))), "makes 4 x 4 x 3 of 8 x 8 x 3"),
    (lambda: low_resolution().of({"low": IMAGE, "level": jnp.zeros(2)}), "each of 6 low-resolution pictures"),
    (lambda: low_resolution().of({"image": IMAGE}), "needs 'low' and 'level'"),
    (lambda: low_resolution().asked({"low": IMAGE}, KEYS), "give level"),
    (lambda: together({"a": low_resolution(), "b": low_resolution()}), "are told level, low"),
  ],
)
def test_bad_cascades(make, names):
  with pytest.raises(UserError, match=names):
    make()
