"""ViT, DeiT, Swin, CaiT and T2T-ViT against timm, transformers and the authors' definition of T2T-ViT.

The fixtures are of tests/fixtures/make_vision_transformers.py.
"""

from collections.abc import Callable
from functools import cache, partial
from types import SimpleNamespace
from typing import NamedTuple

import conftest
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from packed import FIXTURES
from published import products, projected
from rounding import conditioning, tolerance

from jaxgen.core.errors import UserError
from jaxgen.interop import cait as cait_layout
from jaxgen.interop import layout
from jaxgen.interop import swin as swin_layout
from jaxgen.interop import t2t as t2t_layout
from jaxgen.interop import vit as vit_layout
from jaxgen.nn.blocks import attention
from jaxgen.nn.vision import cait, swin, t2t, vit
from jaxgen.nn.vision.cait import CaiT
from jaxgen.nn.vision.swin import Swin
from jaxgen.nn.vision.t2t import T2TViT
from jaxgen.nn.vision.vit import DEIT, SIZES, ViT, resize_positions


class Known(NamedTuple):
  """A network that another implementation has given the output of."""

  network: nn.Module
  layout: Callable
  file: str
  name: str
  mistakes: tuple[dict, ...] = ()  # other options, or {"module.name": what stands there instead}


def wrong_mask(height, width, window, shift):
  """Without the map's edge in one direction."""
  return RIGHT_MASK(height, width, window, (shift[0], 0))


def other_way(x, shift, axis):
  return jnp.roll(x, [-s for s in shift], axis)


def channels_last(x, split):
  """A soft split whose vectors go position by position."""
  y = RIGHT_SPLIT(x, split)
  return y.reshape(*y.shape[:3], x.shape[-1], -1).swapaxes(-1, -2).reshape(y.shape)


def swapped_heads(name, **options):
  return RIGHT_HEADS(name=dict(before="after", after="before")[name], **options)


RIGHT_MASK, RIGHT_POSITIONS, RIGHT_SPLIT = swin.shifted_mask, swin.relative_positions, t2t.soft_split
RIGHT_HEADS, RIGHT_TABLE = cait.TalkingHeads, vit.positions
BLOCK_WITH_TANH = partial(attention.Block, activation=jax.nn.gelu)
MLP_WITH_TANH = partial(attention.MLP, activation=jax.nn.gelu)

KNOWN = {
  "ViT": Known(
    ViT(4, 12, 2, 3, classes=5),
    vit_layout.timm,
    "vit.npz",
    "ViT",
    (
      dict(eps=1e-5),
      dict(activation=jax.nn.gelu),
      {"vit.positions": lambda *arguments: RIGHT_TABLE(*arguments)[::-1]},
    ),
  ),
  "ViT, mean": Known(ViT(4, 12, 2, 3, classes=5, pool="mean"), vit_layout.timm, "vit.npz", "mean"),
  "ViT, transformers": Known(
    ViT(4, 12, 2, 3, 20, classes=5), vit_layout.transformers, "vit.npz", "transformers", (dict(eps=1e-5),)
  ),
  "DeiT": Known(ViT(4, 12, 2, 2, classes=5, distilled=True), vit_layout.timm, "vit.npz", "DeiT", (dict(heads=3),)),
  "DeiT, transformers": Known(
    ViT(4, 12, 2, 3, 20, classes=5, distilled=True), vit_layout.transformers, "vit.npz", "transformers DeiT"
  ),
  "Swin": Known(
    Swin(2, 4, (4, 2), (1, 2), 3, classes=5),
    swin_layout.timm,
    "swin.npz",
    "Swin",
  ),
  "Swin, transformers": Known(
    Swin(2, 4, (2, 2), (2, 4), 3, classes=5),
    swin_layout.transformers,
    "swin.npz",
    "transformers",
    (
      dict(eps=1e-6),
      {"swin.shifted_mask": wrong_mask},
      {"swin.jnp": SimpleNamespace(**vars(jnp) | dict(roll=other_way))},
      {"swin.relative_positions": lambda window: RIGHT_POSITIONS(window).T},
      {"swin.Block": BLOCK_WITH_TANH},
    ),
  ),
  "CaiT": Known(
    CaiT(4, 12, 3, 3, classes=5),
    cait_layout.timm,
    "cait.npz",
    "CaiT",
    (
      dict(eps=1e-5),
      {"cait.TalkingHeads": swapped_heads},
      {"cait.Block": BLOCK_WITH_TANH},
    ),
  ),
  "T2T-ViT": Known(
    T2TViT(12, 2, 3, 24, "transformer", 4, scale=12**-0.5, classes=5),
    t2t_layout.authors,
    "t2t.npz",
    "Transformer",
    (dict(scale=None), {"t2t.soft_split": channels_last}),
  ),
  "T2T-ViT, performer": Known(
    T2TViT(12, 2, 2, 36, "performer", 4, classes=5),
    t2t_layout.authors,
    "t2t.npz",
    "performer",
    ({"t2t.MLP": MLP_WITH_TANH},),
  ),
}


@cache
def arrays_of(file: str) -> dict[str, np.ndarray]:
  return dict(np.load(FIXTURES / file))


@cache
def load(name: str, dtype: str = "float64"):
  """(network, variables, x, what else is in the fixture)"""
  known, prefix = KNOWN[name], f"{KNOWN[name].name}/"
  arrays = {k.removeprefix(prefix): v for k, v in arrays_of(known.file).items() if k.startswith(prefix)}
  tensors = {k.removeprefix("weight/"): v for k, v in arrays.items() if k.startswith("weight/")}
  network = known.network.clone(dtype=dtype, param_dtype=dtype)
  x = arrays["x"].astype(dtype)
  with conftest.enable_x64():
    shapes = jax.eval_shape(network.init, jax.random.key(0), x)
  return network, layout.read(known.layout(network), tensors, shapes), x, arrays


TRAINED = [name for name in KNOWN if "transformers" not in name and "mean" not in name]


@pytest.mark.parametrize("name", TRAINED)
def test_output_and_gradients_equal_the_originals(name, x64):
  """In float64, and in float32 as far as the network lets errors of rounding grow."""
  known = {dtype: load(name, dtype) for dtype in ("float64", "float32")}
  arrays = known["float64"][-1]
  training = "training" in arrays
  wanted = {k.removeprefix("gradient/"): v for k, v in arrays.items() if k.startswith("gradient/")}

  def results(dtype):
    """A function of the variables and the pictures: the output, and what the fixture keeps of each gradient."""
    network = known[dtype][0]

    def loss(variables, x):
      output = network.apply(variables, x, jnp.arange(len(x)) if training else None)
      output = jnp.stack(output) if training else output
      return jnp.sum(output * arrays["cotangent"].astype(dtype)), output

    compiled = jax.jit(jax.value_and_grad(loss, has_aux=True))

    def run(variables, x):
      (_, output), gradients = compiled(variables, jnp.asarray(x))
      gradients = layout.write(KNOWN[name].layout(network), gradients)
      for tensor in gradients.keys() - wanted.keys():
        assert not gradients[tensor].any(), tensor  # what the original does not train either
      return np.asarray(output), {tensor: projected(tensor, gradients[tensor]) for tensor in wanted}

    return run

  expected = arrays["training" if training else "output"], wanted
  scales = conditioning(results("float64"), *known["float64"][1:3])
  # A gradient that is nearly zero is a difference of ones that are not.
  least = 1e-2 * max(scales[1].values())
  scales = scales[0], {tensor: max(scale, least) for tensor, scale in scales[1].items()}
  for dtype, (_, variables, x, _) in known.items():
    close = lambda found, known, scale, dtype=dtype: np.testing.assert_allclose(
      found, known, rtol=0, atol=tolerance(dtype, 100, scale)
    )
    jax.tree.map(close, results(dtype)(variables, x), expected, scales)


def output_of(name: str, **changes):
  """(ours, theirs), relative to theirs' largest."""
  network, variables, x, arrays = load(name)
  expected = arrays["output"]
  output = np.asarray(jax.jit(network.clone(**changes).apply)(variables, x))
  return output / np.abs(expected).max(), expected / np.abs(expected).max()


@pytest.mark.parametrize("name", [name for name, known in KNOWN.items() if name not in TRAINED or "DeiT" in name])
def test_output_at_evaluation_equals_the_originals(name, x64):
  np.testing.assert_allclose(*output_of(name), rtol=0, atol=1e-9)


MISTAKES = [(name, i) for name, known in KNOWN.items() for i in range(len(known.mistakes))]


@pytest.mark.parametrize(("name", "number"), MISTAKES)
def test_fixture_tells_mistakes(name, number, x64, monkeypatch):
  """The comparison above would see what parameter counts and shapes do not tell apart."""
  options, modules = {}, dict(cait=cait, swin=swin, t2t=t2t, vit=vit)
  for place, value in KNOWN[name].mistakes[number].items():
    if "." in place:
      module, attribute = place.split(".")
      monkeypatch.setattr(modules[module], attribute, value)
    else:
      options[place] = value
  ours, theirs = output_of(name, **options)
  assert np.abs(ours - theirs).max() > 1e-7


@pytest.mark.parametrize("name", KNOWN)
def test_weights_go_back_as_they_came(name):
  network, variables, _, arrays = load(name, "float32")
  tensors = layout.write(KNOWN[name].layout(network), variables)
  theirs = {k.removeprefix("weight/"): v for k, v in arrays.items() if k.startswith("weight/")}
  assert tensors.keys() == theirs.keys()
  for tensor, value in tensors.items():
    np.testing.assert_array_equal(value, theirs[tensor].astype("float32"), err_msg=tensor)


# --- Sizes -----------------------------------------------------------------------------------------------------------

# timm's counts, but where said
PUBLISHED = {
  "ViT-Ti/16": (ViT(**SIZES["Ti/16"]), 224, 5_717_416),
  "ViT-S/32": (ViT(**SIZES["S/32"]), 224, 22_878_952),
  "ViT-S/16": (ViT(**SIZES["S/16"]), 224, 22_050_664),
  "ViT-S/8": (ViT(**SIZES["S/8"]), 224, 22_055_272),
  "ViT-B/32": (ViT(**SIZES["B/32"]), 224, 88_224_232),
  "ViT-B/16": (ViT(**SIZES["B/16"]), 224, 86_567_656),
  "ViT-B/16, 384": (ViT(**SIZES["B/16"]), 384, 86_859_496),
  "ViT-B/16, mean": (ViT(**SIZES["B/16"], pool="mean"), 224, 86_567_656 - 2 * 768),
  "ViT-B/8": (ViT(**SIZES["B/8"]), 224, 86_576_872),
  "ViT-L/32": (ViT(**SIZES["L/32"]), 224, 306_535_400),
  "ViT-L/16": (ViT(**SIZES["L/16"]), 224, 304_326_632),
  "ViT-L/14": (ViT(**SIZES["L/14"]), 224, 304_203_752),
  "ViT-H/14": (ViT(**SIZES["H/14"]), 224, 632_045_800),
  "DeiT-Ti": (ViT(**DEIT["Ti"]), 224, 5_910_800),
  "DeiT-S": (ViT(**DEIT["S"]), 224, 22_436_432),
  "DeiT-B": (ViT(**DEIT["B"]), 224, 87_338_192),
  "DeiT-B, 384": (ViT(**DEIT["B"]), 384, 87_630_032),
  "Swin-T": (Swin(**swin.SIZES["T"]), 224, 28_288_354),
  "Swin-S": (Swin(**swin.SIZES["S"]), 224, 49_606_258),
  "Swin-B": (Swin(**swin.SIZES["B"]), 224, 87_768_224),
  "Swin-B, 384": (Swin(**swin.SIZES["B, 384"]), 384, 87_903_584),
  "Swin-L": (Swin(**swin.SIZES["L"]), 224, 196_532_476),
  "Swin-L, 384": (Swin(**swin.SIZES["L, 384"]), 384, 196_735_516),
  "CaiT-XXS-24": (CaiT(**cait.SIZES["XXS-24"]), 224, 11_956_264),
  "CaiT-XXS-24, 384": (CaiT(**cait.SIZES["XXS-24"]), 384, 12_029_224),
  "CaiT-XXS-36": (CaiT(**cait.SIZES["XXS-36"]), 224, 17_299_720),
  "CaiT-XS-24, 384": (CaiT(**cait.SIZES["XS-24"]), 384, 26_670_088),
  "CaiT-XS-36": (CaiT(**cait.SIZES["XS-36"]), 224, 38_557_432),
  "CaiT-S-24": (CaiT(**cait.SIZES["S-24"]), 224, 46_916_200),
  "CaiT-S-36, 384": (CaiT(**cait.SIZES["S-36"]), 384, 68_366_632),
  "CaiT-S-48": (CaiT(**cait.SIZES["S-48"]), 224, 89_525_224),
  "CaiT-M-24": (CaiT(**cait.SIZES["M-24"]), 224, 185_850_088),
  "CaiT-M-36, 384": (CaiT(**cait.SIZES["M-36"]), 384, 271_221_352),
  "CaiT-M-48, 448": (CaiT(**cait.SIZES["M-48"]), 448, 356_460_520),
  # the authors' code's counts
  "T2T-ViT-7": (T2TViT(**t2t.SIZES["7"]), 224, 4_310_222),
  "T2T-ViT-10": (T2TViT(**t2t.SIZES["10"]), 224, 5_889_230),
  "T2T-ViT-12": (T2TViT(**t2t.SIZES["12"]), 224, 6_941_902),
  "T2T-ViT-14": (T2TViT(**t2t.SIZES["14"]), 224, 21_545_550),
  "T2T-ViT-19": (T2TViT(**t2t.SIZES["19"]), 224, 39_177_422),
  "T2T-ViT-24": (T2TViT(**t2t.SIZES["24"]), 224, 64_105_934),
  "T2T-ViT_t-14": (T2TViT(**t2t.SIZES["t-14"]), 224, 21_541_070),
  "T2T-ViT_t-19": (T2TViT(**t2t.SIZES["t-19"]), 224, 39_172_942),
  "T2T-ViT_t-24": (T2TViT(**t2t.SIZES["t-24"]), 224, 64_101_454),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_at_the_published_sizes(name):
  network, size, count = PUBLISHED[name]
  shapes = jax.eval_shape(network.init, jax.random.key(0), jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32))
  assert sum(s.size for s in jax.tree.leaves(shapes)) == count


# --- Positions at another resolution ----------------------------------------------------------------------------------


@pytest.mark.parametrize("new", [(7, 5), (2, 3), (3, 9), (1, 1)])
def test_positions_are_resized_as_by_timm(new, x64):
  arrays = arrays_of("vit.npz")
  table, expected = arrays["positions/table"], arrays["positions/{}x{}".format(*new)]
  np.testing.assert_allclose(resize_positions(table, (3, 4), new), expected, rtol=0, atol=1e-9)


def test_positions_say_what_does_not_fit():
  with pytest.raises(UserError, match="20 positions is not of 3 x 4 patches"):
    resize_positions(np.zeros((20, 4)), (3, 4), (6, 8))
  network = DIGITS["ViT"]
  variables = random_variables(network, (1, 8, 8, 1))
  with pytest.raises(UserError, match=r"has 17 positions and these pictures need 10.*resize"):
    network.apply(variables, jnp.zeros((1, 6, 6, 1)))
  table = resize_positions(variables["params"]["positions"], (4, 4), (3, 3))
  resized = {"params": variables["params"] | {"positions": table}}
  assert jax.eval_shape(network.apply, resized, jnp.zeros((1, 6, 6, 1))).shape == (1, 10)


# --- What all promise ------------------------------------------------------------------------------------------------

DIGITS = {
  "ViT": ViT(2, 16, 2, 2, classes=10, dropout=0.2, attention_dropout=0.2, drop_path=0.3),
  "DeiT": ViT(2, 16, 2, 2, classes=10, distilled=True, drop_path=0.3),
  "Swin": Swin(2, 8, (2, 2), (1, 2), 2, classes=10, drop_path=0.5),
  "CaiT": CaiT(2, 16, 2, 2, classes=10, dropout=0.2, attention_dropout=0.2, drop_path=0.3, layer_scale=0.1),
  "T2T-ViT": T2TViT(16, 2, 2, 32, token_width=8, splits=t2t.DIGITS, classes=10, drop_path=0.3),
  "T2T-ViT_t": T2TViT(16, 2, 2, 32, "transformer", 8, splits=t2t.DIGITS, classes=10, drop_path=0.3),
}


def random_variables(network, shape):
  """Drawn without compiling anything."""
  rng = np.random.default_rng(0)
  shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros(shape))
  return jax.tree.map(lambda s: jnp.asarray(rng.normal(0, 0.3, s.shape), s.dtype), shapes)


@pytest.mark.parametrize("name", [name for name in DIGITS if name != "T2T-ViT_t"])
def test_training_is_a_function_of_the_index(name):
  """An example's dropout and stochastic depth go with its index, wherever in the batch it is; and they are there."""
  network, index = DIGITS[name], jnp.arange(4)
  x = np.random.default_rng(1).normal(size=(4, 8, 8, 1)).astype("float32")
  variables = random_variables(network, x.shape)

  @jax.jit
  def train(index, x):
    outputs = network.apply(variables, x, index, rngs={"dropout": jax.random.key(2)})
    return outputs if isinstance(outputs, tuple) else (outputs,)

  outputs, again, others = train(index, x), train(index[::-1], x[::-1]), train(index[::-1], x)
  assert len(outputs) == (2 if name == "DeiT" else 1)
  for output, same, other in zip(outputs, again, others, strict=True):
    np.testing.assert_allclose(output, same[::-1], atol=1e-4)
    assert np.abs(output - other).max() > 1e-2


@pytest.mark.parametrize("name", ["ViT", "DeiT", "Swin"])
def test_features_are_what_the_head_sees(name):
  network = DIGITS[name].clone(depths=(2,), heads=(2,)) if name == "Swin" else DIGITS[name].clone(depth=1)
  x = jnp.asarray(np.random.default_rng(1).normal(size=(2, 8, 8, 1)), "float32")
  params = random_variables(network, x.shape)["params"]
  if name == "DeiT":  # the mean of its two products is the product of the mean where the heads are one
    params["distillation_head"] = params["head"]
  run = jax.jit(lambda v: (network.apply(v, x, method="features"), network.apply(v, x)))
  features, logits = run({"params": params})
  np.testing.assert_allclose(logits, features @ params["head"]["kernel"] + params["head"]["bias"], atol=1e-4)


@pytest.mark.parametrize("name", DIGITS)
def test_depth_does_not_grow_the_program(name):
  def lines(depth):
    network = DIGITS[name]
    network = network.clone(depths=(depth, 2)) if name == "Swin" else network.clone(depth=depth)
    shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
    return str(jax.make_jaxpr(network.apply)(shapes, jnp.zeros((1, 8, 8, 1)))).count("\n")

  assert lines(2) == lines(8)


@pytest.mark.parametrize("name", DIGITS)
def test_bfloat16_computes_in_bfloat16_and_keeps_float32_parameters(name):
  network, x = DIGITS[name].clone(dtype=jnp.bfloat16), jnp.zeros((2, 8, 8, 1))
  shapes = jax.eval_shape(network.init, jax.random.key(0), x)
  assert {s.dtype for s in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}
  jaxpr = jax.make_jaxpr(network.apply)(shapes, x)
  assert {a.dtype for a in jaxpr.out_avals} == {jnp.dtype("bfloat16")}
  kinds = [invar.aval.dtype for inputs in products(jaxpr.jaxpr) for invar in inputs]
  assert len(kinds) > 10
  # Of each of the two Performers, the exponentials' two products and the two that they are part of are float32.
  assert kinds.count(jnp.dtype("float32")) == (2 * 4 * 2 if name == "T2T-ViT" else 0)
  assert set(kinds) <= {jnp.dtype("bfloat16"), jnp.dtype("float32")}


def test_starts_as_in_the_paper():
  """ViT's query, key and value start as three matrices, each with Glorot's limit, and its logits at zero."""
  network, x = ViT(2, 32, 1, 2, classes=10), jnp.zeros((1, 8, 8, 1))
  params = jax.jit(network.init)(jax.random.key(0), x)["params"]
  qkv = params["encoder"]["blocks"]["attention"]["qkv"]["kernel"]
  assert qkv.shape == (1, 32, 96)
  np.testing.assert_allclose(np.abs(qkv).max(), (6 / 64) ** 0.5, rtol=0.02)
  assert not params["head"]["kernel"].any()
  assert 0.015 < params["positions"].std() < 0.025
  np.testing.assert_allclose(t2t.sinusoids(3, 4)[2], [np.sin(2), np.cos(2), np.sin(0.02), np.cos(0.02)])


def test_says_what_does_not_fit():
  init = lambda network, shape: jax.eval_shape(network.init, jax.random.key(0), jnp.zeros(shape))
  for name in ("ViT", "Swin", "CaiT"):
    with pytest.raises(UserError, match="8 x 9 do not divide into patches of 2 x 2"):
      init(DIGITS[name], (1, 8, 9, 1))
  with pytest.raises(UserError, match="no patch of 7 x 7"):
    init(T2TViT(16, 2, 2, 32), (1, 2, 8, 3))
  for name in ("ViT", "CaiT"):
    with pytest.raises(UserError, match="16 features do not divide into 3 heads"):
      init(DIGITS[name].clone(heads=3), (1, 8, 8, 1))
  with pytest.raises(UserError, match="8 features do not divide into 3 heads"):
    init(DIGITS["Swin"].clone(heads=(3, 2)), (1, 8, 8, 1))
  with pytest.raises(UserError, match=r"Swin's depths \(2, 3\) must be even"):
    init(Swin(2, 8, (2, 3), (1, 2)), (1, 8, 8, 1))
  with pytest.raises(UserError, match="Swin has 2 stages and heads for 1"):
    init(Swin(2, 8, (2, 2), (1,)), (1, 8, 8, 1))
  with pytest.raises(UserError, match="two tokens"):
    init(ViT(2, 16, 2, 2, pool="mean", distilled=True), (1, 8, 8, 1))


def test_swins_windows_shrink_to_the_map():
  """Their tables are then of the map's size, axis by axis."""
  network = Swin(2, 8, (2, 2), (1, 2), window=7, classes=10)
  params = random_variables(network, (2, 8, 20, 1))["params"]
  tables = [params[stage]["blocks"]["shifted"]["attention"]["relative"] for stage in ("stage_0", "stage_1")]
  assert [t.shape for t in tables] == [(1, (2 * 4 - 1) * (2 * 7 - 1), 1), (1, (2 * 2 - 1) * (2 * 5 - 1), 2)]
