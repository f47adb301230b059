"""What a run may go on with: what changes no update may differ, and data are known by their content."""

import json

import jax
import numpy as np
import pytest
import tiny

from jaxgen.core.errors import UserError
from jaxgen.data.sources import Arrays
from jaxgen.data.sources.digits import read_digits
from jaxgen.engine import identity
from jaxgen.engine import loop as training
from jaxgen.engine.config import load_config
from jaxgen.engine.folder import Folder
from jaxgen.engine.hashing import state_hash
from jaxgen.engine.provenance import check_same, note_on_test_data
from jaxgen.engine.run import Run


def train(run, **options):
  training.train(run, training.Progress(quiet=True), **options)
  return run


def digits_file(path, flip=False):
  """The digits as an npz file; flipped they are as many others."""
  images, labels = read_digits()
  images = images[:, ::-1] if flip else images
  np.savez(path, train_image=images[:640], train_label=labels[:640], test_image=images[640:], test_label=labels[640:])
  return f"npz:{path}"


def test_what_changes_no_update_may_differ_and_every_start_is_recorded(tmp_path):
  config, data = load_config(tiny.write(tmp_path)), digits_file(tmp_path / "digits.npz")
  run = lambda **arguments: Run(Folder(tmp_path / "run"), config, {"data_name": data, **arguments}, 0)
  train(run(steps=4))
  moved = tmp_path / "elsewhere" / "digits.npz"
  moved.parent.mkdir()
  (tmp_path / "digits.npz").rename(moved)
  others = {"sampling_steps": 5, "solver": "ancestral", "max_skipped": 4, "data_name": f"npz:{moved}"}
  train(run(steps=8, **others))
  straight = Run(Folder(tmp_path / "straight"), config, {"data_name": f"npz:{moved}", "steps": 8}, 0)
  assert state_hash(run(steps=8, **others).state) == state_hash(train(straight).state)
  first, second = json.loads((tmp_path / "run" / "run.json").read_text())["sessions"]
  assert (first["from"], first["to"], second["from"], second["to"]) == (0, 4, 4, 8)
  assert first["arguments"]["data_name"] == data
  assert second["arguments"] | others == second["arguments"]
  assert first["data"] == second["data"]
  # Data that others have taken the place of, and the way on.
  assert note_on_test_data(run(steps=8, **others)) is None
  digits_file(moved, flip=True)
  assert "test data of" in note_on_test_data(run(steps=8, **others))
  with pytest.raises(
    UserError, match=r"trained on 640 examples, and these are as many, 640 with other content: put the data back"
  ):
    train(run(steps=12, **others))
  train(run(steps=12, **others), other_data=True)
  train(run(steps=13, **others))  # from now on these are its data


def begun(folder, config, **arguments):
  """A run's folder as training begins it."""
  folder = Folder(folder)
  folder.write_info({"config": config.name, "arguments": config.to_json({**config.defaults(), **arguments}), "seed": 0})
  (folder / "config.py").write_text(config.source)
  return folder


def test_what_changes_an_update_is_refused_by_its_name(tmp_path):
  config = load_config(tiny.write(tmp_path))
  folder = begun(tmp_path / "run", config)
  given = config.defaults() | {"solver": "ancestral", "sampling_steps": 4}
  check_same(folder, config, given, 0)
  for flag, value in {"learning_rate": 2e-3, "layers": (16,), "batch_size": 8}.items():
    with pytest.raises(UserError, match=f"is a run of --{flag.replace('_', '-')} "):
      check_same(folder, config, given | {flag: value}, 0)


def test_a_run_of_few_examples_goes_on_whatever_devices_are_here(tmp_path):
  """Eight devices in pairs, --tensor 2, take a batch of 4, over which eight by themselves do not divide."""
  config = load_config(tiny.write(tmp_path))
  folder = begun(tmp_path / "run", config, batch_size=4)
  given = config.defaults() | {"batch_size": 4, "sampling_steps": 4}
  check_same(folder, config, given, 0)
  with pytest.raises(UserError, match="is a run of --learning-rate "):
    check_same(folder, config, given | {"learning_rate": 2e-3}, 0)


def test_a_config_may_be_mended_where_no_update_changes(tmp_path):
  config = load_config(tiny.write(tmp_path))
  folder = Folder(tmp_path / "run")
  train(Run(folder, config, {"steps": 2}, 0))
  mended = tiny.SOURCE.replace("evaluators=(likelihood(),)", "evaluators=()").replace(
    "sample_every=20", "sample_every=3"
  )
  train(Run(folder, load_config(tiny.write(tmp_path, source=mended)), {"steps": 4}, 0))
  assert (folder / "config.py").read_text() == mended
  assert (folder / "earlier" / "0" / "config.py").read_text() == tiny.SOURCE
  other = mended.replace("diffusion.constant(10, 0.5)", "diffusion.constant(10, 0.4)")  # a table in the program
  with pytest.raises(UserError, match="tiny.py has changed since .* and trains otherwise"):
    train(Run(folder, load_config(tiny.write(tmp_path, source=other)), {"steps": 6}, 0))


def test_constants_count_whose_values_a_program_s_text_does_not_show():
  digest = lambda table: [
    x.tolist() for x in identity._constants(jax.make_jaxpr(lambda x: jax.jit(lambda x: x * table)(x))(1.0))
  ]
  assert digest(np.arange(3.0)) == digest(np.arange(3.0)) != digest(np.arange(3.0) + 1)


def test_large_data_are_looked_at_here_and_there(monkeypatch):
  x = np.arange(10_000, dtype=np.float32).reshape(100, 100)
  changed = x.copy()
  changed[50, 50] += 1
  monkeypatch.setattr(identity, "BLOCK", 64)
  monkeypatch.setattr(identity, "BLOCKS", 10)
  of = lambda x: identity._content(Arrays({"x": x}))
  assert of(x) != of(changed)
  monkeypatch.setattr(identity, "WHOLE", 1_000)
  assert of(x) == of(changed) != of(x + 1)
  assert of(x[:99]) != of(x)
