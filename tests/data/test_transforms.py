import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from rounding import tolerance

from jaxgen.data import images, transforms
from jaxgen.data.transforms import binarize, binarize_dynamic, dequantize, flip, pad, resize, scale, standardize

KEY = jax.random.key(0)


def batch_of(image, index=None):
  image = jnp.asarray(image)
  index = jnp.arange(len(image), dtype=jnp.int32) if index is None else jnp.asarray(index, jnp.int32)
  return {"image": image, "label": jnp.zeros(len(image), jnp.int32), "index": index}


def integers(shape=(4, 6, 5, 3), levels=256):
  return np.random.default_rng(0).integers(0, levels, shape, np.uint8)


RANDOM = {"dequantize": dequantize(), "binarize_dynamic": binarize_dynamic(), "flip": flip()}
FIXED = {"scale": scale(), "binarize": binarize(), "pad": pad(8), "resize": resize(8)}
OF_INTEGERS = {"scale", "dequantize"}


def raw(name, shape=(4, 6, 5, 3)):
  return integers(shape) if name in OF_INTEGERS else integers(shape) / np.float32(127.5) - 1


@pytest.mark.parametrize("name", [*RANDOM, *FIXED])
def test_transforms_are_pure_and_touch_nothing_but_the_image(name):
  """The same under jit, in [-1, 1], of the input's float type, and "label" and "index" as they were."""
  transform = (RANDOM | FIXED)[name]
  batch = batch_of(raw(name))
  out = transform(KEY, batch)
  jitted = jax.jit(transform)(KEY, batch)
  assert set(out) == set(batch)
  np.testing.assert_allclose(out["image"], jitted["image"], atol=1e-6)
  assert out["image"].dtype == jnp.float32
  assert -1 <= out["image"].min() <= out["image"].max() <= 1
  for kept in ("label", "index"):
    np.testing.assert_array_equal(out[kept], batch[kept])


@pytest.mark.parametrize("name", [*RANDOM, *FIXED])
def test_transforms_in_float64(name, x64):
  out = (RANDOM | FIXED)[name](
    jax.random.key(0), batch_of(raw(name).astype(np.uint8 if name in OF_INTEGERS else float))
  )
  assert out["image"].dtype == jnp.float64


@pytest.mark.parametrize("name", RANDOM)
def test_noise_belongs_to_the_example(name):
  """Any subset in any order gets the noise of its index, another key or index other noise."""
  image = np.repeat(raw(name, (1, 6, 5, 3)), 64, 0)
  transform = RANDOM[name]
  whole = transform(KEY, batch_of(image))["image"]
  chosen = np.array([5, 0, 63, 17])
  np.testing.assert_array_equal(transform(KEY, batch_of(image[chosen], chosen))["image"], whole[chosen])
  assert jnp.any(whole[0] != whole[1:])
  assert jnp.any(whole != transform(jax.random.key(1), batch_of(image))["image"])


@pytest.mark.parametrize("name", FIXED)
def test_fixed_transforms_ignore_the_key(name):
  a, b = (FIXED[name](jax.random.key(seed), batch_of(raw(name)))["image"] for seed in (0, 1))
  np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("levels", "middle"), [(256, None), (17, 8), (2, None)])
def test_scale_reaches_both_ends_evenly(levels, middle):
  image = np.arange(levels, dtype=np.uint8).reshape(1, levels, 1, 1)
  out = np.asarray(scale(levels)(KEY, batch_of(image))["image"]).ravel()
  # The factor, the product and the difference are rounded, of numbers up to 2; neighbours are 8e-3 apart or more.
  np.testing.assert_allclose(out, np.linspace(-1, 1, levels), rtol=0, atol=tolerance("float32", 3, 2))
  assert (out[0], out[-1]) == (-1, 1)
  assert middle is None or out[middle] == 0


def test_dequantize_is_uniform_within_each_level():
  """Undone by the floor, which gives the integers back, and by its remainder, which is uniform (Kolmogorov-Smirnov)."""
  from scipy.stats import kstest

  levels = 17
  image = integers((64, 8, 8, 1), levels)
  out = np.asarray(dequantize(levels)(KEY, batch_of(image))["image"], np.float64)
  assert -1 <= out.min() <= out.max() < 1
  values = (out + 1) / 2 * levels
  np.testing.assert_array_equal(np.floor(values + 1e-5), image)
  assert kstest((values - image).ravel(), "uniform").pvalue > 1e-3


def test_dequantize_never_reaches_one():
  """In float32 255 + u rounds to 256 for u close to 1; the result must stay below 1 all the same."""
  image = jnp.full((64, 64, 64, 1), 255, jnp.uint8)
  assert dequantize(256)(KEY, batch_of(image))["image"].max() < 1


def test_binarize_at_its_threshold():
  image = jnp.array([-1.0, -0.01, 0.0, 0.01, 0.5, 1.0]).reshape(1, 6, 1, 1)
  half = binarize()(KEY, batch_of(image))["image"].ravel()
  np.testing.assert_array_equal(half, [-1, -1, -1, 1, 1, 1])
  high = binarize(0.75)(KEY, batch_of(image))["image"].ravel()  # intensity 0.75 is 0.5 in [-1, 1]
  np.testing.assert_array_equal(high, [-1, -1, -1, -1, -1, 1])


def test_binarize_dynamic_draws_with_the_intensity():
  intensity = np.array([0, 0.1, 0.5, 0.9, 1])
  count = 20_000
  image = np.broadcast_to(2 * intensity - 1, (count, 1, 5)).astype(np.float32)[..., None]
  ones = np.asarray(binarize_dynamic()(KEY, batch_of(image))["image"] == 1).mean((0, 1, 3))
  np.testing.assert_allclose(ones, intensity, atol=5 * np.sqrt(0.25 / count))
  assert (ones[0], ones[-1]) == (0, 1)


def test_pad_is_black_around_and_needs_room():
  image = integers((2, 5, 6, 3))
  sides = ((0, 0), (1, 2), (1, 1), (0, 0))
  np.testing.assert_array_equal(pad(8)(KEY, batch_of(image))["image"], np.pad(image, sides))
  floats = image / np.float32(127.5) - 1
  padded = pad(8)(KEY, batch_of(floats))["image"]
  np.testing.assert_array_equal(padded, np.pad(floats, sides, constant_values=-1))
  with pytest.raises(ValueError, match="images of 5x6 do not fit into 4x4: use resize"):
    pad(4)(KEY, batch_of(image))


@pytest.mark.parametrize("size", [4, 8, 13, 16])
def test_resize_agrees_with_pillow(size):
  image = np.random.default_rng(0).uniform(-1, 1, (2, 8, 8, 1)).astype(np.float32)
  out = resize(size)(KEY, batch_of(image))["image"]
  for found, original in zip(out, image, strict=True):
    expected = Image.fromarray(original[..., 0]).resize((size, size), Image.Resampling.BILINEAR)
    np.testing.assert_allclose(found[..., 0], np.asarray(expected), atol=1e-5)


def test_flip_mirrors_about_half_of_the_images():
  image = raw("flip", (400, 4, 5, 3))
  out = np.asarray(flip()(KEY, batch_of(image))["image"])
  mirrored = [np.array_equal(a, b[:, ::-1]) for a, b in zip(out, image, strict=True)]
  same = [np.array_equal(a, b) for a, b in zip(out, image, strict=True)]
  assert sum(mirrored) + sum(same) == 400
  assert 150 < sum(mirrored) < 250  # five standard deviations


@pytest.mark.parametrize("name", ["scale", "dequantize"])
def test_transforms_of_integers_refuse_floats(name):
  with pytest.raises(ValueError, match=f"{name} takes the integer pixel values that the source gives, not float32"):
    getattr(transforms, name)()(KEY, batch_of(jnp.zeros((1, 2, 2, 1))))


@pytest.mark.parametrize("name", ["binarize", "binarize_dynamic", "resize"])
def test_transforms_of_floats_refuse_integers(name):
  with pytest.raises(ValueError, match=rf"{name} takes images in \[-1, 1\], not uint8: put scale\(levels\) before it"):
    (RANDOM | FIXED)[name](KEY, batch_of(integers()))


def test_standardize_comes_last():
  image = jnp.linspace(-1, 1, 12).reshape(1, 2, 2, 3)
  got = standardize((0.5, 0.2, 0.1), (0.5, 2.0, 1.0))(jax.random.key(0), {"image": image, "index": jnp.arange(1)})
  np.testing.assert_allclose(got["image"][..., 0], image[..., 0], atol=1e-6)
  np.testing.assert_allclose(got["image"][..., 2], (image[..., 2] + 1) / 2 - 0.1, atol=1e-6)
  made = images("digits", (8, 8, 1), levels=17, augment=(flip(),), last=(standardize((0.5,), (0.25,)),))
  raw = {"image": np.full((2, 8, 8, 1), 16, np.uint8), "index": np.arange(2)}
  for train in (True, False):
    np.testing.assert_allclose(made.transform(jax.random.key(0), raw, train)["image"], 2.0, atol=1e-6)


def test_an_outline_is_where_brightness_changes():
  """Of a dark square on white, rows and columns 2 and 3: the pixels whose neighbour below or to the right differs."""
  image = np.ones((1, 6, 6, 3), np.float32)
  image[:, 2:4, 2:4] = -1
  outline = np.asarray(transforms.outlined()(KEY, batch_of(image))["control"])[0, ..., 0]
  expected = np.zeros((6, 6))
  expected[1, 2:4] = expected[2:4, 1] = expected[3, 2:4] = expected[2:4, 3] = 1
  np.testing.assert_array_equal(outline, expected)
  assert not np.any(transforms.outlined()(KEY, batch_of(0.99 + 0 * image))["control"])
  with pytest.raises(ValueError, match="put scale"):
    transforms.outlined()(KEY, batch_of(integers()))
