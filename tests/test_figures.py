import io
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from jaxgen import data, figures, pictures


def read(contents):
  return np.asarray(Image.open(io.BytesIO(contents)))


def tiles(picture, columns, side):
  """The value in the middle of every tile of a grid, [rows, columns]."""
  scale = pictures.enlargement(side, side)
  step = side * scale + max(1, scale // 2)
  assert picture.shape[1] == columns * step - max(1, scale // 2)
  return picture[side * scale // 2 :: step, side * scale // 2 :: step]


def flat(values):
  """Images of one grey each, in [-1, 1]."""
  return np.broadcast_to(np.asarray(values)[:, None, None, None], (len(values), 8, 8, 1)).astype(np.float32)


def a_run():
  return SimpleNamespace(data=data.digits(), state=0.5)


def test_manifold_is_even_in_the_priors_mass():
  seen = []

  def decode(state, z):
    seen.append(z)
    return z[:, :1, None, None] * np.ones((1, 8, 8, 1), np.float32) / 3

  picture = read(figures.manifold(decode, 5)(a_run())["manifold.png"])
  expected = stats.norm.ppf([0.1, 0.3, 0.5, 0.7, 0.9])
  np.testing.assert_array_equal(tiles(picture, 5, 8), np.tile(pictures.to_uint8(expected / 3), (5, 1)))
  picture = read(figures.manifold(lambda state, z: decode(state, z[:, ::-1]), 5)(a_run())["manifold.png"])
  np.testing.assert_array_equal(tiles(picture, 5, 8), np.tile(pictures.to_uint8(expected[::-1] / 3)[:, None], (1, 5)))


def test_reconstructions_stand_below_their_images():
  run = a_run()
  files = figures.reconstructions(lambda state, x: state * x, count=5, columns=3)(run)
  images = figures.examples_of(run.data, 5)
  blank = np.zeros((1, 8, 8, 1))
  rows = [images[:3], 0.5 * images[:3], images[3:], blank, 0.5 * images[3:], blank]
  expected = pictures.grid(np.concatenate(rows).astype(np.float32), 3)[..., 0]
  np.testing.assert_array_equal(read(files["reconstructions.png"]), expected)


def test_traversals_move_the_dimensions_in_use():
  weights = np.array([0.1, 0.0, 1.0, 0.5], np.float32)  # how much each dimension varies
  encode = lambda state, x: x.mean(axis=(1, 2, 3))[:, None] * weights
  decode = lambda state, z: (z @ np.array([0.0, 0.0, 0.3, 0.1], np.float32))[:, None, None, None] + 0 * flat([0.0])
  run = a_run()
  files = figures.traversals(encode, decode, dimensions=2, steps=3, span=1.0)(run)
  z = float(figures.examples_of(run.data, 1_000)[0].mean()) * weights
  line = np.array([-1.0, 0.0, 1.0])
  expected = pictures.to_uint8(np.stack([0.3 * line + 0.1 * z[3], 0.3 * z[2] + 0.1 * line]))
  np.testing.assert_allclose(tiles(read(files["traversals.png"]), 3, 8), expected, atol=1)


@pytest.mark.parametrize("count", [1, 7, 10_000])
def test_examples_are_spread_over_the_split(count):
  found = figures.examples_of(data.digits(), count)
  assert len(found) == min(count, 360)
  assert len(np.unique(found, axis=0)) == len(found)
