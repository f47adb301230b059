"""ResNet, EfficientNet, DenseNet and GoogLeNet against timm, torchvision and transformers (make_convnets.py)."""

import pathlib
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from rounding import conditioning, tolerance

from jaxgen.core.errors import UserError
from jaxgen.interop import densenet as densenet_layout
from jaxgen.interop import efficientnet as efficientnet_layout
from jaxgen.interop import googlenet as googlenet_layout
from jaxgen.interop import layout
from jaxgen.interop import resnet as resnet_layout
from jaxgen.nn.blocks.layers import BatchNorm, Conv, max_pool
from jaxgen.nn.vision import densenet, efficientnet, googlenet, resnet
from jaxgen.nn.vision.densenet import DenseNet
from jaxgen.nn.vision.efficientnet import EfficientNet, Stage
from jaxgen.nn.vision.googlenet import GoogLeNet
from jaxgen.nn.vision.resnet import VERSIONS, ResNet

FIXTURES = pathlib.Path(__file__).parent.parent / "fixtures"


class Known(NamedTuple):
  """A network that another implementation has given the output of, and mistakes that its fixture must tell."""

  network: nn.Module
  layout: Callable
  mistakes: tuple[dict, ...] = ()  # other options, or {"module.name": what stands there instead}


def normed(**changes):
  """BatchNorm with other options, whatever is asked for."""
  return lambda *arguments, **options: BatchNorm(*arguments[:1], **options | changes)


def same_padding(features, kernel, stride=1, padding="SAME", **options):
  return Conv(features, kernel, stride, "SAME", **options)


def padded_behind(x, window, stride, pads):
  return max_pool(x, window, stride, tuple((0, low + high) for low, high in pads))


def floor(x, window=3):
  """Without the last window that sticks out."""
  return max_pool(x, window, 2, ((0, 0), (0, 0)))


EFFICIENTNET = dict(
  width=1.2,
  depth=1.1,
  classes=5,
  stages=(Stage(1, 3, 1, 16, 1), Stage(6, 5, 2, 20, 1), Stage(3, 3, 2, 24, 1)),
  stem=12,
  out=40,
  dropout=0.0,
  drop_path=0.0,
)
KNOWN = {
  "ResNet, basic": Known(
    ResNet((2, 1), classes=5), resnet_layout.timm, ({"resnet.max_pool": padded_behind}, {"resnet.Conv": same_padding})
  ),
  "ResNet, small": Known(ResNet((1, 1), classes=5, small=True), resnet_layout.torchvision),
  "ResNet v1.5": Known(
    ResNet((1, 1), classes=5, bottleneck=True),
    resnet_layout.timm,
    (VERSIONS["v1"], {"resnet.BatchNorm": normed(eps=1.1e-5)}),
  ),
  "ResNet v2": Known(
    ResNet((1, 2), 8, 5, bottleneck=True, **VERSIONS["v2"]), resnet_layout.timm, (dict(stride_first=True),)
  ),
  "ResNet v2, basic": Known(ResNet((1, 2), 8, 5, **VERSIONS["v2"]), resnet_layout.timm),
  "ResNet v1, transformers": Known(
    ResNet((1, 2), 4, 5, bottleneck=True, **VERSIONS["v1"]), resnet_layout.transformers, (dict(stride_first=False),)
  ),
  "ResNet v1.5, transformers": Known(ResNet((2, 1), 4, 5, bottleneck=True), resnet_layout.transformers),
  "EfficientNet, timm": Known(
    EfficientNet(**EFFICIENTNET),
    efficientnet_layout.timm,
    (dict(padding="symmetric"), dict(eps=1.1e-3), {"efficientnet.nn.silu": nn.relu}),
  ),
  "EfficientNet, torchvision": Known(
    EfficientNet(**EFFICIENTNET, padding="symmetric", eps=1e-5, momentum=0.9),
    efficientnet_layout.torchvision,
    (dict(padding="same"),),
  ),
  "EfficientNet, transformers": Known(
    EfficientNet(**EFFICIENTNET | dict(width=1.0, stem=32, out=1280)), efficientnet_layout.transformers
  ),
  "DenseNet": Known(
    DenseNet((2, 1, 1), 4, 6, 5), densenet_layout.torchvision, ({"densenet.BatchNorm": normed(eps=1.1e-5)},)
  ),
  "DenseNet, small": Known(DenseNet((2, 1), 4, 6, 5, small=True), densenet_layout.timm),
  "GoogLeNet": Known(
    GoogLeNet(5, 1 / 16, dropout=0.0, auxiliary_dropout=0.0),
    googlenet_layout.torchvision,
    ({"googlenet.response_norm": lambda x: x}, {"googlenet.reduce": floor}),
  ),
  "GoogLeNet, torchvision": Known(
    GoogLeNet(5, 1 / 16, dropout=0.0, auxiliary_dropout=0.0, batch_norm=True),
    googlenet_layout.torchvision,
    ({"googlenet.BatchNorm": normed(eps=1.1e-3)},),
  ),
}
ARRAYS = dict(np.load(FIXTURES / "convnets.npz"))
TRAINED = [name for name in KNOWN if f"{name}/training" in ARRAYS]


def tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
  """As in the script that made the fixtures."""
  random = np.random.default_rng(list(name.encode()))
  if name.endswith("running_var"):
    return random.uniform(0.5, 2, shape)
  value = random.standard_normal(shape)
  if len(shape) > 1:
    return value * (2 / np.prod(shape[1:])) ** 0.5
  return 0.3 * value + name.endswith("weight")


def projected(name: str, gradient: np.ndarray) -> np.ndarray:
  """As in the script that made the fixtures."""
  return np.random.default_rng(list(name.encode())).standard_normal((4, gradient.size)) @ gradient.ravel()


def load(name: str, dtype="float64"):
  """(network, its layout, the originals' tensors, our variables, x)"""
  network = KNOWN[name].network.clone(dtype=dtype, param_dtype=dtype)
  x = jnp.asarray(np.random.default_rng(0).standard_normal((4, *ARRAYS[f"{name}/size"], 3)), dtype)
  shapes = jax.eval_shape(network.init, jax.random.key(0), x)
  entries = KNOWN[name].layout(network)
  zeros = jax.tree.map(lambda s: np.broadcast_to(np.zeros((), np.int8), s.shape), shapes)
  tensors = {k: tensor(k, v.shape).astype(dtype) for k, v in layout.write(entries, zeros).items()}
  return network, entries, tensors, layout.read(entries, tensors, shapes), x


# In float32 one of each family. (Of GoogLeNet with batch norm PyTorch's own gradients are off by 3e-4, ours by 3e-5.)
SINGLE = ("ResNet v1.5", "ResNet v2", "EfficientNet, timm", "DenseNet", "GoogLeNet")


@pytest.mark.parametrize("name", TRAINED)
def test_training_equals_the_originals(name, x64):
  """Output, new running statistics and gradients; in float32 as far as the network lets errors of rounding grow."""
  names = ARRAYS[f"{name}/names"].tolist()
  trained, statistics = ([k for k in names if ("running" in k) == moving] for moving in (False, True))
  expected = {"output": ARRAYS[f"{name}/training"]}
  if statistics:
    expected["statistics"] = ARRAYS[f"{name}/statistics"]
  expected |= dict(zip(trained, ARRAYS[f"{name}/gradient"], strict=True))

  def results(dtype):
    """A function of the variables and the pictures: what the fixture keeps."""
    network, entries, *_ = load(name, dtype)
    cotangent = np.random.default_rng(1).standard_normal(expected["output"].shape).astype(dtype)

    def loss(params, rest, x):
      output, new = network.apply({**rest, "params": params}, x, jnp.arange(len(x)), mutable=["batch_stats"])
      output = jnp.stack(output) if isinstance(output, tuple) else output
      return jnp.sum(output * cotangent), (output, new)

    compiled = jax.jit(jax.grad(loss, has_aux=True))

    def run(variables, x):
      gradients, (output, new) = compiled(variables["params"], variables, x)
      found = layout.write(entries, {"params": gradients, **new})
      moved = [found.pop(k) for k in statistics]
      results = {k: projected(k, gradient) for k, gradient in found.items()} | {"output": np.asarray(output)}
      return results | ({"statistics": np.concatenate(moved)} if moved else {})

    return run

  scales = conditioning(results("float64"), *load(name)[3:])
  # A gradient that is nearly zero is a difference of ones that are not.
  least = 1e-2 * max(scales[k] for k in trained)
  scales |= {k: max(scales[k], least) for k in trained}
  for dtype in ("float64", "float32") if name in SINGLE else ("float64",):
    found = results(dtype)(*load(name, dtype)[3:])
    assert found.keys() == expected.keys()
    for k, wanted in expected.items():
      np.testing.assert_allclose(found[k], wanted, rtol=0, atol=tolerance(dtype, 100, scales[k]), err_msg=k)


def evaluated(name: str, **changes):
  """(ours, theirs), in units of theirs' largest."""
  network, _, _, variables, x = load(name)
  expected = ARRAYS[f"{name}/output"]
  output = np.asarray(jax.jit(network.clone(**changes).apply)(variables, x))
  return output / np.abs(expected).max(), expected / np.abs(expected).max()


@pytest.mark.parametrize("name", KNOWN)
def test_evaluation_equals_the_originals(name, x64):
  np.testing.assert_allclose(*evaluated(name), rtol=0, atol=1e-9)


MISTAKES = [(name, i) for name, known in KNOWN.items() for i in range(len(known.mistakes))]


@pytest.mark.parametrize(("name", "number"), MISTAKES)
def test_fixture_tells_mistakes(name, number, x64, monkeypatch):
  """The comparison above would see what parameter counts and shapes do not tell apart."""
  options, modules = {}, dict(resnet=resnet, efficientnet=efficientnet, densenet=densenet, googlenet=googlenet)
  for place, value in KNOWN[name].mistakes[number].items():
    if "." in place:
      module, *path, attribute = place.split(".")
      monkeypatch.setattr(getattr(modules[module], path[0]) if path else modules[module], attribute, value)
    else:
      options[place] = value
  ours, theirs = evaluated(name, **options)
  assert np.abs(ours - theirs).max() > 1e-7


@pytest.mark.parametrize("name", KNOWN)
def test_weights_go_back_as_they_came(name):
  _, entries, tensors, variables, _ = load(name, "float32")
  back = layout.write(entries, variables)
  assert sorted(back) == ARRAYS[f"{name}/names"].tolist()
  for k, value in back.items():
    np.testing.assert_array_equal(value, tensors[k], err_msg=k)


@pytest.mark.parametrize("name", ["ResNet, basic", "ResNet v2", "EfficientNet, transformers", "DenseNet"])
def test_counters_in_published_files_are_passed_over(name):
  """PyTorch's modules keep the number of batches that their statistics have seen, and so do their files."""
  network, entries, tensors, variables, x = load(name, "float32")
  counters = {k.replace("running_mean", "num_batches_tracked"): np.int64(7) for k in tensors if "running_mean" in k}
  shapes = jax.eval_shape(network.init, jax.random.key(0), x)
  jax.tree.map(np.testing.assert_array_equal, layout.read(entries, tensors | counters, shapes), variables)
  assert counters
  with pytest.raises(UserError, match="no place for the tensor 'other.num_batches_tracked'"):
    layout.read(entries, tensors | {"other.num_batches_tracked": np.int64(7)}, shapes)


# --- Sizes -----------------------------------------------------------------------------------------------------------

PUBLISHED = {
  **{
    f"ResNet-{size} {version}": (ResNet(**resnet.SIZES[size], **VERSIONS[version]), count - (version == "v2") * less)
    for size, count, less in (
      (18, 11_689_512, 1_792),  # timm's counts; resnetv2_18 and so on
      (34, 21_797_672, 1_792),
      (50, 25_557_032, 7_680),
      (101, 44_549_160, 7_680),
      (152, 60_192_808, 7_680),
    )
    for version in ("v1.5", "v2")
  },
  # timm's and torchvision's
  "EfficientNet-B0": (EfficientNet(**efficientnet.SIZES["B0"]), 5_288_548),
  "EfficientNet-B1": (EfficientNet(**efficientnet.SIZES["B1"]), 7_794_184),
  "EfficientNet-B2": (EfficientNet(**efficientnet.SIZES["B2"]), 9_109_994),
  "EfficientNet-B3": (EfficientNet(**efficientnet.SIZES["B3"]), 12_233_232),
  "EfficientNet-B4": (EfficientNet(**efficientnet.SIZES["B4"]), 19_341_616),
  "EfficientNet-B5": (EfficientNet(**efficientnet.SIZES["B5"]), 30_389_784),
  "EfficientNet-B6": (EfficientNet(**efficientnet.SIZES["B6"]), 43_040_704),
  "EfficientNet-B7": (EfficientNet(**efficientnet.SIZES["B7"]), 66_347_960),
  # torchvision's; 264 is what its class makes of the paper's numbers
  "DenseNet-121": (DenseNet(**densenet.SIZES[121]), 7_978_856),
  "DenseNet-169": (DenseNet(**densenet.SIZES[169]), 14_149_480),
  "DenseNet-201": (DenseNet(**densenet.SIZES[201]), 20_013_928),
  "DenseNet-264": (DenseNet(**densenet.SIZES[264]), 33_337_704),
  "DenseNet-161": (DenseNet(**densenet.SIZES[161]), 28_681_000),
  # Table 2 of the paper: 0.8 million
  "DenseNet-BC, depth 100": (DenseNet((16, 16, 16), 12, 24, 10, small=True), 769_162),
  # bvlc_googlenet's
  "GoogLeNet": (GoogLeNet(auxiliary=False), 6_998_552),
  "GoogLeNet, auxiliary heads": (GoogLeNet(), 13_378_280),
  "GoogLeNet, torchvision": (GoogLeNet(auxiliary=False, batch_norm=True), 6_624_904),
  "GoogLeNet, torchvision, auxiliary heads": (GoogLeNet(batch_norm=True), 13_004_888),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_at_the_published_sizes(name):
  network, count = PUBLISHED[name]
  shapes = jax.eval_shape(network.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32))
  assert sum(s.size for s in jax.tree.leaves(shapes["params"])) == count


# --- What all promise ------------------------------------------------------------------------------------------------

SMALL = dict(classes=3, small=True)
DIGITS = {
  "ResNet": ResNet((1, 1), 4, drop_path=0.5, **SMALL),
  "EfficientNet": EfficientNet(stages=efficientnet.STAGES[:2], stem=8, out=16, drop_path=0.9, **SMALL),
  "DenseNet": DenseNet((2, 1), 4, 8, dropout=0.5, **SMALL),
  "GoogLeNet": GoogLeNet(width=1 / 16, **SMALL),
}


@pytest.mark.parametrize("name", DIGITS)
def test_on_digits(name):
  """Of 8x8 pictures; dropout and stochastic depth are functions of the index; features are what the head sees."""
  network = DIGITS[name]
  x, index = jax.random.normal(jax.random.key(0), (8, 8, 8, 1)), jnp.arange(8)
  shapes = jax.eval_shape(network.init, jax.random.key(1), x)
  some = lambda path, s: jnp.float32(tensor(str(path), s.shape) + (len(s.shape) == 1))  # variances are positive
  variables = jax.tree_util.tree_map_with_path(some, shapes)

  @jax.jit
  def train(index, x):
    output = network.apply(variables, x, index, rngs={"dropout": jax.random.key(2)}, mutable=["batch_stats"])[0]
    return output[0] if isinstance(output, tuple) else output

  output = train(index, x)
  assert output.shape == (8, 3)
  np.testing.assert_allclose(output[::-1], train(index[::-1], x[::-1]), atol=1e-4 * np.abs(output).max())
  assert np.abs(output[::-1] - train(index, x[::-1])).max() > 1e-3 * np.abs(output).max()
  head = variables["params"]["head"]
  logits, features = jax.jit(lambda x: (network.apply(variables, x), network.apply(variables, x, method="features")))(x)
  np.testing.assert_allclose(logits, features @ head["kernel"] + head["bias"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", DIGITS)
def test_bfloat16_computes_in_bfloat16_and_keeps_float32_parameters(name):
  network, x = DIGITS[name].clone(dtype=jnp.bfloat16), jnp.zeros((2, 8, 8, 1))
  created = jax.eval_shape(network.init, jax.random.key(0), x)
  assert {s.dtype for s in jax.tree.leaves(created)} == {jnp.dtype("float32")}
  jaxpr = jax.make_jaxpr(lambda v: network.apply(v, x))(created)
  kernels = [e.invars[1].aval.dtype for e in jaxpr.eqns if e.primitive.name == "dot_general"]
  assert jaxpr.out_avals[0].dtype == jnp.bfloat16
  assert kernels
  assert set(kernels) == {jnp.dtype("bfloat16")}


def test_residual_branches_may_start_at_zero():
  """Then all blocks but those with a shortcut are ReLU(x): features do not depend on how many there are."""
  x = jax.random.normal(jax.random.key(0), (2, 6, 6, 3))
  features = []
  for depth in (1, 2):
    network = ResNet((depth,), 4, 3, small=True, zero_gain=True)
    variables = jax.jit(network.init)(jax.random.key(1), x)
    features.append(jax.jit(partial(network.apply, method="features"))(variables, x))
  np.testing.assert_allclose(*features, atol=1e-6)
  assert np.abs(features[0]).max() > 0.1


def test_says_what_does_not_fit():
  with pytest.raises(UserError, match="16 x 64 are too small for GoogLeNet"):
    jax.eval_shape(GoogLeNet().init, jax.random.key(0), jnp.zeros((1, 16, 64, 3)))
  # The smallest pictures that are large enough have a position left at the end.
  for network, large in ((GoogLeNet(), 31), (GoogLeNet(batch_norm=True), 15), (GoogLeNet(small=True), 4)):
    network = network.clone(width=1 / 16, classes=3)
    with pytest.raises(UserError, match="too small"):
      jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 64, large - 1, 3)))
    x = jax.ShapeDtypeStruct((1, large, large, 3), jnp.float32)
    variables = jax.tree.map(lambda s: jnp.full(s.shape, 0.1), jax.eval_shape(network.init, jax.random.key(0), x))
    assert (jax.jit(network.apply)(variables, jnp.ones(x.shape)) > 0.1).all()
  network, entries, tensors, _, x = load("ResNet, small", "float32")
  shapes = jax.eval_shape(network.clone(classes=6).init, jax.random.key(0), x)
  with pytest.raises(UserError, match=r"'fc.weight' is of shape \(5, 128\) and the network's is \(6, 128\)"):
    layout.read(entries, tensors, shapes)
