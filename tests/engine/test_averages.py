"""Averages after the fact: a run that keeps two, and a third that it has tracked itself."""

import shutil

import numpy as np
import pytest

import jaxgen
from jaxgen import cli
from jaxgen.core.errors import UserError
from jaxgen.engine.averages import reconstructed
from jaxgen.engine.config import load_config
from jaxgen.engine.folder import Folder
from jaxgen.engine.loop import train
from jaxgen.engine.run import Run

SOURCE = '''"""A small network."""

import jax
import jax.numpy as jnp
import optax

from jaxgen import Experiment, data
from jaxgen.core.method import Player, compose
from jaxgen.core.wrappers import averaged, power

WIDTHS = {"network": 0.10, "network/shorter": 0.05, "network/tracked": 0.15}


def mean(run):
  return {"mean": float(run.state.averaged()["w"].mean())}


mean.rehearse = lambda run: ["mean"]


def experiment(steps: int = 320, kept: bool = True) -> Experiment:
  def init(key, batch):
    return {"network": {"w": jax.random.normal(key, (8, 8, 1))}}, {}

  def loss(params, state, batch, key):
    return jnp.mean((params["w"] - batch["image"]) ** 2), ({}, state.buffers)

  def sample(state, keys):
    return jnp.broadcast_to(state.averaged()["w"], (len(keys), 8, 8, 1))

  method = compose(init, [("network", Player(loss, optax.adam(0.01)))], sample=sample)
  profiles = {name: WIDTHS[name] for name in ("network", "network/shorter")} if kept else {}
  return Experiment(method=averaged(method, {name: power(width) for name, width in WIDTHS.items()}), data=data.digits(),
                    steps=steps, batch_size=16, checkpoint_every=20, samples=4, profiles=profiles,
                    evaluators=(mean,))
'''


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """The folder of a trained run, killed after half its steps and resumed."""
  path = tmp_path_factory.mktemp("averages")
  (path / "small.py").write_text(SOURCE)
  config = load_config(path / "small.py")
  for steps in (160, 320):
    train(Run(Folder(path / "run"), config, {"steps": steps}, 0))
  return path


def test_an_average_made_afterwards_is_the_tracked_one(folder):
  """To 1e-3 of the weights' norm; of a width that is kept it is what is kept, and another checkpoint has its own."""
  run = jaxgen.load(folder / "run")
  error = lambda a, b: np.linalg.norm(np.asarray(a["w"] - b["w"])) / np.linalg.norm(np.asarray(b["w"]))
  made = reconstructed(run, 0.15)
  assert error(made.ema["network"], run.state.ema["network/tracked"]) < 1e-3
  assert error(made.ema["network"], run.state.ema["network"]) > 1e-2
  assert error(reconstructed(run, 0.10).ema["network"], run.state.ema["network"]) < 1e-5
  assert error(reconstructed(run, 0.05).ema["network"], run.state.ema["network/shorter"]) < 1e-5
  earlier = jaxgen.load(folder / "run", checkpoint="300")
  assert error(reconstructed(earlier, 0.15).ema["network"], earlier.state.ema["network/tracked"]) < 1e-3
  assert len(list((folder / "run" / "averages").glob("0*"))) == 16


def test_the_command_samples_by_it(folder, tmp_path):
  def image(*words):
    out = tmp_path / "samples.npz"
    with pytest.raises(SystemExit) as end:
      cli.main(["sample", str(folder / "run"), "--n", "2", "--out", str(out), *words])
    assert end.value.code == 0
    return np.load(out)["samples"][0]

  run = jaxgen.load(folder / "run")
  np.testing.assert_allclose(image("--ema", "0.15"), run.state.ema["network/tracked"]["w"], atol=1e-3)
  np.testing.assert_array_equal(image(), run.state.ema["network"]["w"])


def test_a_metric_that_there_is_not_is_refused_before_an_evaluation(folder, monkeypatch, capsys):
  def averages(*words):
    with pytest.raises(SystemExit) as end:
      cli.main(["averages", str(folder / "run"), "--widths", "0.1,0.15", *words])
    return end.value.code, capsys.readouterr()

  code, out = averages("--metric", "mean")
  assert (code, out.out.count(" mean ")) == (0, 2)
  monkeypatch.setattr(Run, "evaluate", lambda run: pytest.fail("it was evaluated"))
  code, out = averages("--metric", "fid")
  assert (code, out.err) == (1, "jaxgen: error: --metric fid: the evaluation has mean\n")


def test_what_was_not_kept_is_said(folder, tmp_path):
  run = jaxgen.load(folder / "run")
  with pytest.raises(UserError, match="between 0 and 0.288, not 0.5"):
    reconstructed(run, 0.5)
  for width in (0.1, 0.99):  # not that 0.99 is no width
    words = f"keeps no averages for later, so none of relative width {width} can be made: its config"
    with pytest.raises(UserError, match=words):
      reconstructed(jaxgen.load(folder / "run", kept=False), width)
  shutil.copytree(folder / "run", tmp_path / "copy")
  shutil.rmtree(tmp_path / "copy" / "averages")
  with pytest.raises(UserError, match="has stored none of 'network' up to step 320"):
    reconstructed(jaxgen.load(tmp_path / "copy"), 0.1)
