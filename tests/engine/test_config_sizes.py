"""Every config builds, and its state has the shape that its paper says; nothing is computed."""

import math

import conftest
import pytest

from jaxgen.engine.config import load_config
from jaxgen.engine.run import state_shapes

CONFIGS = sorted(path.stem for path in (conftest.REPOSITORY / "configs").glob("*.py"))
# Parameters, with the flags in brackets.
PUBLISHED = {
  ("ddpm", ()): 35_746_307,
  ("improved_ddpm", (("preset", "cifar10"),)): 52_546_438,
  ("edm", (("preset", "cifar10"),)): 55_732_739,
  ("vdm", (("preset", "cifar10"),)): 30_577_667 + 2,  # the schedule
  ("score_sde_cifar10", ()): 61_804_419,
  ("score_sde_cifar10", (("sde", "sub_vp"),)): 61_804_419,
  ("score_sde_cifar10", (("sde", "ve"),)): 62_758_787 + 128,  # frequencies
  ("vit_imagenet", ()): 86_567_656,
  ("vit_imagenet", (("size", "H/14"),)): 632_045_800,
  ("deit_imagenet", (("size", "Ti"),)): 5_910_800,
  ("swin_imagenet", ()): 28_288_354,
  ("cait_imagenet", ()): 11_956_264,
  ("t2t_imagenet", (("size", "t-14"),)): 21_541_070,
  ("densenet_imagenet", ()): 7_978_856,
  ("efficientnet_imagenet", ()): 5_288_548,
  ("googlenet_imagenet", ()): 13_378_280,  # the auxiliary heads included
  ("resnet_imagenet", ()): 25_557_032,
  ("resnet_imagenet", (("variant", "v2"),)): 25_549_352,
}


def shapes_of(name, **arguments):
  config = load_config(conftest.REPOSITORY / "configs" / f"{name}.py")
  return state_shapes(config.build(**{**config.defaults(), **arguments}))


@pytest.mark.parametrize("name", CONFIGS)
def test_builds(name):
  shapes = shapes_of(name)
  assert any(leaf.startswith("params/") for leaf in shapes)
  assert all(dtype != "float64" for _, dtype in shapes.values())


@pytest.mark.parametrize(("name", "arguments"), PUBLISHED)
def test_number_of_parameters(name, arguments):
  shapes = shapes_of(name, **dict(arguments))
  assert (
    sum(math.prod(shape) for leaf, (shape, _) in shapes.items() if leaf.startswith("params/"))
    == PUBLISHED[name, arguments]
  )
