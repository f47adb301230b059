"""The operations of data/views.py against torchvision's, and the distribution of random parts."""

import conftest
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.core.errors import UserError
from jaxgen.data import views

with np.load(conftest.REPOSITORY / "tests" / "fixtures" / "selfsupervised.npz") as arrays:
  KNOWN = {name.removeprefix("view/"): arrays[name] for name in arrays.files if name.startswith("view/")}
OPERATIONS = {
  "brightness": lambda x: views.brightness(x, 1.3),
  "contrast": lambda x: views.contrast(x, 0.6),
  "saturation": lambda x: views.saturation(x, 1.7),
  "hue": lambda x: views.hue(x, -0.15),
  "blur": lambda x: views.blurred(x, 0.8, 2),
}
PARTS = {"smaller": ((1, 2, 9, 6), (5, 4)), "larger": ((3, 1, 5, 4), (11, 9))}


@pytest.mark.parametrize("name", OPERATIONS)
def test_colours_and_blur_are_torchvisions(name, x64):
  # torchvision weighs red by 0.2989 and we by ITU-R 601's 0.299.
  grays = name in ("contrast", "saturation")
  np.testing.assert_allclose(OPERATIONS[name](jnp.asarray(KNOWN["image"])), KNOWN[name], atol=2e-4 if grays else 1e-6)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("method", ["bilinear", "bicubic"])
def test_parts_are_torchvisions(part, method, x64):
  box, size = PARTS[part]
  found = views.crop_and_resize(jnp.asarray(KNOWN["image"]), tuple(map(jnp.asarray, box)), size, method)
  np.testing.assert_allclose(found, KNOWN[f"{method}_{part}"], atol=1e-7)


def test_solarize_is_torchvisions(x64):
  batch = {"image": jnp.asarray(KNOWN["image"])[None] * 2 - 1, "index": jnp.arange(1)}
  found = views.solarize(1.0)(jax.random.key(0), batch)["image"]
  np.testing.assert_allclose((found[0] + 1) / 2, KNOWN["solarize"], atol=1e-12)


def test_parts_have_the_areas_and_ratios_that_are_asked_for(x64):
  """Their mean area is that of a uniform one, and log-ratios are even, where nearly all parts fit."""
  draw = jax.jit(jax.vmap(lambda key: views.crop_box(key, 200, 200, (0.08, 0.6), (3 / 4, 4 / 3))))
  top, left, h, w = (np.asarray(a) for a in draw(jax.random.split(jax.random.key(0), 4000)))
  assert (top >= 0).all()
  assert (left >= 0).all()
  assert (top + h <= 200).all()
  assert (left + w <= 200).all()
  area, ratio = h * w / 200**2, np.log(w / h)
  assert area.mean() == pytest.approx(0.34, abs=5 * 0.15 / 4000**0.5)
  assert np.quantile(area, [0.25, 0.75]) == pytest.approx([0.21, 0.47], abs=0.02)
  assert ratio.mean() == pytest.approx(0, abs=5 * np.log(4 / 3) / 3**0.5 / 4000**0.5)
  assert np.abs(ratio).max() <= np.log(4 / 3) + 0.02  # whole pixels
  # A long picture has no part of nearly all of its area: the largest that is allowed, in the middle.
  top, left, h, w = views.crop_box(jax.random.key(1), 50, 200, (0.99, 1.0), (3 / 4, 4 / 3))
  assert (int(h), int(w), int(top), int(left)) == (50, 67, 0, 66)


def test_views_are_drawn_per_example_and_keep_the_image():
  image = jax.random.uniform(jax.random.key(3), (6, 8, 8, 3), minval=-1.0)
  batch = {"image": image, "index": jnp.arange(6)}
  transform = jax.jit(views.simclr_views(strength=0.5))
  found = transform(jax.random.key(0), batch)
  assert found["views"].shape == (6, 2, 8, 8, 3)
  np.testing.assert_array_equal(found["image"], image)
  assert np.abs(found["views"]).max() <= 1
  assert np.abs(found["views"][:, 0] - found["views"][:, 1]).mean() > 0.05
  some = transform(jax.random.key(0), jax.tree.map(lambda x: x[3:5], batch))["views"]
  np.testing.assert_allclose(some, found["views"][3:5], atol=1e-6)
  one = {"image": image[..., :1], "index": jnp.arange(6)}
  assert views.byol_views()(jax.random.key(0), one)["views"].shape == (6, 2, 8, 8, 1)


def test_four_rotations_compose_to_the_identity():
  x = jax.random.normal(jax.random.key(0), (2, 5, 5, 3))
  turned = views.rotations(x).reshape(2, 4, 5, 5, 3)
  np.testing.assert_array_equal(turned[:, 0], x)
  again = views.rotations(turned[:, 1]).reshape(2, 4, 5, 5, 3)
  np.testing.assert_array_equal(again[:, 3], x)
  np.testing.assert_array_equal(turned[0, 1, :, :, 0], np.rot90(np.asarray(x)[0, :, :, 0]))


BAD = {
  "sizes": (lambda: views.two_views((views.resized_crop(4),), (views.resized_crop(6),)), "4 x 4 x 1 and of 6 x 6 x 1"),
  "area": (lambda: views.resized_crop(area=(0.5, 1.5)), "within"),
  "colour": (lambda: views.color_jitter(-1.0, 0.0), "amounts of 0 or more"),
  "blur": (lambda: views.gaussian_blur((0.0, 1.0)), "above 0"),
  "probability": (lambda: views.grayscale(1.5), "probability"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_views_are_one_sentence(name):
  make, names = BAD[name]
  batch = {"image": jnp.zeros((2, 8, 8, 1)), "index": jnp.arange(2)}
  with pytest.raises(UserError, match=names):
    jax.eval_shape(make(), jax.random.key(0), batch)


def test_rotations_of_oblong_pictures_are_refused():
  with pytest.raises(UserError, match="crop them to squares"):
    views.rotations(jnp.zeros((2, 4, 5, 1)))
