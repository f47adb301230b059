"""Data of one's own at the command line."""

import numpy as np
import tiny
from test_cli import command


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
