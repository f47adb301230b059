"""A frozen network is read once and then is the run's own: a student that outlives its teacher's file."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxgen
from jaxgen.core.errors import UserError
from jaxgen.core.method import Frozen, Player, compose
from jaxgen.core.wrappers import averaged
from jaxgen.engine.config import load_config
from jaxgen.engine.folder import Folder
from jaxgen.engine.frozen import start
from jaxgen.engine.hashing import MANIFEST
from jaxgen.engine.loop import train
from jaxgen.engine.run import Run

SOURCE = '''"""A student: one number a pixel, towards what a frozen teacher makes of the digits.

Paper: none

Expect: nothing
Cost: seconds
"""

import jax.numpy as jnp
import numpy as np
import optax

from jaxgen import Experiment, data
from jaxgen.core.method import Frozen, Player, compose
from jaxgen.core.wrappers import averaged


def experiment(steps: int = 4, teacher: str = "teacher.npz") -> Experiment:
  def load():
    with np.load(teacher) as file:
      return {"w": file["w"]}

  def init(key, batch):
    zeros = jnp.zeros(batch["image"].shape[1:])
    return {"student": {"w": zeros}, "teacher": {"w": zeros}}, {}

  def loss(params, state, batch, key):
    error = (params["w"] - state.params["teacher"]["w"]) * batch["image"]
    return jnp.mean(jnp.sum(error**2, axis=(1, 2, 3))), ({}, state.buffers)

  def sample(state, keys):
    return jnp.broadcast_to(state.averaged("student")["w"], (len(keys), 8, 8, 1))

  method = compose(
    init,
    [("student", Player(loss, optax.sgd(0.1)))],
    frozen={"teacher": Frozen(f"the file {teacher}", load)},
    sample=sample,
  )
  return Experiment(method=averaged(method, {"student": 0.5}), data=data.digits(), steps=steps, batch_size=16,
                    checkpoint_every=2, samples=4, updates_per_dispatch=2)
'''


@pytest.fixture
def student(tmp_path):
  """(config, arguments, folder, teacher's weights)."""
  w = np.random.default_rng(0).normal(size=(8, 8, 1)).astype(np.float32)
  np.savez(tmp_path / "teacher.npz", w=w)
  (tmp_path / "student.py").write_text(SOURCE)
  return load_config(tmp_path / "student.py"), {"teacher": str(tmp_path / "teacher.npz")}, tmp_path / "run", w


def run_of(student, **arguments):
  config, given, folder, _ = student
  return Run(Folder(folder), config, {**given, **arguments}, 0)


def test_a_student_outlives_its_teacher(student, tmp_path):
  whole = run_of((*student[:2], tmp_path / "whole", student[3]), steps=8)
  train(whole)
  run = run_of(student)
  train(run)
  (tmp_path / "teacher.npz").unlink()
  again = run_of(student, steps=8, teacher="elsewhere.npz")  # where it was is no matter now
  train(again)
  np.testing.assert_array_equal(again.state.params["teacher"]["w"], student[3])
  np.testing.assert_array_equal(again.state.params["student"]["w"], whole.state.params["student"]["w"])
  loaded = jaxgen.load(tmp_path / "run")
  np.testing.assert_array_equal(loaded.sample(1)[0], whole.sample(1)[0])
  said = json.loads((tmp_path / "run" / "run.json").read_text())["frozen"]["teacher"]
  assert "teacher.npz" in said["source"]
  assert len(said["sha256"]) == 64
  checkpoint = next((tmp_path / "run" / "checkpoints").glob("0*"))
  assert "teacher" not in (checkpoint / MANIFEST).read_text()


def test_what_is_no_teacher_is_said(student, tmp_path):
  np.savez(tmp_path / "teacher.npz", w=np.zeros((4, 4, 1), np.float32))
  with pytest.raises(UserError, match=r"'teacher' is not that of the file .*: w is \[4, 4, 1\] there and \[8, 8, 1\]"):
    train(run_of(student))
  # Nothing is left that the same name with a right teacher would have to go on with.
  assert not (tmp_path / "run" / "run.json").exists()
  right = tmp_path / "right.npz"
  np.savez(right, w=student[3])
  train(run_of(student, teacher=str(right)))


def test_a_network_and_its_averages_start_from_a_frozen_one():
  """Exactly, as arrays of their own, in the dtype of each; a network of another shape is named."""
  w = np.random.default_rng(0).normal(size=(3, 2))
  frozen = {"teacher": Frozen("a file", lambda: {"params": {"w": w}}, starts=("student",), fresh=("own",))}
  zeros = lambda dtype: {"w": jnp.zeros((3, 2), dtype)}

  def init(key, batch):
    return {
      "student": {**zeros(jnp.bfloat16), "own": jnp.full(2, 7.0)},
      "other": zeros(jnp.float32),
      "teacher": {"params": zeros(jnp.float32)},
    }, {}

  loss = lambda params, state, batch, key: (params["w"].sum(), ({}, state.buffers))
  players = [(name, Player(loss, optax.sgd(0.1))) for name in ("student", "other")]
  method = averaged(compose(init, players), {"student": 0.5, "student/long": 0.9, "other": 0.5})
  state = start(frozen, method.init(jax.random.key(0), {}))
  np.testing.assert_array_equal(state.params["student"]["w"], w.astype(jnp.bfloat16))
  for name in ("student", "student/long"):
    np.testing.assert_array_equal(state.ema[name]["w"], w.astype(np.float32))
  assert np.all(state.params["student"]["own"] == 7)
  assert not np.any(state.params["other"]["w"])
  assert not np.any(state.ema["other"]["w"])
  leaves = [x for x in jax.tree.leaves((state.params, state.ema)) if x.ndim]
  assert len({x.unsafe_buffer_pointer() for x in leaves}) == len(leaves)  # a step may be given them for good
  frozen["teacher"] = frozen["teacher"]._replace(starts=("other", "bias"))
  state = state.replace(params={**state.params, "bias": {"b": jnp.zeros(2)}})
  with pytest.raises(UserError, match="'bias', which starts from the frozen one, is not that of a file: b is absent"):
    start(frozen, state)
