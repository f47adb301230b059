"""Pictures with captions: lists, shards, and emoji; what is missing is said with its file."""

import io
import json
import os
import pathlib
import tarfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxgen.core.errors import UserError
from jaxgen.data import captioned
from jaxgen.data.sources import bpe
from jaxgen.data.sources import emoji as emoji_source
from jaxgen.data.sources.pairs import SPECIAL

CAPTIONS = ["a red square", "a green square, which is larger than the others", "a blue square"]
WORDS = " ".join(f"word{i}" for i in range(40))
PICTURES = [np.full((8, 8, 3), colour, np.uint8) for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
SIZE = 270  # 3 special tokens, 256 bytes, and 11 merges


def png(picture) -> bytes:
  file = io.BytesIO()
  Image.fromarray(picture).save(file, "png")
  return file.getvalue()


def in_list(folder: pathlib.Path, suffix: str, rows) -> pathlib.Path:
  folder.mkdir(exist_ok=True)
  for i, picture in enumerate(PICTURES):
    (folder / f"{i}.png").write_bytes(png(picture))
  lines = [f"{f}\t{c}" if suffix == ".tsv" else json.dumps({"file": f, "caption": c}) for f, c in rows]
  path = folder / f"train{suffix}"
  path.write_text("\r\n".join(lines) + "\r\n")
  return path


def in_shard(folder: pathlib.Path, captions) -> pathlib.Path:
  folder.mkdir(exist_ok=True)
  with tarfile.open(folder / "train-0.tar", "w") as archive:
    for i, (picture, caption) in enumerate(zip(PICTURES, captions, strict=True)):
      for name, data in ((f"{i}.png", png(picture)), (f"{i}.txt", caption)):
        if data is not None:
          member = tarfile.TarInfo(name)
          member.size = len(data)
          archive.addfile(member, io.BytesIO(data))
  return folder


ROWS = [(f"{i}.png", caption) for i, caption in enumerate(CAPTIONS)]


@pytest.mark.parametrize("kind", [".jsonl", ".tsv", "folder", ".tar"])
def test_pictures_come_with_their_captions(kind, tmp_path):
  if kind == ".tar":
    path = in_shard(tmp_path, [caption.encode() for caption in CAPTIONS])
  else:
    path = in_list(tmp_path, ".tsv" if kind == "folder" else kind, ROWS)
    path = tmp_path if kind == "folder" else path
  data = captioned.captions(path, str(SIZE), side=4, length=64, vocabulary=SIZE)
  source = data.source("train")
  assert len(source) == 3
  found = source.gather(np.arange(3))
  made = bpe.trained(CAPTIONS, SIZE, tmp_path, special=SPECIAL, prefix_space=True)
  for picture, wanted, tokens, caption in zip(found["image"], PICTURES, found["tokens"], CAPTIONS, strict=True):
    np.testing.assert_array_equal(picture, wanted[:4, :4])
    assert tokens[0] == 1
    end = list(tokens).index(captioned.END)
    assert not tokens[end + 1 :].any()
    assert made.decode(tokens[1:end].tolist()).strip() == caption
  assert data.spec.shape == (4, 4, 3)
  assert data.spec.feature == "image"


def test_missing_captions_are_left_out_and_long_ones_cut_and_both_are_said(tmp_path):
  rows = [ROWS[0], ("1.png", "  "), ("2.png", WORDS)]
  for path in (
    in_list(tmp_path / "list", ".jsonl", rows),
    in_shard(tmp_path / "shard", [CAPTIONS[0].encode(), None, WORDS.encode()]),
  ):
    data = captioned.captions(path, str(SIZE), side=4, length=32, vocabulary=SIZE)
    said = data.describe("train")
    assert "2 examples" in said
    assert "1 without a caption: " in said
    assert "1.png" in said
    assert "the ends of 1 captions, which are longer than 30 tokens" in said
    np.testing.assert_array_equal(data.source("train")[1]["image"], PICTURES[2][:4, :4])


def test_bad_lists_are_one_sentence(tmp_path):
  def opened(path, split="train", tokenizer=str(SIZE)):
    return captioned.captions(path, tokenizer, side=4, length=32, vocabulary=SIZE).source(split)

  path = in_list(tmp_path, ".jsonl", ROWS)
  with pytest.raises(UserError, match="is one list, the training split: there is no split 'test'"):
    opened(path, "test")
  with pytest.raises(UserError, match="has no list test.jsonl or test.tsv of the split 'test'"):
    opened(tmp_path, "test")
  with pytest.raises(UserError, match="there is no folder or file .*nowhere"):
    opened(tmp_path / "nowhere")
  with pytest.raises(UserError, match="is no list of captions: it is .jsonl or .tsv"):
    opened(tmp_path / "0.png")
  with pytest.raises(UserError, match="there is no merges file"):
    opened(path, tokenizer="merges.txt")
  (tmp_path / "2.png").write_bytes(b"no picture")
  with pytest.raises(UserError, match="2.png"):
    opened(path)
  for text, said in (
    ('{"file": "9.png", "caption": "a"}', "names 1 pictures that are not there, the first is .*9.png"),
    ('{"file": "a.png", "caption": "\\ud800"}', 'line 1 of .*train.jsonl is no {"file": .., "caption": ..}'),
    ('{"caption": "a"}', 'line 1 of .*train.jsonl is no {"file": .., "caption": ..}'),
    ("[1, 2]", "line 1 of .*train.jsonl is no"),
    ('{"file": "0.png", "caption": 3}', "line 1 of .* are texts, and one of these is not"),
    ('{"file": "0.png"}', "no picture with a caption in its split 'train'"),
  ):
    path.write_text(text)
    with pytest.raises(UserError, match=said):
      opened(path)


def small_emoji(folder: pathlib.Path) -> pathlib.Path:
  """Six emoji in three styles, a colour each; transparent at the left."""
  names = ["cat", "dog", "red heart", "blue heart", "sun", "moon"]
  images = np.zeros((18, 8, 8, 4), np.uint8)
  images[..., 3] = 255
  images[:, :, :2, 3] = 0
  for i in range(18):
    images[i, ..., :3] = 40 * (i % 6), 255 - 40 * (i % 6), 10 * (i // 6)
  of_names = lambda values: np.array([values[i % 6] for i in range(18)])
  path = folder / "emoji.npz"
  np.savez(
    path,
    images=images,
    names=of_names(names),
    styles=np.repeat(["noto", "emojitwo", "blob"], 6),
    groups=of_names(["Animals"] * 2 + ["Symbols"] * 2 + ["Sky"] * 2),
    subgroups=of_names(["pets", "pets", "heart", "heart", "sky", "sky"]),
  )
  return path


def test_emoji_are_split_by_style(tmp_path):
  data = captioned.emoji(small_emoji(tmp_path), side=8, length=16, vocabulary=270, labels="groups", classes=3)
  train, test = data.source("train"), data.source("test")
  assert (len(train), len(test)) == (12, 6)
  assert test.about.classes == ("Animals", "Sky", "Symbols")
  np.testing.assert_array_equal(test.arrays["label"], [0, 0, 2, 2, 1, 1])
  np.testing.assert_array_equal(test.arrays["image"][0, :, :2], 255)  # what is transparent is white
  np.testing.assert_array_equal(test.arrays["image"][1, :, 2:], np.broadcast_to([40, 215, 20], (8, 6, 3)))
  texts = captioned.class_texts(data)
  assert [name for _, name in texts] == ["Animals", "Sky", "Symbols"]
  np.testing.assert_array_equal(texts[0][0], test.arrays["tokens"][:2])
  with pytest.raises(UserError, match="is not emoji:LABELS.*:SIZE:FILE, with LABELS one of groups"):
    captioned.emoji(tmp_path / "emoji.npz", labels="colours").source("train")
  with pytest.raises(UserError, match="there is no file .*other.npz of emoji"):
    captioned.emoji(tmp_path / "other.npz").source("train")
  with pytest.raises(UserError, match="first and last token take 2, and a row has 1"):
    captioned.emoji(tmp_path / "emoji.npz", side=8, length=1, vocabulary=270).source("train")
  (tmp_path / "cut.npz").write_bytes((tmp_path / "emoji.npz").read_bytes()[:300])
  with pytest.raises(UserError, match="cut.npz is no .npz with images, names"):
    captioned.emoji(tmp_path / "cut.npz").source("train")
  with np.load(tmp_path / "emoji.npz") as arrays:
    good = dict(arrays)
  for i, wrong in enumerate(({"images": good["images"][..., :3]}, {"names": good["names"][:5]})):
    np.savez(tmp_path / f"wrong_{i}.npz", **good | wrong)
    with pytest.raises(UserError, match=rf"wrong_{i}.npz has no images uint8 \[N, S, S, 4\] with N names"):
      captioned.emoji(tmp_path / f"wrong_{i}.npz").source("train")


def test_some_emoji_of_one_style_and_a_word_before_their_names(tmp_path):
  file, small = small_emoji(tmp_path), dict(side=8, length=16, vocabulary=270, labels="names", classes=6)
  data = captioned.emoji(file, style="noto", count=3, last=(captioned.marked(270),), **small)
  train, test = data.source("train"), data.source("test")
  np.testing.assert_array_equal(train.arrays["image"][:, 0, 7, 0], [0, 80, 200])  # of 0 .. 5: 0, 2 and 5
  np.testing.assert_array_equal(test.arrays["image"][:, 0, 7, 0], [40, 120, 160])
  raw = train.gather(np.arange(3))
  tokens = np.asarray(data.transform(jax.random.key(0), raw, train=False)["tokens"])
  for old, new in zip(raw["tokens"], tokens, strict=True):
    kept = [token for token in old.tolist() if token]
    assert new.tolist() == [1, 270, *kept[1:]] + [0] * (15 - len(kept))
  full = captioned.marked(9)(jax.random.key(0), {"tokens": jnp.asarray([[1, 4, 5, 2]])})["tokens"]
  assert full.tolist() == [[1, 9, 4, captioned.END]]
  assert captioned.empty(4).tolist() == [1, 2, 0, 0]
  for options, sentence in (
    (dict(style="blobs"), "no emoji of the style 'blobs', only of blob, emojitwo, noto"),
    (dict(style="blob", count=7), "the style has 6 emoji, and 7 are asked for"),
  ):
    with pytest.raises(UserError, match=sentence):
      captioned.emoji(file, **options, **small).source("train")
  with pytest.raises(UserError, match="all emoji of the style are in the split train"):
    captioned.emoji(file, style="blob", **small).source("test")


def test_a_subject_with_samples_of_its_class_beside_it(tmp_path):
  pictures = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 4, 3), np.uint8)
  tokens = np.arange(24, dtype=np.int32).reshape(2, 3, 4) % 9
  arrays = dict(image=pictures[0], prior_image=pictures[1], tokens=tokens[0], prior_tokens=tokens[1])
  np.savez(tmp_path / "subject.npz", **arrays)
  data = captioned.with_prior(tmp_path / "subject.npz", side=4, length=4, vocabulary=9)
  assert data.spec.feature == "image"
  batch = data.transform(jax.random.key(0), data.source("train").gather(np.array([2, 0])), train=True)
  for name in ("image", "prior_image"):
    np.testing.assert_allclose(batch[name], arrays[name][[2, 0]] / 127.5 - 1, atol=1e-6)
  np.testing.assert_array_equal(batch["prior_tokens"], tokens[1][[2, 0]])


SHARED = pathlib.Path(os.environ.get("JAXGEN_EMOJI", "../shared/data/emoji/emoji_32.npz"))


@pytest.mark.skipif(not SHARED.is_file(), reason=f"there is no {SHARED}")
def test_the_set_of_emoji():
  data = captioned.emoji(SHARED)
  assert (len(data.source("train")), len(data.source("test"))) == (3_655 + 1_770, 2_710)
  assert len(emoji_source.classes_of(data.name)) == 99
