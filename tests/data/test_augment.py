"""Augmentations against Pillow's operations, and against what they promise."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from jaxgen.core.errors import UserError
from jaxgen.data import augment
from jaxgen.data.augment import OPERATIONS, crop, cutmix, either, erase, mixup, rand_augment


def picture(shape=(12, 9, 3), seed=0):
  """Smooth, all levels, 8 bits."""
  rng = np.random.default_rng(seed)
  small = Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8)).resize(shape[1::-1], Image.BICUBIC)
  return np.asarray(small)


def batch_of(size=6, shape=(12, 10, 3)):
  image = jax.random.uniform(jax.random.key(3), (size, *shape), minval=-1.0)
  return {"image": image, "label": jnp.arange(size) % 4, "index": jnp.arange(size) + 10}


def sharpened(x, m):
  """Pillow's smoothing kernel leaves the border; so does ImageEnhance, which rounds in between."""
  return ImageEnhance.Sharpness(x).enhance(1 + 0.9 * m)


def affine(matrix):
  """Pillow's (a, b, c, d, e, f): output (x, y) is input (a x + b y + c, d x + e y + f), about the pixels' corners."""
  return lambda x: x.transform(x.size, Image.AFFINE, matrix, resample=Image.BILINEAR)


def about_center(a, b, d, e, size):
  cx, cy = size[0] / 2, size[1] / 2
  return (a, b, cx - a * cx - b * cy, d, e, cy - d * cx - e * cy)


PILLOW = {
  "identity": lambda x, m: x,
  "autocontrast": lambda x, m: ImageOps.autocontrast(x),
  "equalize": lambda x, m: ImageOps.equalize(x),
  "solarize": lambda x, m: ImageOps.solarize(x, int(np.ceil(255 * (1 - abs(m))))),
  "color": lambda x, m: ImageEnhance.Color(x).enhance(1 + 0.9 * m),
  "posterize": lambda x, m: ImageOps.posterize(x, 8 - round(4 * abs(m))),
  "contrast": lambda x, m: ImageEnhance.Contrast(x).enhance(1 + 0.9 * m),
  "brightness": lambda x, m: ImageEnhance.Brightness(x).enhance(1 + 0.9 * m),
  "sharpness": sharpened,
  "rotate": lambda x, m: x.rotate(30 * m, Image.BILINEAR),
  "shear_x": lambda x, m: affine(about_center(1, 0.3 * m, 0, 1, x.size))(x),
  "shear_y": lambda x, m: affine(about_center(1, 0, 0.3 * m, 1, x.size))(x),
  "translate_x": lambda x, m: affine((1, 0, 0.45 * m * x.size[0], 0, 1, 0))(x),
  "translate_y": lambda x, m: affine((1, 0, 0, 0, 1, 0.45 * m * x.size[1]))(x),
}


@pytest.mark.parametrize("m", [0.0, 0.5, -1.0])
@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_are_pillows(name, m):
  x = picture()
  expected = np.asarray(PILLOW[name](Image.fromarray(x), m)) / 255
  got = np.asarray(OPERATIONS[name](jnp.asarray(x / 255, jnp.float32), jnp.float32(m)))
  assert got.shape == x.shape
  assert got.min() >= 0
  assert got.max() <= 1
  inner = slice(None)
  if name in ("rotate", "shear_x", "shear_y", "translate_x", "translate_y"):
    # Pillow leaves a pixel black that is partly outside; here it is mixed with black. Both are black further out.
    ones = OPERATIONS[name](jnp.ones(x.shape), jnp.float32(m))
    inner = np.asarray(ones) > 0.999
    assert inner.mean() > 0.4
  np.testing.assert_allclose(got[inner], expected[inner], atol=2.5 / 255)  # Pillow rounds in between


def test_pillow_sees_mistakes():
  """The tolerance above would tell a wrong sign or strength."""
  x = picture()
  for name in OPERATIONS.keys() - {"identity", "autocontrast", "equalize"}:
    a, b = (np.asarray(PILLOW[name](Image.fromarray(x), m)).astype(float) for m in (0.5, -1.0))
    assert np.abs(a - b).max() > 10, name


def test_rand_augment_draws_every_operation_by_example():
  apply = jax.jit(rand_augment(2, 9.0))
  batch = batch_of(64, (8, 8, 3))
  one = apply(jax.random.key(0), batch | {"image": jnp.tile(batch["image"][:1], (64, 1, 1, 1))})["image"]
  assert len(np.unique(np.asarray(one).reshape(64, -1), axis=0)) > 40
  part = jax.tree.map(lambda x: x[7:9], batch)
  np.testing.assert_allclose(
    apply(jax.random.key(0), part)["image"], apply(jax.random.key(0), batch)["image"][7:9], atol=1e-6
  )


def test_crop_takes_every_window():
  batch = batch_of(200, (5, 4, 1))
  got = np.asarray(crop(1)(jax.random.key(0), batch)["image"])
  padded = np.pad(np.asarray(batch["image"]), ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-1)
  found = set()
  for x, y in zip(padded, got, strict=True):
    found |= {(i, j) for i in range(3) for j in range(3) if np.array_equal(x[i : i + 5, j : j + 4], y)}
  assert len(found) == 9


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_mixup(alpha):
  batch = batch_of(512, (3, 2, 1))
  got = jax.jit(mixup(alpha, 4))(jax.random.key(0), batch)
  x, other = np.asarray(batch["image"]), np.asarray(batch["image"])[::-1]
  share = ((got["image"] - other) / (x - other))[:, 0, 0, 0]
  np.testing.assert_allclose(got["image"], share[:, None, None, None] * (x - other) + other, atol=2e-5)
  hot = np.eye(4)[np.asarray(batch["label"])]
  np.testing.assert_allclose(got["label"], share[:, None] * (hot - hot[::-1]) + hot[::-1], atol=1e-3)
  # Beta(alpha, alpha): mean 1/2, variance 1 / (4 (2 alpha + 1)).
  assert abs(share.mean() - 0.5) < 4 * 0.5 / 512**0.5
  np.testing.assert_allclose(share.var(), 1 / (4 * (2 * alpha + 1)), rtol=0.15)


def test_cutmix():
  batch = batch_of(400, (10, 8, 1)) | {"image": jnp.arange(400.0).reshape(400, 1, 1, 1) / 400 * jnp.ones((1, 10, 8, 1))}
  got = jax.jit(cutmix(1.0, 4))(jax.random.key(0), batch)
  own = np.asarray(got["image"] == batch["image"])[..., 0]
  hot = np.eye(4)[np.asarray(batch["label"])]
  share = own.mean((1, 2))[:, None]
  np.testing.assert_allclose(got["label"], share * hot + (1 - share) * hot[::-1], atol=1e-6)
  for mask in ~own:  # what came in is a box
    rows, columns = mask.any(1), mask.any(0)
    assert np.array_equal(mask, rows[:, None] & columns)
    assert all(
      len(np.flatnonzero(line)) in (0, np.ptp(np.flatnonzero(line)) + 1) for line in (rows, columns) if line.any()
    )
  assert 0.1 < (1 - share).mean() < 0.4  # of area 1/2 on average before it is cut, drawn in even sides
  assert len(np.unique(share)) > 15


def boxes_of(hit):
  """[N, H, W] bool -> top, left, height, width [N] of the boxes, which they must be."""
  rows, columns = hit.any(2), hit.any(1)
  np.testing.assert_array_equal(hit, rows[:, :, None] & columns[:, None])
  found = []
  for line in (rows, columns):
    first, count = line.argmax(1), line.sum(1)
    assert all(x[a : a + n].all() for x, a, n in zip(line, first, count, strict=True))
    found.append((first, count))
  (top, h), (left, w) = found
  return top, left, h, w


def test_erased_boxes_are_distributed_as_torchvisions():
  """Percentiles of 2,000 boxes in 224 x 224 against 40,000 of RandomErasing's; see fixtures/make_views.py."""
  fixture = np.load(pathlib.Path(__file__).parents[1] / "fixtures" / "views.npz")["erased"]
  box = jax.jit(jax.vmap(lambda k: augment._box(k, 224, 224, (0.02, 1 / 3), (0.3, 10 / 3))))
  hit = np.concatenate([np.asarray(box(jax.random.split(jax.random.key(i), 1000))) for i in range(2)])
  top, left, h, w = (x.astype(float) for x in boxes_of(hit))
  found = (h * w / 224**2, np.log(h / w), left / (224 - w), top / (224 - h))
  for values, expected in zip(found, fixture, strict=True):
    shares = (values[:, None] <= expected).mean(0)
    np.testing.assert_allclose(shares, np.arange(5, 100, 5) / 100, atol=0.05)  # 4 standard errors, and whole pixels


def test_erase_puts_noise_of_the_given_moments_where_it_is_drawn():
  batch = batch_of(400, (16, 12, 3))
  got = np.asarray(jax.jit(erase(0.25, mean=(0.5, 0.4, 0.3), std=(0.2, 0.1, 0.0)))(jax.random.key(0), batch)["image"])
  hit = (got != np.asarray(batch["image"])).any(-1)
  assert 0.15 < hit.any((1, 2)).mean() < 0.35
  boxes_of(hit[hit.any((1, 2))])
  noise = (got[hit] + 1) / 2
  np.testing.assert_allclose(noise.mean(0), (0.5, 0.4, 0.3), atol=0.02)
  np.testing.assert_allclose(noise.std(0), (0.2, 0.1, 0.0), atol=0.01)
  none = erase(0.0)(jax.random.key(0), batch)["image"]
  np.testing.assert_array_equal(none, batch["image"])


def test_mixing_has_its_probabilities():
  batch = batch_of(600, (4, 4, 1))
  labels = lambda transform: np.asarray(transform(jax.random.key(1), batch)["label"])
  mixed = lambda transform: (labels(transform).max(1) < 1 - 1e-6).mean()
  partner = np.asarray(batch["label"] != batch["label"][::-1]).mean()
  assert mixed(mixup(1.0, 4, 0.0)) == mixed(cutmix(1.0, 4, 0.0)) == 0
  assert abs(mixed(mixup(1.0, 4, 0.3)) - 0.3 * partner) < 4 * (0.3 * 0.7 / 600) ** 0.5
  assert mixed(cutmix(1.0, 4, 0.3)) < 0.3 * partner + 4 * (0.3 * 0.7 / 600) ** 0.5  # some boxes are empty or all
  rare = either(mixup(1.0, 4, 0.0), mixup(1.0, 4), probability=0.2)
  assert abs(mixed(rare) - 0.2 * partner) < 4 * (0.2 * 0.8 / 600) ** 0.5


def test_rand_augment_varies_its_strength():
  """Of one picture, more different results than 14 operations in two directions give at one strength."""
  batch = batch_of(1, (4, 4, 3))
  tiled = jax.tree.map(lambda x: jnp.tile(x, (200, *(1,) * (x.ndim - 1))), batch) | {"index": jnp.arange(200)}
  got = np.asarray(jax.jit(rand_augment(1, 5.0, 1.0))(jax.random.key(0), tiled)["image"])
  assert len(np.unique(got.reshape(200, -1).round(4), axis=0)) > 2 * len(OPERATIONS) + 2


def test_either_takes_both():
  batch = batch_of(100, (4, 4, 1))
  got = either(mixup(1.0, 4), cutmix(1.0, 4))(jax.random.key(0), batch)
  mixed = ~np.isclose(got["image"], batch["image"]) & ~np.isclose(got["image"], batch["image"][::-1])
  assert 25 < mixed.all((1, 2, 3)).sum() < 75
  np.testing.assert_allclose(got["label"].sum(-1), 1, atol=1e-6)


@pytest.mark.parametrize(
  ("make", "names"),
  [
    (lambda: mixup(0.0, 3), "mixup out"),
    (lambda: mixup(1.0, 3, 1.5), r"mixup has a probability in \[0, 1\], not 1.5"),
    (lambda: erase(area=(0.5, 0.1)), r"erase takes .* an area LEAST to MOST within \(0, 1\)"),
    (lambda: cutmix(-1.0, 3), "cutmix out"),
    (lambda: rand_augment(0, 3.0), "1 operation"),
    (lambda: rand_augment(2, 11.0), "magnitude"),
  ],
)
def test_bad_input(make, names):
  with pytest.raises(UserError, match=names):
    make()
