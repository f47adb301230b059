"""Every config builds, and its state has the shape that its paper says; nothing is computed."""

import contextlib
import math
import typing

import conftest
import pytest

from jaxgen.core.errors import UserError
from jaxgen.engine.config import load_config
from jaxgen.engine.run import state_shapes

FILES = sorted(
  path for path in (conftest.REPOSITORY / "configs").rglob("*.py") if "def experiment(" in path.read_text()
)
CONFIGS = {path.stem: path for path in FILES}
# Parameters, with the flags in brackets.
PUBLISHED = {
  ("ddpm_cifar10", ()): 35_746_307,
  ("improved_ddpm_cifar10", ()): 52_546_438,
  ("edm_cifar10", ()): 55_732_739,
  ("vdm_cifar10", ()): 30_577_667 + 2,  # the schedule
  ("score_sde_vp_cifar10", ()): 61_804_419,
  ("score_sde_subvp_cifar10", ()): 61_804_419,
  ("score_sde_ve_cifar10", ()): 62_758_787 + 128,  # frequencies
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


def test_names_of_configs_are_unique():
  assert len(CONFIGS) == len(FILES)


@pytest.mark.parametrize("name", CONFIGS)
def test_builds(name):
  shapes = state_shapes(build(name))
  assert any(leaf.startswith("params/") for leaf in shapes)
  assert all(dtype != "float64" for _, dtype in shapes.values())


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
    sum(math.prod(shape) for leaf, (shape, _) in shapes.items() if leaf.startswith("params/"))
    == PUBLISHED[name, arguments]
  )
