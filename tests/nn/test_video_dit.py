"""DiT of clips, by what it says of images; that of images equals its authors' (test_diffusion_transformers)."""

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.core.errors import UserError
from jaxgen.nn.transformers import dit
from jaxgen.nn.transformers.dit import DiT

OPTIONS = dict(patch=2, width=8, depth=1, heads=2, classes=None, dtype=jnp.float64, param_dtype=jnp.float64)
T = jnp.asarray([3.0, 700.0])


def randomised(network, x):
  shapes = jax.eval_shape(network.init, jax.random.key(0), x, T)
  random = np.random.default_rng(0)
  return jax.tree.map(lambda s: jnp.asarray(random.normal(size=s.shape) / 3), shapes)


def close(a, b):
  np.testing.assert_allclose(a, b, rtol=0, atol=1e-10)


def test_a_clip_of_one_stretch_is_an_image_with_its_frames_as_channels(x64):
  clip = jax.random.normal(jax.random.key(0), (2, 3, 4, 6, 2))
  network, image = DiT(**OPTIONS, out_channels=2, frames=3), DiT(**OPTIONS, out_channels=6)
  params = randomised(network, clip)
  stacked = jnp.concatenate([clip[:, i] for i in range(3)], axis=-1)
  wanted = jax.jit(image.apply)(params, stacked, T)
  wanted = jnp.stack([wanted[..., 2 * i : 2 * i + 2] for i in range(3)], axis=1)
  close(jax.jit(network.apply)(params, clip, T), wanted)


def test_without_positions_a_clip_is_a_picture_of_its_frames_below_each_other(x64, monkeypatch):
  """All tokens see each other; and with positions in time, the order of frames matters."""
  clip = jax.random.normal(jax.random.key(0), (2, 3, 4, 6, 2))
  network = DiT(**OPTIONS, out_channels=2)
  params = randomised(network, clip)
  monkeypatch.setattr(
    dit, "over_grid", lambda rows, columns, features, dtype: jnp.zeros((len(rows) * len(columns), features))
  )
  in_order, backwards = (network.apply(params, x, T) for x in (clip, clip[:, ::-1]))
  assert np.abs(in_order - backwards[:, ::-1]).max() > 1e-3
  monkeypatch.setattr(dit, "sinusoids", lambda at, features, dtype: jnp.zeros((len(at), features)))
  without = jax.jit(lambda x: network.apply(params, x, T))
  close(without(clip), without(clip.reshape(2, 12, 6, 2)).reshape(clip.shape))


def test_a_network_of_clips_has_the_parameters_of_images(x64):
  """So that a run may start from a trained image model."""
  clip = jnp.zeros((1, 3, 4, 6, 2))
  shapes = [
    jax.eval_shape(DiT(**OPTIONS, out_channels=2).init, jax.random.key(0), x, T[:1]) for x in (clip, clip[:, 0])
  ]
  assert flax.traverse_util.flatten_dict(shapes[0]) == flax.traverse_util.flatten_dict(shapes[1])
  with pytest.raises(UserError, match="patches of 2 frames do not divide 3"):
    jax.eval_shape(DiT(**OPTIONS, frames=2).init, jax.random.key(0), clip, T[:1])
