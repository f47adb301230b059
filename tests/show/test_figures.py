import io
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy import stats

from jaxgen import data
from jaxgen.core import pictures
from jaxgen.data import text
from jaxgen.show import figures


def read(contents):
  return np.asarray(Image.open(io.BytesIO(contents)))


def tiles(picture, columns, side):
  """The value in the middle of every tile of a grid, [rows, columns]."""
  scale = pictures.enlargement(side, side)
  step = side * scale + max(1, scale // 2)
  assert picture.shape[1] == columns * step - max(1, scale // 2)
  return picture[side * scale // 2 :: step, side * scale // 2 :: step]


def grey(values):
  """What a picture shows of values in [-1, 1]."""
  return np.round((np.asarray(values) + 1) * 127.5).astype(np.uint8)


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
  np.testing.assert_array_equal(tiles(picture, 5, 8), np.tile(grey(expected / 3), (5, 1)))
  picture = read(figures.manifold(lambda state, z: decode(state, z[:, ::-1]), 5)(a_run())["manifold.png"])
  np.testing.assert_array_equal(tiles(picture, 5, 8), np.tile(grey(expected[::-1] / 3)[:, None], (1, 5)))


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
  expected = grey(np.stack([0.3 * line + 0.1 * z[3], 0.3 * z[2] + 0.1 * line]))
  np.testing.assert_allclose(tiles(read(files["traversals.png"]), 3, 8), expected, atol=1)


@pytest.mark.parametrize("count", [1, 7, 10_000])
def test_examples_are_spread_over_the_split(count):
  found = figures.examples_of(data.digits(), count)
  assert len(found) == min(count, 360)
  assert len(np.unique(found, axis=0)) == len(found)


class Looks:
  """A network whose attention's weights are given."""

  def __init__(self, weights):
    self.weights = weights

  def apply(self, variables, source, read, seen, method):
    self.read = np.asarray(read)
    return None, jnp.asarray(self.weights)


def test_attention_shows_the_weights_of_each_string():
  source = np.array([[5, 6, 7, 2, 0], [8, 2, 0, 0, 0]], np.int32)
  target = np.array([[7, 6, 5, 2, 0], [8, 2, 0, 0, 0]], np.int32)
  weights = np.zeros((2, 5, 5), np.float32)
  weights[0, :4, :4] = np.eye(4)[::-1]
  weights[1, :2, :2] = [[0, 1], [0, 0]]
  network = Looks(weights)
  run = SimpleNamespace(
    data=SimpleNamespace(source=lambda split: SimpleNamespace(gather=lambda index: {"source": source[index]})),
    sample=lambda n, source: target,
    state=SimpleNamespace(averaged=dict),
  )
  files = figures.attention(network, figures.letters, start=1, end=2, examples=2)(run)
  assert list(files) == ["attention.png"]
  np.testing.assert_array_equal(network.read, [[1, 7, 6, 5, 2], [1, 8, 2, 0, 0]])
  picture = np.asarray(Image.open(io.BytesIO(files["attention.png"])).convert("L")).astype(int)
  # The panels are square and black; a white cell is a quarter of the first one's side, and half of the other's.
  for half, cells, white in zip(
    np.split(picture, 2, axis=1), (4, 2), ({(3, 0), (2, 1), (1, 2), (0, 3)}, {(0, 1)}), strict=True
  ):
    dark = np.argwhere(half < 3)
    (top, first), (bottom, last) = dark.min(0), dark.max(0)
    step = (bottom - top + 1) / cells
    assert abs((last - first + 1) / cells - step) < 2
    lit = lambda i, j, half=half, step=step, top=top, first=first: (
      half[int(top + (i + 0.5) * step), int(first + (j + 0.5) * step)] > 250
    )
    assert {(i, j) for i in range(cells) for j in range(cells) if lit(i, j)} == white


def test_letters():
  assert figures.letters(np.array([3, 28, 2])) == ["a", "z", "."]


def test_translations_stand_below_their_sources(tmp_path):
  for name in ("train.en", "train.de", "test.en", "test.de"):
    (tmp_path / name).write_text("ein Hund\nzwei Katzen\n" if name.endswith("de") else "a dog\ntwo cats\n")
  pairs = text.pairs(tmp_path, ("en", "de"), vocabulary=262, length=24)
  conditions = figures.sources(pairs)(np.arange(1, 4))
  target = pairs.source("test").arrays["target"][[1, 0, 1]]
  files = figures.translations(pairs)(target, conditions)
  dog, cats = "a dog\nein Hund", "two cats\nzwei Katzen"
  assert files[".txt"].decode() == f"{cats}\n\n{dog}\n\n{cats}"
  assert "".join(figures.pieces(pairs)(target[1]))[:8] == "einHund."


def test_interpolations_are_straight_lines_between_pairs():
  run = a_run()
  encode = lambda state, x: state * x.mean(axis=(1, 2, 3))[:, None]
  decode = lambda state, z: jnp.broadcast_to((z / state)[..., None, None], (len(z), 8, 8, 1))
  picture = read(figures.interpolations(encode, decode, rows=2, steps=3)(run)["interpolations.png"])
  mean = figures.examples_of(run.data, 4).mean(axis=(1, 2, 3))
  expected = [[a, (a + b) / 2, b] for a, b in (mean[:2], mean[2:])]
  np.testing.assert_allclose(tiles(picture, 3, 8).astype(int), grey(expected), atol=1)


def test_a_density_is_bright_where_it_is_large():
  # Uniform in the upper right quarter.
  inside = lambda state, x: jnp.where((x > 0).all(axis=1), 0.0, -jnp.inf)
  picture = read(figures.density(inside, -1.0, 1.0, side=20)(a_run())["density.png"])[..., :3].astype(int).sum(-1)
  height, width = picture.shape
  at = lambda x, y: picture[int(height * (1 - y)), int(width * x)]
  assert at(0.75, 0.75) > 600
  assert max(at(0.3, 0.3), at(0.3, 0.75), at(0.75, 0.3)) < 20


def test_points_are_drawn_where_they_are():
  samples = np.full((3, 2), [0.5, -0.5], np.float32)
  picture = read(figures.scatter(-1.0, 1.0)(samples, {})[".png"])[..., :3].astype(int)
  y, x = np.argwhere(picture[..., 2] - picture[..., 0] > 100).mean(0) / picture.shape[:2]
  assert abs(x - 0.77) < 0.05
  assert abs(y - 0.72) < 0.05


def test_latent_interpolations_go_along_great_circles():
  seen = []

  def generate(state, z, label):
    jax.debug.callback(lambda z, label: seen.append((np.asarray(z).reshape(4, 5, 3), label)), z, label)
    return state * jnp.ones((len(z), 8, 8, 1))

  picture = read(
    figures.latent_interpolations(generate, 3, rows=4, steps=5, classes=3)(a_run())["latent_interpolations.png"]
  )
  np.testing.assert_array_equal(tiles(picture, 5, 8), grey(np.full((4, 5), 0.5)))
  z, label = seen[0]
  np.testing.assert_array_equal(label, np.repeat([0, 1, 2, 0], 5))
  unit = lambda v: v / np.linalg.norm(v, axis=-1, keepdims=True)
  cosine = (unit(z[:, 0]) * unit(z[:, -1])).sum(-1)
  # Half way between two ends at an angle a lies their sum over 2 cos(a / 2), as long as they are where they are so.
  middle = (z[:, 0] + z[:, -1]) / (2 * np.cos(np.arccos(cosine) / 2))[:, None]
  np.testing.assert_allclose(z[:, 2], middle, rtol=1e-4, atol=1e-5)
  assert len(np.unique(z[:, [0, -1]])) == 24


def test_filters_are_each_on_their_own_scale():
  weights = np.zeros((3, 8, 8, 1), np.float32)
  weights[1, 4, 4], weights[1, 0, 0] = -0.5, 2.0
  weights[2] = -3.0
  picture = read(figures.filters(lambda state: weights / state)(a_run())["filters.png"])
  np.testing.assert_array_equal(tiles(picture, 2, 8), [[128, 96], [0, 128]])
  only = read(figures.filters(lambda state: weights, count=1)(a_run())["filters.png"])
  assert only.shape == (48, 48)


def test_chains_go_from_left_to_right():
  walk = lambda state, x, keys: jnp.stack([state * x, 0 * x + jax.random.key_data(keys)[0, 0] * 0 + 1])
  picture = read(figures.chains(walk, count=3)(a_run())["chains.png"])
  images = figures.examples_of(a_run().data, 3)
  expected = np.stack([images, 0.5 * images, np.ones_like(images)], axis=1).reshape(-1, 8, 8, 1)
  np.testing.assert_array_equal(picture, pictures.grid(expected.astype(np.float32), 3)[..., 0])


def test_an_energy_is_darker_where_it_is_lower():
  energy = lambda state, x: 4 * jnp.square(x[:, 0] - 1) + 4 * jnp.square(x[:, 1] + 1)
  picture = read(figures.landscape(energy, -2.0, 2.0, side=50)(a_run())["landscape.png"])[..., :3].sum(-1)
  rows, columns = picture.shape
  dark = np.argwhere(picture < 100)  # of the axes' own lines, few
  row, column = np.median(dark, axis=0)
  assert column > 0.5 * columns  # x_1 = 1 is on the right, x_2 = -1 below
  assert row > 0.6 * rows


def test_long_runs_are_shown_from_data_above_those_from_noise():
  from jaxgen.evaluation.long_run import LongRun

  steps, chains = 16, 3
  level = np.linspace(-1, 0, steps + 1)[:, None] + np.array([0.0, 0.5])
  x = {start: np.stack([flat(row + up) for row in level]) for start, up in (("data", 0.5), ("noise", 0.0))}
  energy = {start: np.zeros((steps + 1, chains)) for start in x}
  files = figures.long_run(lambda run: LongRun(energy, x, {}, {}, {}), times=6)(a_run())
  assert files.keys() == {"long_run_energy.png", "long_run_chains.png"}
  chosen = [0, 1, 2, 4, 8, 16]
  expected = np.concatenate([level[chosen].T + 0.5, level[chosen].T])
  np.testing.assert_array_equal(tiles(read(files["long_run_chains.png"]), 6, 8), grey(expected))
