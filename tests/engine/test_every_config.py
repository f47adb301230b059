"""Every config builds without computing, has its paper's parameters and a step at full size, and says so."""

import contextlib
import math
import re
import subprocess
import sys
import typing

import conftest
import pytest

from jaxgen.core.errors import UserError
from jaxgen.engine.catalogue import config_summary, configs_in, shipped_folder
from jaxgen.engine.config import load_config
from jaxgen.engine.run import state_shapes

ENTRIES = configs_in(shipped_folder())
CONFIGS = {entry.name: entry.path for entry in ENTRIES}
# Parameters, with the flags in brackets.
PUBLISHED = {
  ("ddpm", ()): 35_746_307,
  ("improved_ddpm", (("preset", "cifar10"),)): 52_546_438,
  ("edm", (("preset", "cifar10"),)): 55_732_739,
  ("vdm", (("preset", "cifar10"),)): 30_577_667 + 2,  # the schedule
  ("score_sde_cifar10", ()): 61_804_419,
  ("score_sde_cifar10", (("sde", "sub_vp"),)): 61_804_419,
  ("score_sde_cifar10", (("sde", "ve"),)): 62_758_787 + 128,  # frequencies
  ("imagenet", ()): 25_557_032,
  ("imagenet", (("backbone", "resnet50_v2"),)): 25_549_352,
  ("imagenet", (("backbone", "densenet121"),)): 7_978_856,
  ("imagenet", (("backbone", "googlenet"),)): 13_378_280,  # the auxiliary heads included
  ("imagenet", (("backbone", "efficientnet_b0"),)): 5_288_548,
  ("imagenet", (("backbone", "vit_b16"),)): 86_567_656,
  ("imagenet", (("backbone", "vit_h14"),)): 632_045_800,
  ("imagenet", (("backbone", "deit_ti"),)): 5_910_800,
  # Student and teacher, a resnet50: its parameters and running statistics are one frozen entry.
  ("imagenet", (("backbone", "deit_ti"), ("teacher", "runs/imagenet"))): 5_910_800 + 25_557_032 + 53_120,
  ("imagenet", (("backbone", "swin_t"),)): 28_288_354,
  ("imagenet", (("backbone", "cait_xxs24"),)): 11_956_264,
  ("imagenet", (("backbone", "t2t_t14"),)): 21_541_070,
}


def build(name, **arguments):
  config = load_config(CONFIGS[name])
  return config.build(**{**config.defaults(), **arguments})


def test_names_are_unique():
  assert len(CONFIGS) == len(ENTRIES)


# In processes of their own, where no annotation is checked: it takes a third of the time.
BUILD = """
import sys, traceback
import jax
from jaxgen.engine.config import load_config
from jaxgen.engine.run import state_shapes

def step(experiment):
  shapes = state_shapes(experiment)
  assert any(leaf.startswith("params/") for leaf in shapes)
  assert all(x.dtype != "float64" for x in shapes.values())
  spec = experiment.data.batch_spec(experiment.batch_size, train=True)
  state = jax.eval_shape(experiment.method.init, jax.eval_shape(lambda: jax.random.key(0)), spec)
  after, metrics = jax.eval_shape(experiment.method.step, state, spec)
  assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(lambda x: (x.shape, x.dtype), state)
  assert any(name.endswith("loss") for name in metrics)

def attempt(do, name, *args):
  try:
    return do(*args)
  except Exception:
    print(name, traceback.format_exc())

built = {name: attempt(lambda: load_config(name).build(), name) for name in sys.argv[1:]}
assert not jax._src.xla_bridge.backends_are_initialized(), "building one of the experiments started jax's backends"
for name, experiment in built.items():
  if experiment is not None:
    attempt(step, name, experiment)
"""


@pytest.mark.parametrize("part", range(4))
def test_builds_without_computing_and_has_a_step_at_full_size(part):
  words = [sys.executable, "-c", BUILD, *sorted(CONFIGS)[part::4]]
  result = subprocess.run(words, cwd=conftest.REPOSITORY, capture_output=True, text=True)
  assert result.returncode == 0, result.stderr
  assert not result.stdout, result.stdout


@pytest.mark.parametrize("name", CONFIGS)
def test_every_choice_builds_or_is_refused(name):
  """A UserError is a refusal; whatever else is raised is a mistake."""
  config = load_config(CONFIGS[name])
  for flag, kind in config.types.items():
    for choice in typing.get_args(kind) if typing.get_origin(kind) is typing.Literal else ():
      with contextlib.suppress(UserError):
        config.build(**{flag: choice})


@pytest.mark.parametrize(("name", "arguments"), PUBLISHED)
def test_number_of_parameters(name, arguments):
  shapes = state_shapes(build(name, **dict(arguments)))
  assert (
    sum(math.prod(x.shape) for leaf, x in shapes.items() if leaf.startswith("params/")) == PUBLISHED[name, arguments]
  )


@pytest.mark.parametrize("name", CONFIGS)
def test_says_its_paper_number_and_cost(name):
  summary = config_summary(CONFIGS[name])
  assert all(summary.values()), f"{name}'s docstring lacks {[k for k, v in summary.items() if not v]}"
  assert "to be measured" not in CONFIGS[name].read_text()
  assert re.search(rf"jaxgen train (configs/\S*)?{name}\b", CONFIGS[name].read_text())
