"""Weights in and out of runs, on files that the test makes in the published layouts."""

import io
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import jaxgen
from jaxgen import cli
from jaxgen.core.errors import UserError
from jaxgen.core.files import place
from jaxgen.engine.config import load_config
from jaxgen.engine.folder import Folder
from jaxgen.engine.hashing import state_hash
from jaxgen.engine.run import Run
from jaxgen.interop import files
from jaxgen.interop.runs import export_weights, frozen, import_weights

CONFIG = '''"""A tiny Vision Transformer for tests."""

import optax
from jaxgen import Experiment, data
from jaxgen.interop import vit as weights
from jaxgen.core.wrappers import averaged
from jaxgen.methods.supervised.classifier import classifier
from jaxgen.evaluation.evaluators import accuracy
from jaxgen.nn.vision.vit import ViT


def experiment(steps: int = 2, patch: int = 4, width: int = 8, classes: int = 10, ema=None):
  network = ViT(patch, width, 2, 2, classes=classes)
  digits = data.digits()
  return Experiment(
    method=averaged(classifier(network, spec=digits.spec._replace(classes=classes), optimizer=optax.sgd(0.1)), ema),
    data=digits,
    steps=steps,
    batch_size=16,
    evaluators=(accuracy(),),
    layouts={"timm": weights.timm(network), "transformers": weights.transformers(network)},
  )
'''


@pytest.fixture
def config(tmp_path):
  path = tmp_path / "tiny_vit.py"
  path.write_text(CONFIG)
  return load_config(path)


def run_of(config, folder, name="run", **arguments):
  return Run(Folder(folder / name), config, arguments, 0)


def published(width=8, tokens=5, classes=10, patch=4, seed=0):
  """A file's tensors as timm names and shapes them, written down by hand from its model."""
  rng = np.random.default_rng(seed)
  shapes = {
    "cls_token": (1, 1, width),
    "pos_embed": (1, tokens, width),
    "patch_embed.proj.weight": (width, 1, patch, patch),
    "patch_embed.proj.bias": (width,),
    "norm.weight": (width,),
    "norm.bias": (width,),
    "head.weight": (classes, width),
    "head.bias": (classes,),
  }
  for i in range(2):
    shapes |= {
      f"blocks.{i}.norm1.weight": (width,),
      f"blocks.{i}.norm1.bias": (width,),
      f"blocks.{i}.attn.qkv.weight": (3 * width, width),
      f"blocks.{i}.attn.qkv.bias": (3 * width,),
      f"blocks.{i}.attn.proj.weight": (width, width),
      f"blocks.{i}.attn.proj.bias": (width,),
      f"blocks.{i}.norm2.weight": (width,),
      f"blocks.{i}.norm2.bias": (width,),
      f"blocks.{i}.mlp.fc1.weight": (4 * width, width),
      f"blocks.{i}.mlp.fc1.bias": (4 * width,),
      f"blocks.{i}.mlp.fc2.weight": (width, 4 * width),
      f"blocks.{i}.mlp.fc2.bias": (width,),
    }
  return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
@pytest.mark.parametrize("ema", [None, 0.9])
def test_in_and_out_again_is_the_same_file(config, tmp_path, suffix, ema):
  tensors = published()
  files.save(tmp_path / f"in{suffix}", tensors)
  run = run_of(config, tmp_path, ema=ema)
  count = import_weights(run, tmp_path / f"in{suffix}")
  assert count == sum(x.size for x in tensors.values())
  loaded = jaxgen.load(tmp_path / "run")
  assert loaded.step == 0
  export_weights(loaded, tmp_path / f"out{suffix}", "timm")
  out = files.load(tmp_path / f"out{suffix}")
  assert out.keys() == tensors.keys()
  for name, x in tensors.items():
    np.testing.assert_array_equal(out[name], x)
  # Through the other layout, whose query, key and value are apart, and back.
  export_weights(loaded, tmp_path / f"other{suffix}", "transformers")
  other = run_of(config, tmp_path, "other", ema=ema)
  import_weights(other, tmp_path / f"other{suffix}")
  assert state_hash(jaxgen.load(tmp_path / "other").state) == state_hash(loaded.state)


def test_the_command_line_imports_trains_on_and_exports(config, tmp_path, capsys):
  def jaxgen_command(*words):
    with pytest.raises(SystemExit) as end:
      cli.main([str(word) for word in words])
    printed = capsys.readouterr()
    assert not end.value.code, printed.err
    return printed.out

  tensors, runs = published(), ("--runs", tmp_path / "runs", "--name", "run")
  save_file(tensors, tmp_path / "in.safetensors")
  assert "step 0" in jaxgen_command("import", tmp_path / "in.safetensors", config.path, *runs, "--layout", "timm")
  assert f"starting {tmp_path / 'runs' / 'run'} at step 0\n" in jaxgen_command("train", config.path, *runs)
  jaxgen_command("export", tmp_path / "runs" / "run", tmp_path / "out.safetensors", "--layout", "timm")
  out = load_file(tmp_path / "out.safetensors")
  for name, x in tensors.items():  # two steps of gradient descent away, and no further
    assert 0 < np.abs(out[name] - x).max() < 1 or name.endswith("qkv.bias"), name


def test_averages_are_what_is_written(config, tmp_path):
  run = run_of(config, tmp_path, ema=0.9)
  files.save(tmp_path / "in.npz", published())
  import_weights(run, tmp_path / "in.npz")
  run = jaxgen.load(tmp_path / "run")
  run.state = run.state.replace(params=jax.tree.map(lambda x: x + 1, run.state.params))
  export_weights(run, tmp_path / "average.npz", "timm")
  export_weights(run, tmp_path / "last.npz", "timm", average=False)
  average, last = files.load(tmp_path / "average.npz"), files.load(tmp_path / "last.npz")
  np.testing.assert_allclose(last["head.bias"], average["head.bias"] + 1, rtol=1e-6)


def test_every_average_of_the_network_starts_from_the_file(config, tmp_path):
  files.save(tmp_path / "in.npz", published())
  import_weights(run_of(config, tmp_path, ema={"network": 0.9, "network/target": 0.5}), tmp_path / "in.npz")
  state = jaxgen.load(tmp_path / "run").state
  for name in ("network", "network/target"):
    jax.tree.map(np.testing.assert_array_equal, state.averaged(name), state.params["network"])


def test_a_frozen_network_is_the_average_of_a_run(config, tmp_path):
  source = frozen(tmp_path / "run")  # which need not be there before it is read
  assert str(tmp_path / "run") in source.source
  with pytest.raises(UserError, match="run"):
    source.load()
  tensors = published()
  files.save(tmp_path / "in.npz", tensors)
  import_weights(run_of(config, tmp_path, ema=0.9), tmp_path / "in.npz")
  variables = source.load()
  assert all(isinstance(x, np.ndarray) for x in jax.tree.leaves(variables))
  assert set(variables) == {"params"}
  np.testing.assert_array_equal(variables["params"]["head"]["kernel"], tensors["head.weight"].T)


def test_a_fresh_head_for_other_classes(config, tmp_path):
  tensors = published(classes=7)
  files.save(tmp_path / "in.npz", tensors)
  run = run_of(config, tmp_path)
  import_weights(run, tmp_path / "in.npz", fresh=["params/head"])
  params = jaxgen.load(tmp_path / "run").state.params["network"]
  np.testing.assert_array_equal(params["norm"]["scale"], tensors["norm.weight"])
  np.testing.assert_array_equal(params["head"]["kernel"], np.zeros((8, 10)))


def test_a_fresh_head_for_a_file_that_has_none(config, tmp_path):
  tensors = {name: x for name, x in published().items() if not name.startswith("head")}
  files.save(tmp_path / "in.npz", tensors)
  import_weights(run_of(config, tmp_path), tmp_path / "in.npz", fresh=["params/head"])
  params = jaxgen.load(tmp_path / "run").state.params["network"]
  np.testing.assert_array_equal(params["norm"]["scale"], tensors["norm.weight"])
  with pytest.raises(UserError, match=r"no tensor 'head.weight'"):
    import_weights(run_of(config, tmp_path, "other"), tmp_path / "in.npz")


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_files_of_half_precision(tmp_path, suffix):
  x = np.asarray(jnp.asarray([[1.5, -3.0]], jnp.bfloat16))
  files.save(tmp_path / f"in{suffix}", {"matrix": x, "number": np.float32(3)})
  out = files.load(tmp_path / f"in{suffix}")
  assert out["matrix"].dtype.name == ("float32" if suffix == ".npz" else "bfloat16")
  np.testing.assert_array_equal(out["matrix"].astype(np.float32), [[1.5, -3.0]])
  assert out["number"].shape == ()


def test_positions_of_another_resolution_are_resized(config, tmp_path):
  tensors = published(tokens=1 + 16)  # 4 x 4 patches; the config has 2 x 2
  files.save(tmp_path / "in.npz", tensors)
  import_weights(run_of(config, tmp_path), tmp_path / "in.npz")
  table = np.asarray(jaxgen.load(tmp_path / "run").state.params["network"]["positions"])
  np.testing.assert_array_equal(table[0], tensors["pos_embed"][0, 0])
  grid = tensors["pos_embed"][0, 1:].reshape(4, 4, 8)
  assert table.shape == (5, 8)
  np.testing.assert_allclose(table[1:].mean(0), grid.mean((0, 1)), atol=0.2)


def damaged(path):
  path.write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00nonsense")


def pickled(path):
  import pickle

  path.write_bytes(pickle.dumps({"head.weight": [1.0]}))


def zipped_pickle(path):
  import zipfile

  with zipfile.ZipFile(path, "w") as file:
    file.writestr("archive/data.pkl", b"\x80\x02.")


def bare_array(path):
  with open(path, "wb") as file:
    np.save(file, np.ones(3))


def cut(path):
  files.save(path, published())
  path.write_bytes(path.read_bytes()[:-100])


def object_array(path):
  np.savez(path, head=np.array([{"a": 1}], dtype=object))


@pytest.mark.parametrize(
  ("file", "make", "names"),
  [
    ("none.safetensors", lambda path: None, "is not a file"),
    ("damaged.safetensors", damaged, "cannot be read"),
    ("model.bin", pickled, "pickle"),
    ("model.pt", zipped_pickle, "pickle"),
    ("pickle.npz", pickled, "is a pickle"),
    ("array.npz", bare_array, "cannot be read as .npz: File is not a zip file"),
    ("cut.npz", cut, "cannot be read"),
    ("cut.safetensors", cut, "cannot be read"),
    ("model.npz", object_array, "cannot be read"),
    ("model.txt", lambda path: path.write_text("x"), ".txt"),
    ("missing.npz", lambda p: files.save(p, {k: x for k, x in published().items() if k != "norm.bias"}), "norm.bias"),
    ("more.npz", lambda p: files.save(p, published() | {"norm_pre.bias": np.ones(3)}), "norm_pre.bias"),
    ("wide.npz", lambda p: files.save(p, published(width=16)), r"\(1, 1, 16\).*\(1, 1, 8\)|\(16,.*\(8,"),
    ("classes.npz", lambda p: files.save(p, published(classes=7)), r"'head.weight'.*\(7, 8\).*\(10, 8\)"),
  ],
)
def test_bad_files_are_one_sentence_and_write_nothing(config, tmp_path, file, make, names):
  make(tmp_path / file)
  with pytest.raises(UserError, match=names) as caught:
    import_weights(run_of(config, tmp_path), tmp_path / file)
  assert "\n" not in str(caught.value)
  assert not (tmp_path / "run").exists()


def test_other_bad_input(config, tmp_path):
  files.save(tmp_path / "in.npz", published())
  run = run_of(config, tmp_path)
  with pytest.raises(UserError, match="no layout 'keras': it has timm, transformers"):
    import_weights(run, tmp_path / "in.npz", "keras")
  with pytest.raises(UserError, match="'params/hed'"):
    import_weights(run, tmp_path / "in.npz", fresh=["params/hed"])
  import_weights(run, tmp_path / "in.npz")
  with pytest.raises(UserError, match="is a run already"):
    import_weights(run_of(config, tmp_path), tmp_path / "in.npz")
  run = jaxgen.load(tmp_path / "run")
  with pytest.raises(UserError, match="say which layout"):
    export_weights(run, tmp_path / "out.npz")
  with pytest.raises(UserError, match=".safetensors or .npz"):
    export_weights(run, tmp_path / "out.bin", "timm")
  with pytest.raises(UserError, match="no folder"):
    export_weights(run, pathlib.Path(tmp_path / "nowhere" / "out.npz"), "timm")
  export_weights(run, "memory://weights/out.npz", "timm")
  assert np.load(io.BytesIO(place("memory://weights/out.npz").read_bytes())).files
  with pytest.raises(UserError, match="copy it here first"):
    import_weights(run_of(config, tmp_path, "other"), "memory://weights/out.npz")
  digits = load_config("backbone_digits")
  with pytest.raises(UserError, match="no layouts"):
    import_weights(run_of(digits, tmp_path, "digits"), tmp_path / "in.npz")
