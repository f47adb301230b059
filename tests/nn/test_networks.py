"""The papers' networks against independent implementations (tests/fixtures/make_*.py) and against what all promise.

The U-Net of Ho et al., on which they build, has its own file.
"""

import pathlib
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import flax
import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.core.errors import UserError
from jaxgen.nn.blocks import embeddings, layers
from jaxgen.nn.unets import adm, refinenet, song_unet, unet, vdm
from jaxgen.nn.unets.adm import ADM
from jaxgen.nn.unets.refinenet import RefineNet
from jaxgen.nn.unets.song_unet import SongUNet
from jaxgen.nn.unets.vdm import LinearGamma, MonotoneGamma, ScoreNetwork

FIXTURES = pathlib.Path(__file__).parent.parent / "fixtures"


def load(file: str, prefix: str = "", dtype="float64"):
  """(variables, arguments, output) as the script made them."""
  arrays = {k.removeprefix(prefix): v for k, v in np.load(FIXTURES / file).items() if k.startswith(prefix)}
  flat = {tuple(k.split("/")[1:]): jnp.asarray(v, dtype) for k, v in arrays.items() if k.startswith("params/")}
  names = ("x", "z", "t", "gamma", "label")
  arguments = [jnp.asarray(arrays[name]) for name in names if name in arrays]
  return {"params": flax.traverse_util.unflatten_dict(flat)}, arguments, arrays["output"]


class Known(NamedTuple):
  """A network whose output another implementation has given, and mistakes that its fixture must tell."""

  network: Callable
  options: dict
  file: str
  prefix: str = ""
  mistakes: tuple[dict, ...] = ()  # other options, or {"module.name": what stands there instead}


def other_epsilon(groups, eps=1e-6, **options):
  return layers.GroupNorm(groups, 1e-5 if eps == 1e-6 else 1e-6, **options)


def half_pixel(x, height, width):
  """Bilinear interpolation that keeps the corners' pixels whole."""
  return jax.image.resize(x, (x.shape[0], height, width, x.shape[3]), "bilinear")


EPSILON = {"unet.GroupNorm": other_epsilon}
KNOWN = {
  "improved DDPM": Known(
    ADM,
    dict(channels=8, multipliers=(1, 2), blocks=1, attention=(4,)),
    "adm.npz",
    "improved/",
    (EPSILON, {"adm.cosines_first": embeddings.timestep_embedding}),
  ),
  "ADM": Known(
    ADM,
    dict(channels=4, multipliers=(1, 2), blocks=1, attention=(8, 4), classes=3, head_channels=2, residual_sample=True),
    "adm.npz",
    "adm/",
    (dict(head_channels=4), {"adm.groups_for": lambda channels: 2}),
  ),
  "DDPM++": Known(
    SongUNet,
    dict(channels=8, multipliers=(1, 2), blocks=1, attention=(4,), classes=3),
    "song_unet.npz",
    "ddpmpp/",
    ({"song_unet.ROOT_HALF": 0.7}, {"unet.groups_for": lambda channels: 2}),
  ),
  "NCSN++": Known(
    SongUNet,
    dict(channels=8, multipliers=(1, 2), blocks=1, attention=(4,), ncsnpp=True, fourier=16.0),
    "song_unet.npz",
    "ncsnpp/",
    ({"song_unet.fir_halve": song_unet.halve}, {"song_unet.fir_double": song_unet.doubled}),
  ),
  "VDM": Known(
    ScoreNetwork,
    dict(gamma_min=-13.3, gamma_max=5.0, channels=8, depth=2),
    "vdm.npz",
    "",
    (dict(fourier=(6, 7)), {"unet.GroupNorm": other_epsilon, "vdm.GroupNorm": other_epsilon}),
  ),
  "NCSN": Known(
    RefineNet,
    dict(channels=4, levels=3),
    "refinenet.npz",
    "",
    ({"refinenet.bilinear": half_pixel}, {"refinenet.dilate": lambda convolve, x, d: convolve(x)}),
  ),
}


def outputs(known: Known, dtype="float64", **changes):
  """(ours, theirs)"""
  variables, arguments, expected = load(known.file, known.prefix, dtype)
  arguments = [a.astype(dtype) if a.dtype == jnp.float64 else a for a in arguments]
  network = known.network(**known.options | dict(dtype=dtype, param_dtype=dtype) | changes)
  shapes = jax.eval_shape(network.init, jax.random.key(0), *arguments)
  assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, shapes)
  return np.asarray(jax.jit(network.apply)(variables, *arguments)), expected


@pytest.mark.parametrize("name", KNOWN)
def test_equals_the_independent_implementation(name, x64):
  output, expected = outputs(KNOWN[name])
  np.testing.assert_allclose(output, expected, rtol=0, atol=1e-12 * np.abs(expected).max())


@pytest.mark.parametrize(
  ("name", "number"), [(name, i) for name, known in KNOWN.items() for i in range(len(known.mistakes))]
)
def test_fixture_tells_mistakes(name, number, x64, monkeypatch):
  """The comparison above would see what parameter counts and shapes do not tell apart."""
  mistake, options = KNOWN[name].mistakes[number], {}
  modules = dict(adm=adm, refinenet=refinenet, song_unet=song_unet, unet=unet, vdm=vdm)
  for place, value in mistake.items():
    if "." in place:
      module, attribute = place.split(".")
      monkeypatch.setattr(modules[module], attribute, value)
    else:
      options[place] = value
  output, expected = outputs(KNOWN[name], **options)
  assert np.abs(output - expected).max() > 1e-7 * np.abs(expected).max()


PUBLISHED = {
  # improved-diffusion's README, "cifar10_uncond_50M"; the number is what its code's parameters sum to
  "improved DDPM, CIFAR-10": (ADM(), 32, 52_546_438),
  # Dhariwal and Nichol 2021, Table 4 has 296 million; from guided-diffusion's code
  "ADM, ImageNet 64": (
    ADM(192, (1, 2, 3, 4), 3, (32, 16, 8), 0.1, 1000, head_channels=64, residual_sample=True),
    64,
    295_904_454,
  ),
  # the number is what score_sde_pytorch's code sums to with configs/vp/cifar10_ddpmpp_continuous.py, and so on
  "DDPM++ cont.": (SongUNet(), 32, 61_804_419),
  "NCSN++ cont.": (SongUNet(ncsnpp=True, fourier=16.0), 32, 62_758_787 + 128),  # and 128 frequencies
  # Karras et al. 2022, Table 7 has 56 million; EDM's code less the 9 x 128 and 9 x 256 weights of its augmentation
  "EDM's DDPM++": (SongUNet(multipliers=(2, 2, 2)), 32, 55_733_891 - 9 * 128),
  "EDM's NCSN++": (SongUNet(multipliers=(2, 2, 2), ncsnpp=True, fourier=16.0), 32, 56_397_827 - 9 * 256 + 128),
  "EDM's DDPM++, 10 classes": (SongUNet(multipliers=(2, 2, 2), classes=10), 32, 55_735_299 - 9 * 128),
  # the authors' code has 4 x 128 more, for a conditioning input that is always 0
  "VDM, CIFAR-10": (ScoreNetwork(-13.3, 5.0), 32, 30_578_179 - 512),
  # what the authors' code sums to with ngf: 128
  "NCSN, CIFAR-10": (RefineNet(), 32, 30_117_635),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_at_the_papers_size(name):
  network, size, count = PUBLISHED[name]
  x, t = jnp.zeros((1, size, size, 3)), jnp.zeros(1)
  label = jnp.zeros(1, jnp.int32) if getattr(network, "classes", None) else None
  shapes = jax.eval_shape(network.init, jax.random.key(0), x, t, label)
  assert sum(s.size for s in jax.tree.leaves(shapes)) == count


# one of each for digits: 8x8, one channel
DIGITS = {
  "ADM": ADM(8, (1, 1), 1, (4,), 0.5, out_channels=2, residual_sample=True, heads=2),
  "NCSN++": SongUNet(8, (1, 1), 1, (4,), 0.5, out_channels=1, ncsnpp=True, fourier=1.0),
  "VDM": ScoreNetwork(-8.0, 6.0, 8, 1, 0.5, (3, 4)),
}
ZERO = {"ADM": 0.0, "NCSN++": 0.0, "VDM": 1.0}  # what the output is at first, in units of x


@pytest.mark.parametrize("name", DIGITS)
def test_on_digits(name):
  """Starts at zero (VDM: at its input); dropout is a function of the index."""
  network = DIGITS[name]
  network = network if name == "VDM" else network.clone(multipliers=(1,), attention=())  # half the time to compile
  x, t, index = jax.random.normal(jax.random.key(0), (4, 8, 8, 1)), jnp.arange(4.0), jnp.arange(4)
  variables = jax.jit(network.init)(jax.random.key(1), x, t)

  @jax.jit
  def run(variables, x, t, index):
    return network.apply(variables, x, t, index=index, rngs={"dropout": jax.random.key(2)})

  start = run(variables, x, t, index)
  assert jnp.abs(start - ZERO[name] * x).max() < 1e-3
  leaves, tree = jax.tree.flatten(variables)
  noise = [0.2 * jax.random.normal(jax.random.key(i), leaf.shape) for i, leaf in enumerate(leaves)]
  variables = jax.tree.unflatten(tree, jax.tree.map(jnp.add, leaves, noise))
  output = run(variables, x, t, index)
  np.testing.assert_allclose(output[::-1], run(variables, x[::-1], t[::-1], index[::-1]), rtol=1e-3, atol=1e-4)
  assert not np.allclose(output[::-1], run(variables, x[::-1], t[::-1], index), atol=1e-2)


@pytest.mark.parametrize("name", [*DIGITS, "NCSN"])
def test_bfloat16_computes_in_bfloat16_and_keeps_float32_parameters(name):
  network = (DIGITS | {"NCSN": RefineNet(4, out_channels=1)})[name]
  network, x, t = network.clone(dtype=jnp.bfloat16), jnp.zeros((2, 8, 8, 1)), jnp.zeros(2)
  created = jax.eval_shape(network.init, jax.random.key(0), x, t)
  assert {s.dtype for s in jax.tree.leaves(created)} == {jnp.dtype("float32")}
  loss = lambda variables: jnp.sum(network.apply(variables, x, t) ** 2)
  jaxpr = jax.make_jaxpr(jax.value_and_grad(loss))(created)
  assert {a.dtype for a in jaxpr.out_avals} == {jnp.dtype("float32")}
  kernels = [inputs[1].aval.dtype for inputs in products(jaxpr.jaxpr)]
  assert len(kernels) > 30
  assert set(kernels) == {jnp.dtype("bfloat16")}


def products(jaxpr):
  """The inputs of every convolution and product of matrices."""
  for equation in jaxpr.eqns:
    if equation.primitive.name in ("dot_general", "conv_general_dilated", "bilinear"):
      yield equation.invars
    for inner in jax.extend.core.jaxprs_in_params(equation.params):
      yield from products(inner)


def test_frequencies_are_not_trained():
  network = SongUNet(8, (1,), 1, (), out_channels=1, ncsnpp=True, fourier=16.0)
  x, t = jnp.ones((2, 4, 4, 1)), jnp.arange(2.0)
  variables = jax.jit(network.init)(jax.random.key(0), x, t)
  variables = jax.tree.map(lambda p: p + 0.1, variables)
  gradient = jax.jit(jax.grad(lambda v: jnp.sum(network.apply(v, x, t) ** 2)))(variables)["params"]
  assert not gradient["frequencies"].any()
  assert gradient["time_1"]["kernel"].any()
  assert 10 < variables["params"]["frequencies"].std() < 24


def test_fir_is_a_linear_interpolation():
  """What is known of (1, 3, 3, 1): a ramp stays one inside, a constant stays, and halving is doubling's adjoint / 4."""
  ramp = jnp.broadcast_to(jnp.arange(8.0)[:, None, None], (1, 8, 6, 1))
  np.testing.assert_allclose(song_unet.fir_halve(ramp)[0, 1:3, 1, 0], [2.5, 4.5])
  np.testing.assert_allclose(song_unet.fir_double(ramp)[0, 2:6, 3, 0], [0.75, 1.25, 1.75, 2.25])
  np.testing.assert_allclose(song_unet.fir_smooth(ramp)[0, 2:7, 3, 0], np.arange(5) + 1.5)
  x, y = (jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate([(2, 8, 6, 3), (2, 4, 3, 3)]))
  np.testing.assert_allclose(jnp.vdot(song_unet.fir_halve(x), y), jnp.vdot(x, song_unet.fir_double(y)) / 4, rtol=1e-4)


def test_says_what_does_not_fit():
  init = lambda network, shape, **kw: jax.eval_shape(
    partial(network.init, **kw), jax.random.key(0), jnp.zeros(shape), jnp.zeros(1)
  )
  for network in (ADM(8, (1, 1, 1)), SongUNet(8, (1, 1, 1))):
    with pytest.raises(UserError, match="divide by 4"):
      init(network, (1, 8, 10, 1))
  for network in (ADM(8, (1, 1), attention=(5,)), SongUNet(8, (1, 1), attention=(5,))):
    with pytest.raises(UserError, match="height 5, and this network's are of height 8, 4"):
      init(network, (1, 8, 8, 1))
  for heads, said in ({"heads": 3}, "8 features do not divide into 3"), ({"head_channels": 6}, "into heads of 6"):
    with pytest.raises(UserError, match=said):
      init(ADM(8, (1,), attention=(8,), **heads), (1, 8, 8, 1))
  for network in (ADM(8, (1,)), SongUNet(8, (1,)), ScoreNetwork(-8.0, 6.0, 8, 1)):
    with pytest.raises(UserError, match="has none"):
      init(network, (1, 8, 8, 1), label=jnp.zeros(1, jnp.int32))
    with pytest.raises(UserError, match="has 3"):
      init(network.clone(classes=3), (1, 8, 8, 1))
  with pytest.raises(UserError, match="even sides"):
    init(RefineNet(4), (1, 8, 7, 1))
  with pytest.raises(UserError, match="is unconditional"):
    init(RefineNet(4), (1, 8, 8, 1), label=jnp.zeros(1, jnp.int32))


def test_a_label_that_is_none_of_the_classes_is_no_condition(x64):
  """EDM's: what a class-conditional SongUNet without its class's weights gives."""
  known = KNOWN["DDPM++"]
  variables, (x, t, label), expected = load(known.file, known.prefix)
  run = jax.jit(SongUNet(**known.options, dtype="float64", param_dtype="float64").apply)
  without = flax.core.copy(variables, {"params": {**variables["params"]}})
  without["params"]["class"] = {
    **without["params"]["class"],
    "kernel": jnp.zeros_like(variables["params"]["class"]["kernel"]),
  }
  np.testing.assert_allclose(run(variables, x, t, jnp.full_like(label, 3)), run(without, x, t, label), atol=1e-12)
  assert np.abs(run(without, x, t, label) - expected).max() > 1e-3


# --- Learned schedules ----------------------------------------------------------------------------------------------


def test_monotone_gamma_equals_the_authors_formula(x64):
  variables, (t,), expected = load("vdm.npz", "gamma/")
  gamma = MonotoneGamma(0.0, 1.0, hidden=6)
  np.testing.assert_allclose(gamma.apply(variables, t), expected, rtol=1e-12)
  np.testing.assert_allclose(gamma.apply(variables, t[3]), expected[3], rtol=1e-12)


@pytest.mark.parametrize("module", [LinearGamma(-13.3, 5.0), MonotoneGamma(-13.3, 5.0)])
def test_gamma(module, x64):
  """Starts as the line between its ends; increases whatever its parameters; forward mode goes through."""
  t = jnp.linspace(0, 1, 101)
  variables = module.init(jax.random.key(0), t)
  np.testing.assert_allclose(module.apply(variables, t), -13.3 + 18.3 * t, atol=1e-3)
  count = sum(p.size for p in jax.tree.leaves(variables))
  assert count == {"LinearGamma": 2, "MonotoneGamma": 3_074}[type(module).__name__]  # the authors' code
  for seed in range(5):
    leaves, tree = jax.tree.flatten(variables)
    random = [3 * jax.random.normal(jax.random.key(100 * seed + i), p.shape) for i, p in enumerate(leaves)]
    at = partial(module.apply, jax.tree.unflatten(tree, random))
    assert (jnp.diff(at(t)) > 0).all()
    _, slope = jax.jvp(at, (t,), (jnp.ones_like(t),))
    np.testing.assert_allclose(slope[1:-1], (at(t + 1e-5) - at(t - 1e-5))[1:-1] / 2e-5, rtol=1e-4)
