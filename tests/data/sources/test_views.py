"""Views of pictures against torchvision's (see fixtures/make_views.py), and what they promise."""

import io
import pathlib

import numpy as np
import pytest
from PIL import Image

from jaxgen.core.errors import UserError
from jaxgen.data import CenterCrop, RandomResizedCrop, images, pipeline
from jaxgen.data.sources import views
from jaxgen.data.sources.images import decode

FIXTURE = np.load(pathlib.Path(__file__).parents[2] / "fixtures" / "views.npz")
NAMES = lambda start: [name for name in FIXTURE.files if name.startswith(start)]
PERCENTILES = np.arange(5, 100, 5)


def jpeg(image, **options):
  buffer = io.BytesIO()
  image.save(buffer, "JPEG", quality=95, **options)
  buffer.seek(0)
  return buffer


def smooth(width, height, seed=0):
  small = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (9, 12, 3), np.uint8))
  return small.resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("name", NAMES("crop_"))
def test_a_crop_is_torchvisions(name):
  """To a level of 255: filters are Pillow's in both, whose releases round differently."""
  _, resample, n = name.split("_")
  box = tuple(FIXTURE["boxes"][int(n)].tolist())
  got = views.show(Image.fromarray(FIXTURE["picture"]), RandomResizedCrop(resample=resample), box, (24, 24))
  np.testing.assert_allclose(np.asarray(got).astype(int), FIXTURE[name], atol=1)


@pytest.mark.parametrize("name", NAMES("center_"))
def test_the_middle_is_torchvisions(name):
  _, resample, size = name.split("_")
  image = Image.fromarray(FIXTURE["picture"]).resize(tuple(map(int, size.split("x"))), Image.Resampling.NEAREST)
  buffer = io.BytesIO()
  image.save(buffer, "PNG")
  buffer.seek(0)
  got = decode(buffer, "it", (24, 24, 3), CenterCrop(24 / 27, resample))
  np.testing.assert_allclose(got.astype(int), FIXTURE[name], atol=1)


def test_other_filters_would_be_seen():
  picture = Image.fromarray(FIXTURE["picture"])
  for resample, other in (("bilinear", "bicubic"), ("bicubic", "bilinear")):
    got = views.show(picture, RandomResizedCrop(resample=resample), (5, 3, 31, 44), (24, 24))
    assert np.abs(np.asarray(got).astype(int) - FIXTURE[f"crop_{other}_1"]).max() > 3


@pytest.mark.parametrize("name", NAMES("drawn_"))
def test_parts_are_drawn_as_torchvision_draws_them(name):
  """Percentiles of 10,000 crops against those of torchvision's 40,000: within 4 standard errors of a share."""
  width, height = map(int, name.removeprefix("drawn_").split("x"))
  uniform = pipeline.draws(RandomResizedCrop.draws, 1, np.arange(10_000))
  boxes = np.array([RandomResizedCrop().box(width, height, (24, 24), u) for u in uniform], float)
  left, top, right, bottom = boxes.T
  w, h = right - left, bottom - top
  assert left.min() >= 0
  assert top.min() >= 0
  assert right.max() <= width
  assert bottom.max() <= height
  across, down = width - w, height - h
  found = (
    h * w / (height * width),
    np.log(w / h),
    (left / np.maximum(across, 1))[across > 0],
    (top / np.maximum(down, 1))[down > 0],
  )
  for values, expected in zip(found, FIXTURE[name], strict=True):
    if len(values) < 200:
      continue
    # The share of ours at or below each of theirs; whole pixels make steps, so that either side of one will do.
    least, most = ((values[:, None] < expected - 1e-9).mean(0), (values[:, None] <= expected + 1e-9).mean(0))
    error = 4 * np.sqrt(0.25 / len(values) + 0.25 / 40_000)
    assert (least - error <= PERCENTILES / 100).all()
    assert (most + error >= PERCENTILES / 100).all()


def test_what_does_not_fit_is_cut_in_the_middle():
  """By hand: of 100 x 10 the widest part with a ratio of 4/3 is 13 x 10, from (100 - 13) // 2 on."""
  whole = RandomResizedCrop(area=(1.0, 1.0))
  uniform = np.full(whole.draws, 0.5)
  assert whole.box(100, 10, (8, 8), uniform) == (43, 0, 56, 10)
  assert whole.box(10, 100, (8, 8), uniform) == (0, 43, 10, 56)
  assert whole.box(12, 12, (8, 8), uniform) == (0, 0, 12, 12)


def test_a_large_photograph_is_decoded_small_and_looks_the_same():
  """1,600 x 1,200 for 64 x 64: at an eighth, which differs from the whole by about a level."""
  view, size = CenterCrop(1.0), (64, 64)
  assert [views.fraction((0, 0, w, w), size) for w in (64, 255, 256, 511, 512, 1024)] == [1, 1, 2, 2, 4, 8]
  image = smooth(1600, 1200)
  file = jpeg(image)
  whole = Image.open(file).convert("RGB")
  expected = np.asarray(views.show(whole, view, view.box(1600, 1200, size, np.zeros(0)), size)).astype(int)
  file.seek(0)
  got = decode(file, "it", (64, 64, 3), view).astype(int)
  assert np.abs(got - expected).mean() < 1.0
  assert np.abs(got - expected).max() < 8
  assert np.abs(got[:, ::-1] - expected).mean() > 20  # what the tolerance would see


def test_a_photograph_is_seen_upright():
  """Orientation 6, turned by 90 degrees, and larger than it is shown: the box is of the upright picture."""
  upright = smooth(400, 300)
  exif = Image.Exif()
  exif[0x0112] = 6
  turned = jpeg(upright.transpose(Image.Transpose.ROTATE_90), exif=exif)
  uniform = np.random.default_rng(0).random(RandomResizedCrop.draws)
  for view in (CenterCrop(0.5), RandomResizedCrop((0.2, 0.3))):
    for size in (100, 40):
      turned.seek(0)
      got = decode(turned, "it", (size, size, 3), view, uniform).astype(int)
      expected = decode(jpeg(upright), "it", (size, size, 3), view, uniform).astype(int)
      assert np.abs(got - expected).mean() < 2


def test_what_is_seen_is_a_function_of_seed_and_position(tmp_path):
  """Against the box drawn by hand; each of three repeats has its own, and evaluation sees the middle."""
  pictures = [smooth(40 + i, 50 - i, i) for i in range(6)]
  for i, image in enumerate(pictures):
    (tmp_path / "train" / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
    image.save(tmp_path / "train" / "ab"[i % 2] / f"{i}.png")
  view = RandomResizedCrop()
  data = images(f"folder:{tmp_path}", (16, 16, 3), classes=2, view=view, repeats=3, fit=CenterCrop())
  assert data.source("train").in_memory
  order = [0, 2, 4, 1, 3, 5]  # as the folder lists them
  stream = pipeline.Stream(data.training(), 7, 4, repeats=3)
  got = stream.take(0, 3)
  stream.close()
  for position in range(12):
    # An epoch is 6 examples, two pictures thrice.
    element = pipeline.permutation(6, 7, position // 6)[position % 6 // 3]
    image, uniform = pictures[order[element]], pipeline.draws(view.draws, 7, np.array([position]))[0]
    left, top, right, bottom = view.box(*image.size, (16, 16), uniform)
    expected = image.crop((left, top, right, bottom)).resize((16, 16), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(got["image"][position // 4, position % 4], np.asarray(expected))
    assert got["label"][position // 4, position % 4] == order[element] % 2
  assert len(np.unique(got["image"].reshape(12, -1), axis=0)) == 12
  rows = np.split(np.arange(4, dtype=np.int32), 2)
  halves = [pipeline.batch_at(data.training(), 7, 2, 4, half, 3)["image"] for half in rows]
  np.testing.assert_array_equal(np.concatenate(halves), got["image"][2])
  seen = decode(tmp_path / "train" / "a" / "0.png", "it", (16, 16, 3), CenterCrop())
  np.testing.assert_array_equal(data.source("train")[0]["image"], seen)


def test_draws_are_uniform_and_independent():
  """Of numbers beside each other and of positions beside each other: correlations within 4 standard errors of 0."""
  u = pipeline.draws(5, 3, np.arange(20_000))
  assert 0 <= u.min() < 1e-3
  assert 1 - 1e-3 < u.max() < 1
  counts = np.bincount((u.reshape(-1) * 10).astype(int))
  assert ((counts - 10_000) ** 2 / 10_000).sum() < 33.7  # chi-squared, 9 degrees of freedom, 0.9999
  z = (u - 0.5) * 12**0.5
  for a, b in ((z[:, :-1], z[:, 1:]), (z[:-1], z[1:])):
    assert abs((a * b).mean()) < 4 / a.size**0.5
  np.testing.assert_array_equal(pipeline.draws(5, 3, np.array([77]))[0], u[77])


@pytest.mark.parametrize(
  ("view", "sentence"),
  [
    (RandomResizedCrop(area=(0.0, 1.0)), r"a random crop has an area of LEAST to MOST, within \(0, 1\]"),
    (RandomResizedCrop(ratio=(2.0, 1.0)), "a ratio LOW to HIGH"),
    (RandomResizedCrop(), "digits has arrays of one size, and RandomResizedCrop is of pictures in files: leave it out"),
  ],
)
def test_bad_input(view, sentence):
  with pytest.raises(UserError, match=sentence):
    images("digits", (8, 8, 1), levels=17, classes=10, view=view).training()
