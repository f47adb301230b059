"""Data of one's own at the command line."""

import jax
import numpy as np
import pytest
import tiny
from test_cli import command

from jaxgen.core.errors import UserError
from jaxgen.engine.config import load_config


def test_updates_that_were_skipped_are_said(tmp_path):
  """By a run that overflows in one row of its data: finite, and so no error before the first step."""
  x = np.random.default_rng(0).integers(0, 17, (48, 8, 8, 1)).astype(np.float32)
  x[17] = 1e30
  np.savez(tmp_path / "own.npz", train_image=x, test_image=x[:8])
  source = tiny.SOURCE.replace("evaluators=(likelihood(),),", "").replace(
    "data.images(data_name, (side, side, 1), levels=17, classes=10)",
    "data.Dataset(data_name, {'image': jax.ShapeDtypeStruct((side, side, 1), 'float32')})",
  )
  config = tiny.write(tmp_path, source=source.replace("import optax", "import jax\nimport optax"))
  words = ["--runs", tmp_path, "--data-name", f"npz:{tmp_path / 'own.npz'}", "--steps", 6]
  lines = command("train", config, *words).stdout.splitlines()
  assert "  image: float32 [8, 8, 1], values 0 to 1e+30" in lines
  skipped = (
    "skipped      2 of 6 updates, whose loss, gradient or change was not finite, "
    "the first by step 5 (see metrics.jsonl)"
  )
  assert any(line.startswith(skipped) for line in lines)  # one in each epoch of three batches


def test_data_without_a_test_split(tmp_path):
  """It is trained on and its report is written; what asks for test examples is refused before the first step."""
  x = np.random.default_rng(0).integers(0, 17, (48, 8, 8, 1)).astype(np.uint8)
  np.savez(tmp_path / "own.npz", image=x, label=np.arange(48, dtype=np.int32) % 10)
  words = ["--runs", tmp_path / "runs", "--data-name", f"npz:{tmp_path / 'own.npz'}", "--steps", 4]
  refused = command("train", tiny.write(tmp_path), *words, code=1).stderr
  assert "own.npz has no split 'test'" in refused
  assert not (tmp_path / "runs").exists()
  for evaluators in ("", "evaluators=(likelihood('train'),),"):
    source = tiny.SOURCE.replace("evaluators=(likelihood(),),", evaluators)
    words[1] = tmp_path / f"runs{len(evaluators)}"
    out = command("train", tiny.write(tmp_path, source=source), *words).stdout
    assert ("train_bits_per_dim_17_levels" in out) == bool(evaluators)
    assert "The data have no test examples for a comparison" in (words[1] / "tiny" / "report.html").read_text()


def test_generic_configs_look_at_the_data(tmp_path):
  """Their specs and splits; nothing is compiled."""
  values = np.random.default_rng(0).integers(0, 256, (6, 12, 20, 3)).astype(np.uint8)
  np.savez(tmp_path / "own.npz", image=values, label=np.arange(6, dtype=np.int32) % 3, test_image=values[:2],
           test_label=np.arange(2, dtype=np.int32))  # fmt: skip
  np.savez(tmp_path / "plain.npz", image=values)
  build = lambda name, **arguments: load_config(name).build(data=f"npz:{tmp_path / 'own.npz'}", **arguments)
  assert build("classifier_images").data.spec.classes == 3
  assert build("classifier_images").best == ("test_accuracy", "max")
  assert build("gan_images").data.spec.shape == (12, 20, 3)
  for model in ("vae", "glow", "pixelcnnpp"):
    experiment = build("density_images", model=model, width=8)
    params = jax.eval_shape(experiment.method.init, jax.random.key(0), experiment.data.batch_spec(2)).params
    assert jax.tree.leaves(params)
  with pytest.raises(UserError, match="no labels"):
    load_config("classifier_images").build(data=f"npz:{tmp_path / 'plain.npz'}")
  with pytest.raises(UserError, match="leave --size out"):
    build("density_images", size=8)
