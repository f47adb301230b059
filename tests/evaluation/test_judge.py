"""The judge of samples: how well it sees, and that its cache can be trusted."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from jaxgen.core.errors import UserError
from jaxgen.data import digits, images, real
from jaxgen.data.transforms import flip, scale
from jaxgen.engine.config import load_config
from jaxgen.engine.folder import Folder
from jaxgen.engine.run import Run
from jaxgen.evaluation import judge
from jaxgen.evaluation.frechet import frechet_distance
from jaxgen.nn.vision.convnet import ConvNet

SMALL = judge.Recipe(channels=(4,), features=8, steps=3, batch_size=16, dropout=0.0)


def all_images(split):
  return np.concatenate(list(real.images(digits(), split)))


@pytest.fixture(scope="module")
def trained():
  return judge.trained_on(digits())


@pytest.fixture
def cache(tmp_path, monkeypatch):
  monkeypatch.setenv("JAXGEN_CACHE", str(tmp_path / "cache"))
  return tmp_path / "cache"


@pytest.fixture
def trainings(monkeypatch):
  """Counts the trainings."""
  calls, train = [], judge._train
  monkeypatch.setattr(judge, "_train", lambda *args: calls.append(args) or train(*args))
  return calls


def test_its_features_tell_the_digits_apart(trained):
  """Another library's linear classifier on the features alone is right on at least 97% of the test digits."""
  labels = {split: digits().source(split).arrays["label"] for split in ("train", "test")}
  train, test = trained.features(all_images("train")), trained.features(all_images("test"))
  assert train.shape == (1437, 64)
  assert train.dtype == np.float64
  assert LogisticRegression(max_iter=1000).fit(train, labels["train"]).score(test, labels["test"]) >= 0.97
  assert np.mean(train.max(0) > 0) > 0.7  # most of its units are alive


def test_distances_order_what_a_human_would_order(trained):
  rng = np.random.default_rng(0)
  train, test = all_images("train"), trained.features(all_images("test"))
  noisy = lambda sigma: np.clip(train + sigma * rng.normal(size=train.shape), -1, 1).astype(np.float32)
  d = lambda x: frechet_distance(trained.features(x), test)
  floor = d(train)
  assert floor < d(noisy(0.3)) < d(noisy(0.6)) < d(noisy(1.2))
  assert d(noisy(0.6)) > 1.5 * floor
  assert d(train[:30].repeat(48, 0)) > 2 * floor  # few, repeated: no diversity
  assert d(train[::-1, ::-1]) > 5 * floor  # upside down
  one_digit = digits().source("train").arrays["label"] == 3
  assert d(train[one_digit]) > 5 * floor


def test_features_do_not_depend_on_how_many_are_asked_for(trained):
  x = all_images("test")[:300]
  together = trained.features(x)
  np.testing.assert_array_equal(trained.features(x[:1]), together[:1])
  np.testing.assert_array_equal(trained.features(x[290:]), together[290:])


def test_training_is_deterministic_and_the_cache_is_used(cache, trainings, monkeypatch):
  x = all_images("test")[:9]
  first = judge.trained_on(digits(), SMALL).features(x)
  np.testing.assert_array_equal(judge.trained_on(digits(), SMALL).features(x), first)
  assert len(trainings) == 1
  monkeypatch.setenv("JAXGEN_CACHE", str(cache / "other"))
  np.testing.assert_array_equal(judge.trained_on(digits(), SMALL).features(x), first)
  assert len(trainings) == 2


def test_whatever_the_weights_come_from_is_in_the_name():
  names = [
    judge._content(digits(), SMALL),
    judge._content(digits(), SMALL._replace(seed=1)),
    judge._content(digits(augment=(flip(),)), SMALL),
    judge._content(digits(transforms=(scale(16),)), SMALL),
  ]
  assert len(set(names)) == len(names)
  assert judge._content(digits(), SMALL) == names[0]


def test_other_training_data_gives_another_judge(tmp_path):
  arrays = {k: v.copy() for k, v in digits().source("train").arrays.items()}

  def name(file):
    np.savez(tmp_path / file, **arrays)
    data = images(f"npz:{tmp_path / file}", (8, 8, 1), levels=17, classes=10)
    return judge._content(data, SMALL)

  before, again = name("a.npz"), name("b.npz")
  arrays["label"][100] = (arrays["label"][100] + 1) % 10
  relabelled = name("c.npz")
  arrays["image"][1436, 7, 7, 0] ^= 1
  assert before == again
  assert len({before, relabelled, name("d.npz")}) == 3


def damages():
  yield "empty", lambda b: b""
  yield "truncated", lambda b: b[: len(b) // 2]
  yield "without its end", lambda b: b[:-30]
  yield "text", lambda b: b"not an archive"
  for part in (0.1, 0.3, 0.5, 0.7):
    at = lambda b, part=part: int(len(b) * part)
    yield f"flipped at {part}", lambda b, at=at: b[: at(b)] + bytes([b[at(b)] ^ 4]) + b[at(b) + 1 :]


@pytest.mark.parametrize("damage", [pytest.param(d, id=name) for name, d in damages()])
def test_a_damaged_file_is_trained_again(cache, monkeypatch, damage):
  network = ConvNet(10, SMALL.channels, SMALL.features)
  params = jax.tree.map(np.asarray, network.init(jax.random.key(3), jnp.zeros((1, 8, 8, 1)))["params"])
  calls = []
  monkeypatch.setattr(judge, "_train", lambda *args: calls.append(args) or params)
  x = all_images("test")[:5]
  expected = judge.trained_on(digits(), SMALL).features(x)
  (file,) = cache.glob("*.npz")
  whole = file.read_bytes()
  file.write_bytes(damage(whole))
  np.testing.assert_array_equal(judge.trained_on(digits(), SMALL).features(x), expected)
  assert len(calls) == 2
  np.testing.assert_array_equal(judge.trained_on(digits(), SMALL).features(x), expected)
  assert len(calls) == 2
  assert [f.name for f in cache.iterdir()] == [file.name]


def test_a_file_of_another_network_or_with_pickles_is_not_used(cache):
  like = {"out": {"kernel": jax.ShapeDtypeStruct((3, 2), np.float32)}}
  good = {"out": {"kernel": np.ones((3, 2), np.float32)}}
  judge._save(cache / "a.npz", good)
  np.testing.assert_array_equal(judge._load(cache / "a.npz", like)["out"]["kernel"], good["out"]["kernel"])
  for bad in (np.ones((2, 3), np.float32), np.ones((3, 2)), np.full((3, 2), {"any": "object"})):
    judge._save(cache / "a.npz", {"out": {"kernel": bad}})
    assert judge._load(cache / "a.npz", like) is None
  judge._save(cache / "a.npz", {**good, "more": np.ones(1)})
  assert judge._load(cache / "a.npz", like) is None
  assert judge._load(cache / "missing.npz", like) is None


def test_writers_at_once_leave_a_whole_file(cache):
  params = {f"layer_{i}": np.full((200, 200), i, np.float32) for i in range(5)}
  like = jax.eval_shape(lambda: params)
  judge._save(cache / "a.npz", params)
  writers = [
    threading.Thread(target=lambda: [judge._save(cache / "a.npz", params) for _ in range(10)]) for _ in range(4)
  ]
  for writer in writers:
    writer.start()
  reads = 0
  while any(writer.is_alive() for writer in writers):
    found = judge._load(cache / "a.npz", like)
    assert found is not None
    reads += 1
  assert reads > 3
  assert [f.name for f in cache.iterdir()] == ["a.npz"]


def test_a_cache_that_cannot_be_written_costs_time_only(tmp_path, trainings, monkeypatch):
  (tmp_path / "file").write_text("in the way")
  monkeypatch.setenv("JAXGEN_CACHE", str(tmp_path / "file" / "cache"))
  assert judge.trained_on(digits(), SMALL).features(all_images("test")[:2]).shape == (2, 8)
  assert len(trainings) == 1


def test_float64(x64, cache):
  assert judge.trained_on(digits(), SMALL).features(all_images("test")[:2]).dtype == np.float64


def test_data_without_labels(tmp_path):
  np.savez(tmp_path / "x.npz", train_image=np.zeros((4, 8, 8, 1), np.uint8))
  with pytest.raises(UserError, match="no labels"):
    judge.trained_on(images(f"npz:{tmp_path / 'x.npz'}", (8, 8, 1)))


CLASSIFIER = '''"""A small classifier."""
import optax
from jaxgen import Experiment, data
from jaxgen.core.wrappers import averaged
from jaxgen.methods.supervised.classifier import classifier
from jaxgen.nn import ConvNet

def experiment(steps: int = 4, ema: float | None = None) -> Experiment:
  digits = data.digits()
  method = averaged(classifier(ConvNet(10, (4,), 8), spec=digits.spec, optimizer=optax.adam(1e-2)), ema)
  return Experiment(method=method, data=digits, steps=steps, batch_size=16, checkpoint_every=None)
'''


def train(folder, source, **arguments):
  from jaxgen.engine.loop import train as training
  from jaxgen.engine.progress import Progress

  path = folder / "small.py"
  path.write_text(source)
  run = Run(Folder(folder / "run"), load_config(path), arguments, 0)
  training(run, Progress(quiet=True))
  return run


def test_a_run_of_a_classifier_judges_with_its_averaged_weights(tmp_path):
  run = train(tmp_path, CLASSIFIER, ema=0.5)
  found = judge.of_run(tmp_path / "run")
  x = all_images("test")[:20]
  weights = run.state.ema
  expected = ConvNet(10, (4,), 8).apply(
    {"params": jax.device_get(weights["network"])}, jnp.asarray(x), method="features"
  )
  assert found.shape == (8, 8, 1)
  np.testing.assert_allclose(found.features(x), expected, rtol=1e-5, atol=1e-6)


def test_a_run_that_is_no_classifier_does_not(tmp_path):
  import tiny

  (tmp_path / "config.py").write_text(tiny.SOURCE)
  (tmp_path / "run.json").write_text('{"config": "tiny", "arguments": {}, "seed": 0}')
  with pytest.raises(UserError, match="a run of tiny, which cannot judge samples"):
    judge.of_run(tmp_path)


def test_no_run_at_all(tmp_path):
  with pytest.raises(UserError, match="not a run"):
    judge.of_run(tmp_path)
