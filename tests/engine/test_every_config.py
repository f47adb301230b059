"""Every config builds without computing, has its paper's parameters and a step at full size, and says so."""

import collections
import json
import re
import subprocess
import sys

import conftest
import pytest

from jaxgen.engine.catalogue import config_summary, configs_in, shipped_folder
from jaxgen.engine.config import load_config

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
  # DiT's parameters less its fixed positions, SD's first stage, and the moments of four channels of latents.
  ("dit", (("preset", "XL/2"),)): 674_834_720 + 83_653_863 + 2 * 4,
  # U-Net, first stage and text encoders.
  ("stable_diffusion", ()): 859_520_964 + 83_653_863 + 123_060_480,
  # Student and teacher, EDM's network.
  ("consistency_digits", (("kind", "distillation"), ("teacher", "runs/edm_digits"))): 2 * 284_513,
  ("few_steps_digits", (("method", "progressive"), ("teacher", "runs/edm_digits"))): 2 * 284_513,
  ("few_steps_digits", (("method", "dmd"), ("teacher", "runs/edm_digits"))): 3 * 284_513,  # and the fake score
  # WaveGrad's number is that of the PyTorch module in tests/fixtures/make_audio_networks.py.
  ("diffwave_base", ()): 2_619_971,
  ("diffwave_large", ()): 6_885_315,
  ("wavegrad_base", ()): 15_920_993,
  ("bert", ()): 110_106_428,  # with 30,522 tokens and both heads
  ("bert", (("size", "base"), ("next_sentence", False))): 109_514_298,
  ("gpt2", ()): 124_439_808,  # with 50,257 tokens, as in the released weights
  ("gpt2", (("size", "xl"),)): 1_557_611_200,
  ("clip", ()): 151_277_313,
  ("gpt2", (("size", "gpt"),)): 116_534_784,
  ("gpt2", (("size", "gpt3_small"),)): 125_226_240,
  ("gpt2", (("size", "gpt3_175b"),)): 174_604_259_328,
  ("denoising", (("size", "base"),)): 139_420_416 + 50_265,  # the bias of the logits
  ("denoising", (("size", "large"),)): 406_291_456 + 50_265,
  ("denoising", (("method", "prophetnet"), ("size", "large"), ("vocabulary", 30_522))): 391_321_600,
  # MAE's counts have the fixed positions of encoder and decoder, as transformers counts them.
  ("mae", (("preset", "base"),)): 111_907_840,
  ("mae", (("preset", "huge"),)): 657_074_508,
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


# The names that experiments were published and measured under: the ledger and its readers know them.
KNOWN = """
attention_multi30k barlow_twins_digits byol_digits cait_digits cait_imagenet classifier_digits conv_vae_digits
dcgan_celeba dcgan_digits ddpm_cifar10 ddpm_digits ddpm_mnist deit_digits deit_imagenet densenet_digits
densenet_imagenet audioldm_first_stage audioldm_speech diffwave_base diffwave_large diffwave_speech wavegrad_base
wavegrad_speech
dino_digits dit_digits dit_imagenet ebm_digits ebm_mnist ebm_rings edm_cifar10 edm_digits
efficientnet_b0_cifar10 efficientnet_digits efficientnet_imagenet flow_contrastive_rings flow_matching_cifar10
flow_matching_digits fvsbn_digits fvsbn_mnist gan_digits gan_mnist gan_rings gated_pixelcnn_cifar10
gated_pixelcnn_digits gaussian_rbm_digits glow_cifar10 glow_digits googlenet_digits googlenet_imagenet guided_digits
improved_ddpm_cifar10 improved_ddpm_digits iwae_mnist kl_digits ldm_digits made_digits made_mnist mae_cifar10
mae_digits mae_imagenet moco_cifar10 moco_digits multigrid_cifar10 multigrid_digits nade_digits nade_mnist nce_digits
nce_rings ncsn_cifar10 ncsn_digits nice_digits nice_mnist pixelcnn_digits pixelcnn_mnist pixelcnnpp_cifar10
pixelcnnpp_digits rbm_digits rbm_mnist realnvp_cifar10 realnvp_digits realnvp_rings resnet18_cifar10 resnet_digits
resnet_imagenet reverse_strings rnade_digits rotnet_cifar10 rotnet_digits score_matching_digits score_matching_rings
score_sde_digits score_sde_subvp_cifar10 score_sde_ve_cifar10 score_sde_vp_cifar10 simclr_cifar10 simclr_digits
simmim_digits simsiam_digits sit_digits sit_imagenet sngan_cifar10 swin_digits swin_imagenet t2t_digits t2t_imagenet
transformer_digits transformer_multi30k transformer_shakespeare transformer_shakespeare_gpu vae_digits vae_mnist
vdm_cifar10 vdm_digits vicreg_digits vit_digits vit_imagenet vit_ti_cifar10 vqgan_digits vqvae_cifar10 vqvae_digits
wavenet_speech wgan_gp_cifar10
"""


def test_names_are_unique():
  names = collections.Counter(name for entry in ENTRIES for name in (entry.name, *entry.names))
  assert [name for name, count in names.items() if count > 1] == []
  assert set(KNOWN.split()) <= set(names)


# In a process of its own, where nothing has started jax and no annotation is checked: it takes a fifth of the time.
BUILD = """
import contextlib, gc, json, math, sys, traceback, typing
import jax
from jaxgen.core import wrappers
from jaxgen.core.errors import UserError
from jaxgen.engine.config import load_config
from jaxgen.engine.run import state_shapes

gc.freeze()
gc.set_threshold(100_000, 50, 100)  # as in conftest: a quarter of the time
decays, averaged = [], wrappers.averaged
wrappers.averaged = lambda method, given: decays.append(given) or averaged(method, given)

def step(experiment):
  spec = experiment.data.batch_spec(experiment.batch_size, train=True)
  state = jax.eval_shape(experiment.method.init, jax.eval_shape(lambda: jax.random.key(0)), spec)
  assert state.params
  assert all(x.dtype != "float64" for x in jax.tree.leaves(state))
  after, metrics = jax.eval_shape(experiment.method.step, state, spec)
  assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(lambda x: (x.shape, x.dtype), state)
  assert any(name.endswith("loss") for name in metrics)

def count(experiment, published):
  shapes = state_shapes(experiment)
  number = sum(math.prod(x.shape) for leaf, x in shapes.items() if leaf.startswith("params/"))
  assert number == published, number

def build(name, arguments):
  config = load_config(name)
  assert config.name == name
  decays.clear()
  experiment = config.build(**arguments)
  for given in decays:
    for d in given.values() if isinstance(given, dict) else [given]:
      left = d ** experiment.steps if isinstance(d, float) else 0.0
      assert left < 0.02, f"{left:.0%} of the initialisation are left in the average of {name} that samples"
  return experiment

def choices(name):
  config = load_config(name)
  for flag, kind in config.types.items():
    for choice in typing.get_args(kind) if typing.get_origin(kind) is typing.Literal else ():
      with contextlib.suppress(UserError):
        attempt(config.build, f"{name} {flag}={choice}", **{flag: choice})

def attempt(do, title, *args, **options):
  try:
    return do(*args, **options)
  except UserError:
    raise
  except Exception:
    print(title, traceback.format_exc())

named, chosen, stepped, counted = json.loads(sys.argv[1])
for name in named:
  build(name, {})
for name in chosen:
  choices(name)
full = [(name, build(name, {})) for name in stepped]
known = [(*case, build(*case[:2])) for case in counted]
assert not jax._src.xla_bridge.backends_are_initialized(), "building one of the experiments started jax's backends"
for name, experiment in full:
  attempt(step, name, experiment)
for name, arguments, published, experiment in known:
  attempt(count, f"{name} {arguments}", experiment, published)
"""


@pytest.mark.processes(1)
def test_builds_without_computing_and_has_a_step_at_full_size():
  """Every name and every choice of a flag builds or is refused; at full size there is a step, and as many parameters
  as the paper has. A UserError is a refusal of a choice; whatever else is raised is a mistake."""
  counted = [(name, dict(arguments), number) for (name, arguments), number in PUBLISHED.items()]
  configs = sorted(CONFIGS)
  words = [sys.executable, "-c", BUILD, json.dumps([KNOWN.split(), configs, configs, counted])]
  result = subprocess.run(words, cwd=conftest.REPOSITORY, capture_output=True, text=True)
  assert result.returncode == 0, result.stderr
  assert not result.stdout, result.stdout


def test_every_flag_has_its_sentence():
  for name, path in CONFIGS.items():
    lacking = [flag for flag, sentence in load_config(path).sentences.items() if not sentence]
    assert not lacking, f"{name}'s docstring does not say what these are: {lacking}"


@pytest.mark.parametrize("name", CONFIGS)
def test_says_its_paper_number_and_cost(name):
  summary = config_summary(CONFIGS[name])
  assert all(summary.values()), f"{name}'s docstring lacks {[k for k, v in summary.items() if not v]}"
  assert "to be measured" not in CONFIGS[name].read_text()
  assert re.search(rf"jaxgen train (configs/\S*)?{name}\b", CONFIGS[name].read_text())
