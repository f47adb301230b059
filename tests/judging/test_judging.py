"""Judging of pictures: what is read, what is kept over a kill, the numbers' names, and bad input."""

import json

import numpy as np
import pytest
from PIL import Image

from jaxgen.core.errors import UserError
from jaxgen.evaluation import frechet, kernel, manifold, moments
from jaxgen.interop import files as weight_files
from jaxgen.judging import features as kept
from jaxgen.judging import judge, numbers, of_subject, open_space, spaces
from jaxgen.judging.pictures import Pictures
from jaxgen.judging.spaces import Space


def means(pictures):
  """Features without a network: each picture's mean and deviations, and some logits."""
  x = np.stack([[p.mean(), p.std(), p[: len(p) // 2].mean(), p[..., 0].std()] for p in pictures]).astype(np.float32)
  return {"features": x, "logits": x[:, :3] / 50, "spatial": x[:, :2]}


SPACE = Space("means", means, 4, "0" * 64, ("features", "logits", "spatial"))


def some(seed, n=60, name="some"):
  x = np.random.default_rng(seed).integers(0, 200 + 10 * seed, (n, 6, 5, 3)).astype(np.uint8)
  return Pictures(name, n, {"seed": seed, "n": n}, lambda first: iter(x[first:]))


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
  monkeypatch.setattr(kept, "CHUNK", 7)


def test_numbers_say_what_they_depend_on_and_are_those_of_the_formulas(tmp_path):
  a, b = some(1), some(3, 80, "train")
  metrics = ("fid", "sfid", "fid_infinity", "kid", "is", "prdc", "authentic", "cmmd")
  found = judge(a, b, SPACE, metrics, tmp_path)
  x, y = (means(list(p.read(0)))["features"] for p in (a, b))
  assert found["fid_60_means_train"] == pytest.approx(frechet.frechet_distance(x, y), rel=1e-9)
  assert found["fid_60_means_train_se"] > 0
  assert found["sfid_60_means_train"] == pytest.approx(frechet.frechet_distance(x[:, :2], y[:, :2]), rel=1e-9)
  assert (found["kid_60_means_train"], found["kid_60_means_train_se"]) == pytest.approx(kernel.kid(x, y), rel=1e-9)
  balls = manifold.manifold(x, y)
  for name in ("precision_k3", "recall_k3", "density_k5", "coverage_k5", "authentic"):
    assert found[f"{name}_60_means_train"] == pytest.approx(getattr(balls, name.split("_k")[0]).mean())
    assert f"{name}_60_means_train_se" in found
  assert found["inception_score_60_means"] > 1  # it is against nothing
  assert {"inception_score_60_means_split_std", "fid_infinity_60_means_train", "cmmd_60_means_train"} <= found.keys()
  # fewer samples than features: said in the name
  few = judge(some(1, 4), b, SPACE, ("fid",), tmp_path / "few")
  assert list(few) == ["fid_of_fewer_than_4_features_4_means_train"]


def test_what_a_kill_has_cut_short_goes_on_and_ends_with_the_same_bits(tmp_path):
  a, b, metrics = some(1), some(3, 80, "train"), ("fid", "prdc")
  whole = judge(a, b, SPACE, metrics, tmp_path / "whole", resume=False)
  calls = []

  def dying_after(limit):
    def killed(pictures):
      calls.append(len(pictures))
      if len(calls) == limit:
        raise KeyboardInterrupt
      return means(pictures)

    calls.clear()
    return SPACE._replace(features=killed)

  for limit in (9, 8):  # within the reference's twelve chunks, and then within the samples' nine
    dying = dying_after(limit)
    with pytest.raises(KeyboardInterrupt):
      judge(a, b, dying, metrics, tmp_path / "cut", resume=True)
  dying = dying_after(None)
  assert judge(a, b, dying, metrics, tmp_path / "cut", resume=True) == whole
  assert len(calls) == 6  # of the samples' nine, three of which were kept
  for file in sorted((tmp_path / "whole").rglob("features_*.npz")):
    with np.load(file) as one, np.load(tmp_path / "cut" / file.relative_to(tmp_path / "whole")) as other:
      np.testing.assert_array_equal(one["features"], other["features"])
  # a damaged chunk is computed again
  (tmp_path / "cut" / "samples" / "features_00000014.npz").write_bytes(b"PK\x03\x04")
  assert judge(a, b, dying, metrics, tmp_path / "cut", resume=True) == whole
  with pytest.raises(UserError, match="is of other pictures"):
    judge(some(2), b, SPACE, metrics, tmp_path / "cut", resume=True)
  assert judge(some(2), b, SPACE, metrics, tmp_path / "cut", resume=False) != whole


def test_a_file_of_statistics_stands_for_the_data(tmp_path):
  a, b = some(1), some(3, 80, "train")
  whole = judge(a, b, SPACE, ("fid",), tmp_path / "data")
  known = moments.of(means(list(b.read(0)))["features"])
  found = judge(a, ("ref", known), SPACE, ("fid",), tmp_path / "moments")
  assert found["fid_60_means_ref"] == pytest.approx(whole["fid_60_means_train"], rel=1e-9)
  with pytest.raises(UserError, match="kid compares with every real example"):
    judge(a, ("ref", known), SPACE, ("kid",), tmp_path)


def test_folders_and_files_are_read_as_other_programs_write_them(tmp_path):
  folder = tmp_path / "pictures"
  (folder / "sub").mkdir(parents=True)
  random = np.random.default_rng(0)
  grey, alpha = random.integers(0, 256, (9, 7), np.uint8), random.integers(0, 256, (17, 301, 4), np.uint8)
  Image.fromarray(grey).save(folder / "a.png")
  Image.fromarray(alpha).save(folder / "sub" / "b.png")
  Image.fromarray(alpha[..., :3]).convert("P").save(folder / "c.gif")
  found = of_subject(str(folder))
  x = list(found.read(0))
  assert (found.name, found.n, [p.shape for p in x]) == ("pictures", 3, [(9, 7, 1), (17, 301, 3), (17, 301, 3)])
  np.testing.assert_array_equal(x[0][..., 0], grey)
  np.testing.assert_array_equal(x[2], alpha[..., :3])  # as convert("RGB"): alpha is left out
  assert len(list(found.read(2))) == 1
  np.savez(tmp_path / "adm.npz", x_uint8 := random.integers(0, 256, (5, 8, 8, 3), np.uint8))
  np.testing.assert_array_equal(np.stack(list(of_subject(str(tmp_path / "adm.npz")).read(0))), x_uint8)
  np.savez(tmp_path / "ours.npz", samples=x_uint8.astype(np.float32) / 127.5 - 1)
  np.testing.assert_array_equal(np.stack(list(of_subject(str(tmp_path / "ours.npz")).read(2))), x_uint8[2:])
  digits = of_subject("digits", "test")
  assert (digits.name, digits.n) == ("digits_test", 360)
  assert next(digits.read(359)).shape == (8, 8, 1)


def test_bad_pictures_and_spaces_are_one_sentence(tmp_path, monkeypatch):
  monkeypatch.setenv("JAXGEN_WEIGHTS", str(tmp_path / "none"))
  (tmp_path / "empty").mkdir()
  np.savez(tmp_path / "flat.npz", samples=np.zeros((5, 8)))
  np.savez(tmp_path / "wide.npz", samples=np.full((5, 8, 8, 1), 200.0))
  np.savez(tmp_path / "other.npz", y=np.zeros(3))
  (tmp_path / "text.npz").write_text("no")
  Image.fromarray(np.zeros((4, 4), np.uint16)).save(tmp_path / "empty" / "deep.png")
  for subject, words in (
    (tmp_path / "none", "is no run, no folder, no .npz file, and no data set"),
    (tmp_path / "flat.npz", r"pictures are \[N, height, width, channels\]"),
    (tmp_path / "wide.npz", r"are in \[-1, 1\]"),
    (tmp_path / "other.npz", "has none of samples, arr_0"),
    (tmp_path / "text.npz", "cannot be read as a NumPy file"),
  ):
    with pytest.raises(UserError, match=words):
      of_subject(str(subject))
  with pytest.raises(UserError, match="more than 8 bits a channel"):
    list(of_subject(str(tmp_path / "empty")).read(0))
  with pytest.raises(
    UserError, match=r"inception.safetensors, which is no file: make it of pt_inception.*--space judge"
  ):
    open_space("inception_tf1")
  with pytest.raises(UserError, match="no --space 'vgg'"):
    open_space("vgg")
  weight_files.save(tmp_path / "w.npz", {"fc.weight": np.zeros((2, 2))})
  with pytest.raises(UserError, match="no tensor 'Conv2d_1a_3x3.conv.weight'"):
    open_space("inception_tf1", tmp_path / "w.npz")
  with pytest.raises(UserError, match="no metric 'fdd'"):
    numbers.check_metrics(["fdd"], SPACE)
  with pytest.raises(UserError, match="is needs a network's logits, and means has none"):
    numbers.check_metrics(["is"], SPACE._replace(gives=("features",)))
  with pytest.raises(UserError, match="fid_infinity fits a line"):
    judge(some(1, 10), some(2), SPACE, ("fid_infinity",), tmp_path / "f")
  with pytest.raises(UserError, match="2 pictures or more"):
    judge(some(1, 1), some(2), SPACE, ("fid",), tmp_path / "one")
  with pytest.raises(UserError, match=r"prdc of 5 samples of some against some: the 5th neighbours need more than 5"):
    judge(some(1, 5), some(2), SPACE, ("prdc",), tmp_path / "five")
  broken = SPACE._replace(features=lambda p: {"features": np.full((len(p), 4), np.nan, np.float32)})
  with pytest.raises(UserError, match="are not finite: are these its weights"):
    judge(some(1), some(2), broken, ("fid",), tmp_path / "g")


def test_a_published_network_is_a_space_with_its_weights(tmp_path, monkeypatch):
  """DINOv2 in small: the file's network, the filter and the normalisation that the space's name stands for."""
  import jax
  import jax.numpy as jnp

  from jaxgen.evaluation.resizing import resize
  from jaxgen.interop import dinov2, layout
  from jaxgen.nn.vision.vit import ViT

  module = ViT(14, 24, 2, 3, layer_scale=1.0)
  monkeypatch.setitem(spaces.NETWORKS, "dinov2", spaces.NETWORKS["dinov2"]._replace(module=module, size=42))
  variables = module.init(jax.random.key(0), jnp.zeros((1, 42, 42, 3)), method="tokens")
  weight_files.save(tmp_path / "w.safetensors", layout.write(dinov2.hub(module), variables))
  space = open_space("dinov2_antialias", tmp_path / "w.safetensors")
  assert (space.width, space.gives) == (24, ("features",))
  pictures = [np.random.default_rng(i).integers(0, 256, (17 + i, 30, 1 + 2 * (i % 2)), np.uint8) for i in range(19)]
  mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
  x = np.stack([resize(np.broadcast_to(p, (*p.shape[:2], 3)), (42, 42), "antialias_bicubic") for p in pictures])
  expected = module.apply(variables, jnp.asarray((x / 255 - mean) / deviation, np.float32), method="features")
  np.testing.assert_allclose(space.features(pictures)["features"], expected, rtol=0, atol=1e-5)
  other = open_space("dinov2_tf1", tmp_path / "w.safetensors")
  assert other.content == space.content
  assert np.abs(other.features(pictures)["features"] - expected).max() > 1e-3
  with pytest.raises(UserError, match="dinov2_vitl14_pretrain.pth of https"):
    open_space("dinov2_tf1", tmp_path / "none.npz")


def test_the_trained_judge_is_a_space_of_its_own(monkeypatch, tmp_path):
  """On digits: training examples against the test split come closer than noise does."""
  from jaxgen.data import digits
  from jaxgen.data.own import own
  from jaxgen.evaluation import judge as judges
  from jaxgen.judging import of_data

  monkeypatch.setenv("JAXGEN_CACHE", str(tmp_path))
  small = judges.Recipe(channels=(4,), features=8, steps=20, batch_size=64, dropout=0.0)
  trained_on = judges.trained_on
  monkeypatch.setattr(judges, "trained_on", lambda data: trained_on(data, small))
  space = spaces.trained_space(own("digits", labelled=True))
  test, train = of_data(digits(), "test"), of_data(digits(), "train").first(300)
  near = judge(train, test, space, ("fid",), tmp_path / "near")["fid_300_judge_test"]
  noise = np.random.default_rng(0).integers(0, 256, (300, 8, 8, 1), np.uint8)
  far = judge(Pictures("noise", 300, {}, lambda first: iter(noise[first:])), test, space, ("fid",), tmp_path / "far")
  assert far["fid_300_judge_test"] > 10 * near
  with pytest.raises(UserError, match=r"takes pictures \[8, 8, 1\], and one is \[6, 5, 3\]"):
    space.features(list(some(1, 3).read(0)))
  assert json.dumps(train.about)
