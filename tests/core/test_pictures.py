"""Pictures, read back with Pillow."""

import io

import numpy as np
import pytest
from PIL import Image

from jaxgen.core import pictures


def test_the_range_of_images():
  x = np.array([-1, 0, 1, -7, 7, np.nan, np.inf, -np.inf, 1 / 255], np.float32).reshape(1, 1, 9, 1)
  np.testing.assert_array_equal(pictures.to_uint8(x).ravel(), [0, 128, 255, 0, 255, 128, 255, 0, 128])
  assert pictures.to_uint8(x).dtype == np.uint8


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_quantize_gives_integer_pixel_values_back(levels):
  rng = np.random.default_rng(0)
  values = rng.integers(0, levels, (5, 4, 4, 1))
  exact = values * 2 / (levels - 1) - 1
  off = rng.uniform(-0.49, 0.49, values.shape) * 2 / (levels - 1)
  for dtype in (np.float32, np.float64):
    found = pictures.quantize((exact + off).astype(dtype), levels)
    assert found.dtype == dtype
    np.testing.assert_allclose(found, exact, atol=1e-6)
  np.testing.assert_allclose(pictures.quantize(np.array([[[[-3.0, 3.0]]]]), levels).ravel(), [-1, 1])


def test_grid_puts_images_in_rows():
  values = np.array([-1, -0.6, -0.2, 0.2, 0.6], np.float32)
  picture = pictures.grid(np.tile(values[:, None, None, None], (1, 2, 3, 3)), columns=3, scale=4)
  tile_h, tile_w, gap = 8, 12, 2
  assert picture.shape == (2 * tile_h + gap, 3 * tile_w + 2 * gap, 3)
  for i, expected in enumerate([0, 51, 102, 153, 204]):
    y, x = (i // 3) * (tile_h + gap), (i % 3) * (tile_w + gap)
    assert (picture[y : y + tile_h, x : x + tile_w] == expected).all()
  assert (picture[tile_h : tile_h + gap] == pictures.GAP).all()
  assert (picture[-tile_h:, -tile_w:] == pictures.GAP).all()  # the sixth tile is missing


def test_small_images_are_enlarged_by_whole_factors():
  image = np.random.default_rng(0).uniform(-1, 1, (1, 8, 8, 1)).astype(np.float32)
  picture = pictures.grid(image)
  assert picture.shape == (48, 48, 1)
  np.testing.assert_array_equal(picture[::6, ::6], pictures.to_uint8(image)[0])
  by_pillow = Image.fromarray(pictures.to_uint8(image)[0, ..., 0]).resize((48, 48), Image.Resampling.NEAREST)
  np.testing.assert_array_equal(picture[..., 0], np.asarray(by_pillow))
  assert [pictures.enlargement(side, side) for side in (1, 28, 32, 64, 256)] == [48, 2, 2, 1, 1]


@pytest.mark.parametrize(("n", "columns"), [(1, 1), (2, 2), (5, 3), (64, 8)])
def test_grids_are_about_square_and_never_have_an_empty_column(n, columns):
  picture = pictures.grid(np.zeros((n, 64, 64, 1), np.float32))
  assert picture.shape[1] == columns * 64 + columns - 1
  assert pictures.grid(np.zeros((2, 64, 64, 1), np.float32), columns=9).shape[1] == 2 * 64 + 1


def test_pairs():
  left, right = np.full((3, 8, 8, 1), -1, np.float32), np.ones((3, 8, 8, 1), np.float32)
  found = pictures.pairs(left, right, scale=1)
  assert len(found) == 3
  assert (found[0][:, :8] == 0).all()
  assert (found[0][:, 9:] == 255).all()


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (4, "RGBA")])
def test_png_files_hold_the_picture(channels, mode):
  picture = np.random.default_rng(0).integers(0, 256, (5, 7, channels), np.uint8)
  with Image.open(io.BytesIO(pictures.png(picture))) as image:
    assert (image.format, image.mode) == ("PNG", mode)
    np.testing.assert_array_equal(np.asarray(image).reshape(picture.shape), picture)


def test_an_animation_plays_what_it_is_given():
  """Without loss, frame by frame, at its rate; grey clips too."""
  clips = np.random.default_rng(0).uniform(-1, 1, (3, 4, 5, 6, 1)).astype(np.float32)
  with Image.open(io.BytesIO(pictures.animation(clips, 8.0, scale=2))) as image:
    assert image.n_frames == 4
    for t in range(4):
      image.seek(t)
      image.load()
      assert image.info["duration"] == 125
      np.testing.assert_array_equal(np.asarray(image.convert("L")), pictures.grid(clips[:, t], scale=2)[..., 0])


def test_strips_have_a_row_for_each_clip():
  clips = np.random.default_rng(0).uniform(-1, 1, (2, 3, 4, 4, 3)).astype(np.float32)
  strips = pictures.strips(clips, scale=1)
  assert strips.shape == (2 * 4 + 1, 3 * 4 + 2, 3)
  np.testing.assert_array_equal(strips[5:9, 10:14], pictures.to_uint8(clips[1, 2]))
