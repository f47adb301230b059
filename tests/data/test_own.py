"""Images of which only the name is given, and shards of webdataset."""

import io
import tarfile

import cloudpickle
import numpy as np
import pytest
from PIL import Image

from jaxgen.core.errors import UserError
from jaxgen.data import CenterCrop, RandomResizedCrop, own, pipeline


def picture(seed, size=(20, 14), mode="RGB"):
  return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), np.uint8)).convert(mode)


def encoded(image, kind="PNG"):
  buffer = io.BytesIO()
  image.save(buffer, kind)
  return buffer.getvalue()


def shard(path, members):
  path.parent.mkdir(parents=True, exist_ok=True)
  with tarfile.open(path, "w") as archive:
    for name, contents in members.items():
      member = tarfile.TarInfo(name)
      member.size = len(contents)
      archive.addfile(member, io.BytesIO(contents))


@pytest.fixture
def shards(tmp_path):
  """Ten pictures in two shards, beside each its number, text and something pickled; one member of them is hidden."""
  for k in range(2):
    members = {}
    for i in range(5):
      key = f"part/{5 * k + i:04}"
      members[f"{key}.cls"] = str((5 * k + i) % 3).encode()
      members[f"{key}.png"] = encoded(picture(5 * k + i))
      members[f"{key}.pyd"] = b"\x80\x04."
    shard(tmp_path / "shards" / f"train-{k:04}.tar", members)
  return tmp_path / "shards"


def test_shards_are_read_where_they_lie(shards):
  data = own(f"tar:{shards}", 14, labelled=True, fit=CenterCrop(1.0), view=RandomResizedCrop())
  assert data.spec[:3] == ((14, 14, 3), 256, 3)
  source = data.source("train")
  np.testing.assert_array_equal(source.arrays["label"], np.arange(10) % 3)
  assert source.about.left_out == ("10 members .pyd (no image)",)
  middle = lambda i: np.asarray(picture(i).crop((3, 0, 17, 14)))  # as it is: 14 of 14 rows
  for i in (0, 4, 5, 9):
    np.testing.assert_array_equal(source[i]["image"], middle(i))
  stream = pipeline.Stream(data.training(), 0, 5)
  drawn = stream.take(0, 2)
  stream.close()
  np.testing.assert_array_equal(drawn["label"].reshape(-1), pipeline.permutation(10, 0, 0) % 3)


@pytest.mark.parametrize(
  ("spoil", "sentence"),
  [
    (lambda p: p.write_bytes(p.read_bytes()[:700]), r"train-0000.tar (ends within|cannot be read)"),
    (lambda p: p.write_bytes(b"no tar" * 200), "train-0000.tar cannot be read as a tar file that is not compressed"),
    (lambda p: shard(p, {"a.png": b"no image", "a.cls": b"0"}), "a.png of .*train-0000.tar cannot be read as an image"),
    (lambda p: shard(p, {"a.png": encoded(picture(0)), "a.cls": b"cat"}), "a.cls of .* is 'cat' and no label"),
  ],
)
def test_damaged_shards_are_named(shards, spoil, sentence):
  spoil(shards / "train-0000.tar")
  with pytest.raises(UserError, match=sentence):
    own(f"tar:{shards}", 8, labelled=True).source("train")


def test_shards_are_read_through_once(shards, monkeypatch):
  opened = []
  original = tarfile.open
  monkeypatch.setattr(tarfile, "open", lambda name, *rest: opened.append(name) or original(name, *rest))
  assert len(own(f"tar:{shards}", 8).source("train")) == 10
  own(f"tar:{shards}", 8, labelled=True).training()
  assert len(opened) == 2
  monkeypatch.undo()
  shard(shards / "train-0001.tar", {"a.png": encoded(picture(3)), "a.cls": b"7"})
  assert own(f"tar:{shards}", 8, labelled=True).spec.classes == 8  # it has changed, and is read again
  shard(shards / "train-0001.tar", {"b.png": encoded(picture(3))})
  data = own(f"tar:{shards}", 8, labelled=True)
  assert (data.spec.classes, len(data.source("train"))) == (None, 6)


@pytest.mark.parametrize(("mode", "channels"), [("RGB", 3), ("L", 1)])
def test_folders_and_shards_have_one_rule_of_colour(tmp_path, mode, channels):
  """A grey picture that is kept in RGB has 3 channels, wherever it lies."""
  grey = picture(0, mode="L").convert(mode)
  (tmp_path / "files").mkdir()
  grey.save(tmp_path / "files" / "0.png")
  shard(tmp_path / "shards" / "0.tar", {"0.png": encoded(grey)})
  for name in ("folder:files", "tar:shards"):
    kind, _, place = name.partition(":")
    assert own(f"{kind}:{tmp_path / place}", 8).spec.shape == (8, 8, channels)


def test_splits_of_shards(shards, tmp_path):
  with pytest.raises(UserError, match=r"has no shards test\*.tar and no test/\*.tar of the split 'test', found train-"):
    own(f"tar:{shards}", 8).source("test")
  shard(shards / "test" / "0.tar", {"a.jpg": encoded(picture(3), "JPEG")})
  assert len(own(f"tar:{shards}", 8).source("test")) == 1
  shard(tmp_path / "alone.tar", {"a.b.png": b"", "x.png": encoded(picture(3, mode="L"))})
  data = own(f"tar:{tmp_path / 'alone.tar'}", 8)
  assert (len(data.source("train")), data.spec.shape) == (1, (8, 8, 1))


@pytest.mark.parametrize("flat", [True, False])
def test_folders_say_their_classes_and_colours(tmp_path, flat):
  root = tmp_path / "pets"
  for i, name in enumerate(("cat", "dog")):
    folder = root / name if flat else root / "train" / name
    folder.mkdir(parents=True)
    picture(i, mode="L").save(folder / "0.png")
  data = own(f"folder:{root}", 8, labelled=True)
  assert data.spec[:3] == ((8, 8, 1), 256, 2)
  np.testing.assert_array_equal(data.source("train").arrays["label"], [0, 1])
  picture(5).save(root / "0.png" if flat else root / "train" / "0.png")
  data = own(f"folder:{root}", 8, labelled=True)
  assert data.spec[:3] == ((8, 8, 3), 256, None)
  assert len(data.source("train")) == 3


def test_arrays_keep_their_size_or_are_resized(tmp_path):
  image = np.random.default_rng(0).integers(0, 256, (6, 10, 10, 3), np.uint8)
  np.savez(tmp_path / "a.npz", image=image, label=np.arange(6) % 4)
  name = f"npz:{tmp_path / 'a.npz'}"
  assert own(name, labelled=True).spec[:3] == ((10, 10, 3), 256, 4)
  assert own(name, 5).spec[:3] == ((5, 5, 3), 256, None)
  assert own("digits", labelled=True).spec[:3] == ((8, 8, 1), 17, 10)


def test_what_hugging_face_wrote(tmp_path):
  """A dictionary of splits, pictures in several modes; sent to a worker it is mapped there, and no picture is sent."""
  datasets = pytest.importorskip("datasets")
  pictures = [picture(i) for i in range(6)]
  features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
  make = lambda n: datasets.Dataset.from_dict({"image": pictures[:n], "label": [i % 2 for i in range(n)]}, features)
  datasets.DatasetDict({"train": make(6), "test": make(2)}).save_to_disk(tmp_path / "pets")
  data = own(f"hf:{tmp_path / 'pets'}", 14, labelled=True, fit=CenterCrop(1.0), view=RandomResizedCrop())
  assert data.spec[:3] == ((14, 14, 3), 256, 2)
  train = data.source("train")
  assert (len(train), len(data.source("test")), train.about.classes) == (6, 2, ("cat", "dog"))
  np.testing.assert_array_equal(train.arrays["label"], [0, 1] * 3)
  np.testing.assert_array_equal(train[4]["image"], np.asarray(pictures[4].crop((3, 0, 17, 14))))
  sent = cloudpickle.dumps(data.training())
  again = cloudpickle.loads(sent)
  uniform = pipeline.draws(again.draws, 0, np.arange(3))
  indices = np.array([5, 0, 3])
  np.testing.assert_array_equal(
    again.gather(indices, uniform)["image"], data.training().gather(indices, uniform)["image"]
  )
  make(3).rename_column("image", "photo").save_to_disk(tmp_path / "renamed")
  with pytest.raises(UserError, match=r"has no column 'image' of pictures, only photo \(Image\), label \(ClassLabel\)"):
    own(f"hf:{tmp_path / 'renamed'}", 8)
  with pytest.raises(UserError, match="has no split 'valid': it has train, test"):
    data.source("valid")


def test_without_hugging_faces_library(tmp_path, monkeypatch):
  monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
  with pytest.raises(UserError, match=r"which is not installed: pip install 'jaxgen\[hf\]'"):
    own(f"hf:{tmp_path}", 8)


@pytest.mark.parametrize(
  ("name", "size", "sentence"),
  [
    ("folder:{}/sizes", None, r"b.png is 5 x 9 and a.png 9 x 5 \(height x width\): .* with --size, or, to evaluate"),
    ("folder:{}/gone", 8, "there is no folder"),
    ("folder:{}/empty", 8, "there are no image files"),
    ("text:chars:a", 8, r"is no data set of images: use digits:..., folder:..., hf:..., npz:..., tar:..., tfds:..."),
    (
      "npz:{}/x.npz",
      8,
      r"images are uint8 \[N, height, .* these are float64 \[3, 2\]: write them so",
    ),
    ("npz:{}/0.png", 8, "0.png cannot be read as a NumPy file"),
    ("digits", 0, "--size 0: it takes 1 or more"),
  ],
)
def test_bad_input(tmp_path, name, size, sentence):
  picture(0).save(tmp_path / "0.png")
  (tmp_path / "empty").mkdir()
  (tmp_path / "sizes").mkdir()
  for letter, shape in (("a", (9, 5)), ("b", (5, 9))):
    Image.fromarray(np.zeros(shape, np.uint8)).save(tmp_path / "sizes" / f"{letter}.png")
  np.savez(tmp_path / "x.npz", image=np.zeros((3, 2)))
  with pytest.raises(UserError, match=sentence):
    own(name.format(tmp_path), size)


def test_the_size_that_all_pictures_of_a_folder_share_is_found(tmp_path):
  """Upright: a file that is turned by its EXIF orientation has the same size as the others."""
  for i in range(3):
    image, exif = Image.fromarray(np.full((5, 9) if i == 2 else (9, 5), 40 * i, np.uint8)), Image.Exif()
    exif[0x0112] = 6 if i == 2 else 1
    image.save(tmp_path / f"{i}.png", exif=exif)
  source = own(f"folder:{tmp_path}").source("train")
  np.testing.assert_array_equal(source.gather(np.arange(3))["image"][:, 4, 2, 0], [0, 40, 80])
  assert source[2]["image"].shape == (9, 5, 1)
