"""`jaxgen cascade`: two tiny stages, trained in turn in one folder and sampled one through the other."""

import types

import numpy as np
import pytest
from flax.errors import ScopeParamShapeError
from test_cli import command, error_of

from jaxgen import load
from jaxgen.core.errors import UserError
from jaxgen.engine.cascade import check, seed_of

SOURCE = '''"""A tiny cascade of digits, for tests.

Paper: none.

Expect: nothing
Cost: seconds
"""

import dataclasses
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import optax

from jaxgen import Experiment, data, diffusion
from jaxgen.core.condition import UNCONDITIONAL
from jaxgen.data import real, transforms
from jaxgen.methods.diffusion.cascade import low_resolution
from jaxgen.methods.diffusion.gaussian import gaussian_diffusion
from jaxgen.methods.diffusion.sampler import Sampler
from jaxgen.nn.unets.super_resolution import beside

STAGES = {"base": "", "up": "low"}


class Net(nn.Module):
  @nn.compact
  def __call__(self, x, t, told=None, index=None):
    h = x if told is None else beside(x, told["low"])
    return nn.Dense(1)(nn.silu(nn.Dense(8)(h)))


def experiment(stage: Literal[*STAGES] = "base", base_side: int = 4, steps: int = 4) -> Experiment:
  """A stage.

  Args:
    base_side: height and width of what the first stage makes.
  """
  images = data.digits()
  last = stage == "up"
  shape = transforms.low_resolution(4) if last else transforms.shrink(base_side)
  images = dataclasses.replace(images, transforms=(*images.transforms, shape), feature="image")
  method = gaussian_diffusion(
    Net(),
    diffusion.cosine(10),
    images.spec,
    optax.adam(1e-3),
    condition=low_resolution() if last else UNCONDITIONAL,
    sampler=Sampler(steps=2),
  )
  of_test = real.entries(images, ("low",)) if last else None
  told = lambda index: {**of_test(index), "level": np.zeros(len(index), np.float32)}
  sizes = dict(samples=0, sample_chunk=8, updates_per_dispatch=4, log_every=4)
  return Experiment(
    method=method, data=images, steps=steps, batch_size=16, conditions=told if last else None, **sizes
  )
'''


@pytest.fixture(scope="module")
def place(tmp_path_factory):
  """A folder with the config and its trained cascade; what the command printed."""
  folder = tmp_path_factory.mktemp("cascade")
  (folder / "small.py").write_text(SOURCE)
  words = ("cascade", folder / "small.py", "--runs", folder / "runs", "--n", 5, "--out", folder / "all.npz")
  return folder, command(*words).stdout


def test_stages_are_trained_in_turn_and_samples_go_through_them(place):
  folder, out = place
  assert out.index("base: ") < out.index("up: ") < out.index("base: 5 of 5 samples")
  for stage in ("base", "up"):
    assert (folder / "runs" / "small" / stage / "run.json").is_file()
  found = np.load(folder / "all.npz")
  assert {name: found[name].shape for name in found} == {"base": (5, 4, 4, 1), "up": (5, 8, 8, 1)}
  run = folder / "runs" / "small"
  command("cascade", run, "--n", 2, "--first", 3, "--out", folder / "some.npz")  # sample i is that of (seed, i)
  some = np.load(folder / "some.npz")
  for name in some:
    np.testing.assert_array_equal(some[name], found[name][3:])
  up = load(run / "up").sample(5, seed=seed_of(0, 1), low=found["base"])
  np.testing.assert_array_equal(up, found["up"])
  assert seed_of(3, 0) == 3
  assert len({seed_of(seed, number) for seed in (0, 1) for number in range(3)}) == 6


def test_a_cascade_that_is_trained_is_not_trained_again_and_draws_a_picture(place):
  folder, _ = place
  out = command("cascade", folder / "small.py", "--runs", folder / "runs", "--n", 3).stdout
  assert out.count("trained already") == 2
  assert (folder / "runs" / "small" / "samples" / "seed_0_0_3.png").is_file()
  assert not command("cascade", folder / "runs" / "small", "--n", 0).stdout
  assert not (folder / "runs" / "small" / "samples" / "seed_0_0_1.png").exists()


def test_bad_cascades_are_one_sentence(place):
  folder, _ = place
  of = lambda *words: error_of("cascade", folder / "small.py", "--runs", folder / "runs", *words)
  assert "two or more" in error_of("cascade", "ddpm_digits")
  assert "jaxgen train" in of("--stage", "up")
  assert "0 or more" in of("--n", "-1")
  for words in (("--prompt", "one"), ("--out", folder / "a.wav"), ("--first", "-1"), ("--samples-seed", "-1")):
    of("--name", "early", *words)
  assert not (folder / "runs" / "early").exists()  # it is said before anything is trained
  assert "folder within" in of("--name", "../x")
  assert "is a run and no cascade" in of("--name", "small/base")
  wrong = of("--base-side", 2, "--name", "unlike")
  assert "'base' makes 2 x 2 x 1 and 'up' is told 'low' of 4 x 4 x 1: train one of them anew" in wrong
  assert "no stage of this cascade is told a text" in error_of("cascade", folder / "runs" / "small", "--prompt", "one")
  assert "written as .npz or .png" in error_of("cascade", folder / "runs" / "small", "--out", folder / "a.wav")
  assert not (folder / "runs" / "unlike").exists()  # it is said before anything is trained
  (folder / "runs" / "small" / "up" / "run.json").rename(folder / "run.json")
  assert "no run of the stage 'up'" in error_of("cascade", folder / "runs" / "small")


def test_what_a_stage_cannot_be_told_is_one_sentence():
  """Of an embedding no data says the size: the next stage's network does, as flax says it."""

  def shapes(n, given):
    if "embedding" in given and given["embedding"].shape != (n, 5):
      raise ScopeParamShapeError("kernel", "/embedding", (5, 8), given["embedding"].shape[1:])
    return np.zeros((n, 6))

  run = types.SimpleNamespace(conditions=lambda index: {}, program=types.SimpleNamespace(sample_shapes=shapes))
  with pytest.raises(UserError, match="'prior' makes 6, which 'decoder' cannot be told as 'embedding'"):
    check({"prior": run, "decoder": run}, {"prior": "", "decoder": "embedding"})
