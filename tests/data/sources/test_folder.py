import dataclasses

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from jaxgen.core.errors import UserError
from jaxgen.data import dataset, images, sources


def picture(path, shape=(4, 4, 3), value=7):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(np.full(shape, value, np.uint8)).save(path)


@pytest.fixture
def pets(tmp_path):
  for name, count in (("cat", 2), ("dog", 3)):
    for i in range(count):
      picture(tmp_path / "train" / name / f"{i}.png", value=10 * i)
  picture(tmp_path / "test" / "dog" / "0.png")
  return tmp_path


@pytest.fixture
def lazily(monkeypatch):
  """Nothing is kept in memory, whatever its size."""
  whole = sources.open_source
  monkeypatch.setattr(dataset, "open_source", lambda *arguments: whole(*arguments, memory_bytes=0))


def test_what_is_hidden_is_no_class_and_no_example(pets):
  picture(pets / "train" / ".ipynb_checkpoints" / "0-checkpoint.png")  # sorted before the classes
  picture(pets / ".cache" / "aardvark" / "0.png")  # the like of a class, of a split that is none
  picture(pets / "__MACOSX" / "bird" / "0.png")
  picture(pets / "train" / "dog" / ".ipynb_checkpoints" / "1-checkpoint.png")
  (pets / "train" / "dog" / "._1.png").write_bytes(b"what macOS writes beside 1.png")
  (pets / "train" / "cat" / "notes.txt").write_text("")
  picture(pets / "train" / "loose.png")
  data = images(f"folder:{pets}", (4, 4, 3), classes=2)
  np.testing.assert_array_equal(data.source("train").arrays["label"], [0, 0, 1, 1, 1])
  assert data.describe("train").splitlines()[1:] == [
    "  image: uint8 [4, 4, 3], values 0 to 20",
    "  label: int32 [], values 0 to 1",
    "  classes: 0 cat (2), 1 dog (3)",
    "  left out: .ipynb_checkpoints, dog/._1.png, dog/.ipynb_checkpoints (hidden)",
    "  left out: loose.png (in no class's folder)",
    "  left out: cat/notes.txt (no image)",
  ]
  without = sources.open_source(f"folder:{pets}", "train", images("", (4, 4, 3)).features)
  assert len(without) == 6  # the loose one, too


def test_links_are_followed_or_said(pets):
  picture(pets / ".elsewhere" / "more" / "0.png", value=90)
  (pets / "train" / "eel").symlink_to(pets / ".elsewhere")  # a class
  (pets / "train" / "dog" / "more").symlink_to(pets / ".elsewhere" / "more")  # would be read twice
  (pets / "train" / "dog" / "9.png").symlink_to(pets / "gone.png")
  (pets / "train" / "cat" / "9.png").symlink_to(pets / ".elsewhere" / "more" / "0.png")
  data = images(f"folder:{pets}", (4, 4, 3), classes=3)
  np.testing.assert_array_equal(data.source("train").arrays["label"], [0, 0, 0, 1, 1, 1, 2])
  assert data.source("train")[2]["image"].max() == 90
  assert [line for line in data.describe("train").splitlines() if "left out" in line] == [
    "  left out: dog/9.png (a link to nothing)",
    "  left out: dog/more (a link to a folder)",
  ]


def test_a_class_that_the_split_lacks_counts(pets):
  picture(pets / "test" / "aardvark" / "0.png")  # its number is 0, and the labels of train are 1 and 2
  picture(pets / "test" / "eel" / "0.png")
  with pytest.raises(UserError, match=r"folder:.* has 4 classes \(aardvark, cat, dog, eel\), but the config expects 3"):
    images(f"folder:{pets}", (4, 4, 3), classes=3).source("train")


def test_more_classes_than_the_config_says_are_refused_before_the_first_step(pets, lazily):
  picture(pets / "train" / "eel" / "0.png")
  data = images(f"folder:{pets}", (4, 4, 3), classes=2)
  with pytest.raises(UserError, match="'label' has values 0 to 2, but the config expects 2 classes"):
    data.source("train")
  data = dataclasses.replace(data, classes=3)
  assert not data.source("train").in_memory
  assert data.describe("train").splitlines()[3] == "  classes: 0 cat (2), 1 dog (3), 2 eel (1)"


@pytest.mark.parametrize(
  ("pixels", "options", "sentence"),
  [
    (np.zeros((4, 4), np.uint16), {}, r"4.png has more than 8 bits a channel \(mode I;16\)"),
    (np.full((4, 4, 3), 5, np.uint8), {"levels": 5}, "'image' has values 0 to 5, but the config expects 5 levels"),
  ],
)
def test_examples_all_over_the_split_are_read_before_the_first_step(tmp_path, lazily, pixels, options, sentence):
  """The first is as it should be, and the last is not."""
  for i in range(4):
    picture(tmp_path / "train" / f"{i}.png", value=i)
  Image.fromarray(pixels).save(tmp_path / "train" / "4.png")
  with pytest.raises(UserError, match=sentence):
    images(f"folder:{tmp_path}", (4, 4, 3), **options).source("train")


def test_what_is_read_later_is_checked_then(tmp_path, lazily):
  for i in range(200):
    picture(tmp_path / "train" / f"{i:03}.png", value=9 * (i == 2))
  source = images(f"folder:{tmp_path}", (4, 4, 3), levels=5).source("train")  # 64 examples that are well
  assert source[1]["image"].max() == 0
  with pytest.raises(UserError, match="'image' has values 0 to 9"):
    source.gather(np.array([1, 2]))


@pytest.mark.parametrize("name", ["0.png", "0.tiff"])
def test_no_other_program_is_given_a_file_because_of_what_is_inside(tmp_path, monkeypatch, name):
  called = []
  monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *arguments, **options: called.append(arguments))
  (tmp_path / "train").mkdir()
  Image.new("RGB", (4, 4)).save(tmp_path / "train" / name, "EPS")
  with pytest.raises(UserError, match=f"{name} cannot be read as an image: it is none of PNG, JPEG"):
    sources.open_source(f"folder:{tmp_path}", "train", images("", (4, 4, 3)).features)
  assert not called


def test_transparent_pixels_are_seen_on_white(tmp_path):
  """By hand: half of red on white is (255, 127.5, 127.5)."""
  pixels = np.array([[[200, 30, 40, 0], [255, 0, 0, 128], [1, 2, 3, 255]]], np.uint8)  # hidden, half seen, seen
  (tmp_path / "train").mkdir()
  Image.fromarray(pixels).save(tmp_path / "train" / "0.png")
  palette = Image.fromarray(np.array([[0, 1, 1]], np.uint8), "P")
  palette.putpalette([200, 30, 40, 1, 2, 3])
  palette.save(tmp_path / "train" / "1.png", transparency=0)
  read = lambda channels: sources.open_source(f"folder:{tmp_path}", "train", images("", (1, 3, channels)).features)
  half = [255, 127, 127]
  np.testing.assert_allclose(read(3)[0]["image"].astype(int), [[[255] * 3, half, [1, 2, 3]]], atol=1)
  np.testing.assert_array_equal(read(3)[1]["image"], [[[255] * 3, [1, 2, 3], [1, 2, 3]]])
  assert read(1)[0]["image"][0, 0, 0] == 255
  np.testing.assert_array_equal(read(4)[0]["image"], pixels)
