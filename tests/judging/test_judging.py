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
  with pytest.raises(UserError, match="was computed with other pictures"):
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


def test_pictures_of_the_same_name_and_size_are_told_apart(tmp_path):
  """Uncompressed files of equal shapes have equal sizes: features kept of one must not stand for another."""
  x = np.random.default_rng(0).integers(0, 256, (2, 5, 8, 8, 3), np.uint8)
  for name, pictures in zip(("a", "b"), x, strict=True):
    (tmp_path / name / "photos").mkdir(parents=True)
    np.savez(tmp_path / name / "samples.npz", pictures)
    for i, picture in enumerate(pictures):
      Image.fromarray(picture).save(tmp_path / name / "photos" / f"{i}.bmp")
  for file in ("samples.npz", "photos"):
    one, other = (of_subject(str(tmp_path / name / file)) for name in "ab")
    assert (one.name, one.n) == (other.name, other.n)
    assert one.about != other.about
    assert of_subject(str(tmp_path / "a" / file)).about == one.about
    judge(one, some(2), SPACE, ("fid",), tmp_path / f"kept_{file}")
    with pytest.raises(UserError, match="was computed with other pictures"):
      judge(other, some(2), SPACE, ("fid",), tmp_path / f"kept_{file}", resume=True)
  before = of_subject(str(tmp_path / "a" / "samples.npz")).about
  np.savez(tmp_path / "a" / "samples.npz", x[1])  # drawn anew
  assert of_subject(str(tmp_path / "a" / "samples.npz")).about != before
  (tmp_path / "a" / "photos" / "samples.json").write_text(json.dumps({"n": 9, "format": "images"}))
  with pytest.raises(UserError, match="has 5 of 9 samples"):
    of_subject(str(tmp_path / "a" / "photos"))


def test_statistics_from_the_command_line(tmp_path, monkeypatch, capsys):
  """What `jaxgen statistics` writes is what the data's features say, and stands for the data in `jaxgen evaluate`."""
  from jaxgen.cli import evaluate as evaluation
  from jaxgen.cli import statistics as command

  for module in (command, evaluation):
    monkeypatch.setattr(module, "open_space", lambda name, weights: SPACE._replace(name=name))
  monkeypatch.setenv("JAXGEN_CACHE", str(tmp_path / "cache"))
  x = np.random.default_rng(0).integers(0, 256, (30, 8, 8, 3), np.uint8)
  np.savez(tmp_path / "data.npz", x)
  np.savez(tmp_path / "drawn.npz", x[:20] // 2)
  command.statistics(str(tmp_path / "data.npz"), ["--out", str(tmp_path / "ref.npz")])
  assert "4 features of 30 pictures" in capsys.readouterr().out
  features = means(list(x))["features"].astype(np.float64)
  with np.load(tmp_path / "ref.npz") as found:
    np.testing.assert_allclose(found["mu"], features.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found["sigma"], np.cov(features, rowvar=False), rtol=1e-9)
  numbers = []
  for against in ("ref.npz", "data.npz"):
    out = tmp_path / "numbers.json"
    words = ["--metrics", "fid", "--against", str(tmp_path / against), "--out", str(out)]
    evaluation.evaluate(str(tmp_path / "drawn.npz"), words)
    found = json.loads(out.read_text())
    numbers.append(found[f"fid_20_inception_tf1_{against.removesuffix('.npz')}"])
  assert numbers[0] == pytest.approx(numbers[1], rel=1e-9)
  with pytest.raises(UserError, match="statistics need the features of a published network"):
    command.statistics(str(tmp_path / "data.npz"), ["--space", "judge", "--out", str(tmp_path / "ref.npz")])


def test_bad_pictures_and_spaces_are_one_sentence(tmp_path, monkeypatch):
  monkeypatch.setenv("JAXGEN_WEIGHTS", str(tmp_path / "none"))
  (tmp_path / "empty").mkdir()
  np.savez(tmp_path / "flat.npz", samples=np.zeros((5, 8)))
  np.savez(tmp_path / "wide.npz", samples=np.full((5, 8, 8, 1), 200.0))
  np.savez(tmp_path / "other.npz", y=np.zeros(3))
  (tmp_path / "text.npz").write_text("no")
  with open(tmp_path / "array.npz", "wb") as file:
    np.save(file, np.zeros(3))
  (tmp_path / "cut.npz").write_bytes((tmp_path / "wide.npz").read_bytes()[:200])
  Image.fromarray(np.zeros((4, 4), np.uint16)).save(tmp_path / "empty" / "deep.png")
  for subject, words in (
    (tmp_path / "none", "is not a run, a folder, an .npz file or a data set"),
    (tmp_path / "flat.npz", r"pictures are \[N, height, width, channels\]"),
    (tmp_path / "wide.npz", r"are in \[-1, 1\]"),
    (tmp_path / "other.npz", "has none of samples, arr_0"),
    (tmp_path / "text.npz", "cannot be read as a NumPy file"),
    (tmp_path / "array.npz", "cannot be read as a NumPy file"),
    (tmp_path / "cut.npz", "cannot be read as a NumPy file"),
  ):
    with pytest.raises(UserError, match=words):
      of_subject(str(subject))
  for name in ("text.npz", "array.npz", "cut.npz"):
    assert moments.is_statistics(tmp_path / name)  # `read` says what is wrong
    with pytest.raises(UserError, match="cannot be read as statistics"):
      moments.read(tmp_path / name)
  with pytest.raises(UserError, match="more than 8 bits a channel"):
    list(of_subject(str(tmp_path / "empty")).read(0))
  with pytest.raises(
    UserError, match=r"inception.safetensors, which is not a file: make it from pt_inception.*--space judge"
  ):
    open_space("inception_tf1")
  with pytest.raises(UserError, match="no --space 'vgg'"):
    open_space("vgg")
  weight_files.save(tmp_path / "w.npz", {"fc.weight": np.zeros((2, 2))})
  with pytest.raises(UserError, match="no tensor 'Conv2d_1a_3x3.conv.weight'"):
    open_space("inception_tf1", tmp_path / "w.npz")
  with pytest.raises(UserError, match="no metric 'fdd'"):
    numbers.check_names(["fdd"])
  with pytest.raises(UserError, match="is needs a network's logits, and means has none"):
    numbers.check_metrics(["is"], SPACE._replace(gives=("features",)), some(1), some(2))
  for name, words, samples, reference in (
    ("fid_infinity", "fits a line to distances of few and many, and needs 40 pictures or more: some has 39", 39, 60),
    ("fid", "compares distributions, and needs 2 pictures or more: some has 1", 1, 60),
    ("prdc", "uses 5th neighbours, and needs 6 pictures or more: some has 5", 5, 60),
    ("authentic", "uses 5th neighbours, and needs 6 pictures or more: real has 5", 60, 5),
  ):
    with pytest.raises(UserError, match=f"{name} {words}"):
      judge(some(1, samples), some(2, reference, "real"), SPACE, (name,), tmp_path / "few")
    assert not (tmp_path / "few").exists()  # before any feature is computed
    enough = judge(some(1, samples + 1), some(2, reference + 1, "real"), SPACE, (name,), tmp_path / name)
    assert np.isfinite(list(enough.values())).all()
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


def test_one_device_and_eight_give_the_same_features(monkeypatch):
  import jax
  import jax.numpy as jnp

  weight = np.random.default_rng(0).normal(size=(75, 9)).astype(np.float32)
  outputs = lambda w, x: {"features": jnp.tanh(x.reshape(len(x), -1) @ w / 2000)}
  x = np.random.default_rng(1).integers(0, 256, (37, 5, 5, 3)).astype(np.float32)  # no multiple of a batch
  devices = jax.local_devices()
  assert len(devices) == 8
  many = spaces._spread(outputs, weight)(x)["features"]
  monkeypatch.setattr(jax, "local_devices", lambda: devices[:1])
  one = spaces._spread(outputs, weight)(x)["features"]
  np.testing.assert_allclose(many, one, rtol=0, atol=1e-6)
  np.testing.assert_allclose(one, np.tanh(x.reshape(37, -1) @ weight / 2000), rtol=0, atol=1e-5)


def test_clip_is_a_space_of_features_of_length_1(tmp_path, monkeypatch):
  import jax
  import jax.numpy as jnp

  from jaxgen.evaluation.resizing import resize
  from jaxgen.interop import dual, layout
  from jaxgen.nn.joint.dual import MEAN, STD, Size, clip

  module = clip(Size(12, dict(patch=14, width=24, depth=2, heads=3), (16, 2, 1)), vocabulary=11, context=5)
  monkeypatch.setitem(spaces.NETWORKS, "clip", spaces.NETWORKS["clip"]._replace(module=module, size=42))
  variables = module.init(jax.random.key(0), jnp.zeros((1, 42, 42, 3)), jnp.zeros((1, 5), jnp.int32))
  pictures = [np.random.default_rng(i).integers(0, 256, (17 + i, 30, 3), np.uint8) for i in range(3)]
  x = np.stack([resize(p, (42, 42), "pil_bicubic") for p in pictures]) / 255
  expected = module.apply(variables, jnp.asarray((x - MEAN) / STD, np.float32), method="of_pictures")
  for entries in (dual.transformers(module), dual.openai(module)):
    weight_files.save(tmp_path / "w.safetensors", layout.write(entries, variables))
    space = open_space("clip_336", tmp_path / "w.safetensors")
    found = space.features(pictures)["features"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)


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
  with pytest.raises(UserError, match="judge trains a classifier on labels, and digits has none"):
    spaces.trained_space(own("digits"))
  assert json.dumps(train.about)
