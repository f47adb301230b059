"""Clips: Moving MNIST's exact dynamics, videos in files and folders, sheets of emoji."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxgen.core.errors import UserError
from jaxgen.data import clips, digits
from jaxgen.data.sources import moving, open_source
from jaxgen.data.sources.video import clip_of, form
from jaxgen.data.sources.views import RandomClip


def test_a_bouncing_point_is_where_small_steps_lead():
  """The closed form, against a simulation that turns the velocity around at each edge."""
  random = np.random.default_rng(0)
  p, v, room, n = random.uniform(0, 5, 20), random.uniform(-3, 3, 20), 5.0, 2_000
  x, speed = p.copy(), v.copy()
  for _ in range(n):
    x += speed * (7 / n)
    out = (x < 0) | (x > room)
    x = np.where(x < 0, -x, np.where(x > room, 2 * room - x, x))
    speed = np.where(out, -speed, speed)
  np.testing.assert_allclose(moving.bounced(p, v, 7.0, room), x, atol=1e-9)


@pytest.mark.parametrize("count", [1, 2])
def test_moving_digits_are_the_data_sets_at_their_positions(count):
  data = clips.moving(digits=count, frames=6, side=18)
  some = data.source("test").gather(np.arange(40))
  corners = np.rint(some["position"]).astype(int)
  for frames, glyphs, at in zip(some["clip"], some["glyph"], corners, strict=True):
    for t, frame in enumerate(frames):
      expected = np.zeros_like(frame)
      for glyph, (row, column) in zip(glyphs, at[t], strict=True):
        part = expected[row : row + 8, column : column + 8]
        part[:] = np.maximum(part, glyph)
      np.testing.assert_array_equal(frame, expected)
  # In one frame a digit goes a tenth of its room, and less where it meets an edge.
  steps = np.linalg.norm(np.diff(some["position"], axis=1), axis=-1)
  assert steps.max() < 1 + 1e-4
  assert (np.abs(steps - 1) < 1e-4).mean() > 0.6
  assert some["position"].min() >= 0
  assert some["position"].max() <= 10
  # A glyph is a digit of the split "test", with its class.
  source = digits().source("test")
  images = np.round(source.arrays["image"] * (255 / 16)).astype(np.uint8)
  for glyph, label in zip(some["glyph"][:, 0], some["digit"][:, 0], strict=True):
    same = (images == glyph).all((1, 2, 3))
    assert label in source.arrays["label"][same]
  assert ("label" in some) == (count == 1)


def test_clip_i_depends_on_i_alone():
  features = clips.moving(frames=4).features
  train, test = (open_source("moving:1:digits", split, features, memory_bytes=0) for split in ("train", "test"))
  some = train.gather(np.array([7, 3]))["clip"]
  np.testing.assert_array_equal(some[1], train[3]["clip"])
  assert (test[3]["clip"] != some[1]).any()
  alone = open_source("moving:1:digits", "train", {"clip": features["clip"]}, memory_bytes=0)
  np.testing.assert_array_equal(alone[3]["clip"], some[1])


def test_stills_are_frames_of_other_clips():
  data = clips.moving(frames=4, augment=(clips.stills(2),))
  batch = data.source("test").gather(np.arange(5)) | {"index": np.arange(5, dtype=np.int32)}
  made = data.transform(jax.random.key(0), batch, train=True)
  assert made["stills"].shape == (5, 2, 16, 16, 1)
  for b in range(5):
    for k in range(2):
      frames = np.asarray(made["clip"][(b + 1 + k) % 5])
      assert (frames == np.asarray(made["stills"][b, k])).all((1, 2, 3)).any()
  assert "stills" not in data.transform(jax.random.key(0), batch, train=False)
  with pytest.raises(UserError, match="fewer than the batch's 5, not 5"):
    clips.stills(5)(jax.random.key(0), made)


def test_a_random_frame_rate_is_said_with_its_clip():
  time = jnp.broadcast_to(jnp.arange(6.0)[None, :, None, None, None], (200, 6, 1, 1, 1))
  batch = {"clip": time, "index": jnp.arange(200)}
  made = clips.strided(3, (1, 2), 12.0)(jax.random.key(0), batch)
  shown = np.asarray(made["clip"])[..., 0, 0, 0].tolist()
  seen = {(float(rate), *clip) for rate, clip in zip(made["rate"], shown, strict=True)}
  expected = {(12.0, i, i + 1, i + 2) for i in range(4)} | {(6.0, i, i + 2, i + 4) for i in range(2)}
  assert seen == expected
  with pytest.raises(UserError, match="none of 4 with strides 1, 2"):
    clips.strided(4, (1, 2), 12.0)(jax.random.key(0), batch)


def test_frames_that_are_given_are_said_to_be():
  clip = jnp.arange(1.0, 7.0)[None, :, None, None, None] * jnp.ones((50, 1, 1, 1, 2))
  made = clips.hinted((2, 3))(jax.random.key(0), {"clip": clip, "index": jnp.arange(50)})["given"]
  found = {tuple(row) for row in np.asarray(made)[:, :, 0, 0].reshape(50, -1).tolist()}
  rows = [[[n, n, 1.0] if (n - 1) % k == 0 else [0.0] * 3 for n in np.arange(1.0, 7.0)] for k in (2, 3)]
  assert found == {tuple(np.ravel(row).tolist()) for row in rows}


# Videos ---------------------------------------------------------------------------------------------------------------


def frames_of(n, side=(6, 8)):
  """n frames in colours, each with one shade that says its number."""
  return np.stack([np.full((*side, 3), 10 + 20 * i, np.uint8) for i in range(n)])


def write(path, n, fps=10.0):
  path.parent.mkdir(parents=True, exist_ok=True)
  first, *rest = map(Image.fromarray, frames_of(n))
  options = {"lossless": True} if path.suffix == ".webp" else {}
  first.save(path, save_all=True, append_images=rest, duration=round(1000 / fps), loop=0, **options)


@pytest.fixture
def videos(tmp_path):
  write(tmp_path / "train" / "left" / "a.gif", 9)
  write(tmp_path / "train" / "right" / "b.webp", 7)
  (tmp_path / "train" / "right" / "c").mkdir()
  for i, frame in enumerate(frames_of(5)):
    Image.fromarray(frame).save(tmp_path / "train" / "right" / "c" / f"{i:03}.png")
  (tmp_path / "train" / "right" / "notes.txt").write_text("")
  return tmp_path


def numbers(clip):
  return ((clip[:, 0, 0, 0].astype(int) - 10) / 20).round().astype(int).tolist()


def test_videos_of_three_kinds(videos):
  data = clips.video(videos, (2, 6, 8, 3), stride=2, classes=2, rate=True, strides=(1, 3))
  some = data.source("train").gather(np.arange(3))
  assert [numbers(clip) for clip in some["clip"]] == [[3, 5], [2, 4], [1, 3]]  # the middle
  np.testing.assert_array_equal(some["label"], [0, 1, 1])
  np.testing.assert_allclose(some["rate"], [5, 5, 0.5])
  assert "notes.txt (no video)" in data.describe("train")
  seen = set()
  for u in np.linspace(0, 0.999, 40):
    for v in (0.0, 0.5, 0.999):
      seen.add(tuple(numbers(data.training().gather(np.array([2]), np.array([[u, v]]))["clip"][0])))
  assert seen == {(i, i + s) for s in (1, 2, 3) for i in range(5 - s) if i in (0, (5 - s) // 2, 4 - s)}


def test_a_random_clip_reaches_every_stretch_and_no_other():
  random, view = np.random.default_rng(0), RandomClip((2, 9))
  found = {view.stretch(11, 4, random.uniform(size=2)) for _ in range(400)}
  assert found == {(first, stride) for stride in (2, 3) for first in range(11 - 3 * stride)}


def test_videos_that_cannot_be_read_are_one_sentence(videos):
  def read(words, name="", shape=(2, 6, 8, 3), path=None):
    with pytest.raises(UserError, match=words):
      clip_of(path or videos / "train" / "left" / "a.gif", shape, form(name or "video:1:x"))

  read("has 9 frames, and a clip of 4 frames with stride 3 spans 10", "video:3:x", (4, 6, 8, 3))
  read("has 10 frames a second, and 25 are asked for", "video:1@25:x")
  (videos / "bad.gif").write_bytes(b"GIF89a, and no more")
  read("cannot be read as a video", path=videos / "bad.gif")
  for name in ("video:0:x", "video:x", "video:1@0:x"):
    with pytest.raises(UserError, match="is not video:STRIDE:DIR"):
      form(name)
  with pytest.raises(UserError, match="there is no folder"):
    clips.video(videos / "none", (2, 6, 8, 3)).source("train")
  with pytest.raises(UserError, match="expected the folder"):
    clips.video(videos, (2, 6, 8, 3)).source("test")


def test_a_file_that_pyav_decodes(tmp_path):
  av = pytest.importorskip("av")
  path = tmp_path / "a.mp4"
  with av.open(str(path), "w") as file:
    stream = file.add_stream("mpeg4", rate=12)
    stream.width, stream.height, stream.pix_fmt = 32, 16, "yuv420p"
    for frame in frames_of(8, (16, 32)):
      file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
    file.mux(stream.encode())
  clip, rate = clip_of(path, (3, 16, 32, 3), form("video:2@12:x"))
  assert numbers(clip) == [1, 3, 5]
  assert rate == 6
  with pytest.raises(UserError, match="has 12 frames a second, and 24 are asked for"):
    clip_of(path, (3, 16, 32, 3), form("video:2@24:x"))
  path.write_bytes(path.read_bytes()[:40])
  with pytest.raises(UserError, match="cannot be read as a video"):
    clip_of(path, (3, 16, 32, 3), form("video:2:x"))


def test_emoji_in_sheets(tmp_path):
  random = np.random.default_rng(0)
  sheets = random.integers(0, 256, (2, 3, 16, 32, 32, 4), dtype=np.uint8)
  for i, sheet in enumerate(sheets):
    tiled = sheet.transpose(0, 2, 1, 3, 4).reshape(3 * 32, 16 * 32, 4)
    Image.fromarray(tiled).save(tmp_path / f"{i:02}.webp", lossless=True, exact=True)
  (tmp_path / "clips.tsv").write_text("codepoint\tname\tframes\n" + "1\ta\t3\n" * 6)
  clip = clips.emoji_clips(tmp_path, frames=4).source("train").arrays["clip"]
  pixels = sheets.reshape(6, 16, 32, 32, 4)[1:, ::4].astype(float)
  alpha = pixels[..., 3:] / 255
  np.testing.assert_allclose(clip, pixels[..., :3] * alpha + 255 * (1 - alpha), atol=0.51)
  with pytest.raises(UserError, match="which 3 do not divide"):
    clips.emoji_clips(tmp_path, frames=3).source("train")
  (tmp_path / "00.webp").unlink()
  from jaxgen.data.sources import emoji_clips

  emoji_clips.read.cache_clear()
  with pytest.raises(UserError, match="3 clips in sheets"):
    clips.emoji_clips(tmp_path).source("train")
  (tmp_path / "clips.tsv").write_text("codepoint\tname\tframes\n1\ta\t3\n\n")
  with pytest.raises(UserError, match="line 3, has no name"):
    clips.emoji_clips(tmp_path).source("train")
